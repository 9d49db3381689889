"""Ten epochs of the head phase against one pass of the training photographs through the frozen backbone.

    python benchmarks/bench_head.py CACHE [--size 128] [--rounds 3]

Prints the ratio of each round, in turn. Issue "Throughput" asks for at most 1.3, the validation photographs included.
"""

import shutil
import tempfile
from pathlib import Path
from time import perf_counter

import click
import pandas as pd
import torch
import torchvision
from click.testing import CliRunner

from pipeline.cache.cache import open_cache
from pipeline.command_line import Guarded
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from trainer.cli import main as trainer
from trainer.network.model import Grader


def one_pass(cache: Path, size: int) -> float:
    """Seconds to decode, turn and send every training photograph through a ResNet-18 without gradients."""
    model = Grader("resnet18").eval().to(memory_format=torch.channels_last)
    with (
        open_cache(cache) as opened,
        open_loader(
            "torchvision", opened, split="train", batch_size=32, size=size, augment=Augment(), shuffle=True
        ) as loader,
        torch.inference_mode(),
    ):
        began = perf_counter()
        for batch in loader.epoch(0):
            model.backbone(model.normalise(batch.images))
        return perf_counter() - began


def ten_epochs(cache: Path, size: int, folder: Path) -> tuple[float, float]:
    """Seconds of ten head epochs as accuracy.csv has them: without features at hand, and with them."""
    weights = folder / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    seconds = []
    for run in ("first", "second"):
        options = ["--cache", cache, "--size", size, "--weights", weights, "--head-epochs", 10, "--epochs", 0]
        result = CliRunner().invoke(trainer, ["fit", *map(str, options), "--run", str(folder / run)])
        assert result.exit_code == 0, result.output
        seconds.append(float(pd.read_csv(folder / run / "accuracy.csv")["seconds"].sum()))
    return seconds[0], seconds[1]


@click.command(cls=Guarded)
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--size", default=128)
@click.option("--rounds", default=3)
def main(cache: Path, size: int, rounds: int) -> None:
    one_pass(cache, size)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy = shutil.copytree(cache, folder / "cache")  # features lie beside it
            once = one_pass(copy, size)
            first, second = ten_epochs(copy, size, folder)
        click.echo(
            f"one pass {once:.2f} s; ten head epochs {first:.2f} s = {first / once:.2f}x; "
            f"again with the features kept {second:.2f} s = {second / once:.3f}x"
        )


if __name__ == "__main__":
    main()
