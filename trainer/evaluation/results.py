"""All results of a split, by photograph, by eye and by patient."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.baselines import no_image_baselines
from pipeline.cache.eyes import EyeTable
from pipeline.cache.splits import patients_of
from pipeline.grades import UNKNOWN
from trainer.evaluation.bootstrap import Figures, Floats, Limits, Resamples, interval, intervals
from trainer.evaluation.calibration import Calibration, brier_by_photograph, expected_calibration_error, reliability
from trainer.evaluation.deferral import Deferral, RiskCoverage
from trainer.evaluation.eyes import EyeCounts, eye_rows, mean_eyes
from trainer.evaluation.metrics import Metrics, measure
from trainer.evaluation.operating_point import OperatingCard, Referral
from trainer.evaluation.referable import Referable, measure_referable
from trainer.evaluation.ungradable import Ungradable, measure_ungradable
from trainer.evaluation.weighted_metrics import Sample, ratio
from trainer.kinds import PROBABILITIES, SCORE
from trainer.network.decision import DecisionRule
from trainer.network.metadata import Operating, temperature_of
from trainer.records import optional, read

LIKELIEST: Final = DecisionRule()
"""The likeliest grade is predicted."""


@dataclass(frozen=True)
class Score:
    """Figures of grades that are given without the photograph."""

    accuracy: float
    """0 to 1."""
    kappa: float
    """Quadratic weighted, -1 to 1."""


@dataclass(frozen=True)
class NoImage:
    """The `no_image` part of metrics_*.json: see `pipeline.cache.baselines`."""

    leaked: int
    """Number of measured photographs whose patient is in train."""
    majority_grade: int
    """The commonest grade of train."""
    majority: Score
    """Figures if every photograph is given that grade."""
    fellow_eye: Score
    """Figures if each photograph is given the grade that its patient has in train; `majority` if nothing leaks."""

    @classmethod
    def of(cls, table: pd.DataFrame, split: str) -> "NoImage | None":
        """The baselines of a split; None if train or the split has no graded photograph. table: see
        `no_image_baselines`."""
        found = no_image_baselines(table, split)
        if found is None:
            return None
        majority, fellow_eye = (Score(each.accuracy, each.kappa) for each in (found.majority, found.fellow_eye))
        return cls(found.leaked, found.majority_grade, majority, fellow_eye)


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a split in metrics_*.json, or of its eyes or patients."""

    metrics: Metrics
    """If eyes or patients are measured, its "photographs" are these."""
    patients: int
    intervals: dict[str, Limits]
    """95 % intervals by name of a figure of `Metrics`; five for a figure of each grade."""
    operating: OperatingCard | None
    """None where the weights carry no threshold."""
    deferral: Deferral | None
    """None where the weights carry no threshold."""
    no_image: NoImage | None
    """None if train has no graded photograph."""
    calibration: Calibration | None = None
    """None for eyes and patients: calibration is that of photographs."""
    referable: Referable | None = None
    """None for eyes and patients: these figures are those of photographs."""
    by_patient: "Results | None" = None
    """None if no patient has two photographs."""
    by_eye: "Results | None" = None
    """None if no eye has two photographs."""
    eyes: EyeCounts | None = None
    """Only for eyes."""
    ungradable: Ungradable | None = None
    """The referral with and without the ungradable photographs, by photograph and by patient; None if there are
    none."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "patients": self.patients,
            **asdict(self.metrics),
            "intervals": self.intervals,
            "operating": self.operating and asdict(self.operating),
            "deferral": self.deferral and asdict(self.deferral),
            "ungradable_referral": self.ungradable and asdict(self.ungradable),
            "calibration": self.calibration and self.calibration.as_dict(),
            "referable": self.referable and asdict(self.referable),
            "no_image": self.no_image and asdict(self.no_image),
            "patient": self.by_patient and self.by_patient.as_dict(),
            "eye": self.by_eye and self.by_eye.as_dict(),
            **({"eyes": asdict(self.eyes)} if self.eyes else {}),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "Results":
        """The inverse of `as_dict`, after JSON. Parts that an earlier version did not write are None.

        Raises ValueError if a part is damaged, or of a version in which not every figure had an interval.
        """
        part = written.get
        by_patient, by_eye = part("patient"), part("eye")
        return cls(
            metrics=read(Metrics, written),
            patients=read(int, part("patients"), "patients"),
            intervals=read(dict[str, Limits], part("intervals"), "intervals"),
            operating=optional(OperatingCard, part("operating"), "operating"),
            deferral=optional(Deferral, part("deferral"), "deferral"),
            no_image=optional(NoImage, part("no_image"), "no_image"),
            calibration=optional(Calibration, part("calibration"), "calibration"),
            referable=optional(Referable, part("referable"), "referable"),
            by_patient=by_patient and cls.from_dict(by_patient),
            by_eye=by_eye and cls.from_dict(by_eye),
            eyes=optional(EyeCounts, part("eyes"), "eyes"),
            ungradable=optional(Ungradable, part("ungradable_referral"), "ungradable_referral"),
        )


def assess(
    manifest: pd.DataFrame,
    split: str,
    predictions: pd.DataFrame,
    uncalibrated: NDArray[np.float32],
    operating: Operating | None,
    prevalence: float | None = None,
    *,
    eyes: EyeTable | None = None,
    rule: DecisionRule = LIKELIEST,
) -> Results:
    """Measures the predictions for a split, by photograph, by eye and by patient.

    uncalibrated: probabilities (n, 5) at temperature 1. prevalence: of another population, 0 to 1. eyes: of the
    manifest; None: nothing is measured by eye. rule: is applied to the mean probabilities of an eye.
    """
    patients = patients_of(manifest, predictions["id"])
    known = (predictions["grade"] != UNKNOWN).to_numpy()
    sample = Sample.of(predictions, patients)
    resamples = Resamples(sample.n_patients)  # of the same patients by photograph, by eye and by patient
    by_patient = by_eye = None
    if sample.n_patients < len(sample.grades):
        table = worse_eyes(predictions[known], patients[known])
        no_image = NoImage.of(patient_table(manifest), split)
        by_patient = _measured(Sample.of(table), resamples, operating, prevalence, no_image)
    means = eyes and mean_eyes(predictions[known], patients[known], manifest, table=eyes, rule=rule)
    if eyes and means:
        no_image = NoImage.of(eye_rows(manifest, eyes), split)
        of_eyes = Sample.of(means.predictions, means.patients)
        by_eye = replace(_measured(of_eyes, resamples, operating, prevalence, no_image), eyes=means.counts)
    return replace(
        _measured(sample, resamples, operating, prevalence, NoImage.of(manifest, split)),
        calibration=replace(
            calibration(sample, resamples, uncalibrated[known], temperature_of(operating)),
            temperature_with_fellow=rule.fellow.temperature if rule.fellow else None,
        ),
        referable=measure_referable(sample, resamples, prevalence),
        ungradable=measure_ungradable(manifest, split, predictions, operating),
        by_patient=by_patient,
        by_eye=by_eye,
    )


def _measured(
    sample: Sample,
    resamples: Resamples,
    operating: Operating | None,
    prevalence: float | None,
    no_image: NoImage | None,
) -> Results:
    """The results that photographs, eyes and patients have in common."""
    values = sample.figures(sample.equal_weights)
    resampled = resamples.figures(sample.figures)
    return Results(
        metrics=measure(sample),
        patients=sample.n_patients,
        intervals=intervals(values, resampled, sample.share_patients()),
        operating=Referral(sample, operating, prevalence).card(resamples) if operating else None,
        deferral=RiskCoverage(sample, operating.threshold).measure(resamples) if operating else None,
        no_image=no_image,
    )


def calibration(
    sample: Sample, resamples: Resamples, uncalibrated: NDArray[np.float32], temperature: float
) -> Calibration:
    """The calibration of a sample. resamples: of its patients. uncalibrated (n, 5): its probabilities at temperature 1.
    temperature: that of its probabilities."""
    bins = reliability(sample.probabilities, sample.grades)
    scores = brier_by_photograph(sample.probabilities, sample.grades)
    sums = np.stack(
        [np.bincount(sample.patients, weights, sample.n_patients) for weights in (scores, None)], axis=1
    ).astype(np.float64)

    def brier(weights: Floats) -> Figures:
        total = weights.T @ sums
        return {"brier": ratio(total[:, 0], total[:, 1])}

    return Calibration(
        temperature=temperature,
        ece=expected_calibration_error(bins),
        brier=float(scores.mean()),
        ece_before=expected_calibration_error(reliability(uncalibrated, sample.grades)),
        brier_before=float(brier_by_photograph(uncalibrated, sample.grades).mean()),
        intervals={"brier": interval(float(scores.mean()), resamples.figures(brier)["brier"])},
        bins=bins,
    )


def worse_eyes(predictions: pd.DataFrame, patients: "pd.Series[str]") -> pd.DataFrame:
    """Graded predictions, one row for each patient: the worse eye decides, for the truth and for the prediction.

    For every g, the probability of grade g or worse is the larger one of the eyes; p0..p4 are the differences, which
    sum to 1. So a patient is referred if one of the eyes is, at any threshold. This is the lowest probability that the
    eyes allow: if they were taken as independent, two doubtful eyes would refer a patient.
    """
    p = predictions[list(PROBABILITIES)].to_numpy(np.float64)
    worse = pd.DataFrame(p[:, ::-1].cumsum(axis=1)[:, ::-1])
    worse[0] = 1.0
    groups = patients.to_numpy()
    at_least = worse.groupby(groups).max().to_numpy()
    largest = ["grade", "predicted", *([SCORE] if SCORE in predictions else [])]
    found = predictions[largest].groupby(groups).max()
    columns = (at_least - np.pad(at_least[:, 1:], ((0, 0), (0, 1)))).astype(np.float32)
    return found.rename_axis("id").reset_index().assign(**dict(zip(PROBABILITIES, columns.T, strict=True)))


def patient_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """The graded photographs of a manifest, one row for each patient and split, with the worse eye's grade."""
    graded = manifest[manifest["grade"] != UNKNOWN]
    patients = patients_of(manifest, graded["id"])
    return graded.assign(patient=patients).groupby(["patient", "split"], as_index=False)[["grade"]].max()
