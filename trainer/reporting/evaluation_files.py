"""Writes the files of a measured split: predictions, metrics, confusion matrices, the summary."""

from collections.abc import Mapping
from dataclasses import asdict

from pipeline.grades import UNKNOWN
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.metrics import confusion, confusion_table, row_shares
from trainer.evaluation.results import NoImage
from trainer.records import optional
from trainer.reporting.drawings import draw_accuracy, draw_confusion, short_name
from trainer.run_folder import ResultFiles, RunFolder, write_csv, write_json


def write_evaluation(files: ResultFiles, evaluation: Evaluation, title: str) -> None:
    """Writes the files of a split or of an external set, and replaces those of an earlier evaluation.

    title: of the drawn confusion matrix. Raises OSError if a file cannot be written.
    """
    predictions = evaluation.predictions
    counts = confusion(predictions)
    written = predictions.astype({"grade": "Int64"})
    write_csv(files.predictions, written.assign(grade=written["grade"].mask(written["grade"] == UNKNOWN)))
    write_csv(files.confusion_counts, confusion_table(counts), index=True)
    write_csv(files.confusion, confusion_table(row_shares(counts)), index=True)
    draw_confusion(files.confusion_drawing, counts, title=title)
    write_json(files.metrics, evaluation.as_dict())


def draw_history(run: RunFolder, kept: int) -> None:
    """Draws a run's accuracy by epoch, from accuracy.csv, and the accuracy on val of the commonest grade of train, from
    metrics_val.json.

    kept: the epoch of the weights, from 1.
    """
    no_image = None
    if run.metrics("val").exists():
        no_image = optional(NoImage, run.read_json(run.metrics("val")).get("no_image"))
    majority = 100 * no_image.majority.accuracy if no_image else None
    draw_accuracy(run.accuracy_drawing, run.read_accuracy(), title=short_name(run.title), kept=kept, majority=majority)


def write_summary(run: RunFolder, kept: int | None, measured: Mapping[str, Evaluation]) -> None:
    """Writes summary.json, which marks the run as finished.

    kept: the epoch of the weights, from 1; None for an ensemble. measured: by split.
    """
    splits = {
        split: {
            **asdict(evaluation.results.metrics),
            "intervals": evaluation.results.intervals,
            "no_image": evaluation.results.no_image and asdict(evaluation.results.no_image),
        }
        for split, evaluation in measured.items()
    }
    training: dict[str, float] = {}
    if kept is not None:
        table = run.read_accuracy()
        seconds = round(float(table["seconds"].sum()), 1)
        training = {"kept_epoch": kept, "epochs": len(table), "seconds": seconds}
    write_json(run.summary, {**training, **splits})
