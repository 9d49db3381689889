"""`trainer compare`: a drawing and a table of several runs, and their differences from the first one."""

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
from trainer.evaluation.record import FellowCopy
from trainer.network.metadata import read_metadata
from trainer.network.provenance import Exposure
from trainer.records import optional
from trainer.reporting.comparison import Run, differing, read_summary, write_comparison
from trainer.reporting.narrative import copied_line, exposure_line
from trainer.reporting.tables import decimals, with_interval
from trainer.run_folder import RunFolder

SHOWN: Final = ("run", "model", "weights", "size")
RESULTS: Final = ("kept", "kappa_val", "accuracy_test", "majority", "kappa_test", "auc_test")
"""First and last columns of the printed table. Between them are the options in which the runs differ."""
PAIR_SHOWN: Final = ("run - against", "figure", "photographs", "patients", "run", "against", "difference", "p")


def compare(paths: Sequence[Path], out: Path) -> None:
    """Writes OUT.png, OUT.csv and OUT_pairs.csv and prints the tables.

    Folders that are damaged or no runs are left out, with a warning. Runs that were not measured on the first one's
    test photographs are left out of the pairs. Raises RunError if no run is left or a file cannot be written.
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
    click.echo("accuracies are fractions, 0 to 1; in brackets 95 % intervals, resampled by patients")
    if pairs:
        click.echo("\ndifferences on the same test photographs, resampled by patients:")
        print_table(PAIR_SHOWN, map(pair_row, pairs))
    for run in runs:
        if line := fellow_line(run):
            click.echo(line)
    click.echo(f"written: {' '.join(map(str, written))}")


def read_runs(paths: Sequence[Path]) -> Iterable[Run]:
    """The runs that can be read, named by their titles; if two have the same title, by their paths."""
    names = [RunFolder(path).title for path in paths]
    for path, name in zip(paths, names, strict=True):
        run = RunFolder(path)
        try:
            config = run.read_config()
            accuracy = None if config.members else run.read_accuracy()
            title = read_metadata(run.model).title if config.members else config.resolved.model
            summary = read_summary(run) if run.finished else None
        except RunError as error:
            warn(f"left out: {error.message}")
        else:
            say_exposure(run, str(path))
            if summary is None:
                epochs = 0 if accuracy is None else len(accuracy)
                warn(f"{path} is unfinished ({epochs} epochs); {run.resume_command} continues it")
            shown = name if names.count(name) == 1 else str(path)
            yield Run(shown, run, title, config.resolved, accuracy, summary)


def say_exposure(run: RunFolder, name: str) -> None:
    """Warns of a run whose weights were trained on, or chosen by, photographs of its test split."""
    with suppress(RunError, ValueError):  # not measured, or damaged
        exposure = optional(Exposure, run.read_json(run.metrics("test")).get("exposure"))
        if exposure and (line := exposure_line("test", exposure)):
            warn(f"{name}: {line}")


def shown_row(run: Run, options: Sequence[str]) -> list[str]:
    """A run's row in the printed table."""
    test, config, epoch = run.of("test"), run.config, run.kept_epoch
    kept = "-" if run.accuracy is None else f"{'-' if epoch is None else epoch}/{len(run.accuracy)}"
    weights = "-" if run.is_ensemble else "/".join(Path(config.weights).parts[-2:])
    cells = [run.name, run.model, weights, f"{config.size}"]
    cells += [_option(run.option(name)) for name in options]
    cells += [kept, _cell(run.of("val").kappa)]
    figures = [
        with_interval(getattr(test, name), test.interval(name), decimals) for name in ("accuracy", "kappa", "auc")
    ]
    return [*cells, figures[0], _cell(test.majority), *figures[1:]]


def pair_with_first(runs: Sequence[Run]) -> Iterable[Difference]:
    """Differences of every finished run from the first one. Warns of runs that cannot be paired, once per reason."""
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
    """Warns of the runs that are not paired for one reason. details: by run; equal ones are printed once."""
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


def fellow_line(run: Run) -> str:
    """What copying the true grade of the other eye would score on test; "" if the network takes one eye."""
    with suppress(RunError, ValueError):  # not measured, or damaged
        written = run.folder.read_json(run.folder.metrics("test")).get("fellow_copy")
        if copied := optional(FellowCopy, written):
            return copied_line(copied, f"{run.name}, test")
    return ""


def _option(value: object) -> str:
    """The value of an option; "-" for none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(value: float | None) -> str:
    """A figure with three decimals; "-" if it was not measured."""
    return "-" if value is None else decimals(value)
