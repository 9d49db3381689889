"""The sentences of a report. Rules in this file derive each from the results of a run."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from pipeline.cache.cache import Cache
from pipeline.cache.splits import Leak
from pipeline.errors import RunError
from pipeline.grades import GRADES, N_GRADES, REFERABLE
from pipeline.photos.preparation import Recipe
from trainer.config import FitConfig, RunConfig, as_options, loss_named
from trainer.evaluation.bootstrap import single
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.eyes import EyeCounts
from trainer.evaluation.metrics import only_grade
from trainer.evaluation.operating_point import OperatingCard, Wish
from trainer.evaluation.record import FellowCopy, MetricsRecord, SetDescription
from trainer.evaluation.refit import NEAR, Refit
from trainer.evaluation.subgroups import Subgroups
from trainer.fellow_run import KEPT, fellow_defaults
from trainer.kinds import FELLOWS
from trainer.network.metadata import FittedRule, Metadata
from trainer.network.provenance import Exposure
from trainer.presets import FELLOW_DEFAULTS, OPTIMIZER_DEFAULTS, PRESETS
from trainer.reporting.tables import percent
from trainer.run_folder import FOLDED, FoldsFolder, RunFolder

FEW: Final = 100
"""With fewer patients than this, the 95 % interval of a share of 90 % is wider than 6 points either way."""


def verdict(record: MetricsRecord, predictions: pd.DataFrame) -> list[str]:
    """Whether the network is useful: accuracy against the best guess without the photograph, AUC for referable DR
    against chance."""
    results, metrics, lines = record.results, record.results.metrics, []
    grade = only_grade(predictions)
    if grade is not None and metrics.photographs > 1:
        lines.append(f"It gives every photograph the same grade, {grade} ({GRADES[grade]}).")
    if no_image := results.no_image:
        kinds = [("the commonest grade of its training photographs", no_image.majority.accuracy)]
        if no_image.leaked:
            kinds.append(("the grade of the patient's other eye in train", no_image.fellow_eye.accuracy))
        words, floor = max(kinds, key=lambda kind: kind[1])
        accuracy, interval = metrics.accuracy, single(results.intervals["accuracy"])
        line = f"It gives {percent(accuracy)} of the photographs their grade. Without the photograph, giving each "
        line += f"{words} would score {percent(floor)}: "
        if interval and interval[0] > floor:
            line += f"the network adds {100 * (accuracy - floor):.1f} points."
        elif interval and interval[1] < floor:
            line += f"the network loses {100 * (floor - accuracy):.1f} points against that."
        else:
            line += "these photographs do not show a difference."
        lines.append(line)
    auc, interval = metrics.referable_auc, single(results.intervals["referable_auc"])
    if auc is None:
        which = "All" if sum(metrics.grades[REFERABLE:]) else "None"
        lines.append(f"{which} of the photographs are referable, so how well it tells them apart cannot be measured.")
    elif interval and interval[0] > 0.5:
        lines.append(
            "Of a referable photograph and another one, the referable one has the higher p(referable) in "
            f"{percent(auc)} of cases (95 % interval {percent(interval[0])} to {percent(interval[1])}; chance: 50 %)."
        )
    elif auc == 1:  # the AUC of every resample is 1 too: no interval
        lines.append(
            "It ranks every referable photograph above all others. These are too few to say if that holds elsewhere."
        )
    else:
        lines.append("It is not shown that the network tells referable photographs from others better than chance.")
    return lines


def variation(config: FitConfig) -> str:
    """The augmentation in words."""
    words = ["any flip and turn of them"]
    if config.zoom > 1:
        words.append(f"up to {config.zoom:g} times larger and smaller")
    if config.colour:
        words.append(f"brightness, contrast and saturation varied by up to {config.colour:.0%}")
    if config.augment:
        words.append(f"changed by the function {config.augment}")
    if config.mixup:
        words.append(f"mixed in pairs (mixup {config.mixup:g})")
    if config.cutmix:
        words.append(f"rectangles pasted from others (cutmix {config.cutmix:g})")
    return ", ".join(words)


def objective(config: FitConfig) -> str:
    """The loss in words, and the weights of the photographs in it."""
    words = [loss_named(config.loss).title]
    if config.label_smoothing:
        words.append(f"labels smoothed by {config.label_smoothing:g}")
    weighted = config.class_weights != "none"
    words.append(f"class weights {config.class_weights}" if weighted else "all photographs count alike")
    if config.balanced:
        words.append("as many of each grade an epoch, rare ones several times")
    if config.fading:
        words[-1] += ", and from epoch to epoch less so, until all come once"
    return ", ".join(words)


def choice(config: FitConfig) -> str:
    """The rule by which an epoch was kept."""
    if config.keep == "last":
        return "the last one, not chosen by validation"
    return "the one with the best quadratic weighted kappa on validation"


def reading(thresholds: tuple[float, ...] | None, fitted_on: str) -> str:
    """How the predicted grade follows from the probabilities. thresholds: ordinal ones; None: the likeliest grade.
    fitted_on: as RunConfig has it."""
    if thresholds is None:
        return "The predicted grade is the likeliest one."
    cuts = ", ".join(f"{cut:.2f}" for cut in thresholds)
    return f"The predicted grade is the expected one (the mean of the probabilities), cut at {cuts}: from {fitted_on}."


def fellow_lines(evaluation: MetricsRecord, predictions: pd.DataFrame, what: str) -> list[str]:
    """In how many photographs the patient's other eye was taken into account, and the ceiling beside it; empty for a
    network that takes one eye.

    predictions: of the graded photographs. what: the split or the external set.
    """
    if FELLOWS not in predictions:
        return []
    n, paired = len(predictions), int((predictions[FELLOWS] > 0).sum())
    line = f"{what}: the patient's other eye was taken into account in {paired:,} of {n:,} photographs"
    lines = [f"{line}; {n - paired:,} were graded alone." if paired < n else f"{line}."]
    if evaluation.fellow_copy:
        lines.append(copied_line(evaluation.fellow_copy, what))
    return lines


def copied_line(copied: FellowCopy, what: str) -> str:
    """The ceiling for a network that takes the patient's other eye into account. what: the split or the run."""
    return (
        f"{what}: on {copied.photographs:,} photographs whose other eye is graded, copying that grade would have an "
        f"accuracy of {percent(copied.accuracy)} and a kappa of {copied.kappa:.3f}; the network, which never sees it, "
        f"has {percent(copied.network_accuracy)} and {copied.network_kappa:.3f}."
    )


def fellow_rule(metadata: Metadata, fitted_on: str) -> str:
    """The two decision rules of a network that takes the patient's other eye into account; "" for any other."""
    if not metadata.fellow:
        return ""
    if metadata.operating and not metadata.fellow.operating:
        return (
            "No decision rule could be fitted with the other eye: the validation photographs that have one are all "
            "referable, or none is. The rule for one eye decides for all photographs."
        )

    def rule(words: str, fitted: FittedRule | Metadata) -> str:
        if not fitted.operating:
            return f"{words} none could be fitted"
        text = f"{words} the temperature is {fitted.operating.temperature:.3f}, the threshold for referral "
        text += f"{fitted.operating.threshold:.3f}"
        if fitted.ordinal_thresholds:
            text += f", and grades are cut at {', '.join(f'{cut:.2f}' for cut in fitted.ordinal_thresholds)}"
        return text

    rules = (rule("With the other eye", metadata.fellow), rule("alone", metadata))
    return f"Two decision rules were fitted on {fitted_on}. {'; '.join(rules)}. Figures here use the rule that fits."


def scaling(calibration: Calibration, fitted_on: str) -> str:
    """The temperature scaling in words. A temperature of 1 also means that none could be fitted."""
    alone, with_fellow = calibration.temperature, calibration.temperature_with_fellow
    if alone == 1 and with_fellow in (1, None):
        return f"Left as they are: no other temperature was found to fit {fitted_on} better."
    if with_fellow is None:
        fitted = f"the temperature, {alone:.3f}, was"
    else:
        fitted = f"the temperatures, {with_fellow:.3f} with the other eye and {alone:.3f} alone, were"
    return f"Before and after temperature scaling; {fitted} fitted on {fitted_on}."


def exposure_line(split: str, exposure: Exposure) -> str:
    """A warning of photographs, of a split or of "all", whose patients the weights were trained on or chosen by; "" if
    there are none."""
    n, trained_on, same, chosen_by = exposure
    photographs = f"{n:,} photographs" if split == "all" else f"{n:,} {split} photographs"
    if trained_on:
        line = f"LEAK: {trained_on:,} of {photographs} ({trained_on / n:.0%}) show patients whom the weights "
        line += "were trained on"
        line += f", and {same:,} are training photographs themselves" if same else ""
        return f"{line}; the figures flatter."
    if chosen_by:
        line = f"LEAK: {chosen_by:,} of {photographs} ({chosen_by / n:.0%}) show patients by whom the "
        return f"{line}weights were chosen (the validation part); the figures flatter a little."
    return ""


def leak_lines(cache: Cache) -> list[str]:
    """Warnings, before training, of patients or copies of photographs that are in two splits of a cache."""
    advice = "`tools preprocess --split patient` keeps each patient on one side"
    lines = []
    for split in ("val", "test"):
        known = cache.leak(split)
        if known.leaked:
            lines.append(
                f"{known.leaked} of {known.tested} {split} photographs show patients who are in train, so "
                f"{split} flatters: {advice}"
            )
        if known.copies:
            lines.append(
                f"{known.copies} of {known.tested} {split} photographs look like a photograph of train or val, so "
                f"{split} flatters: see `tools audit`"
            )
    patients, splits = cache.manifest["patient"], cache.manifest["split"]
    tested = patients[(splits == "test") & (patients != "")]
    if both := int(tested.isin(patients[splits == "val"]).sum()):
        lines.append(
            f"{both} of {int((splits == 'test').sum())} test photographs show patients who are in val, which chooses "
            f"the epoch, so test flatters a little: {advice}"
        )
    return lines


APPROXIMATE_RULE: Final = (
    "Temperature and thresholds were fitted on out-of-fold probabilities. These are of the networks of one fold each "
    "and not of the mean of all, so the decision rule is approximate."
)
EACH_COUNTS: Final = (
    "Each of these photographs counts as one patient. If two of them show one patient, the intervals are too narrow."
)
DRAWN: Final = "photographs are no photographs of eyes: `tools phantom` drew them, or painted lesions on them."
UNKNOWN_PAST: Final = "The weights do not say which photographs they were trained on, so a leak cannot be seen."


def external_lines(record: MetricsRecord, description: SetDescription) -> list[str]:
    """Warnings before the figures of an external set: leaks, grades on another scale, another recipe."""
    exposure = record.exposure
    lines = [exposure_line(record.split, exposure) if exposure else UNKNOWN_PAST, scale_line(*record.scale)]
    if description.other_recipe:
        lines.append(
            "The photographs were prepared in another way than those of training: measure a cache of the same recipe."
        )
    lines.append(synthetic_set_line(record, description))
    if n := description.ungradable:
        lines.append(f"{n:,} of the graded photographs are flagged ungradable; they are measured too.")
    return [line for line in lines if line]


def synthetic_set_line(record: MetricsRecord, description: SetDescription) -> str:
    """A warning of synthetic photographs in an external set; "" if there are none."""
    if not description.synthetic:
        return ""
    counts = f"{description.synthetic:,} of {record.results.metrics.photographs:,}"
    return f"SYNTHETIC: {counts} {DRAWN} The figures say nothing of real eyes."


def refit_line(refit: Refit) -> str:
    """How many photographs a refit of the threshold needs."""
    most, near = refit.sizes[-1].photographs, percent(refit.level - NEAR)
    shown = f"a {refit.wanted} of {near} or more on the rest"
    if refit.enough:
        return f"From {refit.enough:,} photographs on, at least nine draws of ten show {shown}."
    return f"With up to {most:,} photographs, fewer than nine draws of ten show {shown}: more are needed."


def eyes_line(eyes: EyeCounts) -> str:
    """How the figures by eye were computed."""
    line = f"{eyes.several:,} eyes were photographed several times: the mean of the probabilities decides."
    if eyes.visit:
        line += f" Photographs of one patient, eye and visit (column {eyes.visit}) are one eye's."
    else:
        line += " Visits are not known: all photographs of one eye of a patient count as one visit."
    if n := eyes.disagreeing:
        line += f" The graders gave the photographs of {n:,} of these eyes different grades; the worst is the eye's."
    if n := eyes.eye_unknown:
        line += f" {n:,} photographs do not tell the eye; each counts as an eye of its own."
    return line


class LeakStatement(NamedTuple):
    """A sentence about patients, of the photographs measured, who are also in train."""

    alarm: bool
    """Whether it is a warning."""
    text: str


def leak_statement(split: str, record: MetricsRecord, known: Leak | None) -> LeakStatement:
    """The sentence about a split of the run's own cache. known: the leak that the cache shows; None without it."""
    n, no_image, exposure = record.results.metrics.photographs, record.results.no_image, record.exposure
    leaked = no_image.leaked if no_image else 0
    if exposure and max(exposure.trained_on, exposure.chosen_by) > leaked:  # more than the patients' names show
        return LeakStatement(True, exposure_line(split, exposure))
    if split == "train":
        return LeakStatement(True, "It was trained on these very photographs: the figures show what it remembers.")
    if leaked:
        count = f"{leaked:,} of {n:,} {split} photographs ({leaked / n:.0%})"
        return LeakStatement(True, f"LEAK: {count} show a patient who is also in train; the figures flatter.")
    if known is None:
        return LeakStatement(False, f"No patient of the {n:,} {split} photographs is known to be in train.")
    if known.copies:
        text = f"COPIES: {known.copies:,} of {n:,} {split} photographs look like a photograph of train or validation"
        return LeakStatement(True, f"{text}; the figures flatter.")
    if known.no_patient_known:
        return LeakStatement(True, "The patients are not known, so a leak between the splits cannot be seen.")
    if known.patient_unknown:
        text = (
            f"No leak was seen, but the patients of {known.patient_unknown:,} of {known.photographs:,} photographs of "
            f"train and {split} are not known."
        )
        return LeakStatement(True, text)
    return LeakStatement(False, f"No leak: no patient of the {n:,} {split} photographs is in train.")


def scale_line(scale: str, exact: bool) -> str:
    """A note on grades of another scale than ICDR; "" for ICDR. exact: whether the steps are those of ICDR."""
    if scale == "icdr":
        return ""
    if exact:
        return f"The grades were given on the scale {scale}, whose steps are read as those of ICDR."
    return (
        f"The grades were given on the scale {scale}, whose steps are not those of ICDR: figures of five grades say "
        "little, and are not to be compared or pooled with those of other sets. Referable retinopathy is measured."
    )


def limits(
    record: MetricsRecord, ungraded: int, known: Leak | None, external: int = 0, *, unknown_patients: int = 0
) -> list[str]:
    """The limits of the figures, in sentences.

    ungraded: photographs of the split without a grade. known: the leak that the cache shows; None without it. external:
    number of external sets. unknown_patients: number of the photographs measured whose patient is unknown.
    """
    results, metrics = record.results, record.results.metrics
    sets = f"{external + 1} data sets were" if external else "One data set was"
    lines = [
        f"{sets} measured. Other cameras, populations and graders can give other figures: measure yours.",
        "A grade given by people is the truth here. Where they err, the figures err with them.",
    ]
    if results.patients < FEW and unknown_patients == metrics.photographs:
        lines.append(f"Only {unknown_patients:,} photographs were measured: read the intervals before the figures.")
    elif results.patients < FEW:
        who = "Only one patient was" if results.patients == 1 else f"Only {results.patients:,} patients were"
        lines.append(f"{who} measured: read the intervals before the figures.")
    missing = [GRADES[grade] for grade in range(N_GRADES) if not metrics.grades[grade]]
    if missing:
        lines.append(f"No photograph measured was graded {' or '.join(missing)}: nothing is known about these.")
    if ungraded:
        lines.append(f"{ungraded:,} photographs of the split have no grade and are left out.")
    if known and known.patient_unknown:
        who = "The patients" if known.no_patient_known else f"The patients of {known.patient_unknown:,} photographs"
        lines.append(f"{who} are not known. {EACH_COUNTS}")
    if results.operating:
        lines.append("PPV and NPV hold for the prevalence beside them and for no other.")
    lines.append("Grad-CAM shows where evidence for a grade lies, coarsely. It shows no lesions, and no reasons.")
    lines.append("Other diseases of the eye, macular oedema among them, are not looked for.")
    return lines


def commands(
    path: Path,
    split: str,
    config: RunConfig,
    metadata: Metadata,
    record: MetricsRecord,
    cache: Cache | None,
    external: Sequence[MetricsRecord],
) -> list[str]:
    """The command lines, for a shell, that reproduce this run and its figures. external: of its external sets."""
    asked = config.asked
    needless = _unasked(asked)
    fold = re.fullmatch(r"fold \d+ of (\d+)", cache.index.split) if cache else None
    out = "CACHE" if fold else asked.cache
    preprocess: list[object] = ["tools", "preprocess", "PHOTOGRAPHS", "--out", out, "--size", metadata.recipe.size]
    if metadata.recipe.quality != Recipe().quality:
        preprocess += ["--quality", metadata.recipe.quality]
    if metadata.recipe.enhance != Recipe().enhance:
        preprocess += ["--enhance", metadata.recipe.enhance]
    if cache:
        split_option = [] if fold or "--split" in cache.index.options else ["--split", cache.index.split]
        preprocess += [*cache.index.options, *split_option, "--split-seed", cache.index.split_seed]
    fit: list[object] = ["trainer", "fit", "--run", path]
    if config.members:
        runs = [config.folds] if config.folds else config.members
        fit, asked = ["trainer", "ensemble", path, *runs, "--cache", asked.cache], FitConfig()
        needless = _unasked(asked)
    elif fold:
        fit = ["trainer", "folds", "--folds", fold[1], "--run", path.parent]
        folder = FoldsFolder(path.parent)
        asked = replace(asked, cache=out)
        if asked.fellow_eye:
            asked = replace(asked, fellow_eye=str(Path(asked.fellow_eye).parent))
        if folder.mark.exists():  # the run may have been moved
            mark = folder.read_mark()
            fit += ["--split", FOLDED[True]] if mark.test else []
            fit += ["--seeds", ",".join(map(str, mark.seeds))] if mark.seeds else []
            asked = replace(asked, seed=mark.seed)
    for field in fields(asked):
        value = getattr(asked, field.name)
        if value is not None and (field.name not in needless or value != needless[field.name]):
            fit += as_options(field.name, value)
    evaluate: list[object] = ["trainer", "evaluate", path, "--split", split]
    evaluate += [*_card_options(record.results.operating), *_subgroup_options(record.subgroups)]
    elsewhere = []
    for each in external:
        words = ["trainer", "evaluate", path]
        if known := each.description:
            words += ["--cache", known.place, "--name", known.name]
            words += ["--split", each.split] if each.split != "all" else []
            words += ["--refit", known.refit.sizes[-1].photographs] if known.refit else []
        elsewhere.append([*words, *_card_options(each.results.operating), *_subgroup_options(each.subgroups)])
    report: list[object] = ["trainer", "report", path, "--split", split]
    return [shlex.join(map(str, words)) for words in (preprocess, fit, evaluate, *elsewhere, report)]


def _unasked(asked: FitConfig) -> dict[str, Any]:
    """The settings that a training has without their options, by name: those of its preset, of its optimizer, and of
    the run of --fellow-eye. Left out are those that such a run gives if it cannot be read any more."""
    chosen = {**OPTIMIZER_DEFAULTS[asked.optimizer], **PRESETS.get(asked.recipe or "", {}), "recipe": None}
    needless = vars(FitConfig(**chosen)).copy()
    if asked.fellow_eye:
        try:
            needless |= fellow_defaults(RunFolder(Path(asked.fellow_eye)))
        except RunError:
            needless = {name: value for name, value in needless.items() if name not in {*KEPT, *FELLOW_DEFAULTS}}
        needless |= {"weights": asked.weights, "epochs": asked.epochs}  # these cannot be given
    return needless


def _card_options(card: OperatingCard | None) -> list[object]:
    """The options of `trainer evaluate` that give this operating card."""
    options: list[object] = []
    if card and card.wish != Wish():
        options += [f"--{card.wanted}", card.level]
    if card and card.at_prevalence:
        options += ["--prevalence", card.at_prevalence.prevalence]
    return options


def _subgroup_options(subgroups: Subgroups | None) -> list[object]:
    """The options of `trainer evaluate` that measure these subgroups."""
    return [word for column in subgroups.columns for word in ("--subgroup", column.name)] if subgroups else []


def starting_point(weights: str) -> str:
    """The weights that training began with, in words. weights: as resolved in config.json."""
    known = {
        "none": "trained from scratch",
        "imagenet": "pretrained on ImageNet",
        "pretrained": "pretrained, by its own function",
    }
    return known.get(weights, f"pretrained from {Path(weights).name}")
