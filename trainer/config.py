"""The settings of a run."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

from pipeline.limits import SMALLEST
from trainer.presets import RECIPES

MODELS: Final = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""torchvision's ResNets, listed here because importing torchvision takes seconds and `--help` must not."""
CLASS_WEIGHTS: Final = ("none", "inverse", "effective")
SAMPLINGS: Final = ("natural", "balanced")
GRADE_BY: Final = ("likeliest", "expected")
KEEPS: Final = ("best", "last")
SCHEDULES: Final = ("cosine", "constant")
STEMS: Final = ("auto", "imagenet", "small")
SMALL_BELOW: Final = 64
"""Pixels. A ResNet's own stem leaves a quarter of the side, its last stage an eighth of that: 2 x 2 places of 64."""
LOADERS: Final = ("auto", "dali", "torchvision")
DEVICES: Final = ("auto", "cpu", "cuda", "mps")
PRECISIONS: Final = ("auto", "float32", "bfloat16")

Link = Literal["softmax", "corn", "distance"]
"""How a network's scores become grades' logits: trainer.network.model says what each is."""


class Loss(NamedTuple):
    """What there is to know of a loss besides its formula, which stands in trainer.training.losses."""

    title: str  # on pages and cards
    link: Link  # what it asks of the network's last layer
    smooths: bool  # whether labels may be smoothed


LOSSES: Final = {
    "ce": Loss("cross entropy", "softmax", True),
    "focal": Loss("focal loss", "softmax", False),
    "corn": Loss("CORN, which knows the grades' order", "corn", True),
    "mse": Loss("squared error of the grade", "distance", False),
}
Phase = Literal["head", "finetune"]


@dataclass(frozen=True)
class FitConfig:
    """The settings of `trainer fit`, as asked for or, without "auto", as resolved: config.json keeps both.

    Raises ValueError, quoting the value, for settings that cannot be.
    """

    recipe: str | None = None  # what the other settings were begun from
    cache: str = "cache"
    loader: str = "auto"
    model: str = "resnet18"
    stem: str = "imagenet"  # "small": for images below 64 pixels, without pretrained weights; "auto": where that is so
    weights: str = "auto"  # "auto", "imagenet", "none", or a file
    head_epochs: int = 3  # on a frozen backbone; none without pretrained weights
    views: int = 1  # augmented views of each photograph that the head is trained on
    epochs: int = 20  # of fine-tuning everything
    batch: int = 32
    size: int | None = None  # pixels; None: as cached
    start_size: float | None = None  # training images grow from so many pixels, or from that share of the size, to it
    lr: float = 0.01  # the highest of the schedule
    schedule: str = "cosine"  # after a warm-up; "constant": lr from first to last
    layer_decay: float = 1  # of the learning rate, from each stage of the network to the one before
    momentum: float = 0.9
    weight_decay: float = 5e-4
    class_weights: str = "none"
    sampling: str = "natural"  # "balanced": as many photographs of each grade
    loss: str = "ce"
    label_smoothing: float = 0  # of the true grade's weight, spread over all grades
    zoom: float = 1  # training images are up to so much larger and smaller; 1: not at all
    colour: float = 0  # share by which their brightness, contrast and saturation vary
    mixup: float = 0  # of the Beta distribution that photographs are mixed by; 0: not at all
    cutmix: float = 0  # the same for pasted rectangles
    tta: bool = False  # the finished run is measured as the mean over the eight symmetries
    grade_by: str = "likeliest"  # "expected": the mean of the probabilities, cut where validation's kappa is best
    ema: float = 0  # decay a step of the average of weights that is measured and saved; 0: the weights themselves
    keep: str = "best"  # the epoch with the best kappa on validation, or "last": a few dozen photographs choose by luck
    patience: int | None = None  # epochs without a better one that end the training
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # of training steps; "auto": bfloat16 where the device multiplies it
    workers: int | None = None  # None: the loader's own choice
    track_test: bool = False
    together: int | None = None  # Cache.shuffle_block, by its name in config.json; resolved, not asked
    compile: bool = False  # the network, for training steps
    checkpoint_minutes: float = 10  # between checkpoints within an epoch

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

        check(self.recipe is None or self.recipe in RECIPES, "recipe", f"one of {', '.join(RECIPES)}")
        check(self.stem in STEMS, "stem", f"one of {', '.join(STEMS)}")
        check(self.stem != "small" or self.weights != "imagenet", "stem", "imagenet with ImageNet's weights")
        check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        check(self.model in MODELS, "model", f"one of {', '.join(MODELS)}")
        check(self.class_weights in CLASS_WEIGHTS, "class_weights", f"one of {', '.join(CLASS_WEIGHTS)}")
        check(self.sampling in SAMPLINGS, "sampling", f"one of {', '.join(SAMPLINGS)}")
        check(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")
        check(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and less than 1")
        check(LOSSES[self.loss].smooths or self.label_smoothing == 0, "label_smoothing", f"0 with the loss {self.loss}")
        check(self.grade_by in GRADE_BY, "grade_by", f"one of {', '.join(GRADE_BY)}")
        check(self.loader in LOADERS, "loader", f"one of {', '.join(LOADERS)}")
        check(self.device in DEVICES, "device", f"one of {', '.join(DEVICES)}")
        check(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        check(self.head_epochs >= 0, "head_epochs", "0 or more")
        check(self.views >= 1, "views", "at least 1")
        check(self.epochs >= 0, "epochs", "0 or more")
        head = self.head_epochs > 0 and self.weights != "none"
        check(head or self.epochs > 0, "epochs", "at least 1 where no pretrained weights get head epochs")
        check(self.batch >= 1, "batch", "at least 1")
        check(self.size is None or self.size >= SMALLEST, "size", f"at least {SMALLEST} pixels")
        start = self.start_size
        known = start is None or 0 < start <= 1 or (start >= SMALLEST and start % 1 == 0)
        check(known, "start_size", f"a share of the size, or at least {SMALLEST} whole pixels")
        smaller = start is None or self.size is None or start < self.size
        check(smaller, "start_size", f"smaller than the size, {self.size}")
        check(isfinite(self.lr) and self.lr > 0, "lr", "positive")
        check(0 < self.layer_decay <= 1, "layer_decay", "more than 0 and at most 1")
        check(1 <= self.zoom <= 2, "zoom", "1 to 2")
        check(0 <= self.colour <= 1, "colour", "0 to 1")
        check(isfinite(self.mixup) and self.mixup >= 0, "mixup", "0 or more")
        check(isfinite(self.cutmix) and self.cutmix >= 0, "cutmix", "0 or more")
        check(0 <= self.ema < 1, "ema", "at least 0 and less than 1")
        check(self.keep in KEEPS, "keep", f"one of {', '.join(KEEPS)}")
        check(self.patience is None or self.patience >= 1, "patience", "at least 1")
        check(self.patience is None or self.keep == "best", "patience", "left out where the last epoch is kept")
        check(0 <= self.momentum < 1, "momentum", "at least 0 and less than 1")
        check(isfinite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "0 or more")
        check(0 <= self.seed < 2**64, "seed", "0 to 2**64 - 1")
        check(self.checkpoint_minutes >= 0, "checkpoint_minutes", "0 or more")
        check(self.workers is None or self.workers >= 1, "workers", "at least 1")

    @property
    def total_epochs(self) -> int:
        return self.head_epochs + self.epochs

    @property
    def link(self) -> Link:
        """What the loss asks of the network's last layer."""
        return LOSSES[self.loss].link

    def phase(self, epoch: int) -> Phase:
        """Which phase an epoch, counted from 0 over both, belongs to."""
        return "head" if epoch < self.head_epochs else "finetune"


def as_options(name: str, value: Any) -> list[str]:
    """A setting as `trainer fit` is told it.

    >>> as_options("head_epochs", 3), as_options("tta", True), as_options("tta", False)
    (['--head-epochs', '3'], ['--tta'], ['--no-tta'])
    """
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


@dataclass(frozen=True)
class RunConfig:
    """What config.json holds."""

    asked: FitConfig
    resolved: FitConfig
    cache: str
    """Absolute path of the cache."""
    cache_digest: str
    recipe: dict[str, Any]
    """How the cache's photographs were prepared."""
    photographs: dict[str, int]
    """By split."""
    versions: dict[str, str]
    data_set: str = ""
    """Titles of the known sets that gave the grades; "" where none is known, and in runs from before this was kept."""
    synthetic: dict[str, int] = field(default_factory=dict)
    """By split, how many of the photographs `tools phantom` drew or painted; empty in runs from before this was
    kept."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RunConfig":
        """Raises ValueError where the fields are not those of a config.json."""
        try:
            settings = {name: FitConfig(**fields[name]) for name in ("asked", "resolved")}
            return cls(**(fields | settings))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a run's settings: {error}") from error
