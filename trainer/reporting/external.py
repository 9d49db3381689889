"""External sets side by side with the run's own test part: what the table, the forest plot, page and card show."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import click

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.console import print_table, warn
from trainer.evaluation.bootstrap import Interval, single
from trainer.evaluation.record import ICDR, MetricsRecord, SetDescription
from trainer.evaluation.refit import Refit
from trainer.evaluation.results import Results
from trainer.reporting.narrative import external_lines, refit_line
from trainer.reporting.tables import percent, places, with_interval
from trainer.run_folder import RunFolder

Figure = tuple[float | None, Interval | None]
"""Its value, None where it is not defined, and its 95 % interval, None where none is known."""

CAMERAS_SHOWN: Final = 2


class Column(NamedTuple):
    """A figure of the forest plot."""

    key: str
    title: str
    chance: float | None
    """By chance."""


FOREST: Final = (
    Column("kappa", "kappa,\nquadratic weights", 0.0),
    Column("referable_auc", "AUC,\nreferable", 0.5),
    Column("sensitivity", "sensitivity,\nreferable", None),
    Column("specificity", "specificity,\nreferable", None),
)


@dataclass(frozen=True)
class Site:
    """Photographs that a run was measured on."""

    name: str
    record: MetricsRecord

    @property
    def own(self) -> bool:
        """Whether it is the run's own test part, and no external set."""
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
        """The threshold that was chosen anew on it, if one was."""
        return self.description.refit if self.description else None

    @property
    def prevalence(self) -> float:
        """Of referable retinopathy, among the graded photographs, 0 to 1."""
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
        """The commonest sizes of the originals; "" where that is not recorded."""
        sizes = self.description.cameras if self.description else []
        n = self.results.metrics.photographs
        shown = [f"{each.size} ({each.photographs / n:.0%})" for each in sizes[:CAMERAS_SHOWN]]
        rest = sum(each.photographs for each in sizes[CAMERAS_SHOWN:])
        return ", ".join([*shown, f"others ({rest / n:.0%})"] if rest else shown)

    @property
    def drift(self) -> str:
        """How many photographs look unlike training, and in what; "" where that is not recorded."""
        drift = self.description and self.description.drift
        if not drift:
            return ""
        flags = ", ".join(f"{flag.replace('_', ' ')} {n:,}" for flag, n in drift.flags.items())
        share = f"{drift.unlike:,} ({drift.unlike / drift.photographs:.0%})"
        return f"{share}: {flags}" if flags else share

    @property
    def lines(self) -> list[str]:
        """What to know before its figures."""
        if self.description is None:
            return []
        return [f"{self.name}: {line}" for line in external_lines(self.record, self.description)]

    def figure(self, key: str) -> Figure:
        """Sensitivity and specificity are those of the threshold."""
        if key not in ("sensitivity", "specificity"):
            return getattr(self.results.metrics, key), single(self.results.intervals[key])
        card = self.results.operating
        return (getattr(card, key), card.intervals[key]) if card else (None, None)


def read_sites(run: RunFolder) -> list[Site]:
    """The external sets of a run, by name, after its own test part where that was measured; none where no external set
    is there. Of one that is damaged it warns."""
    sites = []
    for name in run.external_names():
        file = run.external_results(name).metrics
        try:
            record = MetricsRecord.from_dict(run.read_json(file, advice="left out"))
            if record.description is None:
                raise ValueError("of no external set")
        except RunError as error:
            warn(error.message)
        except ValueError:
            warn(f"{file} is damaged; left out")
        else:
            sites.append(Site(name, record))
    if sites:
        with suppress(RunError, ValueError):  # not measured, or by an earlier version
            sites.insert(0, Site("own test part", MetricsRecord.from_dict(run.read_own_metrics("test"))))
    return sites


def print_sites(sites: Sequence[Site]) -> None:
    """A column a set, a row a figure; and below it the thresholds that were chosen anew."""
    rows = [
        ("photographs", *(f"{each.results.metrics.photographs:,}" for each in sites)),
        ("patients", *(f"{each.results.patients:,}" for each in sites)),
        ("prevalence of referable", *(percent(each.prevalence) for each in sites)),
        ("kappa, quadratic weights", *(with_interval(*each.figure("kappa"), places) for each in sites)),
        ("AUC, referable", *(with_interval(*each.figure("referable_auc"), places) for each in sites)),
        ("threshold", *("-" if each.threshold is None else places(each.threshold) for each in sites)),
        ("  sensitivity", *(with_interval(*each.figure("sensitivity"), percent) for each in sites)),
        ("  specificity", *(with_interval(*each.figure("specificity"), percent) for each in sites)),
        ("unlike training", *(each.drift or "-" for each in sites)),
        ("originals", *(each.cameras or "-" for each in sites)),
    ]
    if any(each.scale != "ICDR" for each in sites):
        rows.append(("scale of the grades", *(each.scale for each in sites)))
    print_table(["95 % intervals by patients", *(each.name for each in sites)], rows)
    for table in refit_tables(sites):
        rows = []
        for title, threshold, sensitivity, specificity in table.rows:
            shown = (with_interval(value, limits, percent) for value, limits in (sensitivity, specificity))
            rows.append((title, "" if threshold is None else places(threshold), *shown))
        print_table([f"{table.name}: threshold chosen anew", "value", "sensitivity", "specificity"], rows)
        click.echo(table.line)


class RefitTable(NamedTuple):
    """What is shown of a threshold chosen anew on an external set."""

    name: str
    wanted: str
    level: float
    rows: list[tuple[str, float | None, Figure, Figure]]
    """See `refit_rows`."""
    line: str


def refit_tables(sites: Sequence[Site]) -> list[RefitTable]:
    """Of the sets on which a threshold was chosen anew."""
    return [
        RefitTable(site.name, refit.wanted, refit.level, refit_rows(refit), refit_line(refit))
        for site in sites
        if (refit := site.refit)
    ]


def refit_rows(refit: Refit) -> list[tuple[str, float | None, Figure, Figure]]:
    """Rows of a table, with sensitivity and specificity: the weights' threshold and the one chosen anew, then what many
    draws of each size show, with the limits between which eight of ten lie."""
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
