"""What an epoch's table promises, whoever renders it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from pipeline.loading.plan import (
    NO_AUGMENT,
    Augment,
    Blocks,
    EpochPlan,
    Schedule,
    Shard,
    affine,
    colour_matrices,
    halvings,
    plan_epoch,
)

ROWS = np.array([3, 4, 8, 20, 21, 22, 40, 41, 55, 70, 71, 90, 99])
ALWAYS = Augment()


def plan(rows: np.ndarray = ROWS, augment: Augment = ALWAYS, **changes: object) -> EpochPlan:
    settings = {"source_size": 512, "size": 224, "shuffle": True, "seed": 7, "epoch": 3}
    return plan_epoch(rows, augment, **(settings | changes))  # type: ignore[arg-type]


def by_row(plan: EpochPlan) -> dict[int, bytes]:
    return {int(row): matrix.tobytes() for row, matrix in zip(plan.rows, plan.matrices, strict=True)}


def angles(matrices: np.ndarray) -> np.ndarray:
    """Degrees, of matrices without flips."""
    return np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))


def test_shapes_and_types() -> None:
    rows, matrices, _ = plan()
    assert (rows.dtype, rows.shape) == (np.int64, (13,))
    assert (matrices.dtype, matrices.shape) == (np.float32, (13, 2, 3))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 13, 20])
def test_shards_share_out_every_row_once(world: int, shuffle: bool) -> None:
    shards = [plan(shuffle=shuffle, shard=(rank, world)) for rank in range(world)]
    assert sorted(np.concatenate([shard.rows for shard in shards])) == sorted(ROWS)
    assert max(len(shard.rows) for shard in shards) - min(len(shard.rows) for shard in shards) <= 1


def test_a_step_of_two_processes_is_a_step_of_one() -> None:
    def batches(batch_size: int, shard: tuple[int, int]) -> list[EpochPlan]:
        return Schedule(
            ROWS[:12], Augment(), source_size=512, size=512, batch_size=batch_size, shuffle=True, shard=Shard(*shard)
        ).batches(5)

    halves = zip(batches(3, (0, 2)), batches(3, (1, 2)), strict=True)
    for whole, (left, right) in zip(batches(6, (0, 1)), halves, strict=True):
        assert by_row(whole) == by_row(left) | by_row(right)


def test_without_shuffling_rows_come_as_they_are_given() -> None:
    assert plan(ROWS[::-1], shuffle=False).rows.tolist() == ROWS[::-1].tolist()


def test_the_order_depends_on_the_set_of_rows_only() -> None:
    assert plan(ROWS[::-1]).rows.tolist() == plan(ROWS).rows.tolist()


def test_the_draw_of_a_row_depends_on_nothing_around_it() -> None:
    everything = by_row(plan())
    for other in (plan(ROWS[4:9]), plan(ROWS[::-1], shuffle=False), plan(shard=(1, 3)), plan(np.arange(100))):
        assert {row: matrix for row, matrix in by_row(other).items() if row in everything}.items() <= everything.items()


@pytest.mark.parametrize("change", [{"epoch": 4}, {"seed": 8}, {"seed": 3, "epoch": 7}])
def test_another_epoch_or_seed_is_another_order_and_other_draws(change: dict[str, int]) -> None:
    assert plan(**change).rows.tolist() != plan().rows.tolist()
    assert not set(by_row(plan(**change)).values()) & set(by_row(plan()).values())


def test_the_draws_never_change() -> None:
    """An epoch begun with one release of numpy, Python or this program is resumed with another."""
    rows, matrices, _ = plan(np.arange(8), Augment(hflip=0, vflip=0, degrees=180), seed=1, epoch=2)
    assert rows.tolist() == [1, 4, 0, 2, 3, 7, 5, 6]
    expected = [85.984, -153.423, 166.285, -172.059, 48.091, 85.514, -17.280, -167.882]
    assert angles(matrices) == pytest.approx(expected, abs=1e-3)


def test_draws_are_spread_as_asked() -> None:
    """10,000 rows: a share strays by 0.005 (one sigma), so 0.02 is four."""
    matrices = plan(np.arange(10_000), Augment(hflip=0.3, vflip=0, degrees=0)).matrices
    assert abs((matrices[:, 0, 0] < 0).mean() - 0.3) < 0.02
    matrices = plan(np.arange(10_000), Augment(hflip=0, vflip=0.8, degrees=0)).matrices
    assert abs((matrices[:, 1, 1] < 0).mean() - 0.8) < 0.02
    turned = angles(plan(np.arange(10_000), Augment(hflip=0, vflip=0, degrees=40)).matrices)
    assert np.histogram(turned, 4, (-40, 40))[0] == pytest.approx([2500] * 4, rel=0.08)
    assert abs(turned).max() <= 40 + 1e-4


VARIED = Augment(zoom=1.25, colour=0.3)


def zooms(matrices: np.ndarray) -> np.ndarray:
    """Of matrices from 224 pixels to 512."""
    return 512 / 224 / np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])


def test_zoom_and_colours_leave_order_flips_and_turns_as_they_are() -> None:
    plain, varied = plan(), plan(augment=VARIED)
    assert varied.rows.tolist() == plain.rows.tolist()
    scale = zooms(varied.matrices)[:, None, None]
    assert varied.matrices[:, :, :2] * scale == pytest.approx(plain.matrices[:, :, :2], rel=1e-5, abs=1e-5)
    centre = np.array([112, 112, 1])
    assert varied.matrices @ centre == pytest.approx(np.full((len(ROWS), 2), 256), abs=1e-3)
    assert plain.colours is None  # and costs nothing
    assert plan(augment=Augment(zoom=1.25)).colours is None


def test_zoom_is_spread_evenly_on_a_scale_of_ratios() -> None:
    found = np.log(zooms(plan(np.arange(10_000), VARIED).matrices)) / np.log(1.25)
    assert np.histogram(found, 4, (-1, 1))[0] == pytest.approx([2500] * 4, rel=0.08)
    assert abs(found).max() <= 1 + 1e-4


def test_colours_belong_to_rows_and_places_as_turns_do() -> None:
    whole = plan(augment=VARIED)
    assert whole.colours is not None
    assert (whole.colours.dtype, whole.colours.shape) == (np.float32, (13, 3, 4))
    assert len({colour.tobytes() for colour in whole.colours}) == len(ROWS)
    of = dict(zip(whole.rows.tolist(), whole.colours, strict=True))
    for part in (plan(ROWS[4:9], VARIED), plan(augment=VARIED, shard=(1, 3)), plan(augment=VARIED, shuffle=False)):
        assert part.colours is not None
        assert all((of[row] == colour).all() for row, colour in zip(part.rows.tolist(), part.colours, strict=True))
    balanced = plan(augment=VARIED, labels=GRADES)
    assert balanced.colours is not None
    assert balanced.colours.tobytes() == whole.colours.tobytes()  # of the places; one photograph has several
    batches = Schedule(ROWS, VARIED, source_size=512, size=224, batch_size=4, shuffle=True, seed=7).batches(3, 1)
    assert (np.concatenate([batch.colours for batch in batches]) == whole.colours[4:]).all()


def test_a_factor_of_one_changes_no_colour() -> None:
    assert (colour_matrices(np.ones(1), np.ones(1), np.ones(1)) == np.eye(3, 4)).all()


@pytest.mark.parametrize("factor", [0.7, 1.2])
def test_each_factor_is_torchvisions(factor: float) -> None:
    """On a picture whose mean grey, about which torchvision takes contrast, is 128, with levels that never clip."""
    half = np.random.default_rng(0).integers(40, 129, (32, 32, 3), np.uint8)
    picture = torch.from_numpy(np.concatenate([half, np.uint8(0) - half]).astype(np.float32)).permute(2, 0, 1) / 255
    one, changed = np.ones(1), np.array([factor])
    for place, adjust in enumerate((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)):
        (matrix,) = colour_matrices(*(changed if place == each else one for each in range(3)))
        homogeneous = torch.cat([picture * 255, torch.ones(1, 64, 32)])
        ours = torch.einsum("ij,jyx->iyx", torch.from_numpy(matrix), homogeneous).clamp(0, 255)
        # torchvision's grey weighs by 0.2989, 0.587 and 0.114
        torch.testing.assert_close(ours, adjust(picture, factor) * 255, atol=0.05, rtol=0)


GRADES = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 4])  # of ROWS


def test_a_balanced_epoch_keeps_its_length_and_shares_it_out_evenly() -> None:
    grade = dict(zip(ROWS.tolist(), GRADES.tolist(), strict=True))
    seen = set()
    for epoch in range(6):
        rows = plan(labels=GRADES, epoch=epoch).rows
        assert np.bincount([grade[row] for row in rows.tolist()]).tolist() == [5, 0, 4, 0, 4]
        times = np.unique(rows, return_counts=True)[1]
        assert sorted(times) == [1, 1, 1, 1, 1, 1, 1, 2, 4]  # five of nine once, three shared out, the only one
        seen |= set(rows.tolist())
    assert seen == set(ROWS.tolist())


@pytest.mark.parametrize(
    ("epoch", "numbers"),
    [
        (0, [5, 4, 4]),
        (1, [6, 4, 3]),  # a third of the way from 13/3, 13/3, 13/3 to 9, 3, 1: 5.89, 3.89, 3.22
        (2, [8, 3, 2]),  # 7.44, 3.44, 2.11: the first of the two that lost most by rounding
        (3, [9, 3, 1]),
        (7, [9, 3, 1]),
    ],
)
def test_fading_goes_from_equal_numbers_to_those_of_the_table(epoch: int, numbers: list[int]) -> None:
    grade = dict(zip(ROWS.tolist(), GRADES.tolist(), strict=True))
    rows = plan(labels=GRADES, epoch=epoch, fading=4).rows
    assert np.bincount([grade[row] for row in rows.tolist()])[[0, 2, 4]].tolist() == numbers
    if epoch >= 3:
        assert sorted(rows) == sorted(ROWS)
    if epoch == 0:
        assert rows.tolist() == plan(labels=GRADES, epoch=0).rows.tolist()


def test_a_photograph_that_comes_again_is_turned_differently() -> None:
    rows, matrices, _ = plan(labels=GRADES)
    assert len({(row, matrix.tobytes()) for row, matrix in zip(rows.tolist(), matrices, strict=True)}) == len(ROWS)
    assert matrices.tobytes() == plan().matrices.tobytes()  # the draws belong to the places


def test_a_balanced_epoch_depends_on_seed_and_epoch_and_not_on_how_rows_are_listed() -> None:
    expected = plan(labels=GRADES)
    again = plan(ROWS[::-1], labels=GRADES[::-1])
    assert again.rows.tolist() == expected.rows.tolist()
    assert again.matrices.tobytes() == expected.matrices.tobytes()
    for change in ({"seed": 8}, {"epoch": 4}):
        assert plan(labels=GRADES, **change).rows.tolist() != expected.rows.tolist()


@pytest.mark.parametrize("world", [2, 5])
def test_shards_of_a_balanced_epoch_are_cut_from_one_table(world: int) -> None:
    whole = plan(labels=GRADES)
    for rank in range(world):
        shard = plan(labels=GRADES, shard=(rank, world))
        assert shard.rows.tolist() == whole.rows[rank::world].tolist()
        assert shard.matrices.tobytes() == whole.matrices[rank::world].tobytes()


def test_what_is_drawn_beside_an_epoch_leaves_its_draws_alone() -> None:
    """One block of another stream is a block that this stream has not: 256 bits of counter, 64 of them the stream's."""
    words = [np.random.Philox(key=np.array([7, 3], np.uint64), counter=[0, 0, 0, n]).random_raw(400) for n in (0, 1)]
    assert not set(words[0].tolist()) & set(words[1].tolist())
    assert words[0].tolist() == np.random.Philox(key=np.array([7, 3], np.uint64)).random_raw(400).tolist()


def test_evaluation_leaves_a_photograph_as_it_is() -> None:
    matrices = plan(augment=NO_AUGMENT, size=512).matrices
    assert (matrices == [[1, 0, 0], [0, 1, 0]]).all()


def one(hflip: bool, vflip: bool, degrees: float, source_size: int, size: int) -> np.ndarray:
    return affine(
        hflip=np.array([hflip]),
        vflip=np.array([vflip]),
        degrees=np.array([degrees]),
        zoom=np.ones(1),
        source_size=source_size,
        size=size,
    )[0]


@pytest.mark.parametrize(
    ("flips_and_degrees", "source_of_top_left"),  # of a picture of 8 x 8 at its own size: (.5, .5) comes from where?
    [
        ((False, False, 0), (0.5, 0.5)),
        ((True, False, 0), (7.5, 0.5)),
        ((False, True, 0), (0.5, 7.5)),
        ((False, False, 90), (7.5, 0.5)),  # counter-clockwise: the top right corner comes to the top left
        ((False, False, -90), (0.5, 7.5)),
        ((False, False, 180), (7.5, 7.5)),
        ((True, False, 90), (0.5, 0.5)),  # flipped first: what lies top left goes to the right, and from there up
    ],
)
def test_where_the_top_left_pixel_comes_from(
    flips_and_degrees: tuple[bool, bool, float], source_of_top_left: tuple[float, float]
) -> None:
    assert one(*flips_and_degrees, 8, 8) @ [0.5, 0.5, 1] == pytest.approx(source_of_top_left, abs=1e-5)


@given(st.booleans(), st.booleans(), st.floats(-180, 180), st.integers(32, 1024), st.integers(16, 1024))
def test_the_centre_stays_and_distances_scale(
    hflip: bool, vflip: bool, degrees: float, source_size: int, size: int
) -> None:
    matrix = one(hflip, vflip, degrees, source_size, size)
    assert matrix @ [size / 2, size / 2, 1] == pytest.approx([source_size / 2] * 2, abs=1e-3)
    linear = matrix[:, :2] * (size / source_size)
    assert linear @ linear.T == pytest.approx(np.eye(2), abs=1e-5)
    assert np.linalg.det(linear) == pytest.approx(-1 if hflip != vflip else 1, abs=1e-5)


@pytest.mark.parametrize(
    ("source_size", "size", "count"),
    [
        (512, 512, 0),
        (512, 257, 0),  # half of it would not cover the target
        (512, 256, 1),
        (512, 224, 1),
        (512, 128, 2),
        (512, 100, 2),
        (510, 100, 1),  # 255 is odd
        (56, 28, 1),
    ],
)
def test_halvings(source_size: int, size: int, count: int) -> None:
    assert halvings(source_size, size) == count


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"hflip": 1.5}, "hflip .* 1.5"),
        ({"vflip": -0.1}, "vflip .* -0.1"),
        ({"hflip": float("nan")}, "hflip .* nan"),
        ({"degrees": 181}, "degrees .* 181"),
        ({"degrees": -1}, "degrees .* -1"),
        ({"zoom": 0.9}, "zoom .* 0.9"),
        ({"zoom": 3}, "zoom .* 3"),
        ({"colour": -0.1}, "colour .* -0.1"),
        ({"colour": 1.5}, "colour .* 1.5"),
    ],
)
def test_an_impossible_augmentation_is_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seed": -1}, "seed .* -1"),
        ({"epoch": -2}, "epoch .* -2"),
        ({"seed": 2**64}, "seed .* 18446744073709551616"),
        ({"shard": (2, 2)}, r"\(2, 2\)"),
        ({"shard": (-1, 2)}, r"\(-1, 2\)"),
        ({"size": 0}, "got 0"),
        ({"size": 513}, "512, .* got 513"),
    ],
)
def test_an_impossible_epoch_is_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**bad)


def test_start_counts_batches() -> None:
    schedule = Schedule(ROWS, Augment(), source_size=512, size=512, batch_size=4, shuffle=True)
    batches = schedule.batches(2)
    assert [len(batch.rows) for batch in batches] == [4, 4, 4, 1]
    assert len(schedule) == 4
    for start in range(5):
        rest = schedule.batches(2, start)
        assert [batch.rows.tolist() for batch in rest] == [batch.rows.tolist() for batch in batches[start:]]
    with pytest.raises(ValueError, match=r"0 to 4.* got 5"):
        schedule.batches(2, 5)


def test_a_shard_beyond_the_last_photograph_has_no_batches() -> None:
    schedule = Schedule(ROWS[:2], Augment(), source_size=512, size=512, batch_size=4, shard=Shard(2, 3))
    assert len(schedule) == 0
    assert schedule.batches(0) == []


# --- blocks of shards

SHARDS = np.random.default_rng(0).permutation(np.repeat(np.arange(32), 10))  # of 320 rows


def shards_of(plan: EpochPlan) -> np.ndarray:
    return SHARDS[plan.rows]


def blocked(shuffle_block: int = 8, lanes: int = 1, **changes: object) -> EpochPlan:
    return plan(np.arange(320), blocks=Blocks(SHARDS, shuffle_block, lanes), **changes)


def test_without_blocks_rows_come_in_the_order_of_their_first_random_word() -> None:
    words = np.random.Philox(key=np.array([7, 3], np.uint64)).random_raw(4 * 320).reshape(320, 4)
    assert plan(np.arange(320)).rows.tolist() == np.argsort(words[:, 0]).tolist()
    assert blocked(shuffle_block=32).rows.tolist() == plan(np.arange(320)).rows.tolist()  # all shards are one block


@pytest.mark.parametrize(("shuffle_block", "lanes"), [(1, 1), (8, 1), (8, 4), (12, 8), (64, 64)])
def test_blocks_leave_out_no_row_and_change_none_of_its_draws(shuffle_block: int, lanes: int) -> None:
    assert by_row(blocked(shuffle_block, lanes)) == by_row(plan(np.arange(320)))
    assert len(blocked(shuffle_block, lanes).rows) == 320


def test_a_block_is_some_whole_shards_well_shuffled() -> None:
    parts = shards_of(blocked()).reshape(4, 80)
    assert [len(set(part)) for part in parts] == [8] * 4
    assert len(set(parts.flat)) == 32
    for part in parts:
        assert (np.diff(part) != 0).mean() > 0.7  # of neighbours; 7 of 8 are expected to differ


def test_each_epoch_has_other_shards_in_a_block() -> None:
    first, second = ({frozenset(part) for part in shards_of(blocked(epoch=e)).reshape(4, 80).tolist()} for e in (3, 4))
    assert not first & second


@pytest.mark.parametrize("world", [2, 4, 8])
def test_in_lanes_each_process_has_its_own_shards_and_few_at_a_time(world: int) -> None:
    whole = blocked(shuffle_block=16, lanes=8)
    ranks = [blocked(shuffle_block=16, lanes=8, shard=(rank, world)) for rank in range(world)]
    for rank, part in enumerate(ranks):
        assert part.rows.tolist() == whole.rows[rank::world].tolist()
        assert [len(set(half)) for half in shards_of(part).reshape(2, -1)] == [16 // world] * 2
    seen = [set(shards_of(part).tolist()) for part in ranks]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 32


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_any_shards_and_blocks_share_out_every_row_once(shards: list[int], shuffle_block: int, lanes: int) -> None:
    rows = np.arange(len(shards))[::-1]
    blocks = Blocks(np.array(shards), shuffle_block, lanes)
    parts = [plan(rows, NO_AUGMENT, blocks=blocks, shard=(rank, 3)) for rank in range(3)]
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(len(shards)))


def test_blocks_and_balanced_grades_go_together() -> None:
    rows, labels = np.arange(320), (np.arange(320) % 16 == 0).astype(np.int64)
    mixed = blocked(labels=labels)
    assert labels[mixed.rows].mean() == 0.5
    assert [len(set(part)) <= 8 for part in np.split(shards_of(mixed), 4)].count(True) >= 1
    assert sorted(mixed.rows) == sorted(plan(rows, labels=labels).rows)


@pytest.mark.parametrize("bad", [{"shuffle_block": 0}, {"lanes": 0}])
def test_impossible_blocks_are_refused_with_the_value(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Blocks(SHARDS, **bad)
