"""External sets side by side with the run's own test part: what the table, the forest plot, page and card show."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import click

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.console import print_table, warn
from trainer.reporting.narrative import external_lines, refit_line
from trainer.reporting.tables import percent, places, with_interval
from trainer.run_folder import RunFolder

Figure = tuple[float | None, tuple[float, float] | None]
"""Its value, None where it is not defined, and its 95 % interval, None where none is known."""

SHOWN: Final = frozenset({"photographs", "patients", "grades", "kappa", "referable_auc", "intervals", "operating"})
"""What is read of the metrics of any photographs,"""
SHOWN_OF_SET: Final = frozenset(
    {"name", "place", "split", "exposure", "other_recipe", "ungradable", "drift", "cameras", "refit"}
)
"""and besides of an external set's."""
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
    metrics: Mapping[str, Any]
    own: bool

    @property
    def prevalence(self) -> float:
        """Of referable retinopathy, among the graded photographs, 0 to 1."""
        return float(sum(self.metrics["grades"][REFERABLE:]) / self.metrics["photographs"])

    @property
    def exact(self) -> bool:
        """Whether the steps of its grades are those of ICDR."""
        return bool(self.metrics.get("scale", ("icdr", True))[1])

    @property
    def scale(self) -> str:
        name, exact = self.metrics.get("scale", ("ICDR", True))
        return name if exact else f"{name} (not ICDR's steps)"

    @property
    def threshold(self) -> float | None:
        card = self.metrics["operating"]
        return card and float(card["threshold"])

    @property
    def cameras(self) -> str:
        """The commonest sizes of the originals; "" where that is not recorded."""
        sizes, n = self.metrics.get("cameras", ()), self.metrics["photographs"]
        shown = [f"{each['size']} ({each['photographs'] / n:.0%})" for each in sizes[:CAMERAS_SHOWN]]
        rest = sum(each["photographs"] for each in sizes[CAMERAS_SHOWN:])
        return ", ".join([*shown, f"others ({rest / n:.0%})"] if rest else shown)

    @property
    def drift(self) -> str:
        """How many photographs look unlike training, and in what; "" where that is not recorded."""
        drift = self.metrics.get("drift")
        if not drift:
            return ""
        flags = ", ".join(f"{flag.replace('_', ' ')} {n:,}" for flag, n in drift["flags"].items())
        share = f"{drift['unlike']:,} ({drift['unlike'] / drift['photographs']:.0%})"
        return f"{share}: {flags}" if flags else share

    @property
    def lines(self) -> list[str]:
        """What to know before its figures."""
        return [] if self.own else [f"{self.name}: {line}" for line in external_lines(self.metrics)]

    def figure(self, key: str) -> Figure:
        """Sensitivity and specificity are those of the threshold."""
        part: Mapping[str, Any] | None = self.metrics
        if key in ("sensitivity", "specificity"):
            part = self.metrics["operating"]
        if part is None:
            return None, None
        limits = part["intervals"][key]
        return part[key], limits and (limits[0], limits[1])


def read_sites(run: RunFolder) -> list[Site]:
    """The external sets of a run, by name, after its own test part where that was measured; none where no external set
    is there. Of one that is damaged it warns."""
    sites = []
    for name in run.external_names():
        file = run.external_results(name).metrics
        try:
            metrics = run.read_json(file, advice="left out")
            if not metrics.keys() >= SHOWN | SHOWN_OF_SET:
                raise RunError(f"{file} is damaged; left out")
        except RunError as error:
            warn(error.message)
        else:
            sites.append(Site(name, metrics, own=False))
    if sites:
        with suppress(RunError):
            metrics = run.read_own_metrics("test")
            if metrics.keys() >= SHOWN:
                sites.insert(0, Site("own test part", metrics, own=True))
    return sites


def print_sites(sites: Sequence[Site]) -> None:
    """A column a set, a row a figure; and below it the thresholds that were chosen anew."""
    rows = [
        ("photographs", *(f"{each.metrics['photographs']:,}" for each in sites)),
        ("patients", *(f"{each.metrics['patients']:,}" for each in sites)),
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
    for table in (refit_table(site) for site in sites if site.metrics.get("refit")):
        rows = []
        for title, threshold, sensitivity, specificity in table["rows"]:
            shown = (with_interval(value, limits, percent) for value, limits in (sensitivity, specificity))
            rows.append((title, "" if threshold is None else places(threshold), *shown))
        print_table([f"{table['name']}: threshold chosen anew", "value", "sensitivity", "specificity"], rows)
        click.echo(table["line"])


def refit_table(site: Site) -> dict[str, Any]:
    """What is shown of a threshold chosen anew."""
    refit = site.metrics["refit"]
    wanted = {name: refit[name] for name in ("wanted", "level")}
    return {"name": site.name, **wanted, "rows": refit_rows(refit), "line": refit_line(refit)}


def refit_rows(refit: Mapping[str, Any]) -> list[tuple[str, float | None, Figure, Figure]]:
    """Rows of a table, with sensitivity and specificity: the weights' threshold and the one chosen anew, then what many
    draws of each size show, with the limits between which eight of ten lie."""
    rest = f"on the other {refit['rest']:,}"
    drawn = f"chosen on {refit['photographs']:,} photographs of {refit['patients']:,} patients, {rest}"
    rows: list[tuple[str, float | None, Figure, Figure]] = []
    for title, cut in ((f"the weights' own, {rest}", refit["before"]), (drawn, refit["after"])):
        sensitivity, specificity = ((cut[name], cut["intervals"][name]) for name in ("sensitivity", "specificity"))
        rows.append((title, cut["threshold"], sensitivity, specificity))
    for size in refit["sizes"]:
        sensitivity, specificity = (
            (size[name], (size[f"{name}_low"], size[f"{name}_high"])) for name in ("sensitivity", "specificity")
        )
        title = f"chosen on {size['photographs']:,}: mean of {size['draws']} draws (eight of ten)"
        rows.append((title, None, sensitivity, specificity))
    return rows
