"""External sets beside the run's own test part, for the table, the forest plot, the page and the card."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Interval, single
from trainer.evaluation.record import ICDR, MetricsRecord, SetDescription
from trainer.evaluation.refit import Refit
from trainer.evaluation.results import Results
from trainer.reporting.narrative import external_lines, refit_line
from trainer.reporting.tables import Table, decimals, percent, with_interval
from trainer.run_folder import RunFolder

logger = logging.getLogger(__name__)

Figure = tuple[float | None, Interval | None]
"""A value, None if it is not defined, and its 95 % interval, None if it is not known."""

CAMERAS_SHOWN: Final = 2
"""Sizes of originals that are listed by name."""


class Column(NamedTuple):
    """A figure of the forest plot."""

    key: str
    title: str
    chance: float | None
    """The value of a network without skill; None if there is no single one."""


FOREST: Final = (
    Column("kappa", "kappa,\nquadratic weights", 0.0),
    Column("referable_auc", "AUC,\nreferable", 0.5),
    Column("sensitivity", "sensitivity,\nreferable", None),
    Column("specificity", "specificity,\nreferable", None),
)


@dataclass(frozen=True)
class Site:
    """A set of photographs that a run was measured on: an external set, or the run's own test part."""

    name: str
    record: MetricsRecord

    @property
    def own(self) -> bool:
        """Whether it is the run's own test part."""
        return self.record.description is None

    @property
    def results(self) -> Results:
        return self.record.results

    @property
    def description(self) -> SetDescription | None:
        """None for the run's own test part."""
        return self.record.description

    @property
    def refit(self) -> Refit | None:
        """The refit of the threshold on it; None if there is none."""
        return self.description.refit if self.description else None

    @property
    def prevalence(self) -> float:
        """Share of referable photographs among the graded ones, 0 to 1."""
        return float(sum(self.results.metrics.grades[REFERABLE:]) / self.results.metrics.photographs)

    @property
    def exact(self) -> bool:
        """Whether the steps of its grades are those of ICDR."""
        return self.record.scale.exact

    @property
    def scale(self) -> str:
        scale = self.record.scale
        if scale == ICDR:
            return "ICDR"
        return scale.name if scale.exact else f"{scale.name} (not ICDR's steps)"

    @property
    def threshold(self) -> float | None:
        return self.results.operating.threshold if self.results.operating else None

    @property
    def cameras(self) -> str:
        """The commonest sizes of the originals in words; "" if not recorded."""
        sizes = self.description.cameras if self.description else []
        n = self.results.metrics.photographs
        shown = [f"{each.size} ({each.photographs / n:.0%})" for each in sizes[:CAMERAS_SHOWN]]
        rest = sum(each.photographs for each in sizes[CAMERAS_SHOWN:])
        return ", ".join([*shown, f"others ({rest / n:.0%})"] if rest else shown)

    @property
    def drift(self) -> str:
        """The number of photographs that look unlike training, and their flags, in words; "" if not recorded."""
        drift = self.description and self.description.drift
        if not drift:
            return ""
        flags = ", ".join(f"{flag.replace('_', ' ')} {n:,}" for flag, n in drift.flags.items())
        count = f"{drift.unlike:,} ({drift.unlike / drift.photographs:.0%})"
        return f"{count}: {flags}" if flags else count

    @property
    def lines(self) -> list[str]:
        """Warnings that belong before its figures."""
        if self.description is None:
            return []
        return [f"{self.name}: {line}" for line in external_lines(self.record, self.description)]

    def figure(self, key: str) -> Figure:
        """The figure of a key of FOREST. Sensitivity and specificity are those at the threshold."""
        if key not in ("sensitivity", "specificity"):
            return getattr(self.results.metrics, key), single(self.results.intervals[key])
        card = self.results.operating
        return (getattr(card, key), card.intervals[key]) if card else (None, None)


def read_sites(run: RunFolder) -> list[Site]:
    """The run's own test part, if it was measured, then its external sets by name. Empty without external sets. Warns
    of a damaged one and leaves it out."""
    sites = []
    for name in run.external_names():
        file = run.external_results(name).metrics
        try:
            record = MetricsRecord.from_dict(run.read_json(file, advice="left out"))
            if record.description is None:
                raise ValueError("of no external set")
        except RunError as error:
            logger.warning(error.message)
        except ValueError:
            logger.warning(f"{file} is damaged; left out")
        else:
            sites.append(Site(name, record))
    if sites:
        with suppress(RunError, ValueError):  # not measured, or by an earlier version
            sites.insert(0, Site("own test part", MetricsRecord.from_dict(run.read_own_metrics("test"))))
    return sites


def sites_table(sites: Sequence[Site]) -> Table:
    """A column for each set and a row for each figure."""
    rows = [
        ("photographs", *(f"{each.results.metrics.photographs:,}" for each in sites)),
        ("patients", *(f"{each.results.patients:,}" for each in sites)),
        ("prevalence of referable", *(percent(each.prevalence) for each in sites)),
        ("kappa, quadratic weights", *(with_interval(*each.figure("kappa"), decimals) for each in sites)),
        ("AUC, referable", *(with_interval(*each.figure("referable_auc"), decimals) for each in sites)),
        ("threshold", *("-" if each.threshold is None else decimals(each.threshold) for each in sites)),
        ("  sensitivity", *(with_interval(*each.figure("sensitivity"), percent) for each in sites)),
        ("  specificity", *(with_interval(*each.figure("specificity"), percent) for each in sites)),
        ("unlike training", *(each.drift or "-" for each in sites)),
        ("originals", *(each.cameras or "-" for each in sites)),
    ]
    if any(each.scale != "ICDR" for each in sites):
        rows.append(("scale of the grades", *(each.scale for each in sites)))
    return Table(["95 % intervals by patients", *(each.name for each in sites)], rows)


class RefitTable(NamedTuple):
    """The refit of the threshold on an external set: the numbers of a table, and a sentence."""

    name: str
    wanted: str
    level: float
    rows: list[tuple[str, float | None, Figure, Figure]]
    """See `refit_rows`."""
    line: str


def refit_tables(sites: Sequence[Site]) -> list[RefitTable]:
    """The tables of the sets that have a refit."""
    return [
        RefitTable(site.name, refit.wanted, refit.level, refit_rows(refit), refit_line(refit))
        for site in sites
        if (refit := site.refit)
    ]


def shown_refit(refit: RefitTable) -> Table:
    """A row for each threshold."""
    rows = []
    for title, threshold, sensitivity, specificity in refit.rows:
        shown = (with_interval(value, limits, percent) for value, limits in (sensitivity, specificity))
        rows.append((title, "" if threshold is None else decimals(threshold), *shown))
    return Table([f"{refit.name}: threshold chosen anew", "value", "sensitivity", "specificity"], rows)


def refit_rows(refit: Refit) -> list[tuple[str, float | None, Figure, Figure]]:
    """Rows of title, threshold, sensitivity and specificity: for the weights' threshold and for the refitted one, then
    the means of many draws of each size, with the limits that contain eight of ten draws."""
    rest = f"on the other {refit.rest:,}"
    drawn = f"chosen on {refit.photographs:,} photographs of {refit.patients:,} patients, {rest}"
    rows: list[tuple[str, float | None, Figure, Figure]] = []
    for title, cut in ((f"the weights' own, {rest}", refit.before), (drawn, refit.after)):
        sensitivity = cut.sensitivity, cut.intervals["sensitivity"]
        specificity = cut.specificity, cut.intervals["specificity"]
        rows.append((title, cut.threshold, sensitivity, specificity))
    for size in refit.sizes:
        title = f"chosen on {size.photographs:,}: mean of {size.draws} draws (eight of ten)"
        between = size.sensitivity, (size.sensitivity_low, size.sensitivity_high)
        rows.append((title, None, between, (size.specificity, (size.specificity_low, size.specificity_high))))
    return rows
