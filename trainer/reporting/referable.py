"""p(referable) on the page and the card: bands of the curves, calibration and net benefit, in figures and words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from trainer.evaluation.referable import Band
from trainer.evaluation.referable_calibration import FEWEST
from trainer.reporting.page import number
from trainer.reporting.referable_figures import draw_decision_curve, draw_referable_calibration
from trainer.run_folder import RunFolder

LISTED: Final = {
    "roc": (0.05, 0.1, 0.2, 0.3, 0.5),
    "precision_recall": (0.5, 0.8, 0.85, 0.9, 0.95),
    "net_benefit": (0.05, 0.1, 0.2, 0.3, 0.5),
}
"""Points of each curve that the page lists; metrics_*.json has all."""
MEASURES: Final = (
    ("slope", "Calibration slope", "1"),
    ("intercept", "Calibration intercept", "0"),
    ("observed_expected", "Observed by expected (O:E)", "1"),
    ("brier", "Brier score of the referral", "0"),
)
"""With the best value."""
LACKS: Final = {
    "few": f"Slope and intercept are not estimated: they need {FEWEST} patients with a referable photograph and "
    f"{FEWEST} with another one.",
    "alike": "The slope cannot be estimated: p(referable) is the same for all photographs.",
    "separated": "The slope cannot be estimated: p(referable) separates the referable photographs from the others "
    "completely.",
}


def describe_referable(referable: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates say of the `referable` part of metrics_*.json."""
    calibration, benefit = referable["calibration"], referable["net_benefit"]
    share = referable["referable"] / referable["photographs"]
    tables = {name: _points(referable[name], LISTED[name]) for name in ("roc", "precision_recall")}
    return {
        **tables,
        "measures": [(title, best, calibration[key], calibration["intervals"][key]) for key, title, best in MEASURES],
        "bins": calibration["bins"],
        "clip": f"{calibration['clip']:f}",
        "brier_of_prevalence": share * (1 - share),
        "calibration_lines": calibration_lines(referable),
        "benefit": benefit and benefit_rows(benefit),
        "benefit_lines": benefit_lines(benefit) if benefit else [],
        "prevalence": benefit and benefit["prevalence"],
    }


def counts_line(referable: Mapping[str, Any]) -> str:
    """Of whom a curve is; `patients` is None where nothing tells them."""
    patients = referable["patients"]
    return f"{referable['photographs']:,} photographs, {referable['referable']:,} referable\n" + (
        "patients not known" if patients is None else f"{patients:,} patients"
    )


def bands(referable: Mapping[str, Any]) -> tuple[Band, Band]:
    """Of the ROC and the precision-recall curve, where both kinds of photographs are there."""
    return Band(**referable["roc"]), Band(**referable["precision_recall"])


def draw_referable(run: RunFolder, split: str, referable: Mapping[str, Any], title: str) -> dict[Path, str]:
    """Draws reliability and net benefit into the run folder; their files, with what they show in a sentence."""
    calibration, benefit = referable["calibration"], referable["net_benefit"]
    path = run.figure("referable_calibration", split)
    draw_referable_calibration(path, calibration, counts=counts_line(referable), title=f"{title}: calibration")
    drawn = {path: "Reliability curve of p(referable) with 95 % intervals; the table of bins holds its numbers"}
    if benefit:
        path = run.figure("decision_curve", split)
        draw_decision_curve(path, benefit, title=f"{title}: net benefit")
        drawn[path] = "Decision curve: net benefit of the network with its 95 % band, of referring all and of none"
        drawn[path] += "; the table holds numbers"
    return drawn


def calibration_lines(referable: Mapping[str, Any]) -> list[str]:
    """How far p(referable) can be believed, in words."""
    calibration = referable["calibration"]
    lines = [LACKS[calibration["lacks"]]] if calibration["lacks"] else []
    if not referable["referable"]:
        lines.append("No photograph is referable, so there is no O:E.")
    slope, intercept = (calibration["intervals"][name] for name in ("slope", "intercept"))
    if slope is None and not calibration["lacks"]:
        lines.append("The slope has no interval: too many resamples of these photographs have no slope.")
    if slope and slope[1] < 1:
        lines.append("The probabilities are too extreme: the low ones are too low, the high ones too high.")
    if slope and slope[0] > 1:
        lines.append("The probabilities are too moderate: the low ones are too high, the high ones too low.")
    if intercept and intercept[1] < 0:
        lines.append("On the whole the probabilities are too high.")
    if intercept and intercept[0] > 0:
        lines.append("On the whole the probabilities are too low.")
    if slope and intercept and not lines:
        lines.append("These photographs do not show that the probabilities are wrong.")
    return lines


def benefit_rows(benefit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each listed threshold; `per_right`: false referrals that are worth one right referral."""
    rows = []
    for place in _places(benefit["thresholds"], LISTED["net_benefit"]):
        threshold = benefit["thresholds"][place]
        row = {name: benefit[name][place] for name in ("net_benefit", "refer_all", "gain")}
        limits = {name: benefit["intervals"][name][place] for name in ("net_benefit", "gain")}
        rows.append({"threshold": threshold, "per_right": (1 - threshold) / threshold, **row, "intervals": limits})
    return rows


def benefit_lines(benefit: Mapping[str, Any]) -> list[str]:
    """What the decision curve says at 10 %, and where the network is shown to be better than referring all or none."""
    at = benefit_rows(benefit)[1]
    between = _between(at["intervals"]["net_benefit"])
    lines = [
        f"At a threshold of {_whole(at['threshold'])}, nine false referrals count as much as one right one. There the "
        f"net benefit of the network is {number(at['net_benefit'], 'places')}{between}, of referring everybody "
        f"{number(at['refer_all'], 'places')}, of referring nobody 0."
    ]
    better = [bool(limits and limits[0] > 0) for limits in benefit["intervals"]["gain"]]
    shown = [threshold for threshold, is_better in zip(benefit["thresholds"], better, strict=True) if is_better]
    what = "referring by the network has more net benefit than referring everybody or nobody"
    if not shown:
        lines.append(f"At no threshold from {_whole(0.02)} to {_whole(0.5)} is it shown that {what}.")
    elif len(shown) == round(100 * (shown[-1] - shown[0])) + 1:
        lines.append(f"At thresholds from {_whole(shown[0])} to {_whole(shown[-1])} {what}; its 95 % interval says so.")
    else:
        spread = f"{len(shown)} of {len(better)} thresholds, between {_whole(shown[0])} and {_whole(shown[-1])},"
        lines.append(f"At {spread} {what}; its 95 % interval says so.")
    return lines


def _between(limits: Sequence[float] | None) -> str:
    return f" ({number(limits[0], 'places')} to {number(limits[1], 'places')})" if limits else ""


def _whole(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _points(band: Mapping[str, Any] | None, listed: Sequence[float]) -> list[tuple[float, float, Any]]:
    """x, y and interval of a curve at the listed x; none where there is no curve."""
    if band is None:
        return []
    return [(band["x"][place], band["y"][place], band["intervals"][place]) for place in _places(band["x"], listed)]


def _places(x: Sequence[float], listed: Sequence[float]) -> list[int]:
    return [int(np.argmin(np.abs(np.array(x) - each))) for each in listed]
