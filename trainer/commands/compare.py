"""Several runs side by side: a figure, a table, and the differences from the first of them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from pipeline.errors import RunError
from trainer.console import print_table, warn
from trainer.evaluation.paired import Difference, pair
from trainer.network.provenance import Exposure
from trainer.reporting.comparison import Run, majority, write_comparison
from trainer.reporting.narrative import exposure_line
from trainer.reporting.tables import places, with_interval
from trainer.run_folder import RunFolder

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


def compare(paths: Sequence[Path], out: Path) -> None:
    """Writes OUT.png, OUT.csv and OUT_pairs.csv and prints the tables. Folders that are no runs, or damaged, are named
    and left out, and so are, from the pairs, runs that were not measured on the first one's test photographs.

    Raises RunError where that leaves none, or where nothing can be written.
    """
    runs = list(read_runs(paths))
    if not runs:
        raise RunError("none of these can be compared; `trainer fit` makes runs")
    pairs = list(pair_with_first(runs))
    try:
        written = write_comparison(out, runs, pairs)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror})") from error
    print_table(SHOWN, [shown_row(run) for run in runs])
    if pairs:
        click.echo("\ndifferences on the same test photographs, resampled by patients:")
        print_table(PAIR_SHOWN, map(pair_row, pairs))
    click.echo(f"written: {' '.join(map(str, written))}")


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
    return [*cells, figures[0], _cell(majority(test)), *figures[1:]]


def pair_with_first(runs: Sequence[Run]) -> Iterable[Difference]:
    """Every finished run against the first one. A run that cannot be is named with the reason."""
    finished = [run for run in runs if run.summary]
    for run in finished[1:]:
        try:
            for difference in pair(run.folder, finished[0].folder):
                yield replace(difference, run=run.name, against=finished[0].name)
        except RunError as error:
            warn(f"{run.name} and {finished[0].name} are not paired: {error.message}")


def pair_row(pair: Difference) -> list[str]:
    limits = f" ({pair.interval[0]:+.3f} to {pair.interval[1]:+.3f})" if pair.interval else ""
    change = "-" if pair.difference is None else f"{pair.difference:+.3f}{limits}"
    counts = [f"{pair.photographs:,}", f"{pair.patients:,}"]
    values = [_cell(pair.value), _cell(pair.value_against)]
    return [f"{pair.run} - {pair.against}", pair.figure, *counts, *values, change, _cell(pair.p)]


def _cell(value: float | None) -> str:
    """To three places; "-" for what was not measured."""
    return "-" if value is None else places(value)
