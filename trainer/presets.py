"""Named sets of settings for `trainer fit --recipe`. Any option on the command line overrides its own.

A setting that a recipe does not name has its ordinary default. Recipes are frozen: what one gives once it has been
released, it gives for ever; a better one gets another name or another release.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

RECIPES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # As student projects on EyePACS commonly train: plain cross entropy on the photographs as they come, small
        # batches, one learning rate from the first step to the last. For comparison.
        "course": {
            "epochs": 10,
            "batch": 4,
            "lr": 1e-3,
            "schedule": "constant",
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "class_weights": "none",
            "sampling": "natural",
            "loss": "ce",
            "stem": "imagenet",
        },
        # A first look, within minutes on two cores where photographs are few or small.
        "fast": {"head_epochs": 2, "epochs": 8, "batch": 32, "lr": 0.02},
        # For small and unbalanced sets; what else was tried and not taken, docs/experiments.md says.
        "best": {
            "epochs": 60,
            "batch": 64,
            "start_size": 0.6,
            "lr": 0.05,
            "weight_decay": 0.005,
            "cutmix": 1.0,
            "ema": 0.99,
            "tta": True,
        },
        # What a lesion is, from scratch, by lesions that `tools phantom --onto` has painted on healthy photographs.
        "painted": {
            "weights": "none",
            "size": 256,
            "start_size": 0.5,
            "epochs": 12,
            "batch": 32,
            "lr": 0.03,
            "weight_decay": 0.005,
            "sampling": "balanced",
            "zoom": 1.15,
            "colour": 0.2,
            "ema": 0.99,
        },
        # From there, with --weights FILE, to a few hundred graded photographs, whose validation is too small to choose.
        "few": {
            "size": 256,
            "head_epochs": 2,
            "epochs": 12,
            "batch": 16,
            "lr": 0.001,
            "weight_decay": 0.005,
            "sampling": "balanced",
            "ema": 0.99,
            "tta": True,
            "keep": "last",
        },
    }
)

PURPOSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "course": "to compare with student projects on EyePACS, which commonly train so",
        "fast": "for a first look, minutes on two cores where photographs are few or small",
        "best": "for small images of one source, as in RetinaMNIST, trained from scratch",
        "painted": "to learn from scratch what a lesion is, on a cache of what `tools phantom --onto` has painted",
        "few": "to go on from there, with --weights FILE, to a few hundred graded photographs",
    }
)
"""What each recipe is for."""
