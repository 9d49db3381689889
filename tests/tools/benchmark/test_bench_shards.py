"""The simulation of shard orders, against arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tools.benchmark import shards as bench_shards
from tools.benchmark.shards import BLOCKS, GLOBAL, LANES, ShardReport, fetches, mixing, simulate
from tools.cli import main


@pytest.fixture(scope="module")
def report() -> ShardReport:
    return simulate(2_000_000)  # 8,192 shards


def test_the_shard_wanted_the_longest_ago_goes_first() -> None:
    first, second = np.array([1, 2, 1, 3, 2]), np.array([2, 3, 1])
    # Room for two: 1 and 2 come, 1 is there, 3 drives out 2, and 2 drives out 1. Then both are there, and 1 comes.
    assert fetches([first, second], 2) == [4, 1]
    assert fetches([first, second], 3) == [3, 0]


def test_random_shards_are_found_as_often_as_the_folder_is_large() -> None:
    asked = np.random.default_rng(0).integers(100, size=(2, 50_000))
    assert 1 - fetches(list(asked), 25)[1] / 50_000 == pytest.approx(0.25, abs=0.01)


def test_a_global_order_fetches_for_nearly_every_photograph_and_lanes_each_shard_once(report: ShardReport) -> None:
    later = {(row.order, row.machines, row.room): row.later for row in report.fetched}
    each = report.photographs / report.shards
    for machines in (1, 8, 64):
        assert later[GLOBAL, machines, 1 / 16] == pytest.approx(each * 15 / 16, rel=0.02)
        assert later[LANES, machines, 1 / 16] < 1.5
        assert later[BLOCKS, machines, 1 / 16] == pytest.approx(machines, rel=0.2)  # every machine fetches every shard
        # Unmet at first are shards of whose photographs none fell to the machine; most of those it meets later.
        unmet = (1 - 1 / machines) ** each
        assert later[GLOBAL, machines, 1] == pytest.approx(machines * unmet * (1 - unmet), abs=0.1)


def test_whole_folders_are_filled_once(report: ShardReport) -> None:
    first = {(row.order, row.machines): row.first for row in report.fetched if row.room == 1}
    assert first[GLOBAL, 1] == first[LANES, 1] == 1
    assert first[GLOBAL, 64] == pytest.approx(64, rel=0.05)
    assert first[LANES, 64] < first[GLOBAL, 64] / 20


def test_mixing_is_counted_in_shards_and_grades(report: ShardReport) -> None:
    shards, batch = report.shards, bench_shards.BATCH
    assert report.mixed[GLOBAL].shards == pytest.approx(shards * (1 - (1 - 1 / shards) ** batch), rel=0.01)
    assert report.mixed[BLOCKS].shards == pytest.approx(256 * (1 - (1 - 1 / 256) ** batch), rel=0.02)
    assert report.mixed[LANES].grades == pytest.approx(report.mixed[GLOBAL].grades, rel=0.02)
    # A batch of one grade, of which the set has half, is off by half.
    sorted_grades = np.repeat(np.array([0, 1], np.int8), batch)
    assert mixing(np.zeros(2 * batch, np.int64), sorted_grades) == (1, 0.5)


def test_the_command_prints_a_table_and_which_order_to_take(
    report: ShardReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_shards, "simulate", lambda: report)
    done = CliRunner().invoke(main, ["bench", "--simulate-shards", "--json", str(tmp_path / "s.json")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == report.verdict()
    assert "blocks in lanes" in done.stdout
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["settings"]["shards"] == 8192
    assert len(written["fetched"]) == 27


def test_a_cache_is_not_simulated() -> None:
    assert CliRunner().invoke(main, ["bench", "cache", "--simulate-shards"]).exit_code == 2
