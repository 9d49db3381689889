"""Evaluation of weights on a split: predictions, results, and the decision rule from validation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache
from pipeline.cache.eyes import EyeTable
from pipeline.cache.splits import patients_of
from pipeline.errors import CacheError, RunError
from pipeline.grades import UNKNOWN
from pipeline.metrics import confusion_counts, quadratic_kappa
from trainer.config import FitConfig
from trainer.evaluation.characteristics import kept_groups
from trainer.evaluation.deferral import confidence_quantiles
from trainer.evaluation.metrics import graded, predictions_table, with_fellows
from trainer.evaluation.operating_point import choose_operating
from trainer.evaluation.ordinal_thresholds import fit_ordinal_thresholds
from trainer.evaluation.record import FellowCopy, MetricsRecord, Scale
from trainer.evaluation.results import assess
from trainer.evaluation.subgroups import measure_subgroups
from trainer.evaluation.weighted_metrics import Sample
from trainer.inference.forward import Outputs, run_split
from trainer.network.decision import DecisionRule, p_referable, probabilities
from trainer.network.device import to_device
from trainer.network.metadata import FittedRule, Metadata, temperature_of
from trainer.network.model import Network
from trainer.network.provenance import Exposure, Provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(MetricsRecord):
    """The results of weights on a split of a cache, and the predictions that they are computed from."""

    predictions: pd.DataFrame
    """See trainer.evaluation.metrics."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A network that is measured, with the metadata and the provenance in its file of weights."""

    model: Network
    metadata: Metadata
    """With the operating point to measure at."""
    provenance: Provenance | None
    """The photographs that it was trained on and chosen by; None if the file does not say."""


def check_measurable(cache: Cache, split: str) -> None:
    """Raises CacheError if a split has no graded photograph."""
    if not len(cache.graded_rows(split)):
        what = "its photographs have no grades" if len(cache.rows(split)) else "it has no photographs"
        raise CacheError(f"{cache.path}: {'it' if split == 'all' else split} cannot be measured, {what}")


def measuring_settings(
    trained: FitConfig,
    metadata: Metadata,
    cache: Cache,
    *,
    loader: str,
    device: str,
    workers: int | None,
    tta: bool | None,
) -> FitConfig:
    """The settings of a run, changed for measuring its weights. tta: None for that of the run.

    Raises RunError if the weights do not fit the settings.
    """
    views = trained.tta if tta is None else tta
    try:
        return replace(
            trained,
            loader=loader,
            device=device,
            workers=workers,
            size=metadata.size,
            start_size=None,  # of training only
            together=cache.shuffle_block,
            tta=views,
        )
    except ValueError as error:
        raise RunError(f"weights and config.json are not of one run: {error}") from error


def evaluate_split(
    config: FitConfig,
    weights: Weights,
    cache: Cache,
    split: str,
    *,
    own: bool,
    prevalence: float | None = None,
    columns: Sequence[str] = (),
) -> Evaluation:
    """Runs a network over a split that is measurable, and measures its outputs.

    config: see `measuring_settings`. own: whether the weights were trained on this cache. prevalence: of another
    population, 0 to 1. columns: columns of attributes.csv whose groups are measured too.
    Raises CacheError for a column that makes no groups; see `kept_groups`.
    """
    groups = kept_groups(cache, split, columns)
    to_device(weights.model, config.device)
    outputs = run_split(config, weights.model, cache, split, any_split=not own)
    exposure = exposure_on(weights.provenance, cache, split, own=own)
    evaluation = measure_outputs(cache, split, outputs, weights.metadata, exposure, prevalence)
    if not groups:
        return evaluation
    known = graded(evaluation.predictions)
    sample = Sample.of(known, patients_of(cache.manifest, known["id"]))
    labels = {name: names.loc[known["id"]].reset_index(drop=True) for name, names in groups.items()}
    threshold = weights.metadata.operating.threshold if weights.metadata.operating else None
    return replace(evaluation, subgroups=measure_subgroups(sample, labels, threshold))


def measure_outputs(
    cache: Cache,
    split: str,
    outputs: Outputs,
    metadata: Metadata,
    exposure: Exposure | None,
    prevalence: float | None = None,
) -> Evaluation:
    """Measures a network's outputs for a split by the decision rule in its metadata. prevalence: of another population,
    0 to 1."""
    manifest, logits = cache.manifest, outputs.logits.double().numpy()
    rule, eyes = DecisionRule.of(metadata), EyeTable.of(manifest, read_attributes(cache))
    calibrated = rule.probabilities(logits, outputs.paired)
    predictions = predictions_table(
        manifest["id"].iloc[outputs.rows], outputs.grades.numpy(), calibrated, metadata.ordinal_thresholds
    )
    predictions = with_fellows(predictions, rule, outputs.fellows)
    results = assess(
        manifest, split, predictions, probabilities(logits), metadata.operating, prevalence, eyes=eyes, rule=rule
    )
    return Evaluation(
        split=split,
        digest=cache.digest,
        scale=Scale(cache.index.scale, cache.index.exact),
        predictions=predictions,
        results=results,
        exposure=exposure,
        fellow_copy=fellow_copy(predictions, outputs.fellow_grades),
    )


def fellow_copy(predictions: pd.DataFrame, fellow_grades: NDArray[np.int64] | None) -> FellowCopy | None:
    """The figures of copying the fellows' true grades, (n,), -1 if unknown; None if no photograph has one."""
    if fellow_grades is None:
        return None
    known = (predictions["grade"] != UNKNOWN).to_numpy() & (fellow_grades != UNKNOWN)
    if not known.any():
        return None
    grades, predicted = (predictions[name].to_numpy()[known] for name in ("grade", "predicted"))
    copied, own = (confusion_counts(grades, given) for given in (fellow_grades[known], predicted))
    return FellowCopy(
        photographs=int(known.sum()),
        accuracy=float(np.trace(copied) / copied.sum()),
        kappa=quadratic_kappa(copied),
        network_accuracy=float(np.trace(own) / own.sum()),
        network_kappa=quadratic_kappa(own),
    )


def exposure_on(provenance: Provenance | None, cache: Cache, split: str, *, own: bool) -> Exposure | None:
    """How many photographs of a split the weights know, apart from those that they must know; None if it is unknown.

    own: whether the weights were trained on this cache. They must know its train and val then.
    """
    if provenance is None or (own and split == "train"):
        return None
    exposure = provenance.exposure(cache, split)
    return exposure._replace(chosen_by=0) if own and split == "val" else exposure


def choose_decision(cache: Cache, outputs: Outputs, metadata: Metadata, grade_by: str) -> Metadata:
    """The metadata with the decision rule that is fitted on outputs for val: temperature, threshold, percentiles of the
    confidence and, with grade_by "expected", ordinal thresholds.

    A network that takes the fellow eye gets two rules: one fitted without it, on all photographs, and one with it, on
    those that have a fellow.
    """
    known = outputs.grades.numpy() != UNKNOWN
    if outputs.alone is None:
        return replace(metadata, **vars(_fit_rule(cache, outputs, outputs.logits, known, grade_by, "validation")))
    alone = _fit_rule(cache, outputs, outputs.alone, known, grade_by, "validation without the other eye")
    what = "validation with the other eye"
    fellow = _fit_rule(cache, outputs, outputs.logits, known & outputs.paired, grade_by, what)
    if alone.operating and not fellow.operating:
        logger.warning(f"no decision rule fits {what}: the rule for one eye decides there too")
    return replace(metadata, **vars(alone), fellow=fellow)


def _fit_rule(
    cache: Cache, outputs: Outputs, of: Tensor, chosen: NDArray[np.bool_], grade_by: str, what: str
) -> FittedRule:
    """The rule for logits `of` (n, 5), fitted on those of the chosen photographs (n,). what: these, for warnings."""
    logits, grades = of.double().numpy()[chosen], outputs.grades.numpy()[chosen]
    operating, ordinal_thresholds = choose_operating(logits, grades, what), None
    if grade_by == "expected":
        manifest = cache.manifest
        patients = pd.factorize(patients_of(manifest, manifest["id"].iloc[outputs.rows[chosen]]))[0]
        ordinal_thresholds = fit_ordinal_thresholds(probabilities(logits, temperature_of(operating)), grades, patients)
        if ordinal_thresholds is None:
            logger.warning(
                f"{what} has only one grade, so no limits between grades can be chosen: the likeliest is predicted"
            )
    sure = None
    if operating is not None:
        scores = p_referable(probabilities(logits, operating.temperature))
        sure = confidence_quantiles(scores, operating.threshold)
    return FittedRule(operating, ordinal_thresholds, sure)
