"""Detects a stuck training: it predicts one grade for every validation photograph and cannot rank them either."""

from typing import Final

import numpy as np

from pipeline.grades import REFERABLE, UNKNOWN
from trainer.config import FitConfig
from trainer.evaluation.weighted_metrics import Ranking
from trainer.inference.forward import Outputs
from trainer.network.decision import p_referable, probabilities

STUCK_EPOCHS: Final = 5
"""Number of such epochs in a row after which `trainer fit` warns."""
STUCK_AUC: Final = 0.55
"""Below this AUC of referable a network ranks hardly better than chance, 0.5."""


def sees_nothing(outputs: Outputs) -> bool:
    """Whether one grade is predicted for all graded photographs, and the AUC of referable DR is below STUCK_AUC.

    False if the AUC is not defined, because only referable or only other photographs are graded.
    """
    graded = (outputs.grades != UNKNOWN).numpy()
    grades = outputs.grades.numpy()[graded]
    found = probabilities(outputs.logits.double().numpy()[graded])
    if len(np.unique(found.argmax(axis=1))) > 1:
        return False
    photographs = np.arange(len(grades))
    ranking = Ranking.of(grades >= REFERABLE, p_referable(found), photographs)
    return bool(ranking.auc(np.ones((len(grades), 1)))[0] < STUCK_AUC)


def advice(config: FitConfig) -> str:
    """The warning about a stuck training, with the option that is most likely to help."""
    if not config.balanced:
        option = "--sampling balanced shows rare grades more often"
    elif config.weights == "none":
        option = "pretrained weights (--weights) or lesions that are painted first (docs/training.md) may help"
    else:
        option = f"a lower --lr than {config.lr:g} may help"
    return (
        f"the last {STUCK_EPOCHS} epochs gave every validation photograph one grade and ranked them by chance; {option}"
    )
