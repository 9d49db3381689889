"""Several runs side by side: a figure, a table, and the differences from the first of them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import click
import pandas as pd

from pipeline.errors import RunError
from trainer.config import FitConfig
from trainer.console import print_table, warn
from trainer.evaluation.paired import Difference, pair
from trainer.kinds import comparison_parts
from trainer.network.provenance import Exposure
from trainer.reporting.figures import draw_comparison
from trainer.reporting.narrative import exposure_line
from trainer.reporting.tables import places, with_interval
from trainer.run_folder import RunFolder, write_csv

MEASURED: Final = ("accuracy", "balanced_accuracy", "kappa", "auc", "sensitivity", "specificity")
SHOWN: Final = (
    "run",
    "model",
    "weights",
    "size",
    "kept",
    "kappa_val",
    "accuracy_test",
    "majority",
    "kappa_test",
    "auc_test",
)
PAIR_SHOWN: Final = ("run - against", "figure", "photographs", "patients", "run", "against", "difference", "p")


@dataclass(frozen=True)
class Run:
    """A run as it is compared."""

    name: str
    folder: RunFolder
    config: FitConfig
    accuracy: pd.DataFrame
    """accuracy.csv."""
    summary: dict[str, Any]
    """summary.json; empty where the run is unfinished."""


def compare(paths: Sequence[Path], out: Path) -> None:
    """Writes OUT.png, OUT.csv and OUT_pairs.csv and prints the tables. Folders that are no runs, or damaged, are named
    and left out, and so are, from the pairs, runs that were not measured on the first one's test photographs.

    Raises RunError where that leaves none, or where nothing can be written.
    """
    runs = list(read_runs(paths))
    if not runs:
        raise RunError("none of these can be compared; `trainer fit` makes runs")
    table = pd.DataFrame([table_row(run) for run in runs]).astype({"kept_epoch": "Int64"})
    curves = {run.name: (run.config.model, run.config.weights != "none", run.accuracy) for run in runs}
    pairs = list(pair_with_first(runs))
    figure, _, csv, pairs_csv = (part.path for part in comparison_parts(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_comparison(figure, curves)
        write_csv(csv, table)
        write_csv(pairs_csv, pairs_table(pairs))
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror})") from error
    print_table(SHOWN, [shown_row(run) for run in runs])
    if pairs:
        click.echo("\ndifferences on the same test photographs, resampled by patients:")
        print_table(PAIR_SHOWN, map(pair_row, pairs))
    click.echo(f"written: {figure} {csv} {pairs_csv}")


def read_runs(paths: Sequence[Path]) -> Iterable[Run]:
    """By their folders' names; those that share one, by their paths as they were given."""
    names = [path.resolve().name for path in paths]
    for path, name in zip(paths, names, strict=True):
        run = RunFolder(path)
        try:
            config = run.read_config().resolved
            accuracy = run.read_accuracy()
            summary = run.read_json(run.summary) if run.finished else {}
        except RunError as error:
            warn(f"left out: {error.message}")
        else:
            say_exposure(run, str(path))
            if not summary:
                warn(f"{path} is unfinished ({len(accuracy)} epochs); `trainer fit --run {path} --resume` continues it")
            yield Run(name if names.count(name) == 1 else str(path), run, config, accuracy, summary)


def say_exposure(run: RunFolder, name: str) -> None:
    """Warns of a run whose weights have met the test photographs it was measured on."""
    with suppress(RunError):
        exposure = run.read_json(run.metrics("test")).get("exposure")
        if exposure and (line := exposure_line("test", Exposure(**exposure))):
            warn(f"{name}: {line}")


def table_row(run: Run) -> dict[str, Any]:
    """What OUT.csv says of a run; shares from 0 to 1, empty where not measured. `_low` and `_high` bound 95 %."""
    row = {
        "run": run.name,
        **{name: getattr(run.config, name) for name in ("model", "weights", "size", "loader", "seed", "keep")},
        "epochs": len(run.accuracy),
        "kept_epoch": run.summary.get("kept_epoch"),
        "seconds": round(float(run.accuracy["seconds"].sum()), 1),
    }
    for split in ("val", "test"):
        metrics = run.summary.get(split, {})
        row |= {f"{name}_{split}": metrics.get(name) for name in MEASURED}
        for name in MEASURED:
            low, high = (metrics.get("intervals") or {}).get(name) or (None, None)
            row |= {f"{name}_{split}_low": low, f"{name}_{split}_high": high}
        row[f"majority_{split}"] = _majority(metrics)
    return row


def shown_row(run: Run) -> list[str]:
    """The row of the printed table."""
    test, config = run.summary.get("test", {}), run.config
    kept = run.summary.get("kept_epoch", "-")
    cells = [run.name, config.model, "/".join(Path(config.weights).parts[-2:]), f"{config.size}"]
    cells += [f"{kept}/{len(run.accuracy)}", _cell(run.summary.get("val", {}).get("kappa"))]
    figures = [
        with_interval(test.get(name), (test.get("intervals") or {}).get(name), places)
        for name in ("accuracy", "kappa", "auc")
    ]
    return [*cells, figures[0], _cell(_majority(test)), *figures[1:]]


def pair_with_first(runs: Sequence[Run]) -> Iterable[Difference]:
    """Every finished run against the first one. A run that cannot be is named with the reason."""
    finished = [run for run in runs if run.summary]
    for run in finished[1:]:
        try:
            for difference in pair(run.folder, finished[0].folder):
                yield replace(difference, run=run.name, against=finished[0].name)
        except RunError as error:
            warn(f"{run.name} and {finished[0].name} are not paired: {error.message}")


def pairs_table(pairs: Sequence[Difference]) -> pd.DataFrame:
    """OUT_pairs.csv: the fields of `Difference`, the interval as `low` and `high`."""
    names = [each.name for each in fields(Difference)]
    table = pd.DataFrame([astuple(each) for each in pairs], columns=names)
    limits = [each.interval or (None, None) for each in pairs]
    at = names.index("interval")
    table = table.drop(columns="interval")
    table.insert(at, "low", [low for low, _ in limits])
    table.insert(at + 1, "high", [high for _, high in limits])
    return table


def pair_row(pair: Difference) -> list[str]:
    limits = f" ({pair.interval[0]:+.3f} to {pair.interval[1]:+.3f})" if pair.interval else ""
    change = "-" if pair.difference is None else f"{pair.difference:+.3f}{limits}"
    counts = [f"{pair.photographs:,}", f"{pair.patients:,}"]
    values = [_cell(pair.value), _cell(pair.value_against)]
    return [f"{pair.run} - {pair.against}", pair.figure, *counts, *values, change, _cell(pair.p)]


def _majority(metrics: dict[str, Any]) -> float | None:
    """Accuracy of giving every photograph the commonest grade of train, from a summary's part about a split."""
    baselines = metrics.get("no_image")
    return baselines["majority"]["accuracy"] if baselines else None


def _cell(value: float | None) -> str:
    """To three places; "-" for what was not measured."""
    return "-" if value is None else places(value)
