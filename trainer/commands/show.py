"""`trainer show`: prints what the header of a file of weights says. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import click

from pipeline.errors import RunError
from trainer.console import print_table
from trainer.network.image_statistics import QUANTILES
from trainer.network.metadata import read_header, read_metadata
from trainer.run_folder import RunFolder, weights_file


def show(path: Path, as_json: bool) -> None:
    """Prints facts about the weights of a run, or of a model.safetensors. Raises RunError if they cannot be read."""
    facts = collect(path)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    weights, recipe, operating, seen, run = (facts[name] for name in ("weights", "recipe", "operating", "seen", "run"))
    rows = [
        ("file", facts["file"]),
        ("bytes", f"{facts['bytes']:,}"),
        ("sha256", facts["sha256"]),
        ("model", f"{facts['title']}, {weights['parameters']:,} parameters in {weights['layers']} layers"),
        ("grades", ", ".join(f"{grade} {name}" for grade, name in enumerate(facts["grades"]))),
        ("trained at", f"{facts['size']} px, epoch {', '.join(map(str, facts['epochs']))}"),
        ("recipe", ", ".join(f"{name} {value}" for name, value in recipe.items())),
    ]
    if facts["tta"]:
        rows.append(("views", "8: measured and used as the mean over flips and right angles"))
    if facts["cuts"]:
        thresholds = ", ".join(f"{threshold:g}" for threshold in facts["cuts"])
        rows.append(("predicted grade", f"the expected one, cut at {thresholds}, as chosen on validation"))
    if operating:
        chosen = f"{operating['wanted']} {operating['level']:g} on validation"
        rows += [
            ("temperature", f"{operating['temperature']:g}"),
            ("referable", f"from p_referable {operating['threshold']:.4g} on, for a {chosen}"),
        ]
    else:
        rows.append(("operating point", "none: the run is unfinished, or validation lacks a class"))
    if run:
        photographs = ", ".join(f"{split} {count}" for split, count in run["photographs"].items())
        rows += [
            ("cache", f"{run['cache']}, {photographs}"),
            ("cache digest", run["cache_digest"]),
            ("pretrained", run["resolved"]["weights"]),
            ("versions", ", ".join(f"{name} {number}" for name, number in run["versions"].items())),
        ]
    for name, value in rows:
        click.echo(f"{name:<17}{value}")
    if seen:
        click.echo(f"seen: {seen['photographs']} training photographs, {seen['without_disc']:.1%} without a disc")
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        print_table(["measure", *names], [(name, *map(str, cut)) for name, cut in seen["quantiles"].items()])


def collect(path: Path) -> dict[str, Any]:
    """Facts about the weights, as plain JSON; `run` is None for a file outside a run folder."""
    weights = weights_file(path)
    metadata = read_metadata(weights)
    shapes = {name: tensor["shape"] for name, tensor in read_header(weights).items() if name != "__metadata__"}
    try:
        with open(weights, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256")
        nbytes = weights.stat().st_size
    except OSError as error:
        raise RunError(f"{weights}: cannot be read ({error.strerror})") from error
    run = RunFolder(weights.parent)
    return {
        "file": str(weights),
        "bytes": nbytes,
        "sha256": sha256.hexdigest(),
        "title": metadata.title,
        "epochs": [each.epoch for each in metadata.members] or [metadata.epoch],
        **metadata.as_dict(),
        "weights": count(shapes),
        "run": run.read_config().as_dict() if run.started and weights == run.model else None,
    }


def count(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Numbers of trained parameters and of layers with weights (convolutions and the linear last one).

    shapes: of the tensors, by name.
    """
    trained = {name: shape for name, shape in shapes.items() if name.endswith((".weight", ".bias"))}
    return {
        "parameters": sum(prod(shape) for shape in trained.values()),
        "layers": sum(len(shape) > 1 for shape in trained.values()),
    }
