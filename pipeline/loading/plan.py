"""The plan of an epoch: a table of the photographs in order, with the geometry and the colours of each.

The plan is made before any pixel is read, and a loader only renders it. So the batch size, the number of workers or
processes and the choice of the loader cannot change a pixel. To resume in the middle of an epoch is to start at a later
row of the table.
"""

from dataclasses import KW_ONLY, dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """The streams of random words that share the key (seed, epoch): the last number of Philox's counter.

    Draws from one do not change those from another. Numbers stay as they are, so that a seed keeps its meaning.
    """

    ORDER = 0  # also flips and rotation
    BALANCE = 1
    ZOOM = 2  # also colour
    SHARDS = 3
    MIX = 3  # the first step's words are those of SHARDS too, which does no harm
    FELLOW = 4
    FUNCTION = 5  # of the user's


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training photographs. A retina has no up or down, and left eyes mirror right ones.

    hflip, vflip: 0 to 1, the probability of a flip left to right, and of one top to bottom.
    degrees: 0 to 180, the rotation is uniform in [-degrees, degrees].
    zoom: 1 to 2, the scale is in [1 / zoom, zoom], and its logarithm is uniform.
    colour: 0 to 1, the factors of brightness, contrast and saturation are each uniform in [1 - colour, 1 + colour]. The
        hue is not changed, because it distinguishes blood from exudate.

    Raises ValueError, quoting the bad value, if one is out of range.
    """

    hflip: float = 0.5
    vflip: float = 0.5
    degrees: float = 180
    zoom: float = 1
    colour: float = 0

    def __post_init__(self) -> None:
        for name, probability in (("hflip", self.hflip), ("vflip", self.vflip)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, got {probability}")
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"degrees must be 0 to 180, got {self.degrees}")
        if not 1 <= self.zoom <= 2:
            raise ValueError(f"zoom must be 1 to 2, got {self.zoom}")
        if not 0 <= self.colour <= 1:
            raise ValueError(f"colour must be 0 to 1, got {self.colour}")


_LUMA: Final = (0.299, 0.587, 0.114)
NO_AUGMENT: Final = Augment(hflip=0, vflip=0, degrees=0)
"""Photographs as they are, for evaluation."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A shuffle that reads from few shards at a time, for a cache behind a URL if this machine cannot hold all shards.

    shards: int64 (rows of the manifest,), the shard of each row.
    shuffle_block: the number of shards that are shuffled together, at least 1.
    lanes: number of parts into which the shards are divided, at least 1. Position k of every epoch comes from part
        k % lanes. So if `world` divides lanes, each of `world` processes needs its own shards only. The order is the
        same for any `world`.

    Raises ValueError, quoting the bad value, if one is below 1.
    """

    shards: NDArray[np.int64] = field(repr=False)
    shuffle_block: int = 256
    lanes: int = 64

    def __post_init__(self) -> None:
        for name, value in (("shuffle_block", self.shuffle_block), ("lanes", self.lanes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @classmethod
    def in_lanes(cls, shards: NDArray[np.int64], shuffle_block: int) -> "Blocks":
        """With as many lanes as possible: a power of two, as numbers of processes are, at most 64, and at most one lane
        for each shard of a block. Raises ValueError for a shuffle_block below 1."""
        return cls(shards, shuffle_block, lanes=1 << (max(1, min(shuffle_block, 64)).bit_length() - 1))


class EpochPlan(NamedTuple):
    """The plan of an epoch, or of a batch of it."""

    rows: NDArray[np.int64]  # (n,) rows of the manifest, in order of appearance
    matrices: NDArray[np.float32]  # (n, 2, 3) output pixel centre (x + .5, y + .5) -> source coordinates, pixels
    colours: NDArray[np.float32] | None = None  # (n, 3, 4) (r, g, b, 1) -> (r, g, b), 0 to 255; None: no change

    def part(self, positions: slice) -> "EpochPlan":
        """The plan of these positions only."""
        colours = None if self.colours is None else self.colours[positions]
        return EpochPlan(self.rows[positions], self.matrices[positions], colours)


class Shard(NamedTuple):
    """The part of an epoch that one process takes: every `world_size`-th position, from position `rank` on."""

    rank: int = 0
    """0 to world_size - 1."""
    world_size: int = 1
    """Number of processes that share the epoch."""

    def check(self) -> None:
        """Raises ValueError for a rank outside 0 to world_size - 1."""
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"shard is (rank, world) with 0 <= rank < world, got {tuple(self)}")


UNSHARDED: Final = Shard()


def plan_epoch(
    rows: NDArray[np.int64],
    augment: Augment,
    *,
    source_size: int,
    size: int,
    shuffle: bool,
    seed: int,
    epoch: int,
    shard: tuple[int, int] = UNSHARDED,
    labels: NDArray[np.int64] | None = None,
    fading: int | None = None,
    blocks: Blocks | None = None,
) -> EpochPlan:
    """Plans an epoch.

    The random numbers of a row depend on (seed, epoch, row) only. The order of a shuffled epoch depends on the set of
    rows, not on the order in which they are given. Shard (rank, world) takes every world-th position, from rank on. So
    `world` processes with batches of n see in each step what one process with batches of world * n sees.

    rows: int64 (n,), 0 or more. source_size, size: sides of the cached and of the rendered images, pixels.
    labels: int64 (n,), the classes of the rows. With them each class gets the same number of the n positions (see
        `balanced`). A row that comes several times is augmented differently each time: it takes the random numbers of
        the row that it replaces.
    fading: with labels, the number of epochs, 2 or more, in which the classes go from equal shares to those that they
        have among the rows, in equal steps. Later epochs have the latter. None: all epochs have equal shares.
    blocks: shuffle within blocks of shards. None: any row may come at any position.

    Raises ValueError for a seed or an epoch outside 0 to 2**64 - 1, a shard with rank outside 0 to world - 1, or a size
    outside 1 to source_size.
    """
    part = Shard(*shard)
    part.check()
    _check_size(size, source_size)
    words = random_words(rows, seed, epoch)
    drawing_rows = rows
    if labels is not None:
        listed = np.argsort(rows, kind="stable")  # so that the draws do not depend on the order of `rows`
        words, drawing_rows = words[listed], rows[listed]
        rows = balanced(drawing_rows, labels[listed], seed, epoch, fading)
    order = shuffled(words[:, 0], rows, blocks, seed, epoch) if shuffle else np.arange(len(rows))
    order = order[part.rank :: part.world_size]
    draws = uniform(words[order, 1:])
    zoom, colours = np.ones(len(order)), None
    if augment.zoom > 1 or augment.colour > 0:
        spread = 2 * uniform(random_words(drawing_rows[order], seed, epoch, Stream.ZOOM)) - 1
        zoom = augment.zoom ** spread[:, 0]
        if augment.colour > 0:
            colours = colour_matrices(*(1 + augment.colour * spread[:, 1:].T))
    matrices = affine(
        hflip=draws[:, 0] < augment.hflip,
        vflip=draws[:, 1] < augment.vflip,
        degrees=augment.degrees * (2 * draws[:, 2] - 1),
        zoom=zoom,
        source_size=source_size,
        size=size,
    )
    return EpochPlan(rows[order], matrices, colours)


def shuffled(
    keys: NDArray[np.uint64], rows: NDArray[np.int64], blocks: Blocks | None, seed: int, epoch: int
) -> NDArray[np.int64]:
    """(n,) indices into `rows`, in the order of their random keys. With blocks, one block comes after another.

    Each shard belongs to one lane, the same in every epoch. A lane puts its shards into a random order, a new one in
    each epoch. It shuffles the rows of its next shuffle_block / lanes shards together, and so on. Position k of the
    epoch comes from lane k % lanes. Lanes differ in length: the last positions of an epoch (1 % of ten million) come
    from the lanes that still have rows.

    >>> shards = np.repeat(np.arange(4), 3)
    >>> keys = random_words(np.arange(12), 0, 0)[:, 0]
    >>> shards[shuffled(keys, np.arange(12), Blocks(shards, shuffle_block=2, lanes=1), 0, 0)].tolist()
    [0, 0, 2, 2, 0, 2, 1, 3, 1, 1, 3, 3]
    """
    if blocks is None:
        return np.argsort(np.ascontiguousarray(keys), kind="stable")  # 0.1 s for a million, not 0.14
    shards = np.flatnonzero(np.bincount(blocks.shards))
    lanes = min(blocks.lanes, len(shards))
    lane_of = np.arange(len(shards)) % lanes
    by_turn = np.lexsort((random_words(shards, seed, epoch, Stream.SHARDS)[:, 0], lane_of))
    turn = np.empty(len(shards), np.int64)
    turn[by_turn] = np.arange(len(shards)) - np.searchsorted(lane_of[by_turn], lane_of[by_turn])
    block_of = turn // max(1, blocks.shuffle_block // lanes)
    number = np.searchsorted(shards, blocks.shards[rows])
    cells = lane_of * (block_of.max(initial=0) + 1) + block_of
    cells = cells.astype(np.min_scalar_type(cells.max(initial=0)))  # up to 16 bits numpy sorts ten times as fast
    order = np.lexsort((keys, cells[number]))
    lane = lane_of[number[order]]
    position = np.arange(len(rows)) - np.searchsorted(lane, lane)  # in its lane
    return order[np.argsort(position * lanes + lane, kind="stable")]


def balanced(
    rows: NDArray[np.int64], labels: NDArray[np.int64], seed: int, epoch: int, fading: int | None = None
) -> NDArray[np.int64]:
    """(n,) rows, class by class, drawn so that all classes come equally often. Their numbers differ by at most 1.

    fading: the number of epochs in which these numbers change to those that the classes have among the rows.

    Within a class the rows come in an order that is drawn in each epoch, and none comes twice before all have come
    once. So all rows of a rare class come several times, and a common class has other rows in each epoch.

    >>> np.bincount(balanced(np.arange(9), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2]), 0, 0)[3:6], minlength=9).tolist()
    [0, 0, 0, 0, 0, 0, 2, 1, 0]
    """
    turns = np.argsort(random_words(rows, seed, epoch, Stream.BALANCE)[:, 0], kind="stable")
    classes, natural = np.unique(labels, return_counts=True)
    last = 1 if fading is None else fading - 1
    passed = 0 if fading is None else min(epoch, last)
    shares = (last - passed) * len(rows) + passed * len(classes) * natural
    numbers, rest = np.divmod(shares, len(classes) * last)
    # What is left goes to the classes that lost most by rounding, the first ones if equal.
    numbers[np.argsort(-rest, kind="stable")[: len(rows) - numbers.sum()]] += 1
    members = [rows[turns[labels[turns] == each]] for each in classes]
    return np.concatenate([np.resize(each, number) for each, number in zip(members, numbers, strict=True)])


def affine(
    *,
    hflip: NDArray[np.bool_],
    vflip: NDArray[np.bool_],
    degrees: NDArray[np.floating],
    zoom: NDArray[np.floating],
    source_size: int,
    size: int,
) -> NDArray[np.float32]:
    """(n, 2, 3) matrices that flip a square image, rotate it about its centre, and scale it to `size` times `zoom`.

    A matrix maps the centre (x + .5, y + .5) of an output pixel to its position in the source. Source pixels are unit
    squares, and (0, 0) is the outer corner of the first one. A positive angle rotates counter-clockwise, as in Pillow
    and torchvision. The result is that of `rotate(hflip(image), degrees)`.

    hflip, vflip, degrees, zoom: (n,). source_size, size: sides of the images, pixels.
    """
    angle, scale = np.radians(degrees), source_size / size / zoom
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = np.where(hflip, -1.0, 1.0), np.where(vflip, -1.0, 1.0)
    # From output to source: undo the scale, then the rotation, then the flips. The centre maps to the centre.
    matrices = np.empty((len(degrees), 2, 3), np.float32)
    for i, (along_x, along_y) in enumerate([(x * cos, -x * sin), (y * sin, y * cos)]):
        matrices[:, i, 0] = along_x
        matrices[:, i, 1] = along_y
        matrices[:, i, 2] = source_size / 2 - (along_x + along_y) * (size / 2)
    return matrices


def colour_matrices(
    brightness: NDArray[np.floating], contrast: NDArray[np.floating], saturation: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(n, 3, 4) matrices from (r, g, b, 1) to (r, g, b), levels 0 to 255.

    brightness, contrast, saturation: (n,) factors; 1 changes nothing.

    In this order: brightness scales the levels, contrast scales them about mid-grey (128), and saturation scales them
    about the grey of the pixel (luma of ITU-R BT.601). Pillow and torchvision do the same, with two differences: they
    scale contrast about the mean grey of the image, and they clip to 0 to 255 after each step and not once at the end.
    """
    own = np.eye(3)
    grey = np.broadcast_to(_LUMA, (3, 3))
    factor = saturation[:, None, None]
    matrices = np.empty((len(brightness), 3, 4), np.float32)
    matrices[:, :, :3] = (brightness * contrast)[:, None, None] * (factor * own + (1 - factor) * grey)
    matrices[:, :, 3] = (128 * (1 - contrast))[:, None]  # grey, so saturation does not change it
    return matrices


def halvings(source_size: int, size: int) -> int:
    """How often an image is halved, by the mean of 2 x 2 pixels, before it is warped to `size`.

    Bilinear interpolation reads two pixels in each direction. If it scales down more than twofold it skips pixels, and
    small bright or dark dots appear or vanish with the angle. After the halvings the ratio source_size / size is below
    2, unless the side becomes odd. A zoom below 1 adds to it.

    >>> halvings(512, 224), halvings(512, 512)
    (1, 0)
    """
    count = 0
    while source_size % 2 == 0 and source_size // 2 >= size:
        source_size //= 2
        count += 1
    return count


@dataclass(frozen=True, eq=False)
class Schedule:
    """The plans of the batches of every epoch, which a loader renders. For the fields see `plan_epoch`.

    Raises ValueError, quoting the bad value, if one is out of range.
    """

    rows: NDArray[np.int64] = field(repr=False)
    augment: Augment
    _: KW_ONLY
    source_size: int
    size: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    shard: Shard = UNSHARDED
    labels: NDArray[np.int64] | None = field(default=None, repr=False)
    fading: int | None = None
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.fading is not None and self.fading < 2:
            raise ValueError(f"fading must be at least 2 epochs, got {self.fading}")
        _check_size(self.size, self.source_size)
        self.shard.check()
        _check_64_bits("seed", self.seed)

    def __len__(self) -> int:
        """Number of batches in an epoch, with the last one, which may be smaller."""
        return -(-len(range(self.shard.rank, len(self.rows), self.shard.world_size)) // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> list[EpochPlan]:
        """The plans of the batches of an epoch from batch `start` on; empty if `start` is the number of batches.

        Raises ValueError if `start` is outside 0 to that number.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start must be 0 to {len(self)}, the batches of an epoch, got {start}")
        plan = plan_epoch(
            self.rows,
            self.augment,
            source_size=self.source_size,
            size=self.size,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            shard=self.shard,
            labels=self.labels,
            fading=self.fading,
            blocks=self.blocks,
        )
        firsts = range(start * self.batch_size, len(plan.rows), self.batch_size)
        return [plan.part(slice(first, first + self.batch_size)) for first in firsts]


def random_words(rows: NDArray[np.int64], seed: int, epoch: int, stream: Stream = Stream.ORDER) -> NDArray[np.uint64]:
    """(n, 4) random 64-bit words. Row r always gets block r of the Philox stream with the key (seed, epoch).

    Raw words are used because numpy guarantees them in all versions, but not the results of its distributions.
    """
    _check_64_bits("seed", seed)
    _check_64_bits("epoch", epoch)
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, stream])
    blocks = int(rows.max(initial=-1)) + 1
    return philox.random_raw(4 * blocks).reshape(blocks, 4)[rows]


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The top 53 bits of each word, as a double in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_64_bits(name: str, value: int) -> None:
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} must be 0 to 2**64 - 1, got {value}")


def _check_size(size: int, source_size: int) -> None:
    if not 1 <= size <= source_size:
        raise ValueError(f"size must be 1 to {source_size}, the cache's own, got {size}")
