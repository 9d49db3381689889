"""A run's weights, ready to be used on photographs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.photos.discovery import Refusal
from pipeline.progress import track
from trainer.inference.fellows import Scored, fellows_among
from trainer.inference.forward import probabilities
from trainer.inference.gradcam import cells_a_side, grad_cam
from trainer.inference.inputs import BATCH, Photograph, Rendered, render
from trainer.network.decision import THRESHOLD, DecisionRule, confidence, p_referable
from trainer.network.device import choose_device, measuring_precision, to_device
from trainer.network.fellow import eye_scores, joined_logits, takes_fellow
from trainer.network.model import load_model
from trainer.run_folder import weights_file

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """One photograph's prediction: a row of predictions.csv."""

    photograph: Photograph
    grade: int
    """The predicted grade, 0 to 4."""
    probabilities: NDArray[np.float32]  # (5,), summing to 1
    flags: tuple[str, ...]
    rule: DecisionRule
    """The rule that gave the grade and decides on the referral."""
    fellows: tuple[str, ...] = ()
    """Ids of the photographs of the patient's other eye that were taken into account."""

    @property
    def p_referable(self) -> float:
        """Probability of grade 2 or worse, 0 to 1."""
        return float(p_referable(self.probabilities[None])[0])

    @property
    def referable(self) -> bool:
        return self.p_referable >= self.rule.threshold

    def unsure(self, share: float) -> bool:
        """Whether it is less sure than all but this share of the validation photographs, 0 to 1. False if the weights
        do not say how sure these are."""
        if self.rule.quantiles is None:
            return False
        sure = confidence(np.array([self.p_referable]), self.rule.threshold)[0]
        return bool(sure < self.rule.least_confidence(share))


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


def check_finite(found: NDArray[np.float32], photographs: Sequence[Photograph]) -> None:
    """Raises RunError if a probability is not finite."""
    if not np.isfinite(found).all():
        raise RunError(f"the model's output for {photographs[0].id} and others is not finite")


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
            logger.warning(
                f"{run} carries no operating point: probabilities are not calibrated, the threshold is {THRESHOLD}"
            )

    @cached_property
    def cells(self) -> int:
        """See `cells_a_side`."""
        return cells_a_side(self.model, self.metadata.size)

    @property
    def takes_fellow(self) -> bool:
        """Whether it takes the patient's other eye into account."""
        return takes_fellow(self.model)

    def batches(self, photographs: Sequence[Photograph], what: str) -> Iterator[Rendered]:
        """As `rendered`, with a progress bar on a terminal."""
        yield from track(self.rendered(photographs), -(-len(photographs) // BATCH), what)

    def rendered(self, photographs: Sequence[Photograph]) -> Iterator[Rendered]:
        """The photographs in batches, prepared as the training photographs were."""
        return render(photographs, self.metadata, device=self.device, workers=self._workers, prints=self.takes_fellow)

    def predict(self, batch: Rendered) -> list[Prediction]:
        """A prediction for each photograph of the batch, by itself. Raises RunError if the model's output is not
        finite."""
        if not batch.photographs:
            return []
        found = probabilities(self.model, batch.images, self.metadata)
        check_finite(found, batch.photographs)
        grades = self.rule.grades(found).tolist()
        rows = zip(batch.photographs, grades, found, batch.flags, strict=True)
        return [Prediction(*row, self.rule) for row in rows]

    def predictions(
        self, photographs: Sequence[Photograph], what: str = ""
    ) -> Iterator[tuple[list[Prediction], list[Refusal]]]:
        """Predictions batch by batch, and the photographs that were refused. A network that takes the fellow eye into
        account sees all photographs first.

        what: for the progress bar; "": there is none. Raises RunError as `predict` does.
        """
        batches = self.batches(photographs, what) if what else self.rendered(photographs)
        if not self.takes_fellow:
            for batch in batches:
                yield self.predict(batch), batch.refused
            return
        scored: list[Scored] = []
        for batch in batches:
            scored += self._scores(batch)
            yield [], batch.refused
        fellows = fellows_among(scored)
        for first in range(0, len(scored), BATCH):
            chosen = range(first, min(first + BATCH, len(scored)))
            yield self._joined(scored, [(each, fellows[each]) for each in chosen]), []

    @torch.inference_mode()
    def _scores(self, batch: Rendered) -> list[Scored]:
        """What the network reads in each photograph of the batch."""
        if not batch.photographs:
            return []
        with measuring_precision(self.device):
            scores = eye_scores(self.model, batch.images, tta=self.metadata.tta)
        own, fellow = (part.cpu() for part in scores)
        return [Scored(*row) for row in zip(batch.photographs, batch.flags, own, fellow, batch.prints, strict=True)]

    @torch.inference_mode()
    def _joined(self, scored: Sequence[Scored], chosen: Sequence[tuple[int, Sequence[int]]]) -> list[Prediction]:
        """Predictions for chosen photographs, each with the positions of its fellows among those scored."""
        own = torch.stack([scored[each].own for each, _ in chosen])
        paired = torch.tensor([bool(fellows) for _, fellows in chosen])
        added = torch.zeros(len(chosen), scored[0].fellow.shape[0])
        for row, (_, fellows) in zip(added, chosen, strict=True):
            if fellows:
                row.copy_(torch.stack([scored[each].fellow for each in fellows]).mean(dim=0))
        with_fellow = paired.numpy()
        logits = joined_logits(self.model, own, added, paired)
        found = self.rule.probabilities(logits.double().numpy(), with_fellow)
        check_finite(found, [scored[each].photograph for each, _ in chosen])
        grades = self.rule.grades(found, with_fellow).tolist()
        return [
            Prediction(
                scored[each].photograph,
                grade,
                p,
                scored[each].flags,
                self.rule.fellow if self.rule.fellow and fellows else self.rule,
                tuple(scored[fellow].photograph.id for fellow in fellows),
            )
            for (each, fellows), grade, p in zip(chosen, grades, found, strict=True)
        ]

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
