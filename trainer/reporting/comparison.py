"""The files of a comparison of runs: results, pairwise differences, and curves."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

import pandas as pd

from pipeline.errors import RunError
from trainer.config import FitConfig
from trainer.evaluation.bootstrap import Interval, Limits, single
from trainer.evaluation.paired import Difference
from trainer.evaluation.results import NoImage
from trainer.kinds import comparison_parts
from trainer.records import read
from trainer.reporting.drawings import draw_comparison
from trainer.run_folder import RunFolder, write_csv

ALWAYS: Final = ("model", "weights", "size", "loader", "seed", "keep")
"""Options that are always columns of OUT.csv, even if all runs have the same value."""
NO_MATTER: Final = frozenset({"together", "device", "workers", "checkpoint_minutes"})
"""Options that are not compared: they say where and how fast a run is computed."""
MEASURED: Final = ("accuracy", "balanced_accuracy", "kappa", "auc", "sensitivity", "specificity")
"""Metrics that are columns of OUT.csv."""


@dataclass(frozen=True)
class SplitSummary:
    """A split in summary.json. None: not defined, or not written by an earlier version."""

    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    auc: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    intervals: dict[str, Limits] | None = None
    no_image: NoImage | None = None

    def interval(self, figure: str) -> Interval | None:
        return single((self.intervals or {}).get(figure))

    @property
    def majority(self) -> float | None:
        """Accuracy if every photograph is given the commonest grade of train."""
        return self.no_image.majority.accuracy if self.no_image else None


@dataclass(frozen=True)
class Summary:
    """The parts of summary.json that a comparison reads."""

    kept_epoch: int | None = None
    val: SplitSummary | None = None
    test: SplitSummary | None = None


def read_summary(run: RunFolder) -> Summary:
    """The summary of a finished run. Raises RunError if it is missing or damaged."""
    try:
        return read(Summary, run.read_json(run.summary))
    except ValueError as error:
        raise RunError(f"{run.summary} is damaged; {run.advice}") from error


@dataclass(frozen=True)
class Run:
    """A run in a comparison."""

    name: str
    folder: RunFolder
    model: str
    """The architecture; for an ensemble, a description."""
    config: FitConfig
    accuracy: pd.DataFrame | None
    """accuracy.csv; None for an ensemble."""
    summary: Summary | None
    """None if the run is unfinished."""

    @property
    def is_ensemble(self) -> bool:
        return self.accuracy is None

    def option(self, name: str) -> object:
        """The value of an option of `trainer fit`; None for an ensemble, whose members may differ in it."""
        return getattr(self.config, name) if not self.is_ensemble or name in ("size", "loader") else None

    @property
    def kept_epoch(self) -> int | None:
        """From 1; None for an unfinished run and for an ensemble."""
        return self.summary.kept_epoch if self.summary else None

    def of(self, split: str) -> SplitSummary:
        """The results of val or test; all None if they are not known."""
        summary = self.summary or Summary()
        return (summary.val if split == "val" else summary.test) or SplitSummary()


def differing(runs: Sequence[Run]) -> list[str]:
    """The options that differ between the runs."""
    names = [each.name for each in fields(FitConfig) if each.name not in NO_MATTER]
    trained = [run for run in runs if not run.is_ensemble]
    return [name for name in names if len({getattr(run.config, name) for run in trained}) > 1]


def write_comparison(out: Path, runs: Sequence[Run], pairs: Sequence[Difference]) -> list[Path]:
    """Writes OUT.png with its SVG, OUT.csv and OUT_pairs.csv, and returns the paths except that of the SVG.

    Raises OSError if a file cannot be written.
    """
    # dtype=object: a run's name may not be valid UTF-8. With pyarrow installed, pandas refuses it as text.
    options = [name for name in differing(runs) if name not in ALWAYS]
    table = pd.DataFrame([table_row(run, options) for run in runs], dtype=object).astype({"kept_epoch": "Int64"})
    curves = {
        run.name: (run.model, run.config.weights != "none", run.accuracy) for run in runs if run.accuracy is not None
    }
    png, svg, csv, pairs_csv = (part.path for part in comparison_parts(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    for older in (png, svg):
        older.unlink(missing_ok=True)  # ensembles alone have no curves to draw
    if curves:
        draw_comparison(png, curves)
    write_csv(csv, table)
    write_csv(pairs_csv, pairs_table(pairs))
    return [*([png] if curves else []), csv, pairs_csv]


def table_row(run: Run, options: Sequence[str] = ()) -> dict[str, object]:
    """A row of OUT.csv. Shares are 0 to 1, and empty if not measured. `_low` and `_high`: the 95 % interval.

    options: options of `trainer fit` that get a column `option_NAME`.
    """
    row: dict[str, object] = {
        "run": run.name,
        **{name: run.option(name) for name in ALWAYS},
        "model": run.model,
        **{f"option_{name}": run.option(name) for name in options},
        "epochs": None if run.accuracy is None else len(run.accuracy),
        "kept_epoch": run.kept_epoch,
        "seconds": None if run.accuracy is None else round(float(run.accuracy["seconds"].sum()), 1),
    }
    for split in ("val", "test"):
        measured = run.of(split)
        row |= {f"{name}_{split}": getattr(measured, name) for name in MEASURED}
        for name in MEASURED:
            low, high = measured.interval(name) or (None, None)
            row |= {f"{name}_{split}_low": low, f"{name}_{split}_high": high}
        row[f"majority_{split}"] = measured.majority
    return row


def pairs_table(pairs: Sequence[Difference]) -> pd.DataFrame:
    """OUT_pairs.csv: the fields of `Difference`, with the interval as columns `low` and `high`."""
    names = [each.name for each in fields(Difference)]
    table = pd.DataFrame([astuple(each) for each in pairs], columns=names, dtype=object)
    limits = [each.interval or (None, None) for each in pairs]
    at = names.index("interval")
    table = table.drop(columns="interval")
    table.insert(at, "low", [low for low, _ in limits])
    table.insert(at + 1, "high", [high for _, high in limits])
    return table
