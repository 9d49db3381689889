"""An epoch is a table: which photograph comes at which place, how it is flipped and turned, and in which colours.

The table is made before any pixel is read, and a loader only renders it. So batch size, number of workers, loader and
number of processes cannot change a pixel, and resuming in the middle of an epoch is starting at a later row.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augment:
    """How photographs are varied while training: a retina has no up or down, and left eyes mirror right ones.

    hflip, vflip: probability, 0 to 1, of mirroring left-right and top-bottom.
    degrees: the angle is uniform in [-degrees, degrees], 0 to 180.
    zoom: the factor of size lies between 1 / zoom and zoom, 1 to 2, its logarithm is uniform.
    colour: brightness, contrast and saturation each have a factor uniform in [1 - colour, 1 + colour], 0 to 1. Not the
    hue: blood is told from exudate by it.
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


@dataclass(frozen=True, eq=False)
class Blocks:
    """A shuffle that works through few shards at a time, for storage that gives whole shards and holds not all of them.

    shards: int64 (rows of the manifest,), the shard of each.
    shuffle_block: how many shards are shuffled into each other, at least 1.
    lanes: at least 1. Every lanes-th place of every epoch comes from the same part of the shards. So where `world`
    divides lanes, each of `world` processes needs its own shards only; yet the order is the same for any `world`.
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
        """Lanes are a power of two, as numbers of processes are, and none has less than a shard.

        Raises ValueError for a shuffle_block below 1.
        """
        return cls(shards, shuffle_block, lanes=1 << (max(1, min(shuffle_block, 64)).bit_length() - 1))


class EpochPlan(NamedTuple):
    """An epoch, or a batch of it."""

    rows: NDArray[np.int64]  # (n,) rows of the manifest, in order of appearance
    matrices: NDArray[np.float32]  # (n, 2, 3) output pixel centre (x + .5, y + .5) -> source coordinates
    colours: NDArray[np.float32] | None = None  # (n, 3, 4) RGB and 1 -> RGB, in grey levels; None: as they are

    def part(self, places: slice) -> "EpochPlan":
        colours = None if self.colours is None else self.colours[places]
        return EpochPlan(self.rows[places], self.matrices[places], colours)


def plan_epoch(
    rows: NDArray[np.int64],
    augment: Augment,
    *,
    source_size: int,
    size: int,
    shuffle: bool,
    seed: int,
    epoch: int,
    shard: tuple[int, int] = (0, 1),
    labels: NDArray[np.int64] | None = None,
    blocks: Blocks | None = None,
) -> EpochPlan:
    """The table of an epoch.

    Everything random about a row is a function of (seed, epoch, row) alone. The order of a shuffled epoch depends on
    the set of rows, not on how they are listed. Shard (rank, world) takes every world-th place beginning at rank, so
    that `world` processes with batches of n see at each step what one process with batches of world * n sees.

    rows: int64 (n,), none negative. source_size, size: sides, in pixels, of the cached and of the rendered pictures.
    labels: int64 (n,), the rows' classes; with them the epoch, still of n places, is shared out evenly among the
    classes (see `balanced`), and a photograph's draws are those of the row whose place it takes, so that a photograph
    that comes several times is turned differently each time.
    blocks: how a shuffle keeps to few shards at a time; any row may come anywhere where None.
    Raises ValueError for a seed or epoch outside 0 to 2**64 - 1, an impossible shard, a size below 1.
    """
    _check_shard(shard)
    _check_size(size, source_size)
    words = random_words(rows, seed, epoch)
    owners = rows
    if labels is not None:
        listed = np.argsort(rows, kind="stable")  # so that the draws do not depend on how the rows are listed
        words, owners = words[listed], rows[listed]
        rows = balanced(owners, labels[listed], seed, epoch)
    order = shuffled(words[:, 0], rows, blocks, seed, epoch) if shuffle else np.arange(len(rows))
    order = order[shard[0] :: shard[1]]
    uniform = _uniform(words[order, 1:])
    zoom, colours = np.ones(len(order)), None
    if augment.zoom > 1 or augment.colour > 0:
        spread = 2 * _uniform(random_words(owners[order], seed, epoch, stream=2)) - 1
        zoom = augment.zoom ** spread[:, 0]
        if augment.colour > 0:
            colours = colour_matrices(*(1 + augment.colour * spread[:, 1:].T))
    matrices = affine(
        hflip=uniform[:, 0] < augment.hflip,
        vflip=uniform[:, 1] < augment.vflip,
        degrees=augment.degrees * (2 * uniform[:, 2] - 1),
        zoom=zoom,
        source_size=source_size,
        size=size,
    )
    return EpochPlan(rows[order], matrices, colours)


def shuffled(
    keys: NDArray[np.uint64], rows: NDArray[np.int64], blocks: Blocks | None, seed: int, epoch: int
) -> NDArray[np.int64]:
    """(n,) indices into `rows` in the order of their random keys; with blocks, of each block after the other.

    Shards belong to lanes, the same in every epoch. A lane puts its shards into a random order, another in each epoch,
    and shuffles the rows of shuffle_block / lanes of them into each other, then of the next; places are dealt out to
    the lanes in turn. Lanes are not equally long: the last places of an epoch (1 % of ten million) come from those
    left.

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
    in_turn = np.lexsort((random_words(shards, seed, epoch, stream=3)[:, 0], lane_of))
    turn = np.empty(len(shards), np.int64)
    turn[in_turn] = np.arange(len(shards)) - np.searchsorted(lane_of[in_turn], lane_of[in_turn])
    block_of = turn // max(1, blocks.shuffle_block // lanes)
    number = np.searchsorted(shards, blocks.shards[rows])
    cells = lane_of * (block_of.max(initial=0) + 1) + block_of
    cells = cells.astype(np.min_scalar_type(cells.max(initial=0)))  # up to 16 bits numpy sorts ten times as fast
    order = np.lexsort((keys, cells[number]))
    lane = lane_of[number[order]]
    place = np.arange(len(rows)) - np.searchsorted(lane, lane)  # in its lane
    return order[np.argsort(place * lanes + lane, kind="stable")]


def balanced(rows: NDArray[np.int64], labels: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) rows drawn so that each class has as many places as another, give or take one, class by class.

    Within a class photographs take turns, in an order drawn anew each epoch: none comes a second time before all have
    come, so a rare class is seen whole, several times, and of a common one each epoch sees another part.

    >>> np.bincount(balanced(np.arange(9), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2]), 0, 0)[3:6], minlength=9).tolist()
    [0, 0, 0, 0, 0, 0, 2, 1, 0]
    """
    turns = np.argsort(random_words(rows, seed, epoch, stream=1)[:, 0], kind="stable")
    classes = np.unique(labels)
    share, more = divmod(len(rows), len(classes))
    members = [rows[turns[labels[turns] == each]] for each in classes]
    return np.concatenate([np.resize(each, share + (place < more)) for place, each in enumerate(members)])


def affine(
    *,
    hflip: NDArray[np.bool_],
    vflip: NDArray[np.bool_],
    degrees: NDArray[np.floating],
    zoom: NDArray[np.floating],
    source_size: int,
    size: int,
) -> NDArray[np.float32]:
    """(n, 2, 3) matrices that flip, then turn about the centre, then scale a square picture, `zoom` larger than `size`.

    They map the centre (x + .5, y + .5) of an output pixel to where it lies in the source, whose pixels are unit
    squares with (0, 0) at the outer corner of the first. A positive angle turns the picture counter-clockwise, as in
    Pillow and torchvision: the same as `rotate(hflip(picture), degrees)`.
    """
    angle, scale = np.radians(degrees), source_size / size / zoom
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = np.where(hflip, -1.0, 1.0), np.where(vflip, -1.0, 1.0)
    # Backwards, from output to source: undo the scale, then the turn, then the flips. The centre goes to the centre.
    matrices = np.empty((len(degrees), 2, 3), np.float32)
    for i, (along_x, along_y) in enumerate([(x * cos, -x * sin), (y * sin, y * cos)]):
        matrices[:, i, 0] = along_x
        matrices[:, i, 1] = along_y
        matrices[:, i, 2] = source_size / 2 - (along_x + along_y) * (size / 2)
    return matrices


def colour_matrices(
    brightness: NDArray[np.floating], contrast: NDArray[np.floating], saturation: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(n, 3, 4) matrices from (r, g, b, 1) to (r, g, b), grey levels 0 to 255, for n factors each; 1 changes nothing.

    In this order: brightness multiplies, contrast does so about mid-grey (128), saturation about the pixel's own grey
    (ITU-R BT.601). Each is Pillow's and torchvision's, but for the grey about which they take contrast, the picture's
    mean, and that what leaves 0 to 255 is cut off once, at the end.
    """
    own = np.eye(3)
    grey = np.broadcast_to(_LUMA, (3, 3))
    factor = saturation[:, None, None]
    matrices = np.empty((len(brightness), 3, 4), np.float32)
    matrices[:, :, :3] = (brightness * contrast)[:, None, None] * (factor * own + (1 - factor) * grey)
    matrices[:, :, 3] = (128 * (1 - contrast))[:, None]  # grey, which saturation leaves as it is
    return matrices


def halvings(source_size: int, size: int) -> int:
    """How often a picture is halved, by the mean of 2 x 2 pixels, before it is warped to `size`.

    Bilinear interpolation looks at two pixels each way: beyond a ratio of 2 it would skip some, and small bright or
    dark dots would come and go with the angle. What is left is below 2, or 2 where the side is odd, times the zoom of
    photographs that are shown smaller.

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
    """The batches of every epoch: what a loader renders.

    Raises ValueError, quoting the bad value, for what no epoch could be planned with.
    """

    rows: NDArray[np.int64] = field(repr=False)
    augment: Augment
    source_size: int
    size: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    shard: tuple[int, int] = (0, 1)
    labels: NDArray[np.int64] | None = field(default=None, repr=False)
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        _check_size(self.size, self.source_size)
        _check_shard(self.shard)
        _check_word("seed", self.seed)

    def __len__(self) -> int:
        """Batches in an epoch, the short last one included."""
        return -(-len(range(self.shard[0], len(self.rows), self.shard[1])) // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> list[EpochPlan]:
        """The batches of an epoch from batch `start` on; none where start is their number."""
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
            blocks=self.blocks,
        )
        firsts = range(start * self.batch_size, len(plan.rows), self.batch_size)
        return [plan.part(slice(first, first + self.batch_size)) for first in firsts]


def random_words(rows: NDArray[np.int64], seed: int, epoch: int, stream: int = 0) -> NDArray[np.uint64]:
    """(n, 4) random words: row r owns block r of the Philox stream with the key (seed, epoch).

    Further streams have their own part of the counter: what is drawn there leaves the draws here as they are.

    Raw words, because numpy keeps them the same for ever and makes no such promise for its distributions.
    """
    _check_word("seed", seed)
    _check_word("epoch", epoch)
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, stream])
    blocks = int(rows.max(initial=-1)) + 1
    return philox.random_raw(4 * blocks).reshape(blocks, 4)[rows]


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Of each word the top 53 bits, a double in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_word(name: str, value: int) -> None:
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} must be 0 to 2**64 - 1, got {value}")


def _check_shard(shard: tuple[int, int]) -> None:
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"shard is (rank, world) with 0 <= rank < world, got {shard}")


def _check_size(size: int, source_size: int) -> None:
    if not 1 <= size <= source_size:
        raise ValueError(f"size must be 1 to {source_size}, the cache's own, got {size}")
