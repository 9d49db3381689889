"""The files and sentences of cross-validation: out-of-fold predictions and results, and grades worth a second look."""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from pipeline.cache.cache import Cache
from pipeline.cache.copies import SharedPhoto
from pipeline.cache.splits import patients_of
from pipeline.errors import RunError
from pipeline.photos.contact_sheet import Tile, draw_sheet, encoded, thumbnail
from pipeline.photos.fingerprint import MAX_COMPARED
from pipeline.storage.atomic import write_atomically
from trainer.evaluation.bootstrap import single
from trainer.evaluation.metrics import confusion, confusion_table, row_shares
from trainer.evaluation.out_of_fold import CrossValidation, Fold, OutOfFoldResults
from trainer.kinds import PROBABILITIES
from trainer.network.metadata import read_metadata
from trainer.reporting.drawings import draw_confusion, short_name
from trainer.reporting.tables import decimals, with_interval
from trainer.run_folder import FoldsFolder, FoldsMark, RunFolder, write_csv, write_json

SHOWN: Final = (
    ("accuracy", "accuracy"),
    ("kappa", "kappa, quadratic weights"),
    ("referable_auc_within_folds", "AUC, referable, mean within folds"),
    ("referable_auc_pooled", "AUC, referable, scores of all folds pooled"),
    ("sensitivity", "sensitivity of the referral"),
    ("specificity", "specificity of the referral"),
)
ON_SHEET: Final = 48
"""Most photographs on the sheet of grades worth a second look, in rows of 12."""
ON_TILE: Final = ("rank", "id", "grade", "likeliest", "p_likeliest")
"""Columns of second_look.csv that are written below each photograph of the sheet."""


def begin_folds(folder: FoldsFolder, mark: FoldsMark, shared: Sequence[SharedPhoto]) -> None:
    """Makes the folder and writes how its folds are drawn. Files that are there already stay."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.mark.exists():
        write_json(folder.mark, mark.as_dict())
    if not folder.shared_photos.exists():
        write_csv(folder.shared_photos, pd.DataFrame(shared, columns=list(SharedPhoto._fields)))


def read_shared_photos(folder: FoldsFolder) -> list[SharedPhoto]:
    """The shared photographs that were found when the folds were drawn. Raises RunError if the table is damaged."""
    try:
        # Ids and patients as text: one may be "NA", "007" or "1e5".
        table = pd.read_csv(folder.shared_photos, dtype=str, na_filter=False, encoding_errors="surrogateescape")
        rows = table[list(SharedPhoto._fields)].astype({"correlation": float})
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder.shared_photos} is damaged; delete it, and they are looked for again") from error
    return [SharedPhoto(*row) for row in rows.itertuples(index=False, name=None)]


def joined_line(folder: FoldsFolder, joined: Mapping[str, str]) -> str:
    """How many patients were joined; "" if none were. joined: patient -> name of the group."""
    if not joined:
        return ""
    return (
        f"{len(joined):,} patients have a photograph that looks the same as another patient's; they were joined "
        f"into {len(set(joined.values())):,}, so that no copy is in another fold ({folder.shared_photos})"
    )


def not_compared_line(photographs: int) -> str:
    """A warning if there were too many photographs to compare all of them; else "". photographs: in the folds."""
    if photographs <= MAX_COMPARED:
        return ""
    return (
        f"photographs that look the same were not looked for across patients: {photographs:,} are too many; those "
        "with the same bytes were"
    )


def read_fold(run: RunFolder, cache: Cache) -> Fold:
    """The test part of a finished run, in the order of the cache's rows. Raises RunError if predictions are missing."""
    table = run.read_predictions("test").set_index("id", drop=False)
    known = cache.manifest["id"].iloc[cache.graded_rows("test")].reset_index(drop=True)
    if not known.isin(table.index).all():
        advice = f"`trainer evaluate {run.path} --split test` writes it"
        raise RunError(f"{run.predictions('test')} lacks photographs of the fold; {advice}")
    operating = read_metadata(run.model).operating
    predictions = table.loc[known].reset_index(drop=True)
    return Fold(predictions, patients_of(cache.manifest, known), operating.threshold if operating else None)


def write_out_of_fold(folder: FoldsFolder, validation: CrossValidation, results: OutOfFoldResults) -> None:
    """Writes predictions_oof.csv, metrics_oof.json, confusion_oof.csv, confusion_oof_counts.csv and confusion_oof.png.

    With several seeds the predictions have a row for each photograph and seed, and a column `seed`. The confusion
    matrix counts all these rows.
    """
    files, table = folder.results, validation.table.astype({"referred": int})
    columns = ["id", "grade", "predicted", *PROBABILITIES, "referred", "fold", *(["seed"] if "seed" in table else [])]
    order = ["seed", "id"] if "seed" in table else ["id"]
    counts = confusion(table)
    write_csv(files.predictions, table[columns].sort_values(order))
    write_csv(files.confusion_counts, confusion_table(counts), index=True)
    write_csv(files.confusion, confusion_table(row_shares(counts)), index=True)
    seeds = f", {len(validation.each)} seeds" if len(validation.each) > 1 else ""
    draw_confusion(
        files.confusion_drawing, counts, title=f"{short_name(RunFolder(folder.path).title)}, out of fold{seeds}"
    )
    write_json(files.metrics, results.as_dict())


def write_second_look(folder: FoldsFolder, doubted: pd.DataFrame, cache: Cache) -> None:
    """Writes second_look.csv and, if a photograph is in it, second_look.png.

    doubted: a table of `second_look`. cache: the one that was folded.
    """
    write_csv(folder.second_look, doubted)
    if doubted.empty:
        folder.second_look_sheet.unlink(missing_ok=True)
        return
    shown = doubted.head(ON_SHEET)
    tiles = []
    for row, *cells in zip(cache.rows_of(shown["id"]).tolist(), *(shown[name] for name in ON_TILE), strict=True):
        rank, id, grade, likeliest, p = cells
        caption, note = f"{rank}: {id}", f"given {grade}, seen {likeliest} ({p:.2f})"
        tiles.append(Tile(thumbnail(cache.read(row)), caption, note))
    heading = f"Grades worth a second look: {len(tiles)} of {len(doubted):,}, the most contradicted first"
    with write_atomically(folder.second_look_sheet) as file:
        file.write(encoded(draw_sheet({heading: tiles}), "PNG", "a sheet of grades worth a second look"))


def out_of_fold_lines(results: OutOfFoldResults) -> list[str]:
    """The out-of-fold results."""
    seeds = results.seeds
    lines = [
        f"{results.photographs:,} photographs of {results.patients:,} patients, each graded by "
        + (f"{len(seeds)} networks that saw neither" if seeds else "a network that saw neither")
        + (f"; means over seeds {', '.join(map(str, seeds))}" if seeds else "")
    ]
    for name, title in SHOWN:
        value = results.figures.get(name)
        if name in results.figures and not isinstance(value, tuple):
            lines.append(f"  {title}: {with_interval(value, single(results.intervals.get(name)), decimals)}")
    for over, spread in (("folds", results.spread), ("seeds", results.spread_over_seeds)):
        if over == "folds" or seeds:
            known = ", ".join(f"{name} {value:.3f}" for name, value in spread.items() if value is not None)
            lines.append(f"  standard deviation over {over}: {known or 'not defined'}")
    return [*lines, "  intervals: patients drawn within folds; the variation of training is not in them"]


def by_chance_line(results: OutOfFoldResults) -> str:
    """A warning if the networks are not shown to grade better than chance; else ""."""
    limits = single(results.intervals["kappa"])
    if limits and limits[0] > 0:
        return ""
    return (
        f"kappa is {results.figures['kappa']:.3f}: it is not shown that these networks grade better than chance, "
        "so second_look.csv says little"
    )


def second_look_line(doubted: pd.DataFrame) -> str:
    """How many grades are listed. doubted: a table of `second_look`."""
    return (
        f"grades worth a second look: {len(doubted):,} photographs that the networks would give another grade "
        "(second_look.csv, the most contradicted first)"
    )
