"""The options of `trainer fit`, which `trainer folds` takes too; docs/training.md has them as tables."""

from typing import Any, Final

import click

from pipeline.command_line import WORKERS, Decorated, Finite, Text, local_cache_gb_option, local_cache_option, section
from pipeline.limits import LARGEST, MOST_A_BATCH, MOST_EPOCHS, SMALLEST
from trainer.config import (
    CLASS_WEIGHTS,
    DEVICES,
    GRADE_BY,
    KEEPS,
    LOADERS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    PRECISIONS,
    SAMPLINGS,
    SCHEDULES,
    STEMS,
    FitConfig,
)
from trainer.config_file import ConfigFile
from trainer.fellow_run import FellowRun
from trainer.plugs import FORM, is_plug
from trainer.presets import PRESETS

DEFAULT: Final = FitConfig()
SEED: Final = click.IntRange(0, 2**64 - 1)


class PixelsOrFraction(Finite):
    """Whole pixels as an int."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return int(number) if number % 1 == 0 else number


class Function(click.ParamType[str]):
    """A function of the user's."""

    name = FORM

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_plug(value):
            self.fail(f"{value[:40]!r} is not of the form {FORM}.", param, ctx)
        return str(value)


class NamedOrFunction(click.Choice[str]):
    """One of some names, or a function of the user's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return Function().convert(value, param, ctx) if ":" in value else super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.choices)}|{FORM}]"


_data = section("Data and network")
_length = section("Length and learning rate")
_grades = section("Rare grades")
_augmentation = section("Augmentation")
_machine = section("Machine and curves")

# fmt: off
_OPTIONS: Final = (
    _data("--config", type=ConfigFile(), is_eager=True, expose_value=False, metavar="FILE",
          help="Settings from a TOML file (epochs = 30), or from the config.json of a run. Options on the command "
               "line override them."),
    _data("--recipe", type=click.Choice(list(PRESETS)),
          help="A preset: it sets defaults of other options. Options on the command line override it."),
    _data("--cache", type=Text(), default=DEFAULT.cache,
          help="The cache to train on, a folder or a URL; `tools preprocess` makes it."),
    _data("--loader", type=click.Choice(LOADERS), default=DEFAULT.loader,
          help="auto: dali if it is installed and there is a CUDA GPU."),
    _data("--model", type=NamedOrFunction(MODELS), default=DEFAULT.model,
          help="A network of torchvision, or a function of yours that gives one: docs/plugs.md."),
    _data("--stem", type=click.Choice(STEMS), default=DEFAULT.stem,
          help="The first layers. small: full resolution, for images below 64 px. auto: small or imagenet, by size. "
               "coarse: faster. Images of 256 px take a third longer than images of 128 px without it."),
    _data("--weights", type=Text(), default=DEFAULT.weights, metavar="auto|imagenet|none|FILE",
          help="auto: ImageNet weights if they are on this machine or can be downloaded. FILE: torchvision's .pth or a "
               "model.safetensors."),
    _data("--fellow-eye", type=FellowRun(), is_eager=True, metavar="RUN",
          help="Teach the network of a finished run to use the photograph of the patient's other eye too. Only its "
               "last layer is trained, most settings are kept. `trainer folds` takes a folder of folds."),
    _data("--size", type=click.IntRange(SMALLEST, LARGEST),
          help="Side of the training images, pixels.  [default: as cached]"),
    _data("--start-size", type=PixelsOrFraction(0, min_open=True),
          help="Image size in the first epoch, in pixels or as a fraction of --size. It grows to --size over two "
               "thirds of the epochs.  [default: as --size]"),
    _length("--head-epochs", type=click.IntRange(0, MOST_EPOCHS), default=DEFAULT.head_epochs,
            help="Epochs for the last layer alone, with pretrained weights."),
    _length("--views", type=click.IntRange(1, MOST_EPOCHS), default=DEFAULT.views,
            help="Augmented copies per photograph while the last layer is trained."),
    _length("--epochs", type=click.IntRange(0, MOST_EPOCHS), default=DEFAULT.epochs, help="Epochs for all layers."),
    _length("--batch", type=click.IntRange(1, MOST_A_BATCH), default=DEFAULT.batch, help="Photographs per step."),
    _length("--lr", type=float, default=DEFAULT.lr, help="The highest learning rate."),
    _length("--schedule", type=click.Choice(SCHEDULES), default=DEFAULT.schedule,
            help="Schedule of the learning rate. cosine: warm-up, then half a cosine to 0."),
    _length("--layer-decay", type=float, default=DEFAULT.layer_decay,
            help="Each stage's learning rate as a fraction of the next stage's."),
    _length("--optimizer", type=click.Choice(list(OPTIMIZERS)), default=DEFAULT.optimizer,
            help="adamw: the defaults of --lr and --weight-decay are then 0.001 and 0.05."),
    _length("--momentum", type=float, default=DEFAULT.momentum, help="Momentum of SGD, beta1 of AdamW."),
    _length("--weight-decay", type=float, default=DEFAULT.weight_decay,
            help="Weight decay of SGD; biases and BatchNorm have none."),
    _length("--ema", type=float, default=DEFAULT.ema, metavar="DECAY",
            help="Measure and save a moving average of the weights, e.g. 0.99 per step.  0: no average."),
    _length("--patience", type=click.IntRange(1, MOST_EPOCHS),
            help="Stop after this many epochs without a better kappa.  [default: never]"),
    _length("--keep", type=click.Choice(KEEPS), default=DEFAULT.keep,
            help="Keep the epoch with the best kappa, or the last one. Use last if validation has few "
                 "photographs: which epoch is best is then mostly chance."),
    _grades("--class-weights", type=click.Choice(CLASS_WEIGHTS), default=DEFAULT.class_weights,
            help="Rare grades count more in the loss: by their inverse number or their effective number."),
    _grades("--sampling", type=click.Choice(SAMPLINGS), default=DEFAULT.sampling,
            help="balanced: an epoch has the same number of photographs of each grade; rare ones come several times. "
                 "fading: balanced in the first epoch, less so in each later one, and natural in the last."),
    _grades("--loss", type=NamedOrFunction(list(LOSSES)), default=DEFAULT.loss,
            help="Cross entropy, focal, CORN (ordinal), squared error of the grade, or a function of yours."),
    _grades("--grade-by", type=click.Choice(GRADE_BY), default=DEFAULT.grade_by,
            help="likeliest: the grade with the highest probability. expected: the mean grade; the limits between "
                 "grades are those with the best kappa on validation."),
    _augmentation("--zoom", type=float, default=DEFAULT.zoom,
                  help="Show training images up to this many times larger or smaller."),
    _augmentation("--colour", type=float, default=DEFAULT.colour,
                  help="Vary brightness, contrast and saturation by up to this fraction."),
    _augmentation("--augment", type=Function(),
                  help="A function of yours that changes each batch of training images further: docs/plugs.md."),
    _augmentation("--mixup", type=float, default=DEFAULT.mixup, metavar="ALPHA",
                  help="Mix two photographs by Beta(ALPHA, ALPHA) while all layers are trained."),
    _augmentation("--cutmix", type=float, default=DEFAULT.cutmix, metavar="ALPHA",
                  help="Paste a rectangle of one photograph into another. With --mixup, one of the two at random."),
    _augmentation("--label-smoothing", type=float, default=DEFAULT.label_smoothing,
                  help="Spread this fraction of each label over all grades; with ce and corn."),
    _augmentation("--tta/--no-tta", default=DEFAULT.tta,
                  help="Measure the mean over eight flips and turns of each photograph."),
    _machine("--seed", type=SEED, default=DEFAULT.seed,
             help="Seed of the first weights, the order and the augmentation."),
    _machine("--device", type=click.Choice(DEVICES), default=DEFAULT.device, help="auto: the fastest there is."),
    _machine("--precision", type=click.Choice(PRECISIONS), default=DEFAULT.precision,
             help="Precision of training steps. auto: bfloat16 if the processor computes it fast."),
    _machine("--workers", type=WORKERS, help="Threads of the loader.  [default: the loader's choice]"),
    _machine("--compile", is_flag=True,
             help="Compile the network with torch.compile. This takes minutes; then the steps are faster."),
    _machine("--checkpoint-minutes", type=Finite(0), default=DEFAULT.checkpoint_minutes,
             help="Minutes between checkpoints; there is one after each epoch too."),
    _machine("--track-test", is_flag=True,
             help="Measure test after each epoch too, for the curve. It is never used to choose."),
    local_cache_option,
    local_cache_gb_option,
)
# fmt: on


def fit_options(command: Decorated) -> Decorated:
    """Gives a command all options of a training, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
