"""`trainer export`: weights as ONNX or as torch's own .pt2, checked against PyTorch before there is a file."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import FundusError, RunError
from pipeline.storage.atomic import write_whole
from trainer.console import warn
from trainer.inference.forward import logits_of, probabilities
from trainer.inference.inputs import gather, render
from trainer.network.decision import DecisionRule
from trainer.network.metadata import About
from trainer.network.model import Grader, load_model
from trainer.run_folder import RunFolder, weights_file

TOLERANCE: Final = 1e-4
"""Of a probability. Another order of summing makes 1e-6 in a ResNet-18; a wrong layer makes 1e-2 and more."""
CHECKED: Final = 9
"""Photographs that are checked, as a batch of one and a batch of the rest: exports have worked for one size alone."""
EXTRA_FILE: Final = "fundus_grading.json"
"""Holds the metadata inside a .pt2."""

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (n, 3, s, s) -> probabilities (n, 5)


class Classifier(nn.Module):
    """Images uint8 (n, 3, s, s), RGB, to calibrated probabilities float32 (n, 5), as predictions have them."""

    def __init__(self, model: Grader, about: About) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.tta = DecisionRule.of(about).temperature, about.tta

    def forward(self, images: Tensor) -> Tensor:
        logits = logits_of(self.model, images, tta=self.tta)
        return torch.softmax(logits / self.temperature, dim=1)


def export(run: Path, onnx: Path | None, pt2: Path | None) -> None:
    """Writes the files asked for, each only when its probabilities for some photographs are PyTorch's.

    The photographs are the run's own; noise, said aloud, where its cache is not at hand. Raises RunError where the
    weights cannot be used, a package is missing, or an export is wrong.
    """
    weights = weights_file(run)
    model, about = load_model(weights)
    metadata = describe(about, weights)
    images, what = some_images(run, about)
    wanted = probabilities(model, images, about)
    classifier = Classifier(model, about).eval()
    for path, make in ((onnx, make_onnx), (pt2, make_pt2)):
        if path is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn of their own insides
            data, use = make(classifier, about.size, metadata)
        difference = max(
            largest_difference(use, images[:1], wanted[:1]), largest_difference(use, images[1:], wanted[1:])
        )
        sizes = f"{what}, batches of 1 and {len(images) - 1}"
        if not difference <= TOLERANCE:
            raise RunError(
                f"{path} is not written: its probabilities differ from PyTorch's by up to {difference:.2g} ({sizes}); "
                "try another version of torch and of onnxscript"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                file.write(data)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error
        click.echo(f"{path}: {len(data) / 1e6:.1f} MB, at most {difference:.2g} from PyTorch ({sizes})")


def make_onnx(classifier: Classifier, size: int, metadata: Mapping[str, str]) -> tuple[bytes, Run]:
    """An ONNX model's bytes, and onnxruntime at work on them. Raises RunError where a package is missing."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise RunError(f"--onnx needs {error.name}: pip install 'fundus-grading[onnx]'") from error

    program = torch.onnx.export(
        classifier,
        (_example(size),),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "dynamo=True gives a program"
    program.model.metadata_props.update(metadata)
    data: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: np.asarray(session.run(None, {"images": images})[0], np.float32)


def make_pt2(classifier: Classifier, size: int, metadata: Mapping[str, str]) -> tuple[bytes, Run]:
    """The bytes of a .pt2, and what torch.export.load makes of them."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(classifier, (_example(size),), dynamic_shapes={"images": {0: batch}})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(metadata)})
    data = file.getvalue()
    loaded = torch.export.load(io.BytesIO(data)).module()
    return data, lambda images: np.asarray(loaded(torch.from_numpy(images)).detach().numpy(), np.float32)


def largest_difference(use: Run, images: Tensor, wanted: NDArray[np.float32]) -> float:
    """Of a probability; NaN where one is."""
    return float(np.abs(use(np.ascontiguousarray(images.numpy())) - wanted).max())


def describe(about: About, weights: Path) -> dict[str, str]:
    """What an exported file says of itself; all text."""
    operating = about.operating
    return {
        "made_by": f"fundus-grading {version('fundus-grading')}",
        "model": about.model,
        "images": f"uint8 (batch, 3, {about.size}, {about.size}), RGB, 0-255; normalisation is inside",
        "probabilities": "float32 (batch, 5), one for each of `grades`, summing to 1",
        "grades": json.dumps(about.grades),
        "size": str(about.size),
        "recipe": json.dumps(about.recipe.as_dict(), sort_keys=True),
        "recipe_digest": about.recipe.digest,
        "views": "8, the mean over flips and right angles" if about.tta else "1",
        "temperature": str(DecisionRule.of(about).temperature),
        "grade_cuts": json.dumps(about.cuts) if about.cuts else "",
        "referable_threshold": str(operating.threshold) if operating else "",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def some_images(run: Path, about: About) -> tuple[Tensor, str]:
    """CHECKED images, uint8 (n, 3, s, s), of the run's cache, evenly spread; and what they are. Noise, with a warning,
    where that is not at hand."""
    try:
        photographs, *_ = gather([Path(RunFolder(run).read_config().cache)], about.recipe)
        places = np.linspace(0, len(photographs) - 1, CHECKED).round().astype(int)
        (batch,) = render([photographs[place] for place in places], about, device=torch.device("cpu"))
        if len(batch.photographs) == CHECKED:
            return batch.images, f"{CHECKED} photographs"
        reason = batch.refused[0].reason
    except FundusError as error:
        reason = error.message
    warn(f"checked on noise, not on photographs: {reason}")
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, 3, about.size, about.size), np.uint8)
    return torch.from_numpy(noise), f"{CHECKED} images of noise"


def _example(size: int) -> Tensor:
    """Two: torch.export takes a dimension of 1 for a constant."""
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)
