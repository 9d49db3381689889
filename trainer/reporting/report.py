"""The report of a run as a page and as a model card: their contents, drawings and photographs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.cache.splits import patients_of
from pipeline.grades import GRADES, N_GRADES, REFERABLE, UNKNOWN
from trainer.config import OPTIMIZERS
from trainer.evaluation.characteristics import characteristics
from trainer.evaluation.deferral import RiskCoverage
from trainer.evaluation.external import camera_sizes
from trainer.evaluation.metrics import confusion, referable_scores
from trainer.evaluation.subgroups import measure_subgroups
from trainer.evaluation.weighted_metrics import Sample
from trainer.inference.gradcam import cells_a_side
from trainer.kinds import sealed
from trainer.reporting.curves import Point, draw_precision_recall, draw_reliability, draw_risk_coverage, draw_roc
from trainer.reporting.disclosure import (
    GRADERS,
    REFERABLE_MEANS,
    data_set,
    dates,
    people,
    synthetic_line,
    synthetic_photographs,
    unknown_patients,
    warnings,
)
from trainer.reporting.drawings import draw_confusion, short_name
from trainer.reporting.evaluation_files import draw_history
from trainer.reporting.explained import coarseness
from trainer.reporting.external import refit_tables
from trainer.reporting.flow import SHARED, flow_of, patients_shown
from trainer.reporting.forest import draw_forest
from trainer.reporting.gallery import pictures, surest_right, worst_mistakes
from trainer.reporting.measured import Measured
from trainer.reporting.narrative import (
    APPROXIMATE_RULE,
    choice,
    commands,
    eyes_line,
    fellow_lines,
    fellow_rule,
    leak_statement,
    limits,
    objective,
    reading,
    scale_line,
    scaling,
    starting_point,
    variation,
    verdict,
)
from trainer.reporting.page import inline_svg, render
from trainer.reporting.referable import counts_line, describe_referable, draw_referable
from trainer.reporting.referral import missed_severe, referral, ungradable_table
from trainer.reporting.subgroups import against_parts, subgroup_lines
from trainer.run_folder import RunFolder

SECTIONS = (
    ("results", "Results"),
    ("referable", "Referral"),
    ("curves", "Curves"),
    ("grades", "Grades"),
    ("calibration", "Calibration"),
    ("deferral", "Deferral"),
    ("subgroups", "Subgroups"),
    ("external", "Other hospitals"),
    ("gallery", "Photographs"),
    ("data", "Data"),
    ("training", "Training"),
    ("reproduce", "Reproduce"),
    ("limits", "Limits"),
)
HEADLINE = (
    ("accuracy", "Accuracy", "percent"),
    ("balanced_accuracy", "Balanced accuracy (mean over grades)", "percent"),
    ("kappa", "Kappa, quadratic weights", "decimals"),
    ("auc", "AUC, mean over grades", "decimals"),
    ("referable_auc", "AUC, referable", "decimals"),
    ("sensitivity", "Sensitivity for referable, by the predicted grade", "percent"),
    ("specificity", "Specificity for referable, by the predicted grade", "percent"),
)
DRAWINGS = (
    "accuracy",
    "confusion",
    "roc",
    "precision_recall",
    "risk_coverage",
    "reliability",
    "decision_curve",
    "referable_calibration",
)
NAMES = {"train": "the photographs it was trained on", "val": "the validation part", "test": "the test part"}


def make_page(measured: Measured) -> bytes:
    """The page as one HTML file, UTF-8. Its drawings are written into the run folder too, as PNG and SVG."""
    fields = {**describe(measured), "drawings": draw(measured), **shown_photographs(measured)}
    return render("report.html.j2", fields)


def make_card(measured: Measured) -> bytes:
    """The model card as Markdown, UTF-8, with a checksum by which an edited card is recognised."""
    return sealed(render("card.md.j2", describe(measured)))


def describe(measured: Measured) -> dict[str, object]:
    """The fields that both templates use."""
    run, record, results, config = measured.run, measured.record, measured.results, measured.config
    metrics, operating, no_image = results.metrics, results.operating, results.no_image
    manifest = measured.cache.manifest if measured.cache else None
    known, sites = measured.cache.leak(measured.split) if measured.cache else None, measured.sites
    external = [site for site in sites if not site.own]
    scale = scale_line(*record.scale)
    leak, unknown = leak_statement(measured.split, record, known), unknown_patients(measured)
    synthetic = synthetic_line(synthetic_photographs(config, measured.cache), measured.split)
    return {
        **describe_training(measured),
        "name": measured.name,
        "split": measured.split,
        "split_name": NAMES[measured.split],
        "grades": GRADES,
        "sections": [each for each in SECTIONS if {"external": sites, "deferral": operating}.get(each[0], True)],
        "headline": HEADLINE,
        "metrics": metrics,
        "ci": results.intervals,
        "operating": operating,
        "deferral": results.deferral,
        "elsewhere": operating and operating.at_prevalence,
        "calibration": results.calibration,
        "reading": reading(measured.metadata.ordinal_thresholds, config.fitted_on),
        "fellow": [
            *fellow_lines(record, measured.predictions, measured.split),
            *filter(None, [fellow_rule(measured.metadata, config.fitted_on)]),
        ],
        "scaling": scaling(results.calibration, config.fitted_on) if results.calibration else "",
        "patient": results.by_patient,
        "eye": (eye := results.by_eye),
        "eyes_line": eyes_line(eye.eyes) if eye and eye.eyes else "",
        "subgroups": record.subgroups,
        "site_subgroups": [(site.name, each) for site in external if (each := site.record.subgroups)],
        "lines_of": subgroup_lines,
        "against_parts": against_parts,
        "referral": referral(measured),
        "referable_section": describe_referable(measured.referable),
        "no_image": no_image,
        "referable": sum(metrics.grades[REFERABLE:]),
        "baseline_words": f"{100 * no_image.majority.accuracy:.1f} % without the photograph" if no_image else "",
        "verdict": [scale] * bool(scale) + verdict(record, measured.predictions),
        "counts": confusion(measured.predictions).tolist(),
        "absent": measured.absent,
        "leak": leak,
        "warnings": warnings(leak, unknown == metrics.photographs, synthetic, sites),
        "people": people(results.patients, unknown, metrics.photographs),
        "patients_known": unknown < metrics.photographs,
        "data_set": data_set(config, measured.cache),
        "dates": dates(measured),
        "graders": GRADERS,
        "referable_means": REFERABLE_MEANS,
        "flow": flow_of(measured),
        "shared": SHARED,
        "splits": [] if manifest is None else split_rows(manifest),
        "cameras": "" if manifest is None else camera_line(manifest),
        "commands": commands(
            run.path,
            measured.split,
            config,
            measured.metadata,
            record,
            measured.cache,
            [site.record for site in external],
        ),
        "limits": [scale] * bool(scale)
        + [APPROXIMATE_RULE] * bool(config.folds)
        + limits(record, measured.ungraded, known, len(external), unknown_patients=unknown),
        "sites": sites,
        "ungradables": [table for site in external if (table := ungradable_table(site.results, site.name))],
        "refits": refit_tables(sites),
    }


def describe_training(measured: Measured) -> dict[str, object]:
    """Those of them that are about the network and its training."""
    config, cells = measured.config, cells_a_side(measured.model, measured.metadata.size)
    return {
        "config": config,
        "metadata": measured.metadata,
        "start": starting_point(config.resolved.weights),
        "variation": variation(config.resolved),
        "fitted_on": config.fitted_on,
        "optimizer": OPTIMIZERS[config.resolved.optimizer],
        "objective": objective(config.resolved),
        "choice": choice(config.resolved),
        "members": members(measured),
        "epochs": 0 if measured.history is None else len(measured.history),
        "seconds": 0.0 if measured.history is None else float(measured.history["seconds"].sum()),
        "cells": cells,
        "coarseness": coarseness(cells) if cells else "",
    }


def shown_photographs(measured: Measured) -> dict[str, object]:
    """The fields that need the photographs: the gallery and the subgroups; empty without the cache."""
    if measured.cache is None:
        return {"worst": [], "sure": [], "missed": [], "characteristics": None}
    known = measured.predictions
    sample = Sample.of(known, patients_of(measured.cache.manifest, known["id"]))
    labels, card = characteristics(measured.cache, known["id"]), measured.results.operating
    groups = measure_subgroups(sample, labels, card.threshold if card else None)
    chosen = {"worst": worst_mistakes(known), "sure": surest_right(known), "missed": missed_severe(measured)}
    explained = cells_a_side(measured.model, measured.metadata.size) > 0
    return {
        **{
            name: pictures(measured.cache, measured.model, measured.metadata, rows, explained=explained)
            for name, rows in chosen.items()
        },
        "characteristics": groups,
    }


def draw(measured: Measured) -> dict[str, str]:
    """Draws into the run folder. Returns name -> SVG for the page; "" for one that cannot be drawn.

    Accuracy and confusion are drawn again, by the functions and from the files of `fit` and `evaluate`. Their SVGs in
    the folder are not used: they may be of an earlier version with other colours, or anyone's, and a page runs the
    scripts of an SVG that it contains.
    """
    run, split, results, known = measured.run, measured.split, measured.results, measured.predictions
    name = short_name(measured.name)
    title = f"{name}, {split}"
    alts = {}

    if measured.history is not None:
        draw_history(run, measured.metadata.epoch)
        alts[run.accuracy_drawing] = "Accuracy and kappa by epoch; accuracy.csv holds the numbers"
    counts = confusion(known)
    draw_confusion(run.confusion_drawing(split), counts, title=title)
    alts[run.confusion_drawing(split)] = "Confusion matrix; the table below holds its numbers"

    truth = (known["grade"] >= REFERABLE).to_numpy()
    score = referable_scores(known)
    card = results.operating
    point = None
    if card and card.sensitivity is not None and card.specificity is not None:
        point = Point(card.threshold, card.sensitivity, card.specificity, card.ppv)
    auc, referable = results.metrics.referable_auc, measured.referable
    of = counts_line(referable, patients_known=unknown_patients(measured) < len(known))
    if auc is not None and referable.roc and referable.precision_recall:
        roc, curve = run.report_drawing("roc", split), run.report_drawing("precision_recall", split)
        draw_roc(roc, truth, score, auc, point, band=referable.roc, counts=of, title=f"{title}: referable")
        draw_precision_recall(
            curve, truth, score, point, band=referable.precision_recall, counts=of, title=f"{title}: referable"
        )
        where = ""
        if point:
            where = f", operating point at sensitivity {point.sensitivity:.2f}, specificity {point.specificity:.2f}"
        band = "with its 95 % band, which the table holds in numbers"
        alts[roc] = f"ROC curve of referable retinopathy, area {auc:.3f}{where}; {band}"
        alts[curve] = f"Precision-recall curve of referable retinopathy; {truth.mean():.0%} are referable; {band}"
    alts |= draw_referable(run, split, referable, counts=of, title=title)
    if card:
        deferral = run.report_drawing("risk_coverage", split)
        coverage, risk = RiskCoverage(Sample.of(known), card.threshold).curve()
        draw_risk_coverage(deferral, coverage, risk, title=f"{title}: deferral")
        alts[deferral] = "Risk-coverage curve of the referral; the table holds numbers"
    if results.calibration:
        reliability = run.report_drawing("reliability", split)
        draw_reliability(reliability, results.calibration.bins, results.calibration.ece, title=title)
        alts[reliability] = "Reliability diagram; the table of bins holds its numbers"
    if measured.sites:
        draw_forest(run.forest_drawing, measured.sites, title=name)
        alts[run.forest_drawing] = "Forest plot of the sets; the table holds its numbers"
    drawn = dict.fromkeys((*DRAWINGS, "forest"), "")
    return drawn | {
        path.stem.removesuffix(f"_{split}"): inline_svg(path.with_suffix(".svg"), alt) for path, alt in alts.items()
    }


def members(measured: Measured) -> list[str]:
    """The networks of an ensemble in words; empty for one network."""
    pairs = zip(measured.config.members, measured.metadata.members, strict=True)
    return [f"{RunFolder(Path(path)).title}: {member.title}, epoch {member.epoch}" for path, member in pairs]


class SplitRow(NamedTuple):
    """The graded photographs of a split."""

    split: str
    grades: list[int]
    """Photographs by grade."""
    photographs: int
    patients: int | None
    """None if unknown."""


def split_rows(manifest: pd.DataFrame) -> list[SplitRow]:
    """A row for each split that has graded photographs."""
    known = manifest[manifest["grade"] != UNKNOWN]
    return [
        SplitRow(
            split,
            grades=np.bincount(part["grade"], minlength=N_GRADES).tolist(),
            photographs=len(part),
            patients=patients_shown(manifest, part["id"]),
        )
        for split in NAMES
        if len(part := known[known["split"] == split])
    ]


def camera_line(manifest: pd.DataFrame) -> str:
    """The commonest sizes of the originals, in words."""
    listed = ", ".join(f"{each.size} ({each.photographs:,})" for each in camera_sizes(manifest))
    return f"{len(manifest):,} photographs: {listed}"
