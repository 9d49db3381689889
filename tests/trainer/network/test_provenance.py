"""Weights know which photographs they have met, whatever these are called elsewhere, and that is said."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.cache.shards import scan_tar
from tests.conftest import write_cache
from tests.trainer.conftest import Trained
from trainer.network.metadata import read_header
from trainer.network.model import load_model, read_provenance, save_model
from trainer.network.provenance import Exposure, Provenance

Trainer = Callable[..., Result]
PIXELS = np.random.default_rng(7).integers(0, 200, (40, 32, 32, 3), np.uint8)


def cache_of(folder: Path, photographs: Mapping[str, tuple[int, str]], shards: int = 1) -> Path:
    """A cache of photographs by id: which picture, and its split. All have grade number modulo 5."""
    pictures = {id: PIXELS[number] for id, (number, _) in photographs.items()}
    grades = {id: number % 5 for id, (number, _) in photographs.items()}
    splits = {id: split for id, (_, split) in photographs.items()}
    return write_cache(folder, pictures, grades, splits, shards)


FIRST: dict[str, tuple[int, str]] = {
    "1_left": (1, "train"),
    "1_right": (2, "train"),
    "2_left": (3, "val"),
    "2_right": (4, "val"),
    "3_left": (5, "test"),
    "3_right": (6, "test"),
    "4_left": (7, "train"),
    "4_right": (8, "test"),  # a layout that leaks
}


@pytest.fixture
def first(tmp_path: Path) -> Provenance:
    with open_cache(cache_of(tmp_path / "first", FIRST, shards=2)) as cache:
        return Provenance.of_cache(cache)


def exposure(provenance: Provenance, folder: Path, photographs: Mapping[str, tuple[int, str]]) -> Exposure:
    with open_cache(cache_of(folder, photographs)) as cache:
        return provenance.exposure(cache, "test")


def test_the_digests_are_those_of_the_photographs_files(tmp_path: Path) -> None:
    with open_cache(cache_of(tmp_path / "c", FIRST, shards=2)) as cache:
        digests = cache.source_digests(np.arange(8))
        whole = {
            entry.id: entry.meta["source_sha256"] for shard in range(2) for entry in scan_tar(cache.map_shard(shard))
        }
    assert [digest & (2**64 - 1) for digest in digests.tolist()] == [
        int(whole[id][:16], 16) for id in cache.manifest["id"]
    ]


def test_patients_who_are_in_test_alone_have_not_been_met(first: Provenance, tmp_path: Path) -> None:
    assert len(first.digests) == 6
    assert sorted(np.bincount(first.patients).tolist()) == [2, 2, 2]
    assert exposure(first, tmp_path / "b", {"x_left": (5, "test"), "y": (20, "test")}) == (2, 0, 0, 0)


def test_a_photograph_is_known_by_its_bytes_not_by_its_name(first: Provenance, tmp_path: Path) -> None:
    b = {"1_left": (21, "test"), "2_left": (22, "test")}  # other people with the same numbers
    assert exposure(first, tmp_path / "b", b) == (2, 0, 0, 0)
    c = {"a": (1, "test"), "b": (2, "test"), "c": (3, "test"), "d": (5, "test")}
    assert exposure(first, tmp_path / "c", c) == (4, 2, 2, 1)


def test_one_photograph_tells_of_the_patient(first: Provenance, tmp_path: Path) -> None:
    """By this cache's patients, whose other eye was trained on; and by the weights', whose other eye was in test."""
    b = {"9_left": (1, "train"), "9_right": (30, "test"), "8_left": (31, "test")}
    assert exposure(first, tmp_path / "b", b) == (2, 1, 0, 0)
    assert exposure(first, tmp_path / "c", {"q": (8, "test"), "r": (31, "test")}) == (2, 1, 0, 0)


def test_weights_that_go_on_from_others_have_met_both(first: Provenance, tmp_path: Path) -> None:
    with open_cache(
        cache_of(tmp_path / "b", {"5_left": (10, "train"), "6_left": (11, "val"), "z": (1, "val")})
    ) as cache:
        both = Provenance.of_cache(cache).after(first)
    c = {"a": (1, "test"), "b": (10, "test"), "c": (11, "test"), "d": (3, "test"), "e": (33, "test")}
    assert exposure(both, tmp_path / "c", c) == (5, 2, 2, 2)


def test_it_tells_no_names_and_no_order(trained: Trained) -> None:
    data = (trained.run / "model.safetensors").read_bytes()
    assert b"train0" not in data
    provenance = read_provenance(trained.run / "model.safetensors")
    assert provenance is not None
    assert len(provenance.digests) == 25  # train and val
    assert (np.diff(provenance.digests) > 0).all()
    assert provenance.patients.tolist() == list(range(25))
    assert {name for name in read_header(trained.run / "model.safetensors") if name.startswith("photographs.")} == {
        "photographs.digests", "photographs.patients", "photographs.roles",
    }  # fmt: skip


def resplit(trained: Trained, folder: Path) -> Path:
    """The photographs that the run was trained on as somebody's test set, under other names, with five new ones."""
    with open_cache(trained.cache) as cache:
        manifest = cache.manifest
        known = {
            entry.id: entry for shard in range(len(cache.index.shards)) for entry in scan_tar(cache.map_shard(shard))
        }
    random = np.random.default_rng(0)  # as write_tiny_cache draws them
    pictures, grades, splits = {}, {}, {}
    for number, id in enumerate([*[f"train{n}" for n in range(20)], *[f"val{n}" for n in range(5)]]):
        picture = random.integers(0, 40, (32, 32, 3), np.uint8)
        grade = number % 5
        picture[..., 0] += np.uint8(50 * grade)
        assert f"{id}_left" in known
        pictures[f"other{number}_left"], grades[f"other{number}_left"] = picture, grade
        splits[f"other{number}_left"] = "test"
    for number in range(5):
        id = f"new{number}_left"
        pictures[id], grades[id] = PIXELS[number], number
        splits[id] = ("train", "val", "train", "test", "test")[number]
    assert len(manifest) == 30
    return write_cache(folder, pictures, grades, splits)


def test_evaluate_report_and_card_say_how_many_were_trained_on(
    trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    trained.copy("run")
    other = resplit(trained, tmp_path / "other")
    trainer("report", "run", "--card", "card.md")
    assert "LEAK" not in Path("run/report.html").read_text() + Path("card.md").read_text()
    said = "other: LEAK: 20 of 30 photographs (67%) show patients whom the weights were trained on, and 20 are training"
    assert said in trainer("evaluate", "run", "--cache", other).stderr
    metrics = json.loads(Path("run/external/other/metrics.json").read_text())
    assert metrics["exposure"] == {"photographs": 30, "trained_on": 20, "same": 20, "chosen_by": 5}
    trainer("report", "run", "--card", "card.md")
    assert said in Path("run/report.html").read_text()
    assert said in Path("card.md").read_text()
    done = trainer("evaluate", "run", "--cache", other, "--split", "test", "--name", "its test")
    assert "its test: LEAK: 20 of 27 test photographs (74%) show patients whom the weights" in done.stderr
    assert "LEAK" not in trainer("evaluate", "run").output


def test_fit_says_what_the_weights_it_begins_with_have_met(trained: Trained, trainer: Trainer, tmp_path: Path) -> None:
    other = resplit(trained, tmp_path / "other")
    weights = trained.run / "model.safetensors"
    begin = ("fit", "--cache", other, "--head-epochs", 1, "--epochs", 0, "--device", "cpu", "--weights")
    stderr = trainer(*begin, weights, "--run", "next").stderr
    assert "WARNING: --weights: LEAK: 20 of 27 test photographs (74%) show patients whom the weights" in stderr
    met = read_provenance(Path("next/model.safetensors"))
    assert met is not None
    assert len(met.digests) == 25 + 3
    assert json.loads(Path("next/metrics_test.json").read_text())["exposure"]["trained_on"] == 20
    said = "next: LEAK: 20 of 27 test photographs (74%) show patients whom the weights"
    assert said in trainer("compare", "next").stderr

    model, metadata = load_model(weights)
    save_model(Path("old.safetensors"), model, metadata)  # as versions before this one wrote them
    stderr = trainer(*begin, "old.safetensors", "--run", "old").stderr
    assert "old.safetensors does not say which photographs it was trained on" in stderr


def test_test_patients_who_are_in_val_are_said(trainer: Trainer, tmp_path: Path) -> None:
    leaky = {f"{n}_left": (n, "train") for n in range(10)}
    leaky |= {f"{n}_left": (n, "val") for n in range(10, 15)} | {f"{n}_right": (n + 10, "test") for n in range(12, 17)}
    cache = cache_of(tmp_path / "c", leaky)
    done = trainer("fit", "--cache", cache, "--weights", "none", "--epochs", 1, "--batch", 8, "--device", "cpu",
                   "--run", "run")  # fmt: skip
    assert "3 of 5 test photographs show patients who are in val, which chooses the epoch" in done.stderr
    assert json.loads(Path("run/metrics_test.json").read_text())["exposure"]["chosen_by"] == 3


def test_another_caches_own_leak_does_not_hide_what_the_weights_have_met(
    trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    """Two test photographs there have their fellow eye in that cache's train; two others were trained on here."""
    random = np.random.default_rng(0)  # as write_tiny_cache draws them
    pictures = {}
    for number in range(2):
        pictures[f"met{number}"] = random.integers(0, 40, (32, 32, 3), np.uint8)
        pictures[f"met{number}"][..., 0] += np.uint8(50 * number)
    pictures |= {f"{n}_{eye}": PIXELS[2 * n + (eye == "left")] for n in range(2) for eye in ("left", "right")}
    splits = {id: "train" if id.endswith("_left") else "test" for id in pictures}
    other = write_cache(tmp_path / "other", pictures, {id: number % 5 for number, id in enumerate(pictures)}, splits)
    trained.copy("run")
    said = "LEAK: 2 of 4 test photographs (50%) show patients whom the weights were trained on, and 2 are training"
    assert said in trainer("evaluate", "run", "--cache", other, "--split", "test").stderr
    trainer("report", "run", "--card", "card.md")
    assert said in Path("card.md").read_text()
    assert "also in train" not in Path("card.md").read_text()


def test_weights_that_say_nothing_of_their_past_are_called_so(
    trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    run, other = trained.copy("run"), resplit(trained, tmp_path / "other")
    model, metadata = load_model(run / "model.safetensors")
    save_model(run / "model.safetensors", model, metadata)
    said = "The weights do not say which photographs they were trained on, so a leak cannot be seen."
    assert said in trainer("evaluate", "run", "--cache", other).stderr
    trainer("report", "run", "--card", "card.md")
    assert f"other: {said}" in Path("card.md").read_text()


def test_a_run_goes_on_though_the_weights_it_began_with_are_gone(
    trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    """And knows what they had met: the checkpoint has it."""
    other = resplit(trained, tmp_path / "other")
    Path("base.safetensors").write_bytes((trained.run / "model.safetensors").read_bytes())
    begin = ("fit", "--cache", other, "--weights", "base.safetensors", "--head-epochs", 0, "--epochs", 1)
    trainer(*begin, "--device", "cpu", "--run", "k")
    for name in ("k/model.safetensors", "k/summary.json", "base.safetensors"):
        Path(name).unlink()
    trainer("fit", "--run", "k", "--resume")
    met = read_provenance(Path("k/model.safetensors"))
    assert met is not None
    assert len(met.digests) == 25 + 3


def test_an_unfinished_run_is_measured_on_test_with_a_word_about_it(trained: Trained, trainer: Trainer) -> None:
    trained.copy("run")
    Path("run/summary.json").unlink()
    assert "run is unfinished: these are the weights of epoch" in trainer("evaluate", "run").stderr
    assert "unfinished" not in trainer("evaluate", "run", "--split", "val").stderr


def test_where_the_cache_was_moved_the_option_is_named(trained: Trained, trainer: Trainer) -> None:
    run = trained.copy("run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"cache": "/nowhere/cache"}))
    stderr = trainer("evaluate", "run", exit=1).stderr
    assert "/nowhere/cache does not exist" in stderr
    assert "If it was moved: `trainer evaluate run --cache FOLDER`" in stderr
    trainer("evaluate", "run", "--cache", trained.cache)
