"""`trainer export`: writes weights as ONNX or as torch's own .pt2, after a check against PyTorch."""

from pathlib import Path

import click

from trainer.console import warn
from trainer.inference.reference import make_reference
from trainer.network.export import Format, describe, export_model
from trainer.network.model import load_model
from trainer.run_folder import weights_file


def export(run: Path, onnx: Path | None, pt2: Path | None) -> None:
    """Writes the files asked for. Each is written only if it gives PyTorch's probabilities for some photographs.

    The photographs are those of the run's cache. If this cannot be read, noise is used, with a warning. Raises
    RunError if the weights cannot be used, a package is missing, or an export is wrong.
    """
    weights = weights_file(run)
    model, metadata = load_model(weights)
    description = describe(metadata, weights)
    reference, why_noise = make_reference(run, model, metadata)
    if why_noise:
        warn(f"checked on noise, not on photographs: {why_noise}")
    wanted: list[tuple[Format, Path | None]] = [("onnx", onnx), ("pt2", pt2)]
    for format, path in wanted:
        if path is None:
            continue
        done = export_model(path, format, model, metadata, description, reference)
        size = f"{done.nbytes / 1e6:.1f} MB"
        click.echo(f"{path}: {size}, at most {done.difference:.2g} from PyTorch ({done.checked})")
