"""A threshold refitted on labelled photographs of another hospital: its effect, and how many photographs it needs.

Photographs are drawn, with all those of a patient together. The threshold is chosen on them, for the same sensitivity
or specificity as the weights' own. Both thresholds are measured on the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Floats, Interval, Resamples
from trainer.evaluation.operating_point import Referral, Wish, choose_threshold, two_by_two
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.metadata import Operating

Mask = NDArray[np.bool_]

SIZES: Final = (25, 50, 100, 200, 400, 800, 1600, 3200)
"""Numbers of photographs that are tried, besides the number asked for."""
DRAWS: Final = 50
"""Draws of each size, with the seeds 0, 1, ..."""
FEWEST: Final = 5
"""Both the photographs drawn and the rest need this many referable photographs, and this many others."""
SPREAD: Final = (0.1, 0.9)
"""Quantiles over the draws; eight of ten draws lie between them."""
NEAR: Final = 0.05
SURE: Final = 0.9
"""A number of photographs is enough if this share of the draws reaches, on the rest, what is wanted minus NEAR."""


@dataclass(frozen=True)
class Performance:
    """The figures of a threshold on the photographs that were not drawn."""

    threshold: float
    sensitivity: float
    specificity: float
    intervals: dict[str, Interval | None]
    """95 % intervals of sensitivity and specificity."""


@dataclass(frozen=True)
class Size:
    """The figures of thresholds from many draws of one size, each on the rest of its draw: means over the draws, and
    limits between which eight of ten draws lie."""

    photographs: int
    """The largest number that is drawn."""
    draws: int
    """Number of the DRAWS that had FEWEST photographs of both classes."""
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float
    specificity_high: float
    near: float
    """Share of the draws that reach what is wanted minus NEAR."""


@dataclass(frozen=True)
class Refit:
    """The `refit` part of an external set's metrics.json."""

    wanted: str
    level: float
    photographs: int
    """Photographs of the first draw, on which the threshold of `after` was chosen."""
    patients: int
    referable: int
    rest: int
    """The other photographs, on which both thresholds were measured."""
    before: Performance
    """The weights' own threshold."""
    after: Performance
    sizes: tuple[Size, ...]
    """Sizes for which at least one draw had FEWEST photographs of both classes."""
    enough: int | None
    """The smallest size that is enough; None if none is."""


def refit(predictions: pd.DataFrame, patients: "pd.Series[str]", operating: Operating, n: int) -> Refit:
    """Refits the threshold on at most n of the graded predictions. patients: of the predictions.

    Raises ValueError if the photographs drawn, or the rest, have too few of a class.
    """
    sample = Sample.of(predictions, patients)
    scores, truth = sample.referral_scores, sample.grades >= REFERABLE
    chosen = draw(sample.patients, truth, n, seed=0)
    check(truth[chosen], "the photographs drawn have")
    check(truth[~chosen], "the rest has")
    wish = Wish(operating.wanted, operating.level)
    threshold = choose_threshold(scores[chosen], truth[chosen], wish)
    rest = Sample.of(predictions[~chosen], patients[~chosen])
    resamples = Resamples(rest.n_patients)
    tried = [*(size for size in SIZES if size < n), n]
    sizes = tuple(size for photographs in tried if (size := try_size(sample, wish, photographs)))
    return Refit(
        operating.wanted,
        operating.level,
        photographs=int(chosen.sum()),
        patients=len(np.unique(sample.patients[chosen])),
        referable=int(truth[chosen].sum()),
        rest=int((~chosen).sum()),
        before=performance_at(rest, resamples, operating),
        after=performance_at(rest, resamples, replace(operating, threshold=threshold)),
        sizes=sizes,
        enough=next((size.photographs for size in sizes if size.draws == DRAWS and size.near >= SURE), None),
    )


def draw(patients: NDArray[np.int64], referable: Mask, n: int, seed: int) -> Mask:
    """(photographs,) whether each is drawn: at most n, with all photographs of a patient together. Patients with and
    without a referable photograph are drawn in proportion. patients: numbered from 0."""
    random = np.random.default_rng(seed)
    photographs = np.bincount(patients)
    ill = np.bincount(patients, referable) > 0
    place = np.empty(len(photographs))
    for stratum in (ill, ~ill):
        size = int(stratum.sum())
        place[stratum] = (random.permutation(size) + random.random()) / max(size, 1)
    order = place.argsort(kind="stable")
    drawn = order[: np.searchsorted(photographs[order].cumsum(), n, side="right")]
    return np.isin(patients, drawn)


def check(referable: Mask, who: str) -> None:
    """Raises ValueError if there are too few of a class. who: the photographs, in words."""
    for kind, found in (("referable", int(referable.sum())), ("not referable", int((~referable).sum()))):
        if found < FEWEST:
            raise ValueError(f"too few: {who} {found} that {'is' if found == 1 else 'are'} {kind}, of {FEWEST} needed")


def try_size(sample: Sample, wish: Wish, n: int) -> Size | None:
    """The figures of one size; None if no draw has enough of both classes."""
    shown = np.array(list(_shown(sample, wish, n)))
    if not len(shown):
        return None
    sensitivity, specificity = (_over_draws(each) for each in shown.T)
    wanted = shown[:, 0 if wish.wanted == "sensitivity" else 1]
    return Size(n, len(shown), *sensitivity, *specificity, near=float((wanted >= wish.level - NEAR).mean()))


def _over_draws(values: Floats) -> tuple[float, float, float]:
    """Mean and limits."""
    low, high = np.quantile(values, SPREAD).tolist()
    return float(values.mean()), low, high


def _shown(sample: Sample, wish: Wish, n: int) -> Iterator[tuple[float, float]]:
    """Sensitivity and specificity on the rest of each draw."""
    scores, truth = sample.referral_scores, sample.grades >= REFERABLE
    for seed in range(DRAWS):
        chosen = draw(sample.patients, truth, n, seed)
        try:
            check(truth[chosen], "drawn")
            check(truth[~chosen], "rest")
        except ValueError:
            continue
        threshold = choose_threshold(scores[chosen], truth[chosen], wish)
        sensitivity, specificity, *_ = two_by_two(scores[~chosen] >= threshold, truth[~chosen]).shares()
        assert sensitivity is not None  # the rest has both kinds
        assert specificity is not None
        yield sensitivity, specificity


def performance_at(rest: Sample, resamples: Resamples, operating: Operating) -> Performance:
    """The figures of a threshold on photographs of both classes. resamples: of their patients."""
    card = Referral(rest, operating, None).card(resamples)
    assert card.sensitivity is not None  # the rest has both kinds
    assert card.specificity is not None
    limits = {name: card.intervals[name] for name in ("sensitivity", "specificity")}
    return Performance(operating.threshold, card.sensitivity, card.specificity, limits)
