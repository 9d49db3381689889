"""From logits to a decision: probabilities, the predicted grade, referral. Weights carry what it takes; no torch."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from trainer.network.metadata import Metadata, temperature_of

Floats = NDArray[np.float64]
OrdinalThresholds = tuple[float, ...]
"""Four, ascending: an expected grade from the n-th on, and below the next, is grade n."""

THRESHOLD: Final = 0.5
"""Of p_referable, where the weights carry no operating point."""


@dataclass(frozen=True)
class DecisionRule:
    """How the logits of some weights are read. All of it was chosen on validation."""

    temperature: float = 1.0
    ordinal_thresholds: OrdinalThresholds | None = None
    """None: the likeliest grade is predicted."""
    threshold: float = THRESHOLD
    """A photograph is referred from this probability of grade 2 or worse on."""
    quantiles: tuple[float, ...] | None = None
    """Percentiles of the confidence of validation's photographs; None where the weights do not carry them."""

    @classmethod
    def of(cls, metadata: Metadata) -> "DecisionRule":
        """As weights carry it."""
        operating = metadata.operating
        threshold = operating.threshold if operating else THRESHOLD
        return cls(temperature_of(operating), metadata.ordinal_thresholds, threshold, metadata.confidence)

    def probabilities(self, logits: Floats) -> NDArray[np.float32]:
        """(n, 5), each row summing to 1, of logits (n, 5)."""
        return probabilities(logits, self.temperature)

    def least_confidence(self, share: float) -> float:
        """Below this confidence a photograph is left to a human, so that of validation's that share is.

        Raises ValueError where the weights do not carry what it takes.
        """
        if self.quantiles is None:
            raise ValueError("the weights do not say how sure they are: `trainer fit` of this version writes that")
        return float(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))

    def grades(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n,) predicted grades of probabilities (n, 5)."""
        return predicted_grades(probabilities, self.ordinal_thresholds)


def confidence(p_referable: Floats, threshold: float) -> Floats:
    """(n,) distances of p_referable (n,) from the threshold, in log-odds; 0 at the threshold."""
    odds = [np.log(p / (1 - p)) for p in (np.clip(each, 1e-6, 1 - 1e-6) for each in (p_referable, threshold))]
    return np.asarray(np.abs(odds[0] - odds[1]), np.float64)


def probabilities(logits: Floats, temperature: float = 1.0) -> NDArray[np.float32]:
    """softmax(logits / temperature), (n, 5)."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def expected_grades(probabilities: NDArray[np.float32]) -> Floats:
    """(n,) means of the grades under probabilities (n, 5), 0 to 4."""
    means: Floats = probabilities.astype(np.float64) @ np.arange(N_GRADES)
    return means


def predicted_grades(
    probabilities: NDArray[np.float32], ordinal_thresholds: OrdinalThresholds | None
) -> NDArray[np.int64]:
    """(n,) grades of probabilities (n, 5). Without thresholds the likeliest; of equally likely ones the lowest."""
    if ordinal_thresholds is None:
        return np.asarray(probabilities.argmax(axis=1), np.int64)
    return np.asarray(np.searchsorted(ordinal_thresholds, expected_grades(probabilities), side="right"), np.int64)


def p_referable(probabilities: NDArray[np.float32]) -> Floats:
    """(n,) p2 + p3 + p4 of (n, 5) probabilities."""
    sums: Floats = probabilities[:, REFERABLE:].sum(axis=1, dtype=np.float64)
    return sums
