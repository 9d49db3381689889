"""The `trainer` command. Bodies import what they need when they run: `--help` answers at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from pipeline.options import LARGEST, MOST_A_BATCH, MOST_EPOCHS, SMALLEST, WORKERS, Finite, Text
from pipeline.storage.artifacts import EXPLAINED
from pipeline.storage.local_cache import local_cache_gb_option, local_cache_option
from pipeline.storage.outputs import GuardedGroup, OutputFile, OutputFolder, OutputPlace, kept
from pipeline.storage.url import Folder, Url, place
from trainer.config import (
    CLASS_WEIGHTS,
    DEVICES,
    GRADE_BY,
    KEEPS,
    LOADERS,
    LOSSES,
    MODELS,
    PRECISIONS,
    SAMPLINGS,
    SCHEDULES,
    STEMS,
    FitConfig,
)
from trainer.kinds import (
    CARD,
    ONNX,
    PAGE,
    PREDICTIONS,
    PT2,
    RANGE_TEST,
    beside_figure,
    beside_predictions,
    comparison_parts,
    is_explained_file,
)
from trainer.presets import RECIPES
from trainer.run_folder import unfit_name

FOLDER = Folder(path_type=Path)
DEFAULT = FitConfig()
LR_FIGURE = OutputFile(RANGE_TEST, lambda path: beside_figure(path, RANGE_TEST))


class PixelsOrShare(Finite):
    """Whole pixels as an int."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return int(number) if number % 1 == 0 else number


class SetName(Text):
    """Of a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = super().convert(value, param, ctx)
        if problem := unfit_name(name):
            self.fail(problem, param, ctx)
        return name


MOST_REFIT = 1_000_000
SHARE_WANTED = Finite(0, 1, min_open=True)


class SayingOnce(GuardedGroup):
    """Where torchrun started several processes, one of them says what is wrong, and torchrun's report has it too."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if os.environ.get("WORLD_SIZE", "1") != "1":
                from trainer.distributed.process_group import report

                if not report(error.format_message()):
                    raise SystemExit(error.exit_code) from error
            raise


@click.group(cls=SayingOnce, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="fundus-grading")
def main() -> None:
    """Train ResNets to grade diabetic retinopathy, and measure them."""


def _asked(context: click.Context, settings: Mapping[str, Any]) -> tuple[FitConfig, dict[str, Any]]:
    """The settings of a training as asked for, and those among them that were given."""
    given = {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    try:
        return FitConfig(**{**RECIPES.get(settings["recipe"], {}), **given}), given
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@main.command()
@click.option("--recipe", type=click.Choice(list(RECIPES)),
              help="Defaults of other options by name; those given here override it.")  # fmt: skip
@click.option(
    "--cache", type=Text(), default=DEFAULT.cache, help="A cache that `tools preprocess` made, folder or URL."
)
@click.option(
    "--loader", type=click.Choice(LOADERS), default=DEFAULT.loader, help="auto: dali on a GPU where it is installed."
)
@click.option("--model", type=click.Choice(MODELS), default=DEFAULT.model, help="A ResNet of torchvision.")
@click.option("--stem", type=click.Choice(STEMS), default=DEFAULT.stem,
              help="The first layers. small: at full resolution, for images below 64 px; auto: by size.")  # fmt: skip
@click.option("--weights", type=Text(), default=DEFAULT.weights, metavar="auto|imagenet|none|FILE",
              help="auto: ImageNet's if they can be had. FILE: torchvision's .pth or a model.safetensors.")  # fmt: skip
@click.option("--head-epochs", type=click.IntRange(0, MOST_EPOCHS), default=DEFAULT.head_epochs,
              help="Epochs for the last layer alone, where weights are pretrained.")  # fmt: skip
@click.option("--views", type=click.IntRange(1, MOST_EPOCHS), default=DEFAULT.views,
              help="Augmented views of a photograph that those epochs alternate; each costs a pass.")  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(0, MOST_EPOCHS), default=DEFAULT.epochs, help="Epochs for all layers, after those."
)
@click.option("--batch", type=click.IntRange(1, MOST_A_BATCH), default=DEFAULT.batch, help="Photographs a step.")
@click.option(
    "--size", type=click.IntRange(SMALLEST, LARGEST), help="Side of the training images, pixels.  [default: as cached]"
)
@click.option("--start-size", type=PixelsOrShare(0, min_open=True),
              help="Of the first fine-tuning epoch's, pixels or a share: they grow to --size over two thirds of the "
                   "epochs. 1: they do not grow.")  # fmt: skip
@click.option("--lr", type=float, default=DEFAULT.lr, help="Highest learning rate.")
@click.option("--schedule", type=click.Choice(SCHEDULES), default=DEFAULT.schedule,
              help="Of the learning rate. cosine: warm-up, then half a cosine to 0.")  # fmt: skip
@click.option("--layer-decay", type=float, default=DEFAULT.layer_decay,
              help="Share of the next stage's learning rate that each stage of the network has.")  # fmt: skip
@click.option("--momentum", type=float, default=DEFAULT.momentum, help="Of SGD.")
@click.option(
    "--weight-decay", type=float, default=DEFAULT.weight_decay, help="Of SGD; biases and BatchNorm have none."
)
@click.option("--class-weights", type=click.Choice(CLASS_WEIGHTS), default=DEFAULT.class_weights,
              help="Whether rare grades count more, by their number or their effective number.")  # fmt: skip
@click.option("--sampling", type=click.Choice(SAMPLINGS), default=DEFAULT.sampling,
              help="balanced: as many photographs of each grade an epoch, rare ones several times.")  # fmt: skip
@click.option("--loss", type=click.Choice(list(LOSSES)), default=DEFAULT.loss,
              help="Cross entropy, focal, CORN (ordinal), or squared error of the grade.")  # fmt: skip
@click.option("--label-smoothing", type=float, default=DEFAULT.label_smoothing,
              help="Share of a label spread over all grades; with ce and corn.")  # fmt: skip
@click.option("--zoom", type=float, default=DEFAULT.zoom,
              help="Show training images up to so many times larger and smaller, besides turned.")  # fmt: skip
@click.option("--colour", type=float, default=DEFAULT.colour,
              help="Vary their brightness, contrast and saturation by up to this share.")  # fmt: skip
@click.option("--mixup", type=float, default=DEFAULT.mixup, metavar="ALPHA",
              help="Mix photographs of a batch by Beta(ALPHA, ALPHA), but not for the last layer alone.")  # fmt: skip
@click.option("--cutmix", type=float, default=DEFAULT.cutmix, metavar="ALPHA",
              help="Paste rectangles of one into another; with --mixup, either at random.")  # fmt: skip
@click.option("--tta/--no-tta", default=DEFAULT.tta,
              help="Measure the weights kept as the mean over the eight flips and turns.")  # fmt: skip
@click.option("--grade-by", type=click.Choice(GRADE_BY), default=DEFAULT.grade_by,
              help="Predict the likeliest grade, or the expected one cut where val's kappa is best.")  # fmt: skip
@click.option("--ema", type=float, default=DEFAULT.ema, metavar="DECAY",
              help="Measure and save a moving average of the weights, e.g. 0.99 a step; 0: the weights.")  # fmt: skip
@click.option("--keep", type=click.Choice(KEEPS), default=DEFAULT.keep,
              help="Weights of the best epoch by kappa, or of the last: few photographs choose by luck.")  # fmt: skip
@click.option("--patience", type=click.IntRange(1, MOST_EPOCHS),
              help="Stop after so many epochs without a better one by kappa.  [default: never]")  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=DEFAULT.seed,
    help="Of the first weights, order and augmentation.",
)
@click.option("--device", type=click.Choice(DEVICES), default=DEFAULT.device, help="auto: the fastest there is.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=DEFAULT.precision,
              help="Of training steps. auto: bfloat16 on GPUs and CPUs that have circuits for it.")  # fmt: skip
@click.option("--workers", type=WORKERS, help="Threads of the loader.  [default: the loader's choice]")
@click.option("--track-test", is_flag=True, help="Measure test after each epoch too, for the curve; never to choose.")
@click.option("--compile", is_flag=True,
              help="Compile the network by torch.compile: minutes at first, then faster steps.")  # fmt: skip
@click.option("--checkpoint-minutes", type=Finite(0), default=DEFAULT.checkpoint_minutes,
              help="Between checkpoints; there is one after each epoch and at SIGTERM too.")  # fmt: skip
@click.option("--find-lr", is_flag=True, help="Propose a learning rate, draw why into lr.png, and leave no run.")
@click.option("--run", type=OutputPlace(), help="Folder of the run.  [default: runs/MODEL-WEIGHTS-SIZEpx-LOADER]")
@click.option("--resume", is_flag=True, help="Continue --run, or else the newest unfinished run, as it was started.")
@local_cache_option
@local_cache_gb_option
@click.pass_context
def fit(context: click.Context, /, run: Path | None, resume: bool, find_lr: bool, **settings: Any) -> None:
    """Train on a cache, keep one epoch's weights, measure them on test."""
    if find_lr and (resume or run):
        raise click.UsageError(f"--find-lr trains no run; leave out {'--resume' if resume else '--run'}")
    asked, given = _asked(context, settings)

    from trainer.commands import fit as launch
    from trainer.distributed.process_group import from_first, joined, world
    from trainer.network.device import choose_device
    from trainer.run_folder import RunFolder

    with joined(choose_device(asked.device)):
        if find_lr and world() > 1:
            raise click.UsageError("--find-lr serves one process; its proposal holds for several, whose batch is one")
        if find_lr:
            figure = Path("lr.png")
            with kept(LR_FIGURE.check(figure, [])):
                launch.find_lr(asked, figure)
            return
        if from_first(lambda: resume and (run is None or RunFolder(run).started)):
            finished = launch.resume(run, given)
        else:
            finished = launch.start(asked, run)
        figures = (finished.accuracy_figure, finished.confusion_figure("test"))
        drawn = ", ".join(figure.name for figure in figures if figure.exists())
        click.echo(f"results: {finished.path}/ ({drawn}, ...)")


NOT_OF_FOLDS: Final = ("run", "resume", "find_lr")


@main.command(params=[option for option in fit.params if option.name not in NOT_OF_FOLDS])
@click.option("--folds", "count", type=click.IntRange(2, 100), default=5, help="How many; each is test once.")
@click.option("--split", type=click.Choice(["train-val", "all"]), default="train-val",
              help="all: the photographs of test are folded in too. train-val: they stay closed.")  # fmt: skip
@click.option("--run", type=OutputPlace(), default=Path("runs/folds"), help="Folder of the runs, one a fold.")
@click.pass_context
def folds(context: click.Context, /, run: Path, count: int, split: str, **settings: Any) -> None:
    """Cross-validate: train a run for each fold of the patients, and measure all photographs by networks that have not
    seen them. Takes every option of fit; the same command goes on after an interruption."""
    asked, given = _asked(context, settings)

    from trainer.commands.folds import folds as cross_validate
    from trainer.distributed.process_group import joined
    from trainer.network.device import choose_device

    with joined(choose_device(asked.device)):
        cross_validate(asked, given, count, run, whole=split == "all")


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]),
              help="Which photographs.  [default: test; of another cache than the run's own: all]")  # fmt: skip
@click.option("--cache", "caches", type=place, multiple=True,
              help="Where the run's own was moved to, or another: an external set, measured into RUN/external/NAME. "
                   "May be given several times.")  # fmt: skip
@click.option("--name", "names", type=SetName(), multiple=True,
              help="NAME of an external set, once for each --cache.  [default: the cache's folder, or the one above "
                   "where that is called cache]")  # fmt: skip
@click.option("--refit", type=click.IntRange(1, MOST_REFIT), metavar="N",
              help="Choose a threshold anew on at most N photographs of an external set, by patient, and measure the "
                   "rest: what that would buy, and how many it takes.")  # fmt: skip
@local_cache_option
@local_cache_gb_option
@click.option("--loader", type=click.Choice(LOADERS), default="auto", help="auto: dali on a GPU where it is installed.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads of the loader.  [default: the loader's choice]")
@click.option("--sensitivity", type=SHARE_WANTED,
              help="Wanted for referable DR: a threshold chosen on val.  [default: the weights' own]")  # fmt: skip
@click.option("--specificity", type=SHARE_WANTED, help="Wanted instead of a sensitivity.")
@click.option("--prevalence", type=Finite(0, 1), help="Of another population: its PPV and NPV too.")
@click.option("--tta/--no-tta", default=None,
              help="Mean over the eight flips and turns of each photograph.  [default: as fit was told]")  # fmt: skip
@click.option("--by", type=click.Choice(["photograph", "patient"]), default="photograph",
              help="patient: print his or her worse eye's figures too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the file of metrics instead of tables.")
def evaluate(
    run: Path,
    split: str | None,
    caches: tuple[Path | Url, ...],
    names: tuple[str, ...],
    refit: int | None,
    loader: str,
    device: str,
    workers: int | None,
    sensitivity: float | None,
    specificity: float | None,
    prevalence: float | None,
    tta: bool | None,
    by: str,
    as_json: bool,
) -> None:
    """Measure RUN's weights on a split of its cache; rewrites the split's predictions, metrics and confusion matrix.

    Or on other caches (external validation): each into RUN/external/NAME, with a table and a forest plot of all.
    """
    if sensitivity is not None and specificity is not None:
        raise click.UsageError("--sensitivity and --specificity are two ways to choose one threshold; give one")
    if names and len(names) != len(caches):
        raise click.UsageError(f"{len(names)} --name for {len(caches)} --cache; give one for each, in the same order")
    if refit and not caches:
        raise click.UsageError("--refit is for another cache than the run's own; give --cache")
    if len(caches) > 1 and (as_json or by == "patient"):
        raise click.UsageError(f"{'--json' if as_json else '--by patient'} is for one cache at a time")

    from trainer.commands.evaluate import evaluate as measure
    from trainer.evaluation.operating_point import Wish
    from trainer.reporting.external import print_sites
    from trainer.reporting.tables import print_by_grade, print_results
    from trainer.run_folder import RunFolder

    wish = None
    if sensitivity is not None:
        wish = Wish("sensitivity", sensitivity)
    elif specificity is not None:
        wish = Wish("specificity", specificity)
    measured = measure(run, caches, names, split, loader, device, workers, wish, prevalence, tta, refit)
    if as_json:
        ((target, _),) = measured.results
        click.echo(target.files.metrics.read_text("utf-8"), nl=False)
        return
    if len(measured.results) == 1:
        ((target, results),) = measured.results
        columns = {target.what: results}
        if by == "patient" and results.by_patient:
            columns[f"{target.what}, by patient"] = results.by_patient
        elif by == "patient":
            click.echo(f"no patient has two graded photographs of {target.what}: by patient is by photograph", err=True)
        print_results(columns)
        print_by_grade(results)
    if measured.sites:
        print_sites(measured.sites)
        folders = [target.files.metrics.parent for target, _ in measured.results if target.name]
        click.echo(f"written: {' '.join(map(str, [*folders, RunFolder(run).forest_figure]))}")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option(
    "--out",
    type=OutputFile(None, comparison_parts),
    default=Path("compare"),
    help="Writes OUT.png, OUT.csv and OUT_pairs.csv.",
)
def compare(runs: tuple[Path, ...], out: Path) -> None:
    """Draw RUNs' accuracy by epoch, a panel a model, with and without pretraining; list their results, and how each
    differs from the first on the same test photographs."""
    from trainer.commands.compare import compare as draw

    draw(runs, out)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", help="Which photographs.")
@click.option("--cache", type=place, help="Where the cache that was measured lies now, if it was moved.")
@click.option(
    "--out", type=OutputFile(PAGE), help="The page.  [default: RUN/report.html, of another split report_SPLIT.html]"
)
@click.option("--card", type=OutputFile(CARD), help="Write a model card too, as Markdown.")
def report(run: Path, split: str, cache: Path | Url | None, out: Path | None, card: Path | None) -> None:
    """Put RUN's figures, pictures and photographs on one page that needs no network."""
    from trainer.commands.report import report as write

    write(run, split, cache, out, card)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("photographs", nargs=-1, required=True, type=FOLDER, metavar="PHOTO|FOLDER|CACHE...")
@click.option(
    "--out",
    type=OutputFile(PREDICTIONS, beside_predictions),
    default=Path("predictions.csv"),
    help="Writes it, and beside it what is refused.",
)
@click.option("--tta/--no-tta", default=None,
              help="Mean over the eight flips and turns, in eight times the time.  [default: as measured]")  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads that read photographs.  [default: one a core]")
@click.option("--defer", type=Finite(0, 1), metavar="SHARE",
              help="Leave the least sure to a human, as many as that share of validation, in a column.")  # fmt: skip
def predict(
    run: Path,
    photographs: tuple[Path, ...],
    out: Path,
    tta: bool | None,
    device: str,
    workers: int | None,
    defer: float | None,
) -> None:
    """Grade photographs with RUN's weights, or those of a model.safetensors.

    They are prepared exactly as the training photographs were, whatever their format and size. One that cannot be read
    is refused with the reason; one unlike all training photographs is graded and flagged.
    """
    from trainer.commands.predict import predict as grade

    grade(run, photographs, out, tta=tta, device_name=device, workers=workers, defer=defer)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("photographs", nargs=-1, required=True, type=FOLDER, metavar="PHOTO|FOLDER|CACHE...")
@click.option(
    "--out", type=OutputFolder(EXPLAINED, is_explained_file), default=Path("explained"), help="Folder for the pictures."
)
@click.option("--grade", type=click.IntRange(0, 4), help="Which to explain.  [default: the predicted one]")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads that read photographs.  [default: one a core]")
def explain(
    run: Path, photographs: tuple[Path, ...], out: Path, grade: int | None, device: str, workers: int | None
) -> None:
    """Show where in photographs the evidence for their grade lies (Grad-CAM): a picture each, and a contact sheet."""
    from trainer.commands.explain import explain as show

    show(run, photographs, out, grade=grade, device_name=device, workers=workers)


@main.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="0: any free one.  [default: 8000; any where that is taken]"
)
@click.option("--host", type=Text(), metavar="ADDRESS",
              help="Open the page to others too, by a token.  [default: this machine alone]")  # fmt: skip
@click.option("--defer", type=Finite(0, 1), metavar="SHARE",
              help="Leave the least sure to a human, as many as that share of validation.  [default: 0.1]")  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
def serve(run: Path, port: int | None, host: str | None, defer: float | None, device: str) -> None:
    """Show a page on this machine, where photographs that are dropped on it are graded with RUN's weights, or those of
    a model.safetensors. Nothing is stored."""
    from trainer.commands.serve import serve as show_page

    show_page(run, host=host, port=port, defer=defer, device_name=device)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--onnx", type=OutputFile(ONNX), metavar="FILE", help="Write ONNX, for onnxruntime and others.")
@click.option("--pt2", type=OutputFile(PT2), metavar="FILE", help="Write what torch.export.load reads.")
def export(run: Path, onnx: Path | None, pt2: Path | None) -> None:
    """Write RUN's weights for other programs: uint8 images in, probabilities out, any number at a time.

    Each file is compared with PyTorch on the run's photographs before it is put in place.
    """
    if onnx is None and pt2 is None:
        raise click.UsageError("nothing to write; give --onnx FILE, --pt2 FILE or both")

    from trainer.commands.export import export as write

    write(run, onnx, pt2)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: Path, as_json: bool) -> None:
    """Say what RUN's weights, or those of a model.safetensors, are."""
    from trainer.commands.show import show as say

    say(run, as_json)
