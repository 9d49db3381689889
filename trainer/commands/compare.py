"""Several runs side by side: a figure, a table, and the differences from the first of them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from pipeline.errors import RunError
from trainer.config import as_options
from trainer.console import print_table, warn
from trainer.evaluation.paired import Difference, pair
from trainer.network.provenance import Exposure
from trainer.records import optional
from trainer.reporting.comparison import Run, differing, read_summary, write_comparison
from trainer.reporting.narrative import exposure_line
from trainer.reporting.tables import places, with_interval
from trainer.run_folder import RunFolder

SHOWN: Final = ("run", "model", "weights", "size")
RESULTS: Final = ("kept", "kappa_val", "accuracy_test", "majority", "kappa_test", "auc_test")
"""The printed table's first and last columns; between them stand the options in which the runs differ."""
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
    options = [name for name in differing(runs) if name not in SHOWN]
    titles = [as_options(name, "")[0] for name in options]
    print_table([*SHOWN, *titles, *RESULTS], [shown_row(run, options) for run in runs])
    click.echo("accuracies are shares from 0 to 1, in brackets 95 % intervals by patients")
    if pairs:
        click.echo("\ndifferences on the same test photographs, resampled by patients:")
        print_table(PAIR_SHOWN, map(pair_row, pairs))
    click.echo(f"written: {' '.join(map(str, written))}")


def read_runs(paths: Sequence[Path]) -> Iterable[Run]:
    """By their titles; those that share one, by their paths as they were given."""
    names = [RunFolder(path).title for path in paths]
    for path, name in zip(paths, names, strict=True):
        run = RunFolder(path)
        try:
            config = run.read_config().resolved
            accuracy = run.read_accuracy()
            summary = read_summary(run) if run.finished else None
        except RunError as error:
            warn(f"left out: {error.message}")
        else:
            say_exposure(run, str(path))
            if summary is None:
                warn(f"{path} is unfinished ({len(accuracy)} epochs); `trainer fit --run {path} --resume` continues it")
            yield Run(name if names.count(name) == 1 else str(path), run, config, accuracy, summary)


def say_exposure(run: RunFolder, name: str) -> None:
    """Warns of a run whose weights have met the test photographs it was measured on."""
    with suppress(RunError, ValueError):  # not measured, or damaged
        exposure = optional(Exposure, run.read_json(run.metrics("test")).get("exposure"))
        if exposure and (line := exposure_line("test", exposure)):
            warn(f"{name}: {line}")


def shown_row(run: Run, options: Sequence[str]) -> list[str]:
    """The row of the printed table."""
    test, config = run.of("test"), run.config
    kept = "-" if run.kept_epoch is None else run.kept_epoch
    cells = [run.name, config.model, "/".join(Path(config.weights).parts[-2:]), f"{config.size}"]
    cells += [_option(getattr(config, name)) for name in options]
    cells += [f"{kept}/{len(run.accuracy)}", _cell(run.of("val").kappa)]
    figures = [with_interval(getattr(test, name), test.interval(name), places) for name in ("accuracy", "kappa", "auc")]
    return [*cells, figures[0], _cell(test.majority), *figures[1:]]


def pair_with_first(runs: Sequence[Run]) -> Iterable[Difference]:
    """Every finished run against the first one. Runs that cannot be are named once for each reason."""
    finished = [run for run in runs if run.summary]
    unpaired: dict[str, dict[str, str]] = {}  # reason -> run -> details
    for run in finished[1:]:
        try:
            for difference in pair(run.folder, finished[0].folder):
                yield replace(difference, run=run.name, against=finished[0].name)
        except RunError as error:
            reason, _, details = error.message.partition(": ")
            unpaired.setdefault(reason, {})[run.name] = details
    for reason, found in unpaired.items():
        say_unpaired(finished[0].name, reason, found)


def say_unpaired(against: str, reason: str, details: Mapping[str, str]) -> None:
    """Warns of runs that are not paired for one reason; details: of each run, said once where they are the same."""
    alike: dict[str, list[str]] = {}
    for name, what in details.items():
        alike.setdefault(what, []).append(name)
    said = [what if len(alike) == 1 else f"{', '.join(who)}: {what}" for what, who in alike.items() if what]
    line = f"{', '.join(details)} and {against} are not paired: {reason}"
    warn(f"{line}: {'; '.join(said)}" if said else line)


def pair_row(pair: Difference) -> list[str]:
    limits = f" ({pair.interval[0]:+.3f} to {pair.interval[1]:+.3f})" if pair.interval else ""
    change = "-" if pair.difference is None else f"{pair.difference:+.3f}{limits}"
    counts = [f"{pair.photographs:,}", f"{pair.patients:,}"]
    values = [_cell(pair.value), _cell(pair.value_against)]
    return [f"{pair.run} - {pair.against}", pair.figure, *counts, *values, change, _cell(pair.p)]


def _option(value: object) -> str:
    """A setting as it is given; "-" for none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(value: float | None) -> str:
    """To three places; "-" for what was not measured."""
    return "-" if value is None else places(value)
