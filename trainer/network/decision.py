"""The decision rule: from logits to probabilities, the predicted grade and referral. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from trainer.network.metadata import FittedRule, Metadata, Operating, temperature_of

Floats = NDArray[np.float64]
Paired = NDArray[np.bool_] | None
"""(n,) whether the fellow eye of each photograph is taken into account; None: of none."""
OrdinalThresholds = tuple[float, ...]
"""Four, ascending. An expected grade that is at least the n-th and below the next is grade n."""

CLIP: Final = 1e-6
"""p is clipped to CLIP and 1 - CLIP before its log-odds are taken, because those of 0 and 1 are infinite."""
THRESHOLD: Final = 0.5
"""Threshold on p_referable if the weights carry no operating point."""
TINY: Final = 1e-15
"""Scores for the referral of p_referable below this, or above 1 minus this, are not told apart."""


@dataclass(frozen=True)
class DecisionRule:
    """What weights carry to turn logits into decisions. All of it was chosen on validation."""

    temperature: float = 1.0
    ordinal_thresholds: OrdinalThresholds | None = None
    """None: the likeliest grade is predicted."""
    threshold: float = THRESHOLD
    """A photograph is referred if its probability of grade 2 or worse is at least this."""
    quantiles: tuple[float, ...] | None = None
    """Percentiles, 0 to 100, of the confidence of the validation photographs; None if the weights carry none."""
    fellow: "DecisionRule | None" = None
    """The rule for photographs whose fellow eye is taken into account; None for a network that takes one eye."""

    @classmethod
    def of(cls, metadata: Metadata) -> "DecisionRule":
        """The decision rule in the metadata of weights. If none could be fitted with the fellow eye, the rule for one
        eye decides there too."""

        def rule(part: Metadata | FittedRule) -> "DecisionRule":
            threshold = part.operating.threshold if part.operating else THRESHOLD
            return cls(temperature_of(part.operating), part.ordinal_thresholds, threshold, part.confidence)

        alone, fellow = rule(metadata), metadata.fellow
        return replace(alone, fellow=(rule(fellow) if fellow.operating else alone) if fellow else None)

    def probabilities(self, logits: Floats, paired: Paired = None) -> NDArray[np.float32]:
        """(n, 5) calibrated probabilities, each row summing to 1, from logits (n, 5).

        paired: bool (n,), whether the fellow eye is in the logits; None: in none.
        """
        if not self.fellow or paired is None:
            return probabilities(logits, self.temperature)
        return probabilities(logits, np.where(paired, self.fellow.temperature, self.temperature)[:, None])

    def least_confidence(self, share: float) -> float:
        """The confidence below which this share of the validation photographs lies, 0 to 1.

        Raises ValueError if the weights carry no quantiles.
        """
        if self.quantiles is None:
            raise ValueError("the weights do not say how sure they are: `trainer fit` of this version writes that")
        return float(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))

    def grades(self, probabilities: NDArray[np.float32], paired: Paired = None) -> NDArray[np.int64]:
        """(n,) predicted grades from probabilities (n, 5). paired: as above."""
        grades = predicted_grades(probabilities, self.ordinal_thresholds)
        if self.fellow and paired is not None:
            grades = np.where(paired, self.fellow.grades(probabilities), grades)
        return grades

    def referral_scores(self, p_referable: Floats, paired: Paired = None) -> Floats:
        """(n,) p_referable (n,), 0 to 1, moved so that `threshold` decides for all photographs: those with a fellow
        are moved by the difference of the two thresholds, in log-odds."""
        if not self.fellow or paired is None:
            return p_referable
        moved = log_odds(p_referable, TINY) - log_odds(self.fellow.threshold, TINY) + log_odds(self.threshold, TINY)
        return np.where(paired, _logistic(moved), p_referable)


def at_operating_point(metadata: Metadata, operating: Operating) -> Metadata:
    """The metadata with another threshold, which was chosen on referral scores. The threshold for photographs with a
    fellow moves as far as that for others, in log-odds, so that their scores stay."""
    fellow = metadata.fellow
    if fellow and fellow.operating and metadata.operating:
        by = log_odds(operating.threshold, TINY) - log_odds(metadata.operating.threshold, TINY)
        threshold = float(_logistic(log_odds(fellow.operating.threshold, TINY) + by))
        fellow = replace(
            fellow, operating=replace(operating, temperature=fellow.operating.temperature, threshold=threshold)
        )
    return replace(metadata, operating=operating, fellow=fellow)


def confidence(p_referable: Floats, threshold: float) -> Floats:
    """(n,) distance of p_referable (n,) from the threshold, in log-odds, at least 0."""
    return np.asarray(np.abs(log_odds(p_referable) - log_odds(threshold)), np.float64)


def log_odds(p: float | Floats, least: float = CLIP) -> Floats:
    """log(p / (1 - p)), of p that is clipped to `least` and 1 - `least`."""
    clipped = np.clip(p, least, 1 - least)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def _logistic(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)), np.float64)


def probabilities(logits: Floats, temperature: float | Floats = 1.0) -> NDArray[np.float32]:
    """softmax(logits / temperature), (n, 5). temperature: one, or (n, 1)."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    softmax: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softmax.astype(np.float32)


def expected_grades(probabilities: NDArray[np.float32]) -> Floats:
    """(n,) expected grades, 0 to 4, from probabilities (n, 5)."""
    means: Floats = probabilities.astype(np.float64) @ np.arange(N_GRADES)
    return means


def predicted_grades(
    probabilities: NDArray[np.float32], ordinal_thresholds: OrdinalThresholds | None
) -> NDArray[np.int64]:
    """(n,) grades from probabilities (n, 5). Without thresholds the likeliest; if several are, the lowest of them."""
    if ordinal_thresholds is None:
        return np.asarray(probabilities.argmax(axis=1), np.int64)
    return np.asarray(np.searchsorted(ordinal_thresholds, expected_grades(probabilities), side="right"), np.int64)


def p_referable(probabilities: NDArray[np.float32]) -> Floats:
    """(n,) probability of grade 2 or worse, p2 + p3 + p4, from probabilities (n, 5)."""
    sums: Floats = probabilities[:, REFERABLE:].sum(axis=1, dtype=np.float64)
    return sums
