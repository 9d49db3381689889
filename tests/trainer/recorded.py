"""Records as they stand in files, for tests that change a little of them."""

from typing import Any, Final

from trainer.evaluation.record import MetricsRecord
from trainer.run_folder import EpochRow

METRICS: Final = {
    "photographs": 200,
    "grades": [140, 20, 20, 10, 10],
    "accuracy": 0.8,
    "balanced_accuracy": 0.7,
    "kappa": 0.7,
    "auc": 0.9,
    "auc_by_grade": [0.9] * 5,
    "sensitivity": 0.9,
    "specificity": 0.8,
    "sensitivity_by_grade": [0.7] * 5,
    "specificity_by_grade": [0.9] * 5,
    "precision_by_grade": [0.7] * 5,
    "referable_auc": 0.9,
}
CARD: Final = {
    "threshold": 0.5,
    "wanted": "sensitivity",
    "level": 0.9,
    "sensitivity": 0.9,
    "specificity": 0.8,
    "ppv": 0.5,
    "npv": 0.9,
    "prevalence": 0.2,
    "intervals": {"sensitivity": None, "specificity": None, "ppv": None, "npv": None, "prevalence": None},
    "at_prevalence": None,
}
BASELINE: Final = {"accuracy": 0.7, "kappa": 0.0}
NO_IMAGE: Final = {"leaked": 0, "majority_grade": 0, "majority": BASELINE, "fellow_eye": BASELINE}
OF_SET: Final = {
    "name": "clinic",
    "place": "/data/clinic/cache",
    "prevalence": 0.2,
    "ungradable": 0,
    "other_recipe": False,
    "cameras": [],
    "drift": None,
    "refit": None,
}
"""What the metrics of an external set say besides."""

ROW: Final = EpochRow(1, "finetune", 0.01, 1.0, 50.0, 1.0, 50.0, 0.5, None, 10.0, 20.0)
"""Of accuracy.csv."""


def recorded(**changed: Any) -> MetricsRecord:
    """Of 200 photographs of 120 patients; accuracy 0.8 (0.75 to 0.85) where the majority grade has 0.7."""
    written = {
        "split": "test",
        "cache": "digest",
        **METRICS,
        "patients": 120,
        "intervals": {"accuracy": [0.75, 0.85], "kappa": None, "referable_auc": [0.85, 0.95]},
        "operating": None,
        "no_image": NO_IMAGE,
    }
    return MetricsRecord.from_dict(written | changed)
