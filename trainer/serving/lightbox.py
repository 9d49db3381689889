"""Grades and explains one photograph in memory, and gives the values that the page shows."""

from base64 import b64encode
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import PhotoError
from pipeline.grades import GRADES
from pipeline.photos.contact_sheet import encoded
from pipeline.photos.discovery import plain_id
from pipeline.photos.eye_names import eye_name
from pipeline.storage.csv_files import csv_lines, defused
from trainer.inference.in_words import SENTENCES
from trainer.inference.inputs import Rendered, render, uploaded
from trainer.inference.predictions import COLUMNS, DEFERRAL, cells, reasons, with_deferral
from trainer.inference.predictor import Predictor
from trainer.reporting.explained import coarseness, covered
from trainer.serving.words import decision, percent

HEADER: Final = csv_lines([with_deferral(COLUMNS, *DEFERRAL)]).decode()
"""First line of the table that the page saves. It is that of `trainer predict --defer`."""


class Lightbox:
    """Grades photographs one by one and keeps none. Not thread-safe."""

    def __init__(self, predictor: Predictor, share: float) -> None:
        """share: a photograph is left to a human if it is less sure than all but this share of the validation
        photographs."""
        self._predictor = predictor
        self._share = share

    def grade(self, source: str, data: bytes) -> dict[str, Any]:
        """The prediction for a photograph, as plain JSON. source: its name, or its path with slashes.

        Raises PhotoError with the reason if it is refused, RunError if the model's output is not finite.
        """
        batch = self._render(source, data)
        (prediction,) = self._predictor.predict(batch)
        named = eye_name(source)
        kind, headline, why = decision(prediction, self._share)
        _, *row = cells(prediction, self._share)
        return {
            "patient": named.patient,
            "eye": named.eye,
            "ids": [_cell(id) for id in (prediction.photograph.id, plain_id(source), source)],
            "row": csv_lines([row]).decode(),
            "grade": prediction.grade,
            "grade_name": GRADES[prediction.grade],
            "probabilities": [float(p) for p in prediction.probabilities],
            "percents": [percent(float(p)) for p in prediction.probabilities],
            "referable": prediction.referable,
            "defer": bool(reasons(prediction, self._share)),
            "kind": kind,
            "headline": headline,
            "why": why,
            "notes": [SENTENCES.get(flag, flag) for flag in prediction.flags],
            "picture": _data_url(batch.images[0].cpu().permute(1, 2, 0).numpy()),
        }

    def explain(self, source: str, data: bytes) -> dict[str, Any]:
        """Grad-CAM of the predicted grade, as plain JSON. Raises as `grade` does."""
        (explanation,) = self._predictor.explain(self._render(source, data))
        _, heated = covered(explanation, self._predictor.metadata.recipe)
        grade = f"grade {explanation.grade} ({GRADES[explanation.grade]})"
        words = f"Tinted: where the evidence for {grade} lies, coarsely. It shows no lesions, and no reasons."
        if not explanation.heat.any():
            words = f"Nothing in the picture speaks for {grade}: no place is tinted."
        return {"heat": _data_url(heated), "words": f"{words} {coarseness(self._predictor.cells)}".strip()}

    def _render(self, source: str, data: bytes) -> Rendered:
        photograph, metadata = uploaded(source, data), self._predictor.metadata
        (batch,) = render([photograph], metadata, device=self._predictor.device, workers=1)
        if batch.refused:
            raise PhotoError(batch.refused[0].reason)
        return batch


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that this machine or its accelerator has too little memory for a photograph."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _cell(text: str) -> str:
    return csv_lines([[defused(text)]]).decode().removesuffix("\n")


def _data_url(picture: NDArray[np.uint8]) -> str:
    """The picture (s, s, 3), RGB, as a data URL, so that no picture has to be kept for a later request."""
    data = encoded(Image.fromarray(picture), "JPEG", "what a network looked at")
    return f"data:image/jpeg;base64,{b64encode(data).decode()}"
