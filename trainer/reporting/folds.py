"""What cross-validation leaves: a table of out-of-fold predictions, figures, a confusion matrix."""

from pathlib import Path

import click

from pipeline.cache.cache import Cache
from pipeline.cache.splits import patients_of
from trainer.evaluation.metrics import confusion, confusion_table, graded, row_shares
from trainer.evaluation.out_of_fold import Fold, OutOfFold
from trainer.kinds import PROBABILITIES
from trainer.network.metadata import read_about
from trainer.reporting.figures import draw_confusion
from trainer.reporting.tables import places, with_interval
from trainer.run_folder import RunFolder, write_csv, write_json

SHOWN = (
    ("accuracy", "accuracy"),
    ("kappa", "kappa, quadratic weights"),
    ("referable_auc_within_folds", "AUC, referable, mean within folds"),
    ("sensitivity", "sensitivity of the referral"),
    ("specificity", "specificity of the referral"),
)


def read_fold(run: RunFolder, cache: Cache) -> Fold:
    """A finished run's test part. Raises RunError where it has none."""
    known = graded(run.read_predictions("test")).reset_index(drop=True)
    operating = read_about(run.model).operating
    return Fold(known, patients_of(cache.manifest, known["id"]), operating.threshold if operating else None)


def write_out_of_fold(folder: Path, together: OutOfFold) -> None:
    """predictions_oof.csv, metrics_oof.json, confusion_oof.csv, confusion_oof_counts.csv and confusion_oof.png."""
    columns = ["id", "grade", "predicted", *PROBABILITIES, "referred", "fold"]
    table = together.table.astype({"referred": int})
    counts = confusion(table)
    write_csv(folder / "predictions_oof.csv", table[columns].sort_values("id"))
    write_csv(folder / "confusion_oof_counts.csv", confusion_table(counts), index=True)
    write_csv(folder / "confusion_oof.csv", confusion_table(row_shares(counts)), index=True)
    draw_confusion(folder / "confusion_oof.png", counts, title=f"{RunFolder(folder).title}, out of fold")
    write_json(folder / "metrics_oof.json", together.as_dict())


def say_out_of_fold(folder: Path, together: OutOfFold) -> None:
    """The figures in a few lines."""
    found = RunFolder(folder).read_json(folder / "metrics_oof.json")
    click.echo(
        f"{found['photographs']:,} photographs of {found['patients']:,} patients, each graded by a network that saw "
        "neither"
    )
    for name, title in SHOWN:
        if name in found:
            click.echo(f"  {title}: {with_interval(found[name], found['intervals'][name], places)}")
    spread = ", ".join(f"{name} {value:.3f}" for name, value in found["spread"].items() if value is not None)
    click.echo(f"  standard deviation over folds: {spread or 'not defined'}")
    click.echo("  intervals: patients drawn within folds; the variation of training is not in them")
    click.echo(f"results: {folder}/ (predictions_oof.csv, metrics_oof.json, confusion_oof.png)")
