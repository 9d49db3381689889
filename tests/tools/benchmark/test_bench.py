import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

from pipeline.loading.loaders import dali_installed
from tools.benchmark.bench import measure
from tools.benchmark.report import Report
from tools.benchmark.workloads import DECODE, NVJPEG, PLAIN, STEP, Step, fed, uint8
from tools.cli import main

LOADERS = ["torchvision", "dali"] if dali_installed() else ["torchvision"]
TINY = ["--batch", "2", "--workers", "1", "--seconds", "0.01"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    assert CliRunner().invoke(main, ["phantom", str(folder / "eyes"), "--eyes", "6"]).exit_code == 0
    arguments = ["preprocess", str(folder / "eyes"), "--out", str(folder / "cache"), "--size", "96", "--workers", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    return folder / "cache"


@pytest.fixture(scope="module")
def run(cache: Path) -> tuple[Result, dict[str, Any]]:
    """A whole bench: what it printed, and what it wrote."""
    file = cache.parent / "bench.json"
    done = CliRunner().invoke(main, ["bench", str(cache), "--json", str(file), "--size", "64", *TINY])
    assert done.exit_code == 0, done.output
    return done, json.loads(file.read_text())


def test_every_row_that_applies_is_measured_in_every_round(run: tuple[Result, dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in run[1]["rows"]}

    loaders = {f"{loader} {kind}" for loader in LOADERS for kind in ("uint8", "float32")}
    assert rows.keys() >= {DECODE, PLAIN, STEP, uint8("torchvision", 64), *loaders, *map(fed, LOADERS)}
    for row in rows.values():
        rates, summary = row["rounds"], row["images_per_second"]
        assert len(rates) == run[1]["settings"]["rounds"] >= 3
        assert all(rate > 0 for rate in rates)
        assert (summary["min"], summary["median"], summary["max"]) == (min(rates), np.median(rates), max(rates))


def test_ratios_are_those_of_the_rounds(run: tuple[Result, dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in run[1]["rows"]}

    assert rows["torchvision uint8"]["times_as_fast_as"].keys() == {DECODE, PLAIN}
    assert rows[fed("torchvision")]["times_as_fast_as"].keys() == {STEP}
    for row in rows.values():
        for base, ratio in row["times_as_fast_as"].items():
            pairs = np.divide(row["rounds"], rows[base]["rounds"])
            assert ratio == pytest.approx(np.median(pairs))


def test_says_on_what_and_how_it_was_measured(run: tuple[Result, dict[str, Any]]) -> None:
    hardware, settings = run[1]["hardware"], run[1]["settings"]

    assert hardware["cores"] >= 1
    assert hardware["cpu"]
    assert hardware["torch"] == torch.__version__.partition("+")[0]
    assert ("dali" in hardware) == dali_installed()
    assert settings.items() >= {"size": 64, "cache_size": 96, "batch": 2, "workers": 1, "seconds": 0.01}.items()


def test_prints_the_rows_and_the_verdict(run: tuple[Result, dict[str, Any]]) -> None:
    for row in run[1]["rows"]:
        assert row["name"] in run[0].output
    assert run[0].stdout.splitlines()[-1] == run[1]["verdict"]


def test_more_pixels_than_the_cache_has_are_refused(cache: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(cache), "--size", "128", *TINY])

    assert done.exit_code == 2
    assert "--size 128" in done.output
    assert "96" in done.output


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(tmp_path), *TINY])

    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_rows_are_measured_in_turn_warm_and_counted_in_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = 0.0, [""]

    def takes(row: str, seconds: float) -> Callable[[int], None]:
        def run(batches: int) -> None:
            nonlocal now
            cold = min(2, batches) if turns[-1] != row else 0  # after another row the first two take twice as long
            now += seconds * (batches + cold)
            turns.append(row)

        return run

    monkeypatch.setattr("tools.benchmark.bench.perf_counter", lambda: now)
    runs = {"quick": takes("quick", 0.25), "slow": takes("slow", 5.0)}
    rates = measure(runs, batch=8, seconds=1, rounds=3, show_status=lambda text: None)

    assert turns[-12:] == ["quick", "quick", "slow", "slow"] * 3
    assert rates == {"quick": [32.0] * 3, "slow": [1.6] * 3}  # 8 photographs in 0.25 s, and in 5 s


def report(loader: float, step: float, fed_by_it: float, size: int = 256) -> Report:
    """Made up, of one loader: images per second by itself, of the step by itself, and of both together."""
    rates = {DECODE: 500.0, PLAIN: 50.0, "torchvision uint8": loader, uint8("torchvision", 256): 900.0, STEP: step}
    rates[fed("torchvision")] = fed_by_it
    settings = {"size": size, "cache_size": 512, "workers": 8}
    return Report({row: [rate] * 3 for row, rate in rates.items()}, ["torchvision"], 256, settings, {})


def test_a_network_that_is_slower_than_the_loader_is_named_with_the_workers_it_needs() -> None:
    verdict = report(loader=400, step=100, fed_by_it=98).verdict()

    # 8 workers give 400, so 50 each; the network takes 100, with half as much to spare 150.
    assert verdict.startswith("The network is the bottleneck")
    assert "98%" in verdict
    assert "--loader torchvision --workers 3 " in verdict
    assert "512 px" in verdict


def test_a_loader_that_is_slower_than_the_network_is_named_with_the_smaller_cache() -> None:
    verdict = report(loader=300, step=2000, fed_by_it=290).verdict()

    assert verdict.startswith("Loading is the bottleneck")
    assert "14%" in verdict  # 290 of 2000
    assert "--loader torchvision --workers 8 " in verdict
    assert "from a cache at 256 px torchvision gives 900 images/s instead of 300" in verdict


def test_a_loader_a_hundred_times_as_fast_as_the_network_is_not_blamed_for_a_fed_step_that_wandered() -> None:
    verdict = report(loader=1112, step=10.2, fed_by_it=9.6).verdict()  # as measured on two cores without a GPU

    assert verdict.startswith("The network is the bottleneck")
    assert "--workers 1 " in verdict


def test_of_loaders_that_feed_equally_well_the_faster_one_is_named() -> None:
    one = report(loader=300, step=100, fed_by_it=100)
    more = {"dali uint8": [900.0] * 3, fed("dali"): [99.0] * 3}
    both = Report({**one.rates, **more}, ["torchvision", "dali"], 256, one.settings, {})

    assert "--loader dali " in both.verdict()


def test_a_gpu_machine_has_the_same_table_and_verdict_with_a_row_more() -> None:
    plain = report(loader=300, step=2000, fed_by_it=290)
    with_card = Report({**plain.rates, NVJPEG: [4000.0] * 3}, plain.loaders, 256, plain.settings, {})
    console = Console(width=120, record=True, file=StringIO())
    console.print(with_card.table())
    (line,) = (line for line in console.export_text().splitlines() if NVJPEG in line)

    assert line.split()[-2:] == ["8.00", "80.00"]  # times decoding alone (500), times the plain way (50)
    assert with_card.verdict() == plain.verdict()
    assert [row["name"] for row in with_card.as_dict()["rows"]] == [*plain.rates, NVJPEG]


@pytest.mark.gpu
def test_a_gpu_machine_is_measured_like_any_other_dali_included(cache: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(cache), "--json", str(tmp_path / "bench.json"), *TINY])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "bench.json").read_text())

    assert {row["name"] for row in found["rows"]} >= {DECODE, NVJPEG, PLAIN, STEP, *map(fed, LOADERS)}
    assert found["hardware"]["gpu"] == torch.cuda.get_device_name()
    assert done.stdout.splitlines()[-1] == found["verdict"]


def test_a_step_can_be_of_another_network() -> None:
    step = Step(torch.device("cpu"), "resnet50")
    before = step.model.fc.weight.detach().clone()
    step(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.tensor([-1, 4]))

    assert sum(parameter.numel() for parameter in step.model.parameters()) > 20e6
    assert not torch.equal(step.model.fc.weight, before)


def test_a_noisy_machine_is_said_to_be_noisy_before_any_advice() -> None:
    quiet = report(loader=400, step=100, fed_by_it=98)
    assert quiet.verdict() == quiet.advice()
    impossible = report(loader=40, step=9.2, fed_by_it=15.6).verdict()  # as measured while others worked
    assert impossible.startswith(
        "NOISY: the step fed by torchvision seems faster (15.6 images/s) than alone (9.2); measure again"
    )
    wandered = Report({**quiet.rates, STEP: [80.0, 100.0, 105.0]}, quiet.loaders, 256, quiet.settings, {})
    assert wandered.verdict().startswith("NOISY: the rounds of step alone gave 80 to 105 images/s;")
    assert wandered.verdict().endswith(wandered.advice())
    within = Report({**quiet.rates, STEP: [95.0, 100.0, 105.0]}, quiet.loaders, 256, quiet.settings, {})
    assert within.noise() == ""
    assert report(loader=400, step=100, fed_by_it=105).noise() == ""


def test_noise_of_rows_that_no_advice_rests_on_is_not_said() -> None:
    quiet = report(loader=400, step=100, fed_by_it=98)
    assert Report({**quiet.rates, PLAIN: [10.0, 50.0, 90.0]}, quiet.loaders, 256, quiet.settings, {}).noise() == ""
