"""docs/files.md names every file that commands write, every column, every key and every exit code."""

import csv
import json
import re
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from pipeline.cache.cache import open_cache
from pipeline.cache.index import CacheIndex
from pipeline.command_line import OutputFile, OutputFolder, ResumableOutput
from pipeline.errors import FundusError
from pipeline.machine import END_SIGNALS
from pipeline.storage.artifacts import UNFINISHED
from tests.trainer.conftest import FAST, invoke
from tools.benchmark.bench import BenchSettings, hardware
from tools.benchmark.report import Report
from tools.benchmark.workloads import DECODE, PLAIN, STEP, fed, uint8
from tools.cli import main as tools
from trainer.cli import main as trainer
from trainer.config import FitConfig, RunConfig
from trainer.evaluation.out_of_fold import CrossValidation, OutOfFold
from trainer.evaluation.refit import Refit
from trainer.evaluation.subgroups import Comparison
from trainer.network.export import EXTRA_FILE, describe
from trainer.network.metadata import read_header, read_metadata
from trainer.plugs import Plug
from trainer.reporting.folds import read_fold, write_out_of_fold
from trainer.run_folder import FoldsFolder, RunFolder

PAGE = (Path(__file__).resolve().parents[1] / "docs/files.md").read_text("utf-8")
STANDS_FOR = {
    **{"SPLIT": "(train|val|test)", "EYE": "(left|right)", "NAME": "[^/]+", "ID": "[^/]+"},
    **{"PATIENT": r"\d+", "GRADE": "[0-4]", "N+": r"\d+", "K": r"\d+"},
}
"""Words in capital letters on the page -> what they stand for."""
METRICS = (
    *("metrics_SPLIT.json", "operating", "deferral", "ungradable_referral", "calibration", "referable", "no_image"),
    *("eye", "subgroups", "exposure"),
)
EXTERNAL = (*METRICS, "external/NAME/metrics.json")
FOLDS = ("Cross-validation",)
REPORT = ("Report and model card",)


def in_backquotes(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


SECTIONS = {
    heading: in_backquotes(body)
    for heading, body in zip(*[iter(re.split(r"^#{2,4} (.+)\n", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True)
}
"""Heading -> what stands below it in backquotes, up to the next heading."""


def missing(names: Any, *headings: str) -> set[str]:
    """Of some names, those that these sections of the page do not have."""
    there = [name for heading in headings for name in SECTIONS[heading]]
    pattern = re.compile("|".join(map(as_pattern, there)))
    return {name for name in names if not pattern.fullmatch(name)}


def as_pattern(name: str) -> str:
    """Of a name on the page, such as `confusion_SPLIT.csv`."""
    word = re.compile("|".join(f"({each})" for each in STANDS_FOR))
    return word.sub(lambda match: list(STANDS_FOR.values())[(match.lastindex or 1) - 1], re.escape(name))


def keys(value: Any) -> Iterator[str]:
    """Of JSON, at every depth."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield name
            yield from keys(inside)
    elif isinstance(value, list):
        for each in value:
            yield from keys(each)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def header(path: Path) -> list[str]:
    with open(path, newline="") as file:
        return next(csv.reader(file))


def written(folder: Path) -> set[str]:
    """The files below a folder. The SVG beside a PNG is not counted: the page says of all that they are there."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if not (name.endswith(".svg") and f"{name[:-4]}.png" in files)}


def run_tools(*arguments: object) -> None:
    result = CliRunner().invoke(tools, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What all commands write that read these 80 drawn eyes: every second patient has grade 4, every second pair of
    patients comes from site North, and one eye cannot be graded."""
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_tools("phantom", "eyes", "--eyes", 80)
        table = pd.read_csv("eyes/trainLabels.csv")
        patient = table["image"].str.partition("_")[0].astype(int)
        table = table.assign(level=4 * (patient % 2), site=(patient // 2 % 2).map({0: "North", 1: "South"}), gradable=1)
        table.loc[0, "gradable"] = 0
        table.to_csv("grades.csv", index=False)
        read_as = ("--labels", "grades.csv", "--gradable-column", "gradable=1", "--keep-column", "site")
        run_tools("preprocess", "eyes", "--out", "cache", "--size", 32, *read_as)
        run_tools("phantom", "painted", "--onto", "cache", "--eyes", 6)
        run_tools("preprocess", "eyes", "--out", "other", "--size", 32, "--quality", 90, "--split", "test", *read_as)
        invoke("folds", "--folds", 2, "--cache", "cache", "--run", "folds", *FAST, "--epochs", 1, "--batch", 16)
        cpu = ("--device", "cpu", "--loader", "torchvision")
        invoke("evaluate", "folds/fold0", "--subgroup", "site", "--prevalence", 0.1, *cpu)
        invoke("evaluate", "folds/fold0", "--cache", "other", "--subgroup", "site", "--refit", 40, *cpu)
        invoke("report", "folds/fold0", "--card", "CARD.md")
        invoke("predict", "folds/fold0", "eyes/train/1_left.jpeg", "--defer", 0.1, "--device", "cpu")
        invoke("explain", "folds/fold0", "eyes/train/1_left.jpeg", "--device", "cpu")
        invoke("compare", "folds/fold0", "folds/fold1")
        yield folder


def test_every_file_of_a_cache_is_named_with_its_columns_and_keys(made: Path) -> None:
    assert not missing({*written(made / "cache"), UNFINISHED}, "The cache")
    for name in ("manifest.csv", "rejects.csv", "attributes.csv"):
        kept = {"site"} if name == "attributes.csv" else set()
        assert not missing(set(header(made / "cache" / name)) - kept, name), name
    names = {*keys(read(made / "cache/cache.json")), *(field.name for field in fields(CacheIndex))}
    assert not missing(names, "cache.json")
    with tarfile.open(made / "cache/shards/0000.tar") as tar:
        assert not missing(tar.getnames(), "The shards")
        about = next(name for name in tar.getnames() if name.endswith(".json"))
        assert not missing(keys(json.load(tar.extractfile(about))), "The shards")  # type: ignore[arg-type]


def test_every_file_of_a_run_is_named(made: Path) -> None:
    names = written(made / "folds/fold0")
    assert {"external/other/metrics.json", "external/forest.png", "report.html", "roc_test.png"} <= names
    assert not missing({*names, "previous.pt", "report_val.html"}, "A run", *REPORT)


def test_every_column_of_a_run_is_named(made: Path) -> None:
    run = made / "folds/fold0"
    assert not missing(header(run / "accuracy.csv"), "accuracy.csv")
    for name in ("predictions_test.csv", "external/other/predictions.csv"):
        assert not missing(header(run / name), "Predictions of a split")
    for name in ("confusion_test.csv", "confusion_test_counts.csv", "external/other/confusion.csv"):
        assert not missing(header(run / name), "Confusion matrices")


def test_every_key_of_metrics_is_named_at_every_depth(made: Path) -> None:
    run = made / "folds/fold0"
    own, other = read(run / "metrics_test.json"), read(run / "external/other/metrics.json")
    # Nothing that the page has to name is null here.
    parts = ("operating", "deferral", "calibration", "referable", "no_image", "patient", "subgroups", "exposure")
    assert all(own[part] for part in parts), {part for part in parts if not own[part]}
    assert all(other[part] for part in ("ungradable_referral", "refit", "drift", "cameras"))
    assert any(group["against_rest"] for group in other["subgroups"]["columns"][0]["groups"])
    assert not missing(own, "metrics_SPLIT.json")
    assert not missing(keys(own), *METRICS)
    assert not missing(keys(other), *EXTERNAL)
    assert not missing(other, "metrics_SPLIT.json", "external/NAME/metrics.json")


@pytest.mark.parametrize("part", sorted(set(METRICS) - {"metrics_SPLIT.json"}))
def test_every_key_of_a_part_of_metrics_stands_in_its_own_table(made: Path, part: str) -> None:
    metrics = read(made / "folds/fold0/external/other/metrics.json")
    own = read(made / "folds/fold0/metrics_test.json")
    names = {"several", "disagreeing", "eye_unknown", "visit"} if part == "eye" else {*(metrics[part] or own[part])}
    assert not missing(names, part)


def test_every_key_of_a_runs_other_files_is_named(made: Path) -> None:
    run = RunFolder(made / "folds/fold0")
    config = read(run.config)
    assert not missing([*config, *(field.name for field in fields(RunConfig))], "config.json")
    for name in ("recipe", "photographs", "synthetic", "versions"):
        assert not missing(config[name], "config.json"), name
    options = {option.name for option in trainer.commands["fit"].params}
    assert not missing({field.name for field in fields(FitConfig)} - options, "config.json")
    assert not missing(read(run.summary), "summary.json")
    assert not missing(read(run.dates), "dates.json")
    weights = read_metadata(run.model).as_dict()
    about = {*weights, *weights["operating"], *weights["seen"]} - {"version"}
    assert not missing(about, "model.safetensors")
    extra = [name for name in read_header(run.model) if name.startswith("photographs.")]
    assert len(extra) == 3
    assert not missing(extra, "model.safetensors")
    assert not missing(read_header(run.model)["__metadata__"], "model.safetensors")
    shown = json.loads(invoke("show", run.path, "--json").stdout)
    assert not missing([*shown, *shown["weights"]], "model.safetensors")


def test_every_file_of_a_cross_validation_is_named_with_its_columns_and_keys(made: Path) -> None:
    names = {re.sub(r"^((?:caches/)?fold\d+/).+", r"\1", name) for name in written(made / "folds")}
    assert {"fold0/", "caches/fold1/", "second_look.png"} <= names
    assert not missing(names, *FOLDS)
    for name in ("predictions_oof.csv", "copies.csv", "second_look.csv"):
        assert not missing(header(made / "folds" / name), *FOLDS)
    assert not missing(header(made / "folds/confusion_oof.csv"), "Confusion matrices")
    assert not missing([*read(made / "folds/folds.json"), "seeds"], *FOLDS)
    assert not missing(keys(read(made / "folds/metrics_oof.json")), *FOLDS)


def test_every_column_and_key_of_several_seeds_is_named(made: Path, tmp_path: Path) -> None:
    folder = FoldsFolder(made / "folds")
    trained = OutOfFold([read_fold(folder.run(n, None), open_cache(folder.cache(n))) for n in range(2)])
    together = CrossValidation({0: trained, 1: trained})
    write_out_of_fold(FoldsFolder(tmp_path), together, together.measure())
    found = read(tmp_path / "metrics_oof.json")
    assert {"seeds", "by_seed", "spread_over_seeds"} <= found.keys()
    assert not missing(keys(found), *FOLDS)
    assert "seed" in header(tmp_path / "predictions_oof.csv")
    assert not missing(header(tmp_path / "predictions_oof.csv"), *FOLDS)
    assert not missing(["fold1_seed0/"], *FOLDS)


def test_every_file_of_the_other_commands_is_named_with_its_columns(made: Path) -> None:
    assert not missing(written(made / "eyes") | written(made / "painted"), "Synthetic eyes")
    assert not missing(header(made / "eyes/trainLabels.csv"), "Synthetic eyes")
    for name in ("predictions.csv", "predictions_rejects.csv"):
        assert not missing([name, *header(made / name)], "Predictions of new photographs")
    assert not missing(written(made / "explained"), "Heat maps")
    for name in ("explained.csv", "rejects.csv"):
        assert not missing(header(made / "explained" / name), "Heat maps")
    beside = {path.name for path in made.glob("compare*") if path.suffix != ".svg"}
    columns = {*header(made / "compare.csv"), *header(made / "compare_pairs.csv")}
    # Of the six figures the page shows the limits of the first.
    limits = {name for name in columns if name.endswith(("_low", "_high")) and not name.startswith("accuracy")}
    assert not missing(beside | columns - limits, "Comparison of runs")
    folders = {"cache", "other", "folds", "eyes", "painted", "explained"}
    others = {path.name for path in made.iterdir()} - folders - {"grades.csv", "CARD.md", "compare.svg"}
    assert not missing({*others, "lr.png"}, "What other commands write", "Predictions of new photographs")


def test_every_key_of_an_export_and_of_a_bench_is_named(made: Path) -> None:
    model = made / "folds/fold0/model.safetensors"
    assert not missing([*describe(read_metadata(model), model), EXTRA_FILE], "Exported networks")
    rows = [DECODE, PLAIN, STEP, fed("torchvision"), uint8("torchvision"), uint8("torchvision", 32)]
    settings = {field.name: 1 for field in fields(BenchSettings)} | {"cache_size": 64, "device": "cpu"}
    report = Report({row: [1.0, 1.0] for row in rows}, ["torchvision"], 32, settings, {})
    found = report.as_dict()
    for row in found["rows"]:
        row["times_as_fast_as"] = {}  # names of rows
    assert not missing(["made_by", *keys(found)], "Speed")
    packages = {"torch", "torchvision", "dali", "opencv", "pillow"}
    assert not missing({"gpu", *hardware()} - packages, "Speed")


def test_parts_that_may_be_missing_are_named() -> None:
    """Of records that outputs of these few photographs may leave out."""
    assert not missing([field.name for field in fields(Refit)], "external/NAME/metrics.json")
    assert not missing([field.name for field in fields(Comparison)], "subgroups")
    assert not missing(["plugs", *(field.name for field in fields(Plug))], "config.json")
    assert not missing(["plugs"], "model.safetensors")
    assert not missing(["scale"], "metrics_SPLIT.json")


def test_every_command_with_an_output_is_named() -> None:
    kinds = OutputFile | OutputFolder | ResumableOutput
    named = {name for names in SECTIONS.values() for name in names}
    for program, group in (("tools", tools), ("trainer", trainer)):
        for name, command in group.commands.items():
            if any(isinstance(parameter.type, kinds) for parameter in command.params):
                assert any(each.startswith(f"{program} {name}") for each in named), f"{program} {name}"


def test_every_exit_code_is_named() -> None:
    signals = {128 + number for number in (signal.SIGINT, *END_SIGNALS)}
    errors = {FundusError.exit_code, *(error.exit_code for error in FundusError.__subclasses__())}
    codes = {0, click.UsageError.exit_code, *errors, *signals}
    body = PAGE.partition("\n## Exit codes\n")[2]
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", body, re.MULTILINE)}
