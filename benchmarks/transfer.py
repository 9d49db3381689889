"""What a start from painted lesions gives, by the number of graded photographs: a table and a drawing.

    python benchmarks/transfer.py CACHE ENHANCED OUT [--numbers 300,1000,2100] [--seeds 3]

CACHE is a graded one, as `tools preprocess` makes it, and ENHANCED is the same with `--enhance graham`. For each
number, that many photographs of train are kept, all of a patient together; the smaller sets are parts of the larger
ones. Validation and test stay whole. Two arms are trained on each set of ENHANCED, once a seed:

* nothing: from scratch;
* painted: `tools phantom --onto` paints lesions on the healthy photographs of this set and of validation, those of
  CACHE. A network learns these first, with --lesions, once a set. Training then starts from its weights.

All runs show about as many photographs, PASSES, so that all take as long: the smaller the set, the more epochs. The
epoch is chosen on validation. The settings of each arm are to be chosen beforehand, on validation; each run measures
test once. Runs that OUT already holds are not trained again, so the same command continues. Two run at a time, a thread
each. Writes OUT/transfer.csv, OUT/transfer.png and OUT/transfer.svg, with the 95 % intervals of the seeds' mean, by a
bootstrap over patients.
"""

import hashlib
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click
import numpy as np
import pandas as pd
from levers import means, train

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.folds import write_fold
from pipeline.command_line import Guarded
from pipeline.photos.preparation import Recipe
from trainer.evaluation.bootstrap import interval
from trainer.reporting.drawings import BLUE, ORANGE, new_drawing

ARMS: Final = ("nothing", "painted")
SHOWN: Final = {"kappa": "kappa", "referable_auc": "AUC, referable"}
LESIONS: Final = "--recipe painted --size 128"
NOTHING: Final = "--recipe painted --size 128 --tta"
AFTER: Final = "--recipe few --size 128 --keep best"
PASSES: Final = 12_000
"""At 128 px ten minutes on two cores that train 20 photographs a second."""
MOST_EPOCHS: Final = 40


def hashes(names: "pd.Series[str]") -> "pd.Series[str]":
    """Sorting names by these draws the same ones on every machine, and of fewer names a part of the same."""
    return names.map(lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest())


def thinned(cache: Cache, folder: Path, number: int) -> Path:
    """A cache whose train has at most `number` photographs, with all those of a patient."""
    manifest = cache.manifest
    train = manifest["split"] == "train"
    order = hashes(manifest["patient"])
    sizes = order[train].value_counts().sort_index().cumsum()
    kept = sizes.index[sizes <= number]
    splits = manifest["split"].where(~train | order.isin(kept), "")
    return write_fold(cache, folder, splits, f"{int((splits == 'train').sum())} of train")


def tools(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "tools", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"tools {arguments[0]}: {done.stderr.strip()}")


def paint(cache: Path, recipe: Recipe, folder: Path, eyes: int) -> Path:
    """A cache of painted lesions on a thinned cache, prepared by `recipe`."""
    painted = folder / "cache"
    if not (painted / "cache.json").exists():
        tools("phantom", folder / "eyes", "--eyes", eyes, "--onto", cache)
        prepared = ("--size", recipe.size, "--enhance", recipe.enhance, "--quality", recipe.quality)
        tools("preprocess", folder / "eyes", "--out", painted, *prepared)
    return painted


@click.command(cls=Guarded)
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="CACHE")
@click.argument("enhanced", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--numbers", default="300,1000,2100", help="Photographs of train.")
@click.option("--seeds", default=3)
@click.option("--eyes", default=6400, help="Painted photographs of each set.")
@click.option("--lesions", default=LESIONS, show_default=True, help="Options of trainer fit, on painted lesions.")
@click.option("--nothing", default=NOTHING, show_default=True, help="From scratch.")
@click.option("--after", default=AFTER, show_default=True, help="After painted lesions.")
def main(
    source: Path, enhanced: Path, out: Path, numbers: str, seeds: int, eyes: int, lesions: str, nothing: str, after: str
) -> None:
    sets = [int(number) for number in numbers.split(",")]
    with open_cache(source) as cache:
        natural = {number: thinned(cache, out / f"natural-{number}", number) for number in sets}
    with open_cache(enhanced) as cache:
        recipe = cache.recipe
        caches = {number: thinned(cache, out / f"{number}", number) for number in sets}

    def learn_lesions(number: int) -> None:
        painted = paint(natural[number], recipe, out / f"painted{number}", eyes)
        train(str(painted), out / f"lesions-{number}", shlex.split(lesions))

    def learn_grades(number: int, arm: str, seed: int) -> None:
        weights = ["--weights", str(out / f"lesions-{number}" / "model.safetensors")]
        options = shlex.split(nothing) if arm == "nothing" else [*shlex.split(after), *weights]
        epochs = min(MOST_EPOCHS, round(PASSES / number))
        options += ["--epochs", str(epochs), "--seed", str(seed)]
        train(str(caches[number]), out / f"{arm}-{number}-{seed}", options)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(learn_lesions, sets))
        jobs = [(number, arm, seed) for number in sets for arm in ARMS for seed in range(seeds)]
        list(pool.map(learn_grades, *zip(*jobs, strict=True)))

    rows = []
    for number in sets:
        for arm in ARMS:
            value, resampled = means(str(caches[number]), [out / f"{arm}-{number}-{seed}" for seed in range(seeds)])
            for figure in SHOWN:
                low, high = interval(value[figure].item(), resampled[figure]) or (np.nan, np.nan)
                rows.append((number, arm, figure, round(value[figure].item(), 4), round(low, 4), round(high, 4)))
    table = pd.DataFrame(rows, columns=["photographs", "start", "figure", "mean", "low", "high"])
    table.to_csv(out / "transfer.csv", index=False)
    draw(table, out / "transfer.png")
    print(table.to_string(index=False))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draws both arms of each figure against the number of photographs, as PNG and SVG."""
    numbers = sorted(set(table["photographs"]))
    with new_drawing(path, 13, 6, "what painted lesions give") as drawing:
        for axes, (figure, title) in zip(drawing.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
            for arm, colour, marker in zip(ARMS, (ORANGE, BLUE), "os", strict=True):
                of = table[(table["figure"] == figure) & (table["start"] == arm)]
                axes.plot(of["photographs"], of["mean"], color=colour, marker=marker, label=f"from {arm}")
                axes.fill_between(of["photographs"], of["low"], of["high"], color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel="graded photographs of train", ylabel=f"{title}, test", xscale="log")
            axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
            axes.minorticks_off()
            axes.legend()


if __name__ == "__main__":
    main()
