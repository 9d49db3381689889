"""Whole runs of `trainer fit`, as a user starts them."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from drawn import cache_path
from measuring import Row, Stage, command, peak_memory


def fit(stage: Stage, name: str, *options: object, epochs: int, seconds: float) -> Path | None:
    """Trains on the phantoms, from scratch; the run's folder, or None where it did not end well.

    seconds: that such a run takes about; where fewer are left it is dropped.
    """
    if stage.lacks(name, ["dali"] if "dali" in options else [], seconds):
        return None
    run = stage.work / "runs" / name.replace(" ", "-")
    shutil.rmtree(run, ignore_errors=True)
    arguments = ["-m", "trainer", "fit", "--cache", cache_path(stage.work, stage.scale.large), "--run", run]
    arguments += ["--weights", "none", "--epochs", epochs, *options]
    stage.say(f"fit: {name}")
    with stage.attempt(name), peak_memory() as peak:
        code, output, took = command(stage.work, *arguments, timeout=stage.left())
        if code:
            raise RuntimeError(f"exit code {code}: {' '.join(output.strip().splitlines()[-2:])}")
        table = curves(run)
        found: dict[str, Any] = {"seconds": took, "curves": table}
        metrics = json.loads((run / "metrics_test.json").read_text())
        found["test"] = {key: metrics[key] for key in ("accuracy", "kappa", "quadratic_kappa") if key in metrics}
        stage.facts[f"fit, {name}"] = found
        # An epoch's rate; the first touches memory and chooses kernels.
        rates = [each["images_per_second"] for each in table[1:] or table]
        stage.rows[f"fit, {name}"] = Row(f"fit, {name}", rates)
    if name in stage.failed:
        return None
    stage.rows[f"fit, {name}"].card_used_gib = peak["gib"]
    return run


def curves(run: Path) -> list[dict[str, float]]:
    """The numbers of accuracy.csv, an epoch each."""
    with open(run / "accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(cell) for name, cell in row.items() if name != "phase" and cell} for row in rows]


def differences(one: Path, other: Path) -> dict[str, float]:
    """How far two runs' curves lie apart, at most over the epochs; `first_loss` is relative, of the first epoch."""
    pairs = list(zip(curves(one), curves(other), strict=True))
    first = pairs[0]
    return {
        "first_loss": abs(first[0]["loss_train"] - first[1]["loss_train"]) / first[1]["loss_train"],
        **{
            column: max(abs(a[column] - b[column]) for a, b in pairs)
            for column in ("lr", "loss_train", "loss_val", "acc_val", "kappa_val")
        },
    }
