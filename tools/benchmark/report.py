"""The results of `tools bench`: rates, ratios, a table and advice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tools.benchmark.workloads import DECODE, PLAIN, STEP, fed, uint8

KEEPS_UP: Final = 0.95
"""A loader is no bottleneck if the network, fed by it, reaches this fraction of its own rate."""
PLENTY: Final = 10
"""A loader is no bottleneck either if it is this many times as fast as the step: rates of fed steps vary by 5 %."""
RESERVE: Final = 1.5
"""The recommended number of workers loads this many times as fast as the step trains."""
NOISE: Final = 0.2
"""If the rounds of a row differ by more than this fraction of its median, other programs were running."""
FASTER: Final = 1.1
"""A fed step may seem this many times as fast as the step alone: each of the two rates varies by 5 %."""


@dataclass(frozen=True)
class Report:
    """What was measured."""

    rates: Mapping[str, Sequence[float]]  # row -> images per second in each round
    loaders: Sequence[str]
    smaller: int  # side of the smaller cache, pixels
    settings: Mapping[str, Any]
    hardware: Mapping[str, object]

    def ratio(self, row: str, base: str) -> float:
        """How many times as fast one row is as another: the median over the rounds."""
        return median(a / b for a, b in zip(self.rates[row], self.rates[base], strict=True))

    def ratios(self, row: str) -> dict[str, float]:
        """Ratios of a row that trains to the step alone; of another row to decoding alone and to the plain
        DataLoader."""
        bases = [STEP] if row in [STEP, *map(fed, self.loaders)] else [DECODE, PLAIN]
        return {base: self.ratio(row, base) for base in bases}

    def as_dict(self) -> dict[str, object]:
        """The report as values for JSON."""
        rows = [
            {
                "name": row,
                "images_per_second": {"median": median(rates), "min": min(rates), "max": max(rates)},
                "rounds": list(rates),
                "times_as_fast_as": self.ratios(row),
            }
            for row, rates in self.rates.items()
        ]
        return {"hardware": self.hardware, "settings": self.settings, "rows": rows, "verdict": self.verdict()}

    def table(self) -> Table:
        """The report as a table for a terminal."""
        table = Table(title=_listed(self.hardware), caption=_listed(self.settings), box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("", no_wrap=True)
        for heading in ("images/s", "min - max", "/decode", "/plain", "/step"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row, rates in self.rates.items():
            ratios = self.ratios(row)
            table.add_row(
                row,
                _rounded(median(rates)),
                f"{_rounded(min(rates))}-{_rounded(max(rates))}",
                *(f"{ratios[base]:.2f}" if base in ratios else "" for base in (DECODE, PLAIN, STEP)),
            )
        return table

    def verdict(self) -> str:
        """`advice`, after a warning if the measurement is too noisy."""
        noise = self.noise()
        if not noise:
            return self.advice()
        return f"NOISY: {noise}; measure again while nothing else runs here, or for longer (--seconds). {self.advice()}"

    def noise(self) -> str:
        """Why the rates behind the advice are not reliable; "" if they are."""
        rows = [STEP, *map(fed, self.loaders), *map(uint8, self.loaders), uint8("torchvision", self.smaller)]
        spread = {row: (max(self.rates[row]) - min(self.rates[row])) / median(self.rates[row]) for row in rows}
        worst = max(rows, key=spread.__getitem__)
        words = []
        if spread[worst] > NOISE:
            least, most = (_rounded(end(self.rates[worst])) for end in (min, max))
            words.append(f"the rounds of {worst} gave {least} to {most} images/s")
        for name in self.loaders:
            if self.ratio(fed(name), STEP) > FASTER:
                fed_rate, alone = (_rounded(median(self.rates[row])) for row in (fed(name), STEP))
                words.append(f"the step fed by {name} seems faster ({fed_rate} images/s) than alone ({alone})")
        return " and ".join(words)

    def advice(self) -> str:
        """Names the bottleneck, and recommends a loader, a number of workers and a size of the cache."""
        rate = {row: median(rates) for row, rates in self.rates.items()}
        fastest = max(rate[fed(name)] for name in self.loaders)
        # If several loaders feed the network equally well, the faster one has more reserve.
        good = [name for name in self.loaders if rate[fed(name)] >= KEEPS_UP * fastest]
        loader = max(good, key=lambda name: rate[uint8(name)])
        size, cache_size, workers = (self.settings[name] for name in ("size", "cache_size", "workers"))
        alone, loaded, fraction = rate[STEP], rate[uint8(loader)], self.ratio(fed(loader), STEP)
        trains = (
            f"a ResNet-18 at {size} px trains on {_rounded(alone)} images/s by itself and keeps "
            f"{min(fraction, 1):.0%} of that fed by {loader}, which alone gives {_rounded(loaded)}"
        )
        small = (
            f"from a cache at {self.smaller} px torchvision gives {_rounded(rate[uint8('torchvision', self.smaller)])} "
            f"images/s instead of {_rounded(rate[uint8('torchvision')])}"
        )
        if fraction >= KEEPS_UP or loaded >= PLENTY * alone:
            enough = min(workers, math.ceil(RESERVE * workers * alone / loaded))
            return (
                f"The network is the bottleneck: {trains}; take --loader {loader} --workers {enough} and keep the "
                f"cache at {cache_size} px ({small}, which the network could not use)."
            )
        return (
            f"Loading is the bottleneck: {trains}; take --loader {loader} --workers {workers} and, if {self.smaller} "
            f"px are all you train on, a cache of that size ({small})."
        )


def _listed(items: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in items.items())


def _rounded(value: float) -> str:
    """A rate with three digits: the measurement is no more precise."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
