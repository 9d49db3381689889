"""Export of weights as ONNX or as torch's own .pt2. A file is written only if it gives PyTorch's probabilities."""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.storage.atomic import write_atomically
from trainer.network.decision import DecisionRule
from trainer.network.fellow import eye_scores, joined_logits
from trainer.network.metadata import Metadata
from trainer.network.model import Network
from trainer.network.views import logits_of

TOLERANCE: Final = 1e-4
"""Largest allowed difference of a probability. Another order of summing gives 1e-6 in a ResNet-18, a wrong layer 1e-2
and more."""
EXTRA_FILE: Final = "fundus_grading.json"
"""Name of the file inside a .pt2 that holds its description."""

PARTS: Final = (slice(None, 1), slice(1, None))
"""The batches that an exported network is checked with. Some exports have worked for one size only."""

Format = Literal["onnx", "pt2"]
FELLOW_INPUT: Final = "fellow_images"


class Use(Protocol):
    """An exported file, in use."""

    def __call__(
        self, images: NDArray[np.uint8], fellow_images: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float32]:
        """Probabilities (n, 5) for images (n, 3, s, s). fellow_images: as many; None: those are left out."""


class Reference(NamedTuple):
    """PyTorch's probabilities for some images. An exported network must give the same."""

    images: Tensor  # uint8 (n, 3, s, s), RGB, on the CPU; n is at least 2
    probabilities: NDArray[np.float32]  # (n, 5)
    what: str  # the kind of images, in words
    fellow_images: Tensor | None = None  # as `images`, a black one for no fellow; None: the network takes one eye
    with_fellows: NDArray[np.float32] | None = None  # (n, 5) with those


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


class PairClassifier(nn.Module):
    """As Classifier, with images of the fellow eyes, uint8 (n, 3, s, s), or one for all, as second input. An image that
    is black throughout is no fellow."""

    def __init__(self, model: Network, metadata: Metadata) -> None:
        super().__init__()
        self.model, self.tta = model, metadata.tta
        rule = DecisionRule.of(metadata)
        assert rule.fellow is not None
        self.alone, self.with_fellow = rule.temperature, rule.fellow.temperature

    def forward(self, images: Tensor, fellow_images: Tensor) -> Tensor:
        own, _ = eye_scores(self.model, images, tta=self.tta)
        _, added = eye_scores(self.model, fellow_images, tta=self.tta)
        # One fellow image serves all images. Broadcasting would make torch.export take both numbers for equal, and ONNX
        # has no rule for their numbers unless they are tensors.
        last = torch.ones(fellow_images.shape[0], dtype=torch.int64).sum() - 1
        at = torch.minimum(torch.arange(images.shape[0]), last)
        paired = (fellow_images.amax(dim=(1, 2, 3)) > 0)[at]
        logits = joined_logits(self.model, own, added[at], paired)
        return torch.softmax(logits / torch.where(paired, self.with_fellow, self.alone)[:, None], dim=1)


def export_model(
    path: Path, format: Format, model: Network, metadata: Metadata, description: Mapping[str, str], reference: Reference
) -> Exported:
    """Writes the model to `path` if its probabilities for the reference's images are PyTorch's.

    They are checked as a batch of one and a batch of the rest. Raises RunError if a package is missing, the export is
    wrong, or the file cannot be written; an older file then stays.
    """
    make = {"onnx": make_onnx, "pt2": make_pt2}[format]
    classifier = (PairClassifier if metadata.fellow else Classifier)(model, metadata).eval()
    images, wanted, what, fellows, with_fellows = reference
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn of their own insides
            data, use = make(classifier, metadata.size, description)
        differences = [largest_difference(use(data_of(images[part])), wanted[part]) for part in PARTS]
        if fellows is not None and with_fellows is not None:
            differences += [
                largest_difference(use(data_of(images[part]), data_of(fellows[part])), with_fellows[part])
                for part in PARTS
            ]
    except RunError:
        raise
    except Exception as error:  # the exporters and onnxruntime raise dozens of kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RunError(f"{path} is not written: {metadata.title} cannot be exported ({reason})") from error
    checked = f"{what}, batches of 1 and {len(images) - 1}"
    if fellows is not None:
        checked += ", alone and with other eyes"
    difference = max(differences)
    if not difference <= TOLERANCE:
        raise RunError(
            f"{path} is not written: its probabilities differ from PyTorch's by up to {difference:.2g} ({checked}); "
            "try another version of torch and of onnxscript"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(data)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    return Exported(len(data), difference, checked)


def make_onnx(classifier: Classifier | PairClassifier, size: int, description: Mapping[str, str]) -> tuple[bytes, Use]:
    """The bytes of an ONNX model, and a function that runs it with onnxruntime. Raises RunError if a package is
    missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise RunError(f"--onnx needs {error.name}: pip install 'fundus-grading[onnx]'") from error

    names = _inputs(classifier)
    program = torch.onnx.export(
        classifier,
        tuple(_example(size) for _ in names),
        input_names=list(names),
        output_names=["probabilities"],
        dynamic_shapes={name: {0: axis} for name, axis in names.items()},
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "dynamo=True gives a program"
    program.model.metadata_props.update(description)
    proto = program.model_proto
    if FELLOW_INPUT in names:  # an input with a value of its own may be left out
        black = np.zeros((1, 3, size, size), np.uint8)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(black, FELLOW_INPUT))
    data: bytes = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that such an input is no constant
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def use(images: NDArray[np.uint8], fellow_images: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        given = {"images": images, **({} if fellow_images is None else {FELLOW_INPUT: fellow_images})}
        return np.asarray(session.run(None, given)[0], np.float32)

    return data, use


def make_pt2(classifier: Classifier | PairClassifier, size: int, description: Mapping[str, str]) -> tuple[bytes, Use]:
    """The bytes of a .pt2, and a function that runs it after torch.export.load."""
    names = _inputs(classifier)
    shapes = {name: {0: torch.export.Dim(axis, min=1)} for name, axis in names.items()}
    program = torch.export.export(classifier, tuple(_example(size) for _ in names), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(description)})
    data = file.getvalue()
    loaded = torch.export.load(io.BytesIO(data)).module()

    def use(images: NDArray[np.uint8], fellow_images: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        fellows = np.zeros((1, 3, size, size), np.uint8) if fellow_images is None else fellow_images
        given = [torch.from_numpy(each) for each in (images, fellows)[: len(names)]]
        return np.asarray(loaded(*given).detach().numpy(), np.float32)

    return data, use


def _inputs(classifier: Classifier | PairClassifier) -> dict[str, str]:
    """Name of each input -> name of its first dimension, whose size may vary."""
    return {"images": "batch", **({FELLOW_INPUT: "fellows"} if isinstance(classifier, PairClassifier) else {})}


def data_of(images: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.numpy())


def largest_difference(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest absolute difference of a probability; NaN if a probability is NaN."""
    return float(np.abs(found - wanted).max())


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
        **(_describe_fellow(metadata) if metadata.fellow else {}),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def _describe_fellow(metadata: Metadata) -> dict[str, str]:
    """The part of the description that only a network has that takes the fellow eye into account."""
    rule = DecisionRule.of(metadata).fellow
    assert rule is not None
    return {
        FELLOW_INPUT: "as images: of the patient's other eye, one for each or one for all; black where there is none. "
        "In ONNX it may be left out",
        "temperature_with_fellow": str(rule.temperature),
        "grade_cuts_with_fellow": json.dumps(rule.ordinal_thresholds) if rule.ordinal_thresholds else "",
        "referable_threshold_with_fellow": str(rule.threshold),
    }


def _example(size: int) -> Tensor:
    """Two black images: torch.export takes a dimension of 1 for a constant."""
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)
