"""Presets: named sets of settings for `trainer fit --recipe`. Options on the command line override them.

Settings that a preset does not name have their defaults. A released preset never changes; a better one gets another
name.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_PAINTED: Final[Mapping[str, Any]] = {
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
}

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # For comparison: as student projects on EyePACS commonly train. Plain cross entropy, natural sampling, small
        # batches, a constant learning rate.
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
        # For a first look: minutes on two cores if photographs are few or small.
        "fast": {"head_epochs": 2, "epochs": 8, "batch": 32, "lr": 0.02},
        # For small and unbalanced sets. docs/experiments.md has what else was tried.
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
        # To learn what a lesion is, from scratch, on a cache of lesions that `tools phantom --onto` has painted.
        "painted": _PAINTED,
        # To continue from there, with --weights FILE, on a few hundred graded photographs. Their validation is too
        # small to choose an epoch by.
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
        # The same two steps for some thousand graded photographs. docs/experiments.md has what the coarse stem saves.
        "lesions": {**_PAINTED, "stem": "coarse"},
        "after-lesions": {
            "stem": "coarse",
            "size": 256,
            "start_size": 0.67,
            "head_epochs": 2,
            "epochs": 12,
            "batch": 16,
            "lr": 0.003,
            "weight_decay": 0.005,
            "sampling": "fading",
            "zoom": 1.15,
            "colour": 0.2,
            "ema": 0.99,
            "tta": True,
            "grade_by": "expected",
            "keep": "last",
        },
    }
)

OPTIMIZER_DEFAULTS: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    # AdamW's steps do not shrink with the gradient, so its learning rate is lower. Its weight decay is multiplied by
    # the learning rate, so it is higher (Loshchilov and Hutter, ICLR 2019).
    {"sgd": {}, "adamw": {"lr": 0.001, "weight_decay": 0.05}}
)
"""Defaults of other options by optimizer. Presets and options override them."""

FELLOW_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    # Without the average, accuracy on validation jumps from 13 to 53 % between epochs (eyepacs, ResNet-18 at 64 px).
    {"epochs": 0, "head_epochs": 20, "views": 4, "ema": 0.99}
)
"""Defaults with --fellow-eye, which trains the last layer alone, on stored features. Other settings are the run's."""

PURPOSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "course": "to compare with student projects on EyePACS, which commonly train so",
        "fast": "for a first look, minutes on two cores where photographs are few or small",
        "best": "for small images of one source, as in RetinaMNIST, trained from scratch",
        "painted": "to learn from scratch what a lesion is, on a cache of what `tools phantom --onto` has painted",
        "few": "to continue from there, with --weights FILE, on a few hundred graded photographs",
        "lesions": "as painted, but with --stem coarse, which takes a third of the time",
        "after-lesions": "to continue from there, with --weights FILE, on some thousand graded photographs",
    }
)
"""What each preset is for."""
