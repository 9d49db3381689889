"""What reading and preparing photographs adds to a ResNet-18's forward passes alone: wanted under 10 %.

EyePACS photographs of 1024 px, from their files and from a cache, on the CPU with a thread a core for each of the two.
Where the network keeps every core busy, preparing adds its own work divided by the cores, however well it overlaps:
that share is printed too. On a GPU, or with cores to spare, it would be the overlap alone.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from caches import eyepacs
from turns import SHARED, in_turn, say_load, say_ratio

from trainer.inference.forward import probabilities
from trainer.inference.inputs import Photograph, gather, render, training_statistics
from trainer.network.device import to_device
from trainer.network.metadata import Metadata
from trainer.network.model import Grader

ROUNDS = 3
CPU = torch.device("cpu")


def main() -> None:
    model = Grader("resnet18")
    to_device(model, CPU)
    for cached, size in ((256, 224), (512, 512)):
        with tempfile.TemporaryDirectory() as name:
            cache = eyepacs(Path(name), cached)
            statistics = training_statistics(cache, cache.rows("train"), size, None)
            metadata = Metadata("resnet18", size, cache.recipe, epoch=1, statistics=statistics)
            sources = {"files": SHARED / "data/eyepacs", "cache": cache.path}
            photographs = {kind: gather([path], metadata.recipe)[0] for kind, path in sources.items()}
            # Two batches: more would not fit into memory at 512 px, and the time is the same for all.
            few = [batch.images for batch in render(photographs["cache"][:128], metadata, device=CPU)]

            def forward(few: list[torch.Tensor] = few, metadata: Metadata = metadata) -> int:
                for images in few:
                    probabilities(model, images, metadata)
                return sum(map(len, few))

            def predict(photographs: Sequence[Photograph], metadata: Metadata = metadata) -> int:
                for batch in render(photographs, metadata, device=CPU):
                    probabilities(model, batch.images, metadata)
                return len(photographs)

            def prepare(photographs: Sequence[Photograph], metadata: Metadata = metadata) -> int:
                return sum(len(batch.photographs) for batch in render(photographs, metadata, device=CPU, workers=1))

            say_load()
            measured: dict[str, Callable[[], int]] = {"forward": forward}
            for kind, some in photographs.items():
                measured[f"predict {kind}"] = partial(predict, some)
                measured[f"prepare {kind}, one thread"] = partial(prepare, some)
            times = in_turn({name: partial(seconds, run) for name, run in measured.items()}, ROUNDS)
            say_load()
            for kind in photographs:
                what = f"{size} px from {kind}: predict / forward alone"
                say_ratio(what, times[f"predict {kind}"], times["forward"], "wanted < 1.10")
                what = f"{size} px from {kind}: one thread's preparing / forward alone on all cores"
                say_ratio(
                    what, times[f"prepare {kind}, one thread"], times["forward"], "divided by the cores: the least"
                )


def seconds(run: Callable[[], int]) -> float:
    """A photograph, by the wall clock."""
    began = time.perf_counter()
    count = run()
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
