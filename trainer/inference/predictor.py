"""A run's weights, ready to be used on photographs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import RunError
from trainer.console import track, warn
from trainer.inference.forward import probabilities
from trainer.inference.gradcam import cells_a_side, grad_cam
from trainer.inference.inputs import BATCH, Photograph, Rendered, render
from trainer.network.decision import THRESHOLD, DecisionRule, p_referable
from trainer.network.device import choose_device, to_device
from trainer.network.model import load_model
from trainer.run_folder import weights_file


class Prediction(NamedTuple):
    """One photograph's prediction: a row of predictions.csv."""

    photograph: Photograph
    grade: int
    """The predicted grade, 0 to 4."""
    probabilities: NDArray[np.float32]  # (5,), summing to 1
    flags: tuple[str, ...]

    @property
    def p_referable(self) -> float:
        """Probability of grade 2 or worse, 0 to 1."""
        return float(p_referable(self.probabilities[None])[0])

    def referable(self, threshold: float) -> bool:
        return self.p_referable >= threshold


class Explanation(NamedTuple):
    """The places of a photograph that speak for a grade."""

    prediction: Prediction
    grade: int
    """The grade that is explained, 0 to 4."""
    image: NDArray[np.uint8]  # (s, s, 3), RGB, as the network sees it
    heat: NDArray[np.float32]  # (s, s), 0 to 1; see `grad_cam`

    @property
    def probability(self) -> float:
        """Probability of the explained grade, 0 to 1."""
        return float(self.prediction.probabilities[self.grade])


class Predictor:
    """The weights of a run, loaded, with everything needed to grade photographs."""

    def __init__(self, run: Path, device_name: str, workers: int | None, tta: bool | None = None) -> None:
        """run: a run folder or a model.safetensors. tta: mean over eight views; None: as the weights were measured.

        Raises RunError if the weights cannot be used.
        """
        self.model, metadata = load_model(weights_file(run))
        self.metadata = metadata if tta is None else replace(metadata, tta=tta)
        self.device = torch.device(choose_device(device_name))
        self._workers = workers
        to_device(self.model, self.device)
        self.rule: Final = DecisionRule.of(metadata)
        if metadata.operating is None:
            warn(f"{run} carries no operating point: probabilities are not calibrated, the threshold is {THRESHOLD}")

    @cached_property
    def cells(self) -> int:
        """See `cells_a_side`."""
        return cells_a_side(self.model, self.metadata.size)

    def batches(self, photographs: Sequence[Photograph], what: str) -> Iterator[Rendered]:
        """As `rendered`, with a progress bar on a terminal."""
        yield from track(self.rendered(photographs), -(-len(photographs) // BATCH), what)

    def rendered(self, photographs: Sequence[Photograph]) -> Iterator[Rendered]:
        """The photographs in batches, prepared as the training photographs were."""
        return render(photographs, self.metadata, device=self.device, workers=self._workers)

    def predict(self, batch: Rendered) -> list[Prediction]:
        """A prediction for each photograph of the batch. Raises RunError if the model's output is not finite."""
        if not batch.photographs:
            return []
        found = probabilities(self.model, batch.images, self.metadata)
        if not np.isfinite(found).all():
            raise RunError(f"the model's output for {batch.photographs[0].id} and others is not finite")
        grades = self.rule.grades(found).tolist()
        return [Prediction(*row) for row in zip(batch.photographs, grades, found, batch.flags, strict=True)]

    def explain(self, batch: Rendered, grade: int | None = None) -> list[Explanation]:
        """Grad-CAM for each photograph of the batch. Raises RunError as `predict` does.

        grade: the grade to explain, 0 to 4; None: the predicted one of each photograph.
        """
        predictions = self.predict(batch)
        if not predictions:
            return []
        grades = [each.grade if grade is None else grade for each in predictions]
        heats = grad_cam(self.model, batch.images, torch.tensor(grades))
        images = batch.images.cpu().permute(0, 2, 3, 1).numpy()
        return [Explanation(*row) for row in zip(predictions, grades, images, heats, strict=True)]
