"""The Python API for weights: `load_model("runs/NAME").predict(images)`, for files and for pictures in memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import PhotoError, SourceError
from pipeline.grades import N_GRADES
from trainer.inference.inputs import Photograph, eye_in_name, ready_bytes, ready_file
from trainer.inference.predictor import Predictor
from trainer.network.decision import DecisionRule, p_referable
from trainer.network.metadata import Metadata

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A path to a photograph, in any format that `tools preprocess` reads, or the picture itself: a PIL image, or an array
uint8 (H, W, 3), RGB. It must be as the camera gave it, not cropped and not resized."""

_LOSSLESS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that PNG stores without conversion."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for n photographs, in the order in which they were given."""

    sources: tuple[str, ...]
    """(n,) paths of the files; `image 0`, `image 1` ... for pictures in memory."""
    grades: NDArray[np.int64]
    """(n,) predicted, 0 to 4."""
    probabilities: NDArray[np.float32]
    """(n, 5) of the grades 0 to 4, each row summing to 1; calibrated where the weights carry a temperature."""
    p_referable: NDArray[np.float64]
    """(n,) probability of grade 2 or worse."""
    referable: NDArray[np.bool_]
    """(n,) whether p_referable is at least the weights' threshold."""
    flags: tuple[tuple[str, ...], ...]
    """(n,) the flags of each photograph, as in the column `flags` of predictions.csv; docs/python.md lists them."""

    def __len__(self) -> int:
        return len(self.sources)


class LoadedModel:
    """The weights of a run, with their preparation of photographs and their decision rule. `load_model` makes it."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def metadata(self) -> Metadata:
        """The weights' metadata: architecture, image size, preparation, calibration."""
        return self._predictor.metadata

    @property
    def rule(self) -> DecisionRule:
        """The decision rule: from logits to probabilities, a grade and a referral."""
        return self._predictor.rule

    def predict(self, images: Picture | Sequence[Picture]) -> Predictions:
        """Grades one photograph or a list of them, as `trainer predict` does.

        Each photograph is prepared as the training photographs were, and the weights' decision rule gives its grade. A
        picture in memory gives the same as a lossless file of it. A PIL image is turned upright by its EXIF
        orientation. Transparent parts become black. Some thousand files at a time are fine. A network that takes the
        patient's other eye into account finds it among the photographs by their names, such as 17_left and 17_right.

        Raises SourceError for the first photograph that cannot be read, with its path or its number in the list; for an
        array of another shape or type it does so before anything is read. Raises RunError if the model's output is not
        finite.
        """
        given = [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else list(images)
        photographs = [_photograph(number, each) for number, each in enumerate(given)]
        found = []
        for predictions, refused in self._predictor.predictions(photographs):
            if refused:
                raise SourceError(f"{refused[0].source}: {refused[0].reason}")
            found += predictions
        probabilities = np.array([each.probabilities for each in found], np.float32).reshape(-1, N_GRADES)
        return Predictions(
            tuple(each.photograph.source for each in found),
            np.array([each.grade for each in found], np.int64),
            probabilities,
            p_referable(probabilities),
            np.array([each.referable for each in found], np.bool_),
            tuple(each.flags for each in found),
        )


def load_model(
    path: str | os.PathLike[str], *, device: str = "auto", workers: int | None = None, tta: bool | None = None
) -> LoadedModel:
    """Loads the weights of a run, to grade photographs with them.

    path: a run folder or a model.safetensors.
    device: "auto" (CUDA, else Apple's MPS, else the CPU), "cpu", "cuda" or "mps".
    workers: threads that read and prepare photographs; None: one for each core that this process may use.
    tta: whether to average over the eight flips and turns of a photograph; None: as the weights were measured.

    Raises RunError if the weights cannot be used.
    """
    return LoadedModel(Predictor(Path(path), device, workers, tta))


def _photograph(number: int, image: Any) -> Photograph:
    if isinstance(image, str | os.PathLike):
        source = Path(image).as_posix()
        return Photograph(Path(image).stem, source, partial(ready_file, source), eye=eye_in_name(source))
    name = f"image {number}"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise SourceError(f"{name}: an array of {image.dtype} {image.shape}; it must be uint8 (H, W, 3), RGB")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise SourceError(f"{name}: {type(image).__name__}; give a path, a PIL image or an array, uint8 (H, W, 3)")
    return Photograph(name, name, lambda recipe: ready_bytes(_png(image), recipe))


def _png(image: Image.Image) -> bytes:
    """The picture as a PNG file, because files have the one way to the network's pixels. It is not compressed, which
    would take as long as everything else. Raises PhotoError for 32-bit pixels."""
    if image.mode in ("I", "F"):
        raise PhotoError(f"its pixels are 32-bit numbers (mode {image.mode}): give it with 8 or 16 bits a channel")
    upright = ImageOps.exif_transpose(image)
    file = BytesIO()
    picture = upright if upright.mode in _LOSSLESS else upright.convert("RGB")
    picture.save(file, "PNG", compress_level=0)
    return file.getvalue()
