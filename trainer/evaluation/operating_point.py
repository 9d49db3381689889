"""The operating card for referable retinopathy: from which probability on to refer, and what comes of it.

The threshold is chosen on validation and then held fixed; it is never moved to suit the photographs it is measured on.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.console import warn
from trainer.evaluation.bootstrap import Figures, Floats, bootstrap, intervals
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.metrics import graded, plain_value
from trainer.evaluation.weighted_metrics import Masks, Sample, patients_behind, ratio, shares
from trainer.kinds import PROBABILITIES
from trainer.network.decision import p_referable, probabilities
from trainer.network.metadata import Operating
from trainer.run_folder import RunFolder

Wanted = Literal["sensitivity", "specificity"]


@dataclass(frozen=True)
class Wish:
    """What a user wants of the operating card.

    Diabetes UK asks of a screening test a sensitivity of 80 %, the trial that IDx-DR was admitted by 85 % (Abramoff et
    al., npj Digital Medicine 2018).
    """

    wanted: Wanted = "sensitivity"
    level: float = 0.90  # at least so much on validation


_HAS, _REFERRED = np.divmod(np.arange(4), 2)
_SHARES: Final[dict[str, Masks]] = {
    "sensitivity": ((_HAS & _REFERRED) == 1, _HAS == 1),
    "specificity": ((_HAS | _REFERRED) == 0, _HAS == 0),
    "ppv": ((_HAS & _REFERRED) == 1, _REFERRED == 1),
    "npv": ((_HAS | _REFERRED) == 0, _REFERRED == 0),
    "prevalence": (_HAS == 1, _HAS >= 0),
}
"""Over the four cells: neither, referred only, diseased only, both."""


def choose_operating(logits: Floats, grades: NDArray[np.int64]) -> Operating | None:
    """Temperature and threshold from logits (n, 5) and grades (n,), all known, of validation; None, with a warning,
    where these cannot tell."""
    temperature = fit_temperature(logits, grades)
    if temperature is None:
        warn("validation fits no temperature from 0.1 to 10 and cannot calibrate: probabilities stay as they are")
        temperature = 1.0
    scores, wish = p_referable(probabilities(logits, temperature)), Wish()
    try:
        threshold = choose_threshold(scores, grades >= REFERABLE, wish)
    except ValueError as error:
        warn(f"no operating point can be chosen on validation: {error}")
        return None
    return Operating(temperature, threshold, wish.wanted, wish.level)


def wished(run: RunFolder, temperature: float, wish: Wish) -> Operating:
    """The operating point chosen anew, from the run's predictions, of that temperature, for its validation photographs.

    Raises RunError where these are missing, of another cache, or cannot tell.
    """
    val = graded(run.read_predictions("val"))
    if run.read_json(run.metrics("val")).get("cache") != run.read_config().cache_digest:
        cure = f"`trainer evaluate {run.path} --split val` measures the run's own"
        raise RunError(f"{run.predictions('val')} is about another cache; {cure}")
    scores = p_referable(val[list(PROBABILITIES)].to_numpy(np.float32))
    try:
        threshold = choose_threshold(scores, (val["grade"] >= REFERABLE).to_numpy(), wish)
    except ValueError as error:
        raise RunError(f"no operating point can be chosen on {run.predictions('val')}: {error}") from error
    return Operating(temperature, threshold, wish.wanted, wish.level)


def choose_threshold(scores: Floats, referable: NDArray[np.bool_], wish: Wish) -> float:
    """The threshold on scores (n,), 0 to 1, with which at least the wished share of the referable (n,) ones lies at or
    above it, or of the others below it, and then as many of the other side as can be.

    It lies half-way between two scores, so that rounding moves nobody across. Raises ValueError without both sides.
    """
    if referable.all() or not referable.any():
        which = "all" if referable.all() else "none"
        raise ValueError(f"{which} of its photographs show referable retinopathy")
    cuts = np.unique(scores)  # cut n: refer from the n-th score on
    edges = np.concatenate([[0.0], cuts, [1.0 if cuts[-1] < 1 else 2.0]])
    of = np.sort(scores[referable if wish.wanted == "sensitivity" else ~referable])
    need = max(1, int(np.ceil(wish.level * len(of) - 1e-9)))  # 0.55 * 100 is a little more than 55
    if wish.wanted == "sensitivity":
        cut = int(np.searchsorted(cuts, of[len(of) - need]))
    else:
        cut = int(np.searchsorted(cuts, of[need - 1])) + 1
    low, high = edges[cut], edges[cut + 1]
    half = (low + high) / 2
    return float(half if half > low else high)


class Referral:
    """A sample cut at a threshold."""

    def __init__(self, sample: Sample, operating: Operating, prevalence: float | None) -> None:
        """`prevalence`, 0 to 1: of another population, to say what a referral would mean there."""
        self.operating, self.prevalence, self.sample = operating, prevalence, sample
        has = sample.grades >= REFERABLE
        self._tally = sample.tally(2 * has + (sample.p_referable >= operating.threshold), 4)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds)."""
        found = shares(weights.T @ self._tally, _SHARES)
        if self.prevalence is not None:
            elsewhere = by_bayes(found["sensitivity"], found["specificity"], self.prevalence)
            found |= dict(zip(("ppv_elsewhere", "npv_elsewhere"), elsewhere, strict=True))
        return found

    def card(self) -> dict[str, Any]:
        """The `operating` part of metrics_*.json. The threshold is the same in every resample."""
        resampled = bootstrap(self.sample.n_patients, self.figures)
        values = self.figures(self.sample.equal_weights)
        plain = {name: plain_value(value[0]) for name, value in values.items()}
        limits = intervals(values, resampled, patients_behind(self._tally, _SHARES))
        at_prevalence = None
        if self.prevalence is not None:
            at_prevalence = {
                "prevalence": self.prevalence,
                **{name: plain.pop(f"{name}_elsewhere") for name in ("ppv", "npv")},
                "intervals": {name: limits.pop(f"{name}_elsewhere") for name in ("ppv", "npv")},
            }
        point = {name: getattr(self.operating, name) for name in ("threshold", "wanted", "level")}
        return {**point, **plain, "intervals": limits, "at_prevalence": at_prevalence}


def by_bayes(sensitivity: Floats, specificity: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """Predictive values, positive and negative, where that share of the photographs, 0 to 1, is referable.

    Bayes' rule, as in Altman and Bland, BMJ 1994; NaN where nobody, or everybody, would be referred.
    """
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return ratio(right, right + wrong), ratio(passed, passed + missed)
