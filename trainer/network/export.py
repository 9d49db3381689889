"""Export of weights as ONNX or as torch's own .pt2. A file is written only if it gives PyTorch's probabilities."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.storage.atomic import write_whole
from trainer.network.decision import DecisionRule
from trainer.network.metadata import Metadata
from trainer.network.model import Network
from trainer.network.views import logits_of

TOLERANCE: Final = 1e-4
"""Largest allowed difference of a probability. Another order of summing gives 1e-6 in a ResNet-18, a wrong layer 1e-2
and more."""
EXTRA_FILE: Final = "fundus_grading.json"
"""Name of the file inside a .pt2 that holds its description."""

Format = Literal["onnx", "pt2"]
Use = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (n, 3, s, s) -> probabilities (n, 5)."""


class Reference(NamedTuple):
    """PyTorch's probabilities for some images. An exported network must give the same."""

    images: Tensor  # uint8 (n, 3, s, s), RGB, on the CPU; n is at least 2
    probabilities: NDArray[np.float32]  # (n, 5)
    what: str  # the kind of images, in words


class Exported(NamedTuple):
    """A file that was checked and written."""

    nbytes: int
    difference: float
    """The largest difference of a probability from PyTorch's."""
    checked: str
    """The images that it was checked with, in words."""


class Classifier(nn.Module):
    """Images uint8 (n, 3, s, s), RGB, to calibrated probabilities float32 (n, 5), as in predictions.csv."""

    def __init__(self, model: Network, metadata: Metadata) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.tta = DecisionRule.of(metadata).temperature, metadata.tta

    def forward(self, images: Tensor) -> Tensor:
        logits = logits_of(self.model, images, tta=self.tta)
        return torch.softmax(logits / self.temperature, dim=1)


def export_model(
    path: Path, format: Format, model: Network, metadata: Metadata, description: Mapping[str, str], reference: Reference
) -> Exported:
    """Writes the model to `path` if its probabilities for the reference's images are PyTorch's.

    They are checked as a batch of one and a batch of the rest, because some exports have worked for one size only.
    Raises RunError if a package is missing, the export is wrong, or the file cannot be written; an older file then
    stays.
    """
    make = {"onnx": make_onnx, "pt2": make_pt2}[format]
    classifier = Classifier(model, metadata).eval()
    images, wanted, what = reference
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn of their own insides
            data, use = make(classifier, metadata.size, description)
        parts = ((images[:1], wanted[:1]), (images[1:], wanted[1:]))
        difference = max(largest_difference(use, *part) for part in parts)
    except RunError:
        raise
    except Exception as error:  # the exporters and onnxruntime raise dozens of kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RunError(f"{path} is not written: {metadata.title} cannot be exported ({reason})") from error
    checked = f"{what}, batches of 1 and {len(images) - 1}"
    if not difference <= TOLERANCE:
        raise RunError(
            f"{path} is not written: its probabilities differ from PyTorch's by up to {difference:.2g} ({checked}); "
            "try another version of torch and of onnxscript"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(data)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    return Exported(len(data), difference, checked)


def make_onnx(classifier: Classifier, size: int, description: Mapping[str, str]) -> tuple[bytes, Use]:
    """The bytes of an ONNX model, and a function that runs it with onnxruntime. Raises RunError if a package is
    missing."""
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
    program.model.metadata_props.update(description)
    data: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: np.asarray(session.run(None, {"images": images})[0], np.float32)


def make_pt2(classifier: Classifier, size: int, description: Mapping[str, str]) -> tuple[bytes, Use]:
    """The bytes of a .pt2, and a function that runs it after torch.export.load."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(classifier, (_example(size),), dynamic_shapes={"images": {0: batch}})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(description)})
    data = file.getvalue()
    loaded = torch.export.load(io.BytesIO(data)).module()
    return data, lambda images: np.asarray(loaded(torch.from_numpy(images)).detach().numpy(), np.float32)


def largest_difference(use: Use, images: Tensor, wanted: NDArray[np.float32]) -> float:
    """The largest absolute difference of a probability; NaN if a probability is NaN."""
    return float(np.abs(use(np.ascontiguousarray(images.numpy())) - wanted).max())


def describe(metadata: Metadata, weights: Path) -> dict[str, str]:
    """The description that an exported file carries; all values are text."""
    operating = metadata.operating
    return {
        "made_by": f"fundus-grading {version('fundus-grading')}",
        "model": metadata.title,
        "images": f"uint8 (batch, 3, {metadata.size}, {metadata.size}), RGB, 0-255; normalisation is inside",
        "probabilities": "float32 (batch, 5), one for each of `grades`, summing to 1",
        "grades": json.dumps(metadata.grades),
        "size": str(metadata.size),
        "recipe": json.dumps(metadata.recipe.as_dict(), sort_keys=True),
        "recipe_digest": metadata.recipe.digest,
        "views": "8, the mean over flips and right angles" if metadata.tta else "1",
        "temperature": str(DecisionRule.of(metadata).temperature),
        "grade_cuts": json.dumps(metadata.ordinal_thresholds) if metadata.ordinal_thresholds else "",
        "referable_threshold": str(operating.threshold) if operating else "",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def _example(size: int) -> Tensor:
    """Two black images: torch.export takes a dimension of 1 for a constant."""
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)
