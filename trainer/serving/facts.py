"""The facts about the weights that the page shows: training data, test figures and limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import RunError
from trainer.config import RunConfig
from trainer.evaluation.bootstrap import Interval, single
from trainer.evaluation.metrics import graded
from trainer.evaluation.operating_point import OperatingCard
from trainer.evaluation.record import MetricsRecord
from trainer.evaluation.results import Results
from trainer.network.metadata import Metadata
from trainer.reporting.narrative import APPROXIMATE_RULE, leak_statement, limits, scale_line, starting_point, verdict
from trainer.reporting.page import number
from trainer.run_folder import RunFolder, weights_file
from trainer.serving.words import percent

FIGURES: Final = (
    ("sensitivity", "Sensitivity (referable photographs that are referred)", "percent"),
    ("specificity", "Specificity (other photographs that are not referred)", "percent"),
    ("ppv", "PPV (referred photographs that are referable)", "percent"),
    ("npv", "NPV (photographs not referred that are not referable)", "percent"),
)
"""Figures of the operating card of test: key, title, number format."""
HEADLINE: Final = (
    ("referable_auc", "AUC, referable against other photographs", "decimals"),
    ("kappa", "Kappa of the five grades, quadratic weights", "decimals"),
)


@dataclass(frozen=True)
class Figure:
    title: str
    value: str
    interval: str
    """The 95 % interval; "" if there is none."""

    @property
    def bracket(self) -> str:
        return f" (95 % interval {self.interval})" if self.interval else ""


@dataclass(frozen=True)
class Measured:
    """The results of a run on the test part of its cache."""

    photographs: int
    patients: int
    figures: list[Figure]
    notes: list[str]
    """Leaks, the scale of the grades, another threshold, and whether the network is better than chance."""
    limits: list[str]

    @property
    def summary(self) -> str:
        """The first two figures in words: sensitivity and specificity, if there is an operating point."""
        figures = [f"{each.title}: {each.value}{each.bracket}." for each in self.figures[:2]]
        return " ".join([f"Measured on {self.photographs:,} test photographs of {self.patients:,} patients.", *figures])


@dataclass(frozen=True)
class Facts:
    """The facts about the weights that the page shows."""

    name: str
    what: str
    trained_on: str
    referral: str
    measured: Measured | None
    unmeasured: str
    """Why there are no figures; "" if there are."""


def collect_facts(path: Path, metadata: Metadata) -> Facts:
    """The facts about a run folder or a model.safetensors. metadata: of its weights.

    For a file outside a run folder, and for a run without test figures, `unmeasured` says why there are none.
    """
    weights = weights_file(path)
    run = RunFolder(weights.parent)
    own = run.started and weights == run.model
    config = run.read_config() if own else None
    measured, unmeasured = None, "The weights are a file without its run folder, so no test figures are known."
    if own:
        try:
            measured, unmeasured = _measured(run, metadata), ""
        except RunError as error:
            unmeasured = f"No test figures: {error.message}."
        except ValueError:
            unmeasured = f"The test figures are of an earlier version: `trainer evaluate {path}` measures again."
    what = f"{metadata.title} at {metadata.size} x {metadata.size} pixels"
    if not metadata.members:
        start = f", {starting_point(config.resolved.weights)}" if config else ""
        what += f"{start}; the weights of epoch {metadata.epoch}"
    name = run.path.resolve().name if own else weights.name
    return Facts(name, what, _trained_on(config, metadata), _referral(metadata), measured, unmeasured)


def _trained_on(config: RunConfig | None, metadata: Metadata) -> str:
    if config is None:
        return "The file does not say how many photographs it was trained on."
    train, val = config.photographs.get("train", 0), config.photographs.get("val", 0)
    line = f"Trained on {train:,} photographs; epoch and threshold were chosen on {val:,} others."
    if config.folds:
        line = f"Trained in folds of {train + val:,} photographs. {APPROXIMATE_RULE}"
    if metadata.statistics is None:
        line += " The weights do not say what those looked like, so unusual photographs are not flagged."
    return line


def _referral(metadata: Metadata) -> str:
    operating = metadata.operating
    if operating is None:
        return "The weights carry no threshold: 50 % is taken, and the probabilities are not calibrated."
    if operating.threshold > 1:
        return "The threshold lies above 100 %, so no photograph is referred."
    if metadata.fellow:
        alone = " The network could take the patient's other eye into account; this page grades each photograph alone."
    else:
        alone = ""
    chosen = f"a {operating.wanted} of {percent(operating.level)} on the validation photographs"
    return f"Refer from a probability of {percent(operating.threshold)} on, the threshold that gave {chosen}.{alone}"


def _measured(run: RunFolder, metadata: Metadata) -> Measured:
    """The results on test. Raises RunError if test was not measured, ValueError if an earlier version measured it."""
    written, predictions = run.read_own_metrics("test"), run.read_predictions("test")
    record, known = MetricsRecord.from_dict(written), graded(predictions)
    results = record.results
    if results.metrics.photographs != len(known):
        raise ValueError("figures and predictions are of different photographs")
    leak = leak_statement("test", record, None)
    notes = [leak.text] if leak.alarm else []
    notes += [scale] if (scale := scale_line(*record.scale)) else []
    notes += _other_threshold(results.operating, metadata)
    notes += verdict(record, known)
    external = len(run.external_names())
    words = limits(record, len(predictions) - len(known), None, external)
    return Measured(results.metrics.photographs, results.patients, _figures(results), notes, words)


def _figures(results: Results) -> list[Figure]:
    card, metrics, intervals = results.operating, results.metrics, results.intervals
    rows = [(title, as_, getattr(card, key), card.intervals[key]) for key, title, as_ in FIGURES] if card else []
    rows += [(title, as_, getattr(metrics, key), single(intervals[key])) for key, title, as_ in HEADLINE]
    return [
        Figure(title, "not defined" if value is None else number(value, as_), _interval(interval, as_))
        for title, as_, value, interval in rows
    ]


def _interval(interval: Interval | None, kind: str) -> str:
    return f"{number(interval[0], kind)} to {number(interval[1], kind)}" if interval else ""


def _other_threshold(card: OperatingCard | None, metadata: Metadata) -> list[str]:
    if card is None or metadata.operating is None or abs(card.threshold - metadata.operating.threshold) < 1e-9:
        return []
    return [
        f"The figures were measured at a threshold of {percent(card.threshold)}, not at the "
        f"{percent(metadata.operating.threshold)} that this page refers at."
    ]
