"""The settings of a run: what `trainer fit` was asked for, and what config.json holds."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

from pipeline.limits import SMALLEST
from trainer.plugs import FORM, Plug, is_plug
from trainer.presets import PRESETS

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
"""torchvision's ResNets. They are listed here because `--help` must not import torchvision, which takes seconds."""
CLASS_WEIGHTS: Final = ("none", "inverse", "effective")
SAMPLINGS: Final = ("natural", "balanced", "fading")
GRADE_BY: Final = ("likeliest", "expected")
KEEPS: Final = ("best", "last")
OPTIMIZERS: Final = {"sgd": "SGD", "adamw": "AdamW"}
"""Name of the option's value -> its title on pages."""
SCHEDULES: Final = ("cosine", "constant")
STEMS: Final = ("auto", "imagenet", "small", "coarse")
SMALL_BELOW: Final = 64
"""Image size, pixels, below which the small stem is taken. With its own stem a ResNet's last feature map has 2 x 2
cells for 64 pixels."""
LOADERS: Final = ("auto", "dali", "torchvision")
DEVICES: Final = ("auto", "cpu", "cuda", "mps")
PRECISIONS: Final = ("auto", "float32", "bfloat16")

Link = Literal["softmax", "corn", "distance"]
"""How the scores of the last layer become logits of the grades; see trainer.network.model.Head."""


class Loss(NamedTuple):
    """The properties of a loss. Its formula is in trainer.training.losses."""

    title: str  # on pages and cards
    link: Link  # the kind of last layer that it needs
    smooths: bool  # whether label smoothing is allowed


LOSSES: Final = {
    "ce": Loss("cross entropy", "softmax", True),
    "focal": Loss("focal loss", "softmax", False),
    "corn": Loss("CORN, which knows the grades' order", "corn", True),
    "mse": Loss("squared error of the grade", "distance", False),
}


def loss_named(name: str) -> Loss:
    """The properties of a loss: one of LOSSES, or a function of the user's, which takes logits for a softmax."""
    return LOSSES.get(name) or Loss(f"the function {name}", "softmax", False)


Phase = Literal["head", "finetune"]


@dataclass(frozen=True)
class FitConfig:
    """The settings of `trainer fit`. config.json keeps them as asked for and as resolved, which has no "auto".

    Raises ValueError with the value for a setting that is not allowed.
    """

    recipe: str | None = None  # the preset that the other settings started from
    cache: str = "cache"
    loader: str = "auto"
    model: str = "resnet18"  # or package.module:function, see docs/plugs.md
    stem: str = "imagenet"  # "small": for images below 64 pixels, from scratch; "auto": by the size; "coarse": faster
    weights: str = "auto"  # "auto", "imagenet", "none", or a file
    fellow_eye: str | None = None  # the run whose network learns to use the patient's other eye too; None: one eye
    head_epochs: int = 3  # on a frozen backbone; only with pretrained weights
    views: int = 1  # augmented copies of each photograph in the head phase
    epochs: int = 20  # of fine-tuning all layers
    batch: int = 32
    size: int | None = None  # image size, pixels; None: as cached
    start_size: float | None = None  # image size of the first epoch, pixels or a fraction of the size; None: no growth
    lr: float = 0.01  # the highest learning rate
    schedule: str = "cosine"  # after a warm-up; "constant": no change
    layer_decay: float = 1  # learning rate of each stage of the network, by that of the next
    optimizer: str = "sgd"
    momentum: float = 0.9  # of SGD; beta1 of AdamW
    weight_decay: float = 5e-4
    class_weights: str = "none"
    sampling: str = "natural"  # "balanced": as many photographs of each grade an epoch; "fading": less so each epoch
    loss: str = "ce"  # or package.module:function, as model
    augment: str | None = None  # package.module:function that changes training images further
    label_smoothing: float = 0  # fraction of each label that is spread over all grades
    zoom: float = 1  # images are up to this many times larger or smaller; 1: unchanged
    colour: float = 0  # fraction by which brightness, contrast and saturation vary
    mixup: float = 0  # alpha of mixup's Beta distribution; 0: no mixup
    cutmix: float = 0  # the same for CutMix
    tta: bool = False  # the finished run is measured as the mean over eight flips and turns
    grade_by: str = "likeliest"  # "expected": the expected grade, with ordinal thresholds fitted on validation
    ema: float = 0  # decay per step of the moving average of weights, which is measured and saved; 0: no average
    keep: str = "best"  # epoch with the best kappa on validation, or "last": small validation sets pick by chance
    patience: int | None = None  # training stops after this many epochs without a better one
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # of training steps; "auto": bfloat16 if the device computes it fast
    workers: int | None = None  # None: the loader's own choice
    track_test: bool = False
    together: int | None = None  # shards in a shuffle block, if the local cache cannot hold all; set when resolved
    compile: bool = False  # whether torch.compile compiles the network for training steps
    checkpoint_minutes: float = 10  # between checkpoints within an epoch

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

        check(self.recipe is None or self.recipe in PRESETS, "recipe", f"one of {', '.join(PRESETS)}")
        check(self.stem in STEMS, "stem", f"one of {', '.join(STEMS)}")
        check(self.stem != "small" or self.weights != "imagenet", "stem", "imagenet or coarse with ImageNet's weights")
        check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        own = is_plug(self.model)
        check(self.model in MODELS or own, "model", f"one of {', '.join(MODELS)}, or {FORM}")
        check(not own or self.stem in ("auto", "imagenet"), "stem", "imagenet or auto with a network of your own")
        check(not own or self.weights != "imagenet", "weights", "auto, none or a file with a network of your own")
        check(self.augment is None or is_plug(self.augment), "augment", FORM)
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(self.class_weights in CLASS_WEIGHTS, "class_weights", f"one of {', '.join(CLASS_WEIGHTS)}")
        check(self.sampling in SAMPLINGS, "sampling", f"one of {', '.join(SAMPLINGS)}")
        check(self.loss in LOSSES or is_plug(self.loss), "loss", f"one of {', '.join(LOSSES)}, or {FORM}")
        check(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and less than 1")
        smooths = loss_named(self.loss).smooths
        check(smooths or self.label_smoothing == 0, "label_smoothing", f"0 with the loss {self.loss}")
        check(self.grade_by in GRADE_BY, "grade_by", f"one of {', '.join(GRADE_BY)}")
        check(self.loader in LOADERS, "loader", f"one of {', '.join(LOADERS)}")
        check(self.device in DEVICES, "device", f"one of {', '.join(DEVICES)}")
        check(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        check(self.head_epochs >= 0, "head_epochs", "0 or more")
        check(self.views >= 1, "views", "at least 1")
        check(self.epochs >= 0, "epochs", "0 or more")
        of_run = not self.fellow_eye or self.weights.endswith(".safetensors")
        check(of_run, "weights", "left out with fellow_eye: they are the run's")
        check(
            not self.fellow_eye or self.epochs == 0,
            "epochs",
            "0 with fellow_eye, which trains the last layer alone, in head_epochs",
        )
        check(not self.fellow_eye or self.head_epochs > 0, "head_epochs", "at least 1 with fellow_eye")
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
    def balanced(self) -> bool:
        """Whether the first epoch has equally many photographs of each grade."""
        return self.sampling != "natural"

    @property
    def fading(self) -> int | None:
        """The number of epochs in which balanced sampling becomes natural; None: it does not."""
        return max(2, self.total_epochs) if self.sampling == "fading" else None

    @property
    def link(self) -> Link:
        """The kind of last layer that the loss needs."""
        return loss_named(self.loss).link

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch, which counts from 0 over both phases."""
        return "head" if epoch < self.head_epochs else "finetune"


def as_options(name: str, value: Any) -> list[str]:
    """A setting as options of `trainer fit`.

    >>> as_options("head_epochs", 3), as_options("tta", True), as_options("tta", False)
    (['--head-epochs', '3'], ['--tta'], ['--no-tta'])
    """
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


@dataclass(frozen=True)
class RunConfig:
    """The contents of config.json."""

    asked: FitConfig
    resolved: FitConfig
    cache: str
    """Absolute path of the cache."""
    cache_digest: str
    recipe: dict[str, Any]
    """The preparation of the cache's photographs."""
    photographs: dict[str, int]
    """By split."""
    versions: dict[str, str]
    data_set: str = ""
    """Titles of the known data sets; "" if no known set was recognised, and in older runs."""
    synthetic: dict[str, int] = field(default_factory=dict)
    """Number of photographs that `tools phantom` drew or painted, by split; empty in older runs."""
    members: list[str] = field(default_factory=list)
    """Absolute paths of an ensemble's runs; empty for a run."""
    folds: str = ""
    """Absolute path of the folder of `trainer folds` that an ensemble's runs are in; "" for any other."""
    plugs: list[Plug] = field(default_factory=list)
    """The functions of the user's that the settings name, and what they need."""

    @property
    def fitted_on(self) -> str:
        """What the decision rule was fitted on, in words."""
        return "out-of-fold probabilities" if self.folds else "validation"

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        for name in ("members", "folds", "plugs"):
            if not fields[name]:
                del fields[name]  # a run by itself has the same config.json as in earlier versions
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RunConfig":
        """The inverse of `as_dict`. Raises ValueError for fields that are not those of a config.json."""
        try:
            settings = {name: FitConfig(**fields[name]) for name in ("asked", "resolved")}
            plugs = [Plug(**each) for each in fields.get("plugs", [])]
            return cls(**(fields | settings | {"plugs": plugs}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a run's settings: {error}") from error
