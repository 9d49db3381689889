"""The `trainer` command line. Commands import what they need when they run, so that `--help` takes under 0.5 s."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.command_line import (
    WORKERS,
    Finite,
    Folder,
    GuardedGroup,
    OutputFile,
    OutputFolder,
    ResumableOutput,
    Text,
    local_cache_gb_option,
    local_cache_option,
    section,
)
from pipeline.storage.artifacts import EXPLAINED
from pipeline.storage.outputs import kept
from pipeline.storage.url import Url, path_or_url
from trainer.config import DEVICES, LOADERS, FitConfig
from trainer.config_file import SETS_ALL
from trainer.fit_options import SEED, fit_options
from trainer.kinds import (
    CARD,
    ONNX,
    PAGE,
    PREDICTIONS,
    PT2,
    RANGE_TEST,
    beside_drawing,
    beside_predictions,
    comparison_parts,
    is_explained_file,
)
from trainer.presets import OPTIMIZER_DEFAULTS, PRESETS
from trainer.run_folder import FOLDED, unfit_name

if TYPE_CHECKING:
    from trainer.inference.gradcam import Style

FOLDER = Folder(path_type=Path)
RUN = section("Run")
LR_DRAWING = OutputFile(RANGE_TEST, lambda path: beside_drawing(path, RANGE_TEST))


class SetName(Text):
    """The name of an external set; it becomes the name of a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = super().convert(value, param, ctx)
        if problem := unfit_name(name):
            self.fail(problem, param, ctx)
        return name


class Seeds(click.ParamType[tuple[int, ...]]):
    """Different whole numbers, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(each.strip().isdecimal() for each in words):
            self.fail(f"{value[:20]!r}: give numbers from 0 on, with commas between them, such as 0,1,2.", param, ctx)
        seeds = tuple(SEED.convert(each, param, ctx) for each in words)
        if len(set(seeds)) < len(seeds) or len(seeds) > MOST_SEEDS:
            self.fail(f"{value[:20]!r}: give each seed once, and {MOST_SEEDS} at most.", param, ctx)
        return seeds


MOST_SEEDS = 100
MOST_REFIT = 1_000_000
FRACTION = Finite(0, 1, min_open=True)


class TrainerCommands(GuardedGroup):
    """Prints what the library logs. Prints an error once if torchrun started several processes, and puts it into
    torchrun's report."""

    def invoke(self, ctx: click.Context) -> Any:
        from trainer.console import log_on_terminal

        try:
            with log_on_terminal():
                return super().invoke(ctx)
        except click.ClickException as error:
            if os.environ.get("WORLD_SIZE", "1") != "1":
                from trainer.distributed.process_group import report

                if not report(error.format_message()):
                    raise SystemExit(error.exit_code) from error
            raise


@click.group(cls=TrainerCommands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="fundus-grading")
def main() -> None:
    """Train ResNets to grade diabetic retinopathy, and measure them."""


def _asked(context: click.Context, settings: Mapping[str, Any]) -> tuple[FitConfig, dict[str, Any]]:
    """The settings of a training, and those of them that the user gave. Presets fill in the others."""
    given = {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if context.meta.get(SETS_ALL) and context.get_parameter_source("recipe") is ParameterSource.COMMANDLINE:
        raise click.UsageError("a config.json sets all options, so --recipe sets nothing; leave one of them out")
    if settings["fellow_eye"] and context.get_parameter_source("recipe") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--fellow-eye keeps its run's settings, and --recipe sets others; leave out --recipe")
    if context.meta.get(SETS_ALL) and settings["fellow_eye"] and not (context.default_map or {}).get("fellow_eye"):
        raise click.UsageError(
            "this config.json is of a run of one eye, and --fellow-eye keeps its run's settings; leave out --config"
        )
    chosen = {**PRESETS.get(settings["recipe"], {}), **given}
    try:
        return FitConfig(**{**OPTIMIZER_DEFAULTS[settings["optimizer"]], **chosen}), given
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@main.command()
@fit_options
@RUN("--run", type=ResumableOutput(), help="Folder of the run.  [default: runs/MODEL-WEIGHTS-SIZEpx-LOADER-DATA]")
@RUN("--resume", is_flag=True, help="Continue --run, or else the newest unfinished run, as it was started.")
@RUN("--find-lr", is_flag=True, help="Propose a learning rate, draw why into lr.png, and train nothing.")
@click.pass_context
def fit(context: click.Context, /, run: Path | None, resume: bool, find_lr: bool, **settings: Any) -> None:
    """Train on a cache and measure on its test photographs."""
    if find_lr and (resume or run):
        raise click.UsageError(f"--find-lr trains no run; leave out {'--resume' if resume else '--run'}")
    asked, given = _asked(context, settings)
    if find_lr and asked.fellow_eye:
        raise click.UsageError("--find-lr trains all layers, and --fellow-eye the last one alone; leave out --find-lr")

    from trainer.commands import fit as launch
    from trainer.distributed.process_group import from_main, joined, world_size
    from trainer.network.device import choose_device
    from trainer.run_folder import RunFolder

    with joined(choose_device(asked.device)):
        if find_lr and world_size() > 1:
            raise click.UsageError(
                "--find-lr needs one process; its proposal holds for several too, because the batch is the same"
            )
        if find_lr:
            drawing = Path("lr.png")
            with kept(LR_DRAWING.check(drawing, [])):
                launch.find_lr(asked, drawing)
            return
        if from_main(lambda: resume and (run is None or RunFolder(run).started)):
            finished = launch.resume(run, given)
        else:
            finished = launch.start(asked, run)
        drawings = (finished.accuracy_drawing, finished.confusion_drawing("test"))
        drawn = ", ".join(each.name for each in drawings if each.exists())
        click.echo(f"results: {finished.path}/ ({drawn}, ...)")


@main.command()
@fit_options
@RUN("--folds", "count", type=click.IntRange(2, 100), default=5, help="How many; each is test once.")
@RUN("--seeds", type=Seeds(), default=(), metavar="S,S,...",
     help="Train each fold once for each of these seeds, and give the means. --seed draws the folds.  "
          "[default: --seed]")  # fmt: skip
@RUN("--split", type=click.Choice(list(FOLDED.values())), default=FOLDED[False],
     help="all: fold the photographs of test too. train-val: do not use them.")  # fmt: skip
@RUN("--run", type=ResumableOutput(), default=Path("runs/folds"), help="Folder of the runs, one a fold and seed.")
@click.pass_context
def folds(
    context: click.Context, /, run: Path, count: int, seeds: tuple[int, ...], split: str, **settings: Any
) -> None:
    """Cross-validate: train a network for each fold of patients.

    Each photograph is graded by a network that saw no photograph of that patient. Takes every option of fit. The same
    command continues after an interruption.
    """
    asked, given = _asked(context, settings)

    from trainer.commands.folds import folds as cross_validate
    from trainer.distributed.process_group import joined
    from trainer.network.device import choose_device

    with joined(choose_device(asked.device)):
        cross_validate(asked, given, count, run, seeds=seeds, with_test=split == FOLDED[True])


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]),
              help="Which photographs.  [default: test; of another cache than the run's own: all]")  # fmt: skip
@click.option("--cache", "caches", type=path_or_url, multiple=True,
              help="A cache to measure on: the run's own, if it was moved, or another one (an external set, whose "
                   "results go into RUN/external/NAME). May be given several times.")  # fmt: skip
@click.option("--name", "names", type=SetName(), multiple=True,
              help="NAME of an external set, once for each --cache.  [default: the cache's folder, or the one above "
                   "where that is called cache]")  # fmt: skip
@click.option("--refit", type=click.IntRange(1, MOST_REFIT), metavar="N",
              help="Refit the threshold on at most N photographs of an external set, all of a patient together, and "
                   "measure it on the rest. Shows what a refit would gain and how many photographs it needs."
              )  # fmt: skip
@local_cache_option
@local_cache_gb_option
@click.option("--loader", type=click.Choice(LOADERS), default="auto", help="auto: dali on a GPU where it is installed.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads of the loader.  [default: the loader's choice]")
@click.option("--sensitivity", type=FRACTION,
              help="Sensitivity wanted for referable DR; validation gives its threshold.  [default: the weights' own]"
              )  # fmt: skip
@click.option("--specificity", type=FRACTION, help="Specificity wanted instead.")
@click.option("--prevalence", type=Finite(0, 1), help="Prevalence in another population; adds its PPV and NPV.")
@click.option("--tta/--no-tta", default=None,
              help="Mean over the eight flips and turns of each photograph.  [default: as in the run]")  # fmt: skip
@click.option("--by", type=click.Choice(["photograph", "eye", "patient"]), default="photograph",
              help="Print results by eye (the mean of its photographs) or by patient (the worse eye) too."
              )  # fmt: skip
@click.option("--subgroup", "subgroups", type=Text(), multiple=True, metavar="COLUMN",
              help="A column that `tools preprocess --keep-column` kept, such as a clinic or a camera: figures of each "
                   "of its groups, and how they differ from the rest. May be given several times.")  # fmt: skip
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
    subgroups: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure a run again, or on other data sets.

    Without --cache it measures a split of the run's own cache, and replaces the predictions, metrics and confusion
    matrix of that split. Another cache is an external set: its results go into RUN/external/NAME, with a table and a
    forest plot of all sets.
    """
    if sensitivity is not None and specificity is not None:
        raise click.UsageError("--sensitivity and --specificity are two ways to choose one threshold; give one")
    if names and len(names) != len(caches):
        raise click.UsageError(f"{len(names)} --name for {len(caches)} --cache; give one for each, in the same order")
    if refit and not caches:
        raise click.UsageError("--refit is for another cache than the run's own; give --cache")
    if len(caches) > 1 and (as_json or by != "photograph"):
        raise click.UsageError(f"{'--json' if as_json else f'--by {by}'} is for one cache at a time")

    from trainer.commands.evaluate import HowToMeasure, print_measured
    from trainer.commands.evaluate import evaluate as measure
    from trainer.evaluation.operating_point import Wish

    wish = None
    if sensitivity is not None:
        wish = Wish("sensitivity", sensitivity)
    elif specificity is not None:
        wish = Wish("specificity", specificity)
    how = HowToMeasure(
        loader=loader,
        device=device,
        workers=workers,
        wish=wish,
        prevalence=prevalence,
        tta=tta,
        refit=refit,
        subgroups=subgroups,
    )
    measured = measure(run, caches, names, split, how)
    if as_json:
        ((target, _),) = measured.evaluations
        click.echo(target.files.metrics.read_text("utf-8"), nl=False)
    else:
        print_measured(measured, by)


@main.command()
@click.argument("out", type=ResumableOutput())
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option("--cache", type=path_or_url,
              help="Where the runs' cache is now, if it was moved. For folds: the cache that they were made from.  "
                   "[default: the runs' own; for folds cache]")  # fmt: skip
@local_cache_option
@local_cache_gb_option
@click.option("--loader", type=click.Choice(LOADERS), default="auto", help="auto: dali on a GPU where it is installed.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads of the loader.  [default: the loader's choice]")
def ensemble(
    out: Path, runs: tuple[Path, ...], cache: Path | Url | None, loader: str, device: str, workers: int | None
) -> None:
    """Make one network of several runs.

    RUN... are finished runs on one cache, or the folder of `trainer folds`. The probabilities are the mean of the runs'
    calibrated ones, calibrated once more. OUT is a folder that evaluate, predict, explain, report, export, show and
    serve take as a run.
    """
    from trainer.commands.ensemble import ensemble as combine

    combine(out, runs, cache, loader=loader, device_name=device, workers=workers)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option(
    "--out",
    type=OutputFile(None, comparison_parts),
    default=Path("compare"),
    help="Writes OUT.png, OUT.csv and OUT_pairs.csv; both tables have fractions from 0 to 1.",
)
def compare(runs: tuple[Path, ...], out: Path) -> None:
    """Compare runs: curves, results, and which differences are real.

    Draws accuracy and kappa by epoch, a column for each model, lists results and the options in which the runs differ,
    and tells how each run differs from the first on the same test photographs.
    """
    from trainer.commands.compare import compare as draw

    draw(runs, out)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", help="Which photographs.")
@click.option("--cache", type=path_or_url, help="Where the measured cache is now, if it was moved.")
@click.option(
    "--out", type=OutputFile(PAGE), help="The page.  [default: RUN/report.html, of another split report_SPLIT.html]"
)
@click.option("--card", type=OutputFile(CARD), help="Write a model card too, as Markdown.")
def report(run: Path, split: str, cache: Path | Url | None, out: Path | None, card: Path | None) -> None:
    """Write a page for clinicians: results, curves, photographs.

    The page is one file that needs no network connection.
    """
    from trainer.commands.report import report as write

    write(run, split, cache, out, card)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("photographs", nargs=-1, required=True, type=FOLDER, metavar="PHOTO|FOLDER|CACHE...")
@click.option(
    "--out",
    type=OutputFile(PREDICTIONS, beside_predictions),
    default=Path("predictions.csv"),
    help="The table to write. A table of refused files is written beside it.",
)
@click.option("--tta/--no-tta", default=None,
              help="Mean over the eight flips and turns, in eight times the time.  [default: as measured]")  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads that read photographs.  [default: one a core]")
@click.option("--eyes", type=Folder(path_type=Path), metavar="TABLE",
              help="For runs of --fellow-eye: a CSV table of whose eye each photograph shows, with the columns "
                   "id, patient, eye and, for several visits, visit.  "
                   "[default: from names such as 17_left]")  # fmt: skip
@click.option("--defer", type=Finite(0, 1), metavar="SHARE",
              help="Mark the least certain photographs, so that a person grades them: about this share of them. Blank, "
                   "ungradable and unusual ones are marked too. Adds the columns defer and defer_why.")  # fmt: skip
def predict(
    run: Path,
    photographs: tuple[Path, ...],
    out: Path,
    tta: bool | None,
    device: str,
    workers: int | None,
    eyes: Path | None,
    defer: float | None,
) -> None:
    """Grade new photographs.

    RUN is a run or a model.safetensors. Photographs are prepared exactly as the training photographs were, whatever
    their format and size. One that cannot be read is refused with the reason. One that is unlike all training
    photographs is graded and flagged.
    """
    from trainer.commands.predict import predict as grade

    grade(run, photographs, out, tta=tta, device_name=device, workers=workers, defer=defer, eyes=eyes)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("photographs", nargs=-1, required=True, type=FOLDER, metavar="PHOTO|FOLDER|CACHE...")
@click.option(
    "--out", type=OutputFolder(EXPLAINED, is_explained_file), default=Path("explained"), help="Folder for the pictures."
)
@click.option("--grade", type=click.IntRange(0, 4), help="The grade to explain.  [default: the predicted one]")
@click.option("--style", type=click.Choice(["heat", "outline"]), default="heat",
              help="heat: tinted by the evidence. outline: a line around most of it, all else as it is.")  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
@click.option("--workers", type=WORKERS, help="Threads that read photographs.  [default: one a core]")
def explain(
    run: Path,
    photographs: tuple[Path, ...],
    out: Path,
    grade: int | None,
    style: "Style",
    device: str,
    workers: int | None,
) -> None:
    """Show where the evidence for a grade lies (Grad-CAM).

    Writes a picture for each photograph, and a contact sheet.
    """
    from trainer.commands.explain import explain as show

    show(run, photographs, out, grade=grade, style=style, device_name=device, workers=workers)


@main.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="0: any free one.  [default: 8000; any where that is taken]"
)
@click.option("--host", type=Text(), metavar="ADDRESS",
              help="Open the page to the network; a token is then needed.  [default: this machine alone]")  # fmt: skip
@click.option("--defer", type=Finite(0, 1), metavar="SHARE",
              help="Leave the least certain photographs to a person: about this share of them.  [default: 0.1]"
              )  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: the fastest there is.")
def serve(run: Path, port: int | None, host: str | None, defer: float | None, device: str) -> None:
    """Grade photographs in the browser.

    RUN is a run or a model.safetensors. The command shows a page on this machine: drop photographs on it, see both eyes
    of a patient beside each other with grade, referral and heat map. Nothing is stored. Ctrl-C ends it.
    """
    from trainer.commands.serve import serve as show_page

    show_page(run, host=host, port=port, defer=defer, device_name=device)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--onnx", type=OutputFile(ONNX), metavar="FILE", help="Write ONNX, for onnxruntime and others.")
@click.option("--pt2", type=OutputFile(PT2), metavar="FILE", help="Write what torch.export.load reads.")
def export(run: Path, onnx: Path | None, pt2: Path | None) -> None:
    """Write the network for other programs (ONNX, PT2).

    The file takes uint8 images and gives probabilities, any number at a time. It is compared with PyTorch on the run's
    photographs before it is put in place.
    """
    if onnx is None and pt2 is None:
        raise click.UsageError("nothing to write; give --onnx FILE, --pt2 FILE or both")

    from trainer.commands.export import export as write

    write(run, onnx, pt2)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: Path, as_json: bool) -> None:
    """Describe the weights of a run or a model.safetensors."""
    from trainer.commands.show import show as say

    say(run, as_json)


@main.command()
def recipes() -> None:
    """List what each preset of fit (--recipe) sets.

    Options on the command line override a preset.
    """
    from trainer.commands.recipes import recipes as say

    say()
