"""benchmarks/gpu.py, as far as it can be held without a card: what it may claim, and that its variants are honest."""

import doctest
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from click import ClickException
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks.md"


def load(name: str) -> ModuleType:
    """A module of benchmarks/, which is no package: its scripts are run by their paths."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


measuring, page, workloads = load("measuring"), load("page"), load("workloads")


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    return measuring.Stage("steps", tmp_path / "out", tmp_path / "work", 20.0, small=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time as measuring sees it: it passes only in `clock.sleep`, whatever else the machine does."""

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


def written(stage: Any) -> dict[str, Any]:
    stage.write()
    fields: dict[str, Any] = json.loads((stage._path).read_text())
    return fields


def test_rows_are_measured_in_turn_and_ratios_are_those_of_the_turns(clock: Any, stage: Any) -> None:
    order: list[str] = []

    def takes(name: str, seconds: float) -> Callable[[], Callable[[int], None]]:
        def run(batches: int) -> None:
            order.append(name)
            clock.sleep(seconds * batches)

        return lambda: run

    with stage.group() as group:
        group.add("slow", takes("slow", 0.02))
        group.add("quick", takes("quick", 0.01))
    turns = stage.scale.turns
    assert order[-4 * turns :] == ["slow", "slow", "quick", "quick"] * turns  # two batches that are not counted first
    row = written(stage)["rows"]["quick"]
    assert row["median"] == pytest.approx(np.median(row["turns"]))
    assert stage.ratio("quick", "slow") == pytest.approx(2)
    assert stage.ratio("quick", "quick", "slow") == stage.ratio("quick", "slow")  # the slower of several bases counts
    assert stage.ratio("quick", "nobody") is None


def test_what_cannot_be_measured_is_named_and_has_no_figure(stage: Any) -> None:
    def broken() -> Any:
        raise RuntimeError("no such engine\nand more")

    with stage.group() as group:
        group.add("broken", broken)
        group.add("fine", lambda: lambda batches: None)
        with patch.dict(measuring.NEEDS, cuda=lambda: "needs a CUDA card, there is none"):
            group.add("on a card", broken, needs=["cuda"])
    found = written(stage)
    assert found["rows"].keys() == {"fine"}
    assert found["failed"] == {"broken": "RuntimeError: no such engine"}
    assert found["skipped"] == {"on a card": "needs a CUDA card, there is none"}


def test_rows_that_no_longer_fit_are_dropped_and_named(clock: Any, stage: Any) -> None:
    with stage.group(seconds=0.2) as group:
        group.add("first", lambda: lambda batches: clock.sleep(0.12))
        group.add("second", lambda: lambda batches: None)
    found = written(stage)
    assert "second" in found["dropped"]
    assert found["rows"].keys() | found["dropped"].keys() == {"first", "second"}


@pytest.mark.parametrize(
    ("value", "bounds", "met"),
    [
        (0.9, {"least": 0.9}, True),
        (0.89, {"least": 0.9}, False),
        (0.01, {"most": 0.02}, True),
        (None, {"least": 0.9}, None),
        (3.0, {}, None),
    ],
)
def test_what_was_wanted_is_true_or_false_only_where_it_was_measured(
    stage: Any, value: float | None, bounds: dict[str, float], met: bool | None
) -> None:
    stage.want("what", value, **bounds)
    assert written(stage)["wanted"][0]["met"] is met


def test_the_examples_hold() -> None:
    assert doctest.testmod(workloads).failed == 0


# --- the page ---


def write_stage(out: Path, name: str, rows: dict[str, list[float]], **fields: Any) -> None:
    out.mkdir(exist_ok=True)
    found = {
        "stage": name,
        "small": False,
        "machine": {"cpu": "a processor", "cores": 16, "gpu": "a card", "driver": "580", "torch": "2.11"},
        "rows": {row: {"median": float(np.median(turns)), "turns": turns, "card_used_gib": 12.34}
                 for row, turns in rows.items()},
        "wanted": [],
        **{kind: {} for kind in ("skipped", "dropped", "failed")},
        **fields,
    }  # fmt: skip
    (out / f"{name}.json").write_text(json.dumps(found))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "benchmarks.md"
    path.write_text(PAGE.read_text())
    return path


def test_the_page_is_as_the_script_leaves_it_where_nothing_was_measured(copy: Path, tmp_path: Path) -> None:
    """Nobody has filled in a cell by hand: either all are empty, or the card that they are of is named."""
    text = PAGE.read_text()
    part = text[text.index(page.BEGIN) : text.index(page.END)]
    if "Card: not measured yet." in part:
        (tmp_path / "none").mkdir()
        page.fill(copy, tmp_path / "none", small=False)
        assert copy.read_text() == text
    else:
        assert "driver" in part


def test_the_page_is_filled_from_the_files_and_filling_it_again_changes_nothing(copy: Path, tmp_path: Path) -> None:
    stage, row = page.ROWS[0]
    _, what, _ = next(each for each in page.WANTED if each[0] == stage)
    wanted = [{"what": what, "value": 0.934, "at_least": 0.9, "at_most": None, "met": True}]
    write_stage(
        tmp_path / "out", stage, {row: [4000.0, 4100.0, 4200.0]}, wanted=wanted, failed={page.ROWS[4][1]: "why"}
    )
    page.fill(copy, tmp_path / "out", small=False)
    once = copy.read_text()
    assert f"| {row} | 4,100 | 4,000 - 4,200 | 12.3 |" in once
    assert f"| {what} | 0.934 | at least 0.9 | yes |" in once
    assert f"| {page.ROWS[4][1]} | failed: why | | |" in once
    assert "Card: a card, driver 580, torch 2.11, 16 cores of a processor." in once
    assert page.NOT_YET in once  # the other rows
    page.fill(copy, tmp_path / "out", small=False)
    assert copy.read_text() == once
    before, after = PAGE.read_text().split(page.BEGIN)[0], PAGE.read_text().split(page.END)[1]
    assert once.startswith(before)
    assert once.endswith(after)


def test_a_trials_figures_never_come_into_the_page(copy: Path, tmp_path: Path) -> None:
    write_stage(tmp_path / "out", "dali", {}, small=True)
    with pytest.raises(ClickException, match="trial"):
        page.fill(copy, tmp_path / "out", small=False)


# --- the variants ---


@pytest.fixture
def noise(make_cache: Callable[..., Path]) -> Any:
    """Photographs unlike any turned or mirrored other."""

    def picture(seed: int) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
        return np.array(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))

    return open_cache(make_cache({str(seed): picture(seed) for seed in range(11)}))


class WithoutCard:
    """torch, as variants see it where no card is: memory is pageable, and the current stream is none."""

    cuda = type("cuda", (), {"current_stream": staticmethod(lambda: None)})

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: Any, pin_memory: bool = False, **settings: Any) -> torch.Tensor:
        return torch.empty(*shape, **settings)


def pixels(loader: Loader) -> torch.Tensor:
    with loader:
        epochs = (loader.epoch(number, start) for number, start in ((0, 0), (3, 1)))
        return torch.cat([batch.images for epoch in epochs for batch in epoch])


SAME_PIXELS = (
    "outputs bound to torch's stream",
    "JPEGs in page-locked memory",
    "both of these",
    "no padding crop",
    "fed three ahead",
    "two readers",
)


@pytest.mark.parametrize("size", [64, 24])
@pytest.mark.parametrize("name", SAME_PIXELS)
def test_a_variant_of_the_dali_loader_gives_the_same_pixels(noise: Any, name: str, size: int) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from nvidia.dali import fn

    switches = load("switches")

    def opened() -> Loader:
        return open_loader(
            "dali", noise, split="all", batch_size=4, augment=Augment(), shuffle=True, size=size, workers=2
        )

    expected = pixels(opened())
    loader_class, built_with, running, _ = switches.dali_variants()[name]
    with (
        patch.object(switches, "torch", WithoutCard()),
        patch("pipeline.loading.dali_loader.DaliLoader", loader_class),
        patch("pipeline.loading.dali_loader.fn", switches._Namespace(fn, **built_with)),
        running(),
    ):
        loader = opened()
        assert type(loader) is loader_class
        # Without the frame coordinates differ by a pixel, and round differently.
        difference = (pixels(loader).int() - expected.int()).abs()
        assert difference.max() <= (1 if name == "no padding crop" else 0)


# --- one rank ---


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_one_rank_learns_what_no_rank_does(stage: Any, noise: Any, device: str) -> None:
    stage.device = torch.device(device)
    found = load("one_rank").compare(stage, noise, 64)
    assert found["network"] == "DistributedDataParallel"
    assert found["layers"] == ["SynchronisedBatchNorm" if device == "cpu" else "SyncBatchNorm"]
    assert found["backend"] == ("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    assert found["largest_difference"] < 1e-3
    assert found["objects_and_numbers_arrive"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    yield
    torch.set_num_threads(threads)


# --- the command ---


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks/gpu.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_the_three_visits_fit_into_thirteen_minutes() -> None:
    stages = load("gpu").STAGES
    text = (ROOT / "benchmarks/README.md").read_text()
    visits = re.findall(r"limit (\d+) s\.\*\*.*?for stage in (.*?); do", text, re.DOTALL)
    assert len(visits) == 3
    for limit, names in visits:
        assert sum(stages[name].seconds for name in names.split()) + 10 <= int(limit)  # and to unpack and to start
    assert sum(int(limit) for limit, _ in visits) < 13 * 60
    assert {name for _, names in visits for name in names.split()} | {"train"} == stages.keys()
    (trial,) = re.findall(r"for stage in ([^;]*); do\n +python benchmarks/gpu.py \$stage --out /tmp/trial", text)
    assert {*trial.split(), "train"} == stages.keys()


@pytest.mark.slow
def test_phantoms_are_drawn_once_and_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: `test_a_stage_without_phantoms_says_how_to_draw_them` runs the script by its path."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr("pipeline.machine.set_up", lambda: None)  # this process has imported torch already
    main = load("gpu").main

    def run(stage: str) -> Result:
        folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
        return CliRunner().invoke(main, [stage, *folders, "--small"])

    for _ in range(2):
        assert run("draw").exit_code == 0
        found = json.loads((tmp_path / "out/draw.json").read_text())
        assert not found["failed"]
        assert found["found"]["photographs"] == 48
    assert "drawing, seconds" not in found["found"]  # they were there
    done = run("nccl")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].endswith("nccl.json")
    found = json.loads((tmp_path / "out/nccl.json").read_text())
    assert not found["failed"]
    assert len(found["rows"]) == 2


def test_a_stage_without_phantoms_says_how_to_draw_them(tmp_path: Path) -> None:
    done = run("nccl", "--out", tmp_path / "out", "--work", tmp_path / "work", "--small")
    assert done.returncode == 0
    assert "gpu.py draw" in json.loads((tmp_path / "out/nccl.json").read_text())["failed"]["the stage"]
