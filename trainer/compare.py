"""Several runs side by side: a figure and a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import pandas as pd

from pipeline.errors import RunError
from trainer.config import FitConfig
from trainer.console import print_table, warn
from trainer.figures import draw_comparison
from trainer.run import RunFolder, write_csv

MEASURED: Final = ("accuracy", "balanced_accuracy", "kappa", "auc", "sensitivity", "specificity")
SHOWN_TEST: Final = ("accuracy_test", "kappa_test", "auc_test")


@dataclass(frozen=True)
class Run:
    """A run as it is compared."""

    name: str
    config: FitConfig
    accuracy: pd.DataFrame
    """accuracy.csv."""
    summary: dict[str, Any]
    """summary.json; empty where the run is unfinished."""


def compare(paths: Sequence[Path], out: Path) -> None:
    """Writes OUT.png and OUT.csv and prints the table. Folders that are no runs, or damaged, are named and left out.

    Raises RunError where that leaves none.
    """
    runs = list(read_runs(paths))
    if not runs:
        raise RunError("none of these can be compared; `trainer fit` makes runs")
    table = pd.DataFrame([table_row(run) for run in runs]).astype({"best_epoch": "Int64"})
    out.parent.mkdir(parents=True, exist_ok=True)
    figure, csv = out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}.csv")
    draw_comparison(figure, {run.name: (run.config.model, run.config.weights != "none", run.accuracy) for run in runs})
    write_csv(csv, table)
    shown = table[["run", "model", "weights", "size", "epochs", "best_epoch", "kappa_val", *SHOWN_TEST]]
    print_table(list(shown.columns), shown.map(_cell).itertuples(index=False))
    click.echo(f"written: {figure} {csv}")


def read_runs(paths: Iterable[Path]) -> Iterable[Run]:
    for path in paths:
        run = RunFolder(path)
        try:
            config = run.read_config().resolved
            accuracy = run.read_accuracy()
            summary = run.read_json(run.summary) if run.finished else {}
        except RunError as error:
            warn(f"left out: {error.message}")
        else:
            if not summary:
                warn(f"{path} is unfinished ({len(accuracy)} epochs); `trainer fit --run {path} --resume` continues it")
            yield Run(path.resolve().name, config, accuracy, summary)


def table_row(run: Run) -> dict[str, Any]:
    """What compare.csv says of a run; shares from 0 to 1, empty where not measured."""
    row = {
        "run": run.name,
        **{name: getattr(run.config, name) for name in ("model", "weights", "size", "loader", "seed")},
        "epochs": len(run.accuracy),
        "best_epoch": run.summary.get("best_epoch"),
        "seconds": round(float(run.accuracy["seconds"].sum()), 1),
    }
    for split in ("val", "test"):
        metrics = run.summary.get(split, {})
        row |= {f"{name}_{split}": metrics.get(name) for name in MEASURED}
    return row


def _cell(value: Any) -> str:
    """Numbers to three places, of a weight file its folder and name, "-" for what was not measured."""
    if pd.isna(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "/".join(Path(str(value)).parts[-2:])
