"""How far each order of an epoch mixes photographs, and what it fetches: the tables of docs/scaling.md.

Nothing is read. Orders are planned as for training. Each machine asks a store that gives whole shards, through a local
folder that holds some shards and deletes the one that was not used for longest. It takes half a minute of a core and
1.5 GB for ten million photographs.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import pos
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.cache.shards import shard_count
from pipeline.loading.plan import Blocks, random_words, shuffled

PHOTOGRAPHS: Final = 10_000_000
MACHINES: Final = (1, 8, 64)
CAPACITIES: Final = (1 / 64, 1 / 16, 1.0)
"""Of all shards, how many a machine's local folder holds."""
BATCH: Final = 512
"""Photographs in a step of all machines together."""
GRADES: Final = (25_810, 2_443, 5_292, 873, 708)
"""Photographs of grades 0 to 4 in the training set of Kaggle's Diabetic Retinopathy Detection (2015)."""
EPOCHS: Final = 2
"""The first finds the folders empty, the second as the first left them."""

GLOBAL: Final = "global"
BLOCKS: Final = "blocks"
LANES: Final = "blocks in lanes"


class Fetched(NamedTuple):
    """What one order costs so many machines with such folders."""

    order: str
    machines: int
    capacity: float
    first: float  # bytes all machines fetch in the first epoch, in sizes of the data
    later: float  # in the second
    hits: float  # of the second's photographs, how many lie in the local folder already, 0 to 1


class Mixed(NamedTuple):
    """How unlike its neighbours a photograph is, means over all batches of an epoch."""

    shards: float  # different shards in a batch
    grades: float  # total variation distance between the grades of a batch and of all, 0 to 1


@dataclass(frozen=True)
class ShardReport:
    photographs: int
    shards: int
    fetched: Sequence[Fetched]
    mixed: Mapping[str, Mixed]

    def table(self) -> Table:
        """For a terminal."""
        each = self.photographs / self.shards
        title = f"{self.photographs:,} photographs in {self.shards:,} shards of {each:.0f}, batches of {BATCH}"
        table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("order", no_wrap=True)
        heads = ("machines", "local folder", "1st epoch", "later ones", "hits", "shards in a batch", "grades off by")
        for head in heads:
            table.add_column(head, justify="right")
        for row in self.fetched:
            mixed = self.mixed[row.order]
            table.add_row(
                row.order,
                str(row.machines),
                f"{row.capacity:.1%}",
                f"{row.first:.2f} x",
                f"{row.later:.2f} x",
                f"{row.hits:.1%}",
                f"{mixed.shards:.0f}",
                f"{mixed.grades:.4f}",
            )
        return table

    def verdict(self) -> str:
        """Which order to take when."""
        most, little = max(MACHINES), CAPACITIES[1]
        cost = {row.order: row for row in self.fetched if (row.machines, row.capacity) == (most, little)}
        whole, lanes = cost[GLOBAL], cost[LANES]
        mixed, unmixed = self.mixed[GLOBAL], self.mixed[LANES]
        return (
            "Take the global order while the local folder holds all shards: after the first epoch it fetches none, and "
            f"nothing mixes better. Beyond, take blocks in lanes: {most} machines with room for {little:.1%} fetch "
            f"{lanes.later:.2f} times the data an epoch instead of {whole.later:.0f} times, for batches of "
            f"{unmixed.shards:.0f} different shards instead of {mixed.shards:.0f}; their grades are as good a sample "
            f"(off by {unmixed.grades:.4f}, {mixed.grades:.4f} by the global order), for a shard is drawn "
            "by a hash of the id."
        )


def simulate(photographs: int = PHOTOGRAPHS) -> ShardReport:
    """Deterministic."""
    count = shard_count(photographs)
    draw = np.random.default_rng(0)
    shards = draw.integers(count, size=photographs)  # as a hash of ids spreads them
    grades = draw.choice(len(GRADES), photographs, p=np.array(GRADES) / sum(GRADES)).astype(np.int8)
    lanes = Blocks(shards)
    orders = {GLOBAL: None, BLOCKS: Blocks(shards, lanes.shuffle_block, lanes=1), LANES: lanes}
    fetched, mixed = list[Fetched](), dict[str, Mixed]()
    for name, blocks in orders.items():
        epochs = [order_of(photographs, blocks, epoch) for epoch in range(EPOCHS)]
        mixed[name] = mixing(shards[epochs[0]], grades[epochs[0]])
        asked = [shards[order] for order in epochs]
        for machines in MACHINES:
            for capacity in CAPACITIES:
                first, later = fetches([epoch[::machines] for epoch in asked], round(capacity * count))
                hits = 1 - later / len(asked[0][::machines])
                fetched.append(
                    Fetched(name, machines, capacity, first * machines / count, later * machines / count, hits)
                )
    return ShardReport(photographs, count, fetched, mixed)


def order_of(photographs: int, blocks: Blocks | None, epoch: int) -> NDArray[np.int64]:
    """(photographs,) rows in the order of an epoch with seed 0."""
    rows = np.arange(photographs)
    return shuffled(random_words(rows, 0, epoch)[:, 0], rows, blocks, 0, epoch)


def fetches(epochs: Sequence[NDArray[np.int64]], capacity: int) -> list[int]:
    """How many shards a machine fetches in each epoch, of which it is given the shard of each place, when its folder
    holds `capacity` of them and is empty to begin with."""
    if capacity > max(epoch.max() for epoch in epochs):  # nothing ever goes
        met = [len(np.unique(np.concatenate(epochs[: number + 1]))) for number in range(len(epochs))]
        return [now - before for before, now in pairwise([0, *met])]
    fetch = lru_cache(maxsize=capacity)(pos)  # the standard library's own, written in C
    missed = [0]
    for epoch in epochs:
        for part in np.array_split(epoch, 1 + len(epoch) // 1_000_000):
            deque(map(fetch, part.tolist()), maxlen=0)
        missed.append(fetch.cache_info().misses)
    return [now - before for before, now in pairwise(missed)]


def mixing(shards: NDArray[np.int64], grades: NDArray[np.int8]) -> Mixed:
    """Of the shards and grades of an epoch's places."""
    whole = len(shards) // BATCH * BATCH
    batches = np.sort(shards[:whole].reshape(-1, BATCH), axis=1)
    different = 1 + (np.diff(batches, axis=1) != 0).sum(axis=1)
    share = np.stack([(grades[:whole].reshape(-1, BATCH) == grade).mean(axis=1) for grade in range(len(GRADES))])
    overall = np.bincount(grades, minlength=len(GRADES)) / len(grades)
    off = np.abs(share - overall[:, None]).sum(axis=0) / 2
    return Mixed(float(different.mean()), float(off.mean()))


if __name__ == "__main__":
    report = simulate()
    Console(width=120).print(report.table())
    print(report.verdict())
