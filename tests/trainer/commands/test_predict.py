"""Photographs are graded as `preprocess` and `evaluate` would, refused as `preprocess` would, and flagged."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.loading.loaders import open_loader
from pipeline.photos.preparation import EARLIER_VERSION, Recipe
from tests.conftest import write_cache
from tests.trainer.conftest import Trained, invoke
from tools.cli import main as tools
from tools.phantoms.dataset import write_phantoms
from trainer.inference.forward import probabilities
from trainer.inference.inputs import gather, render
from trainer.inference.predictions import COLUMNS
from trainer.network.model import load_model, save_model
from trainer.network.views import symmetries
from trainer.run_folder import RunFolder

PROBABILITIES = ["p0", "p1", "p2", "p3", "p4"]


class Real:
    """Real photographs in folders by split and grade, their cache at 128 px, and a run on it at 96 px."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self.source, self.cache, self.run = folder / "eyes", folder / "cache", folder / "run"
        with open(shared / "data/eyepacs/trainLabels.csv") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows[:150]):
            split = ("train", "test", "test", "val", "test")[number // 2 % 5]
            place = self.source / split / row["level"] / f"{row['image']}.jpeg"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared / "data/eyepacs/train" / place.name, place)
        done = CliRunner().invoke(tools, ["preprocess", str(self.source), "--out", str(self.cache), "--size", "128"])
        assert done.exit_code == 0, done.output
        options = ["--weights", "none", "--epochs", 1, "--size", 96, "--loader", "torchvision", "--device", "cpu"]
        invoke("fit", "--cache", self.cache, "--run", self.run, *options)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Real:
    return Real(shared, tmp_path_factory.mktemp("real"))


def predict(run: Path, *arguments: object, exit: int = 0) -> tuple[pd.DataFrame, Result]:
    """The rows of predictions.csv, by id, and what was said."""
    result = invoke("predict", run, *arguments, "--device", "cpu", exit=exit)
    if exit:
        return pd.DataFrame(), result
    table = pd.read_csv("predictions.csv", dtype={"id": str}, keep_default_na=False)
    return table.set_index("id"), result


def rejects() -> dict[str, str]:
    with open("predictions_rejects.csv") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def photograph(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


# --- the same numbers as preprocess + evaluate


def test_probabilities_are_bit_for_bit_those_of_preprocess_and_evaluate(real: Real) -> None:
    """--size below the cache's, and more photographs than a batch."""
    ours, _ = predict(real.run, real.source / "test")
    theirs = pd.read_csv(RunFolder(real.run).predictions("test")).set_index("id")
    assert len(ours) == len(theirs) > 64
    assert list(ours.index) == sorted(ours.index)
    for name in (*PROBABILITIES, "predicted"):
        pd.testing.assert_series_equal(ours[name], theirs[name].reindex(ours.index), check_exact=True)


def test_a_run_of_the_earlier_preparation_goes_on_with_it(
    fit: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On white grounds, where the two versions differ. Its cache is fitted, evaluated and predicted as before, and new
    photographs are prepared as those that it was trained on."""
    x, y = np.arange(96) + 0.5 - 48, np.arange(80)[:, None] + 0.5 - 40
    white = (np.hypot(x, y) > 36)[..., None]
    for number in range(24):
        split, grade = ("train", "train", "val", "test")[number % 4], number % 5
        place = tmp_path / "eyes" / split / str(grade) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shade = (90 + 30 * grade - x % 8)[:, None]  # of two colours it would be a mask
        retina = np.stack(np.broadcast_arrays(shade, 80, number), axis=2).reshape(1, 96, 3)
        Image.fromarray(np.where(white, 255, retina).astype(np.uint8)).save(place)
    arguments = ["preprocess", str(tmp_path / "eyes"), "--out", str(tmp_path / "cache"), "--size", "64"]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.photos.preparation.Recipe", partial(Recipe, version=EARLIER_VERSION["none"]))
        assert "24 encoded" in CliRunner().invoke(tools, arguments).output
    fit(tmp_path / "cache", "--run", "run")
    assert load_model(RunFolder(Path("run")).model)[1].recipe == Recipe(64, version=EARLIER_VERSION["none"])
    said = invoke("evaluate", "run").output
    assert "recipe" not in said
    of_cache, _ = predict(Path("run"), tmp_path / "cache")
    of_photographs, _ = predict(Path("run"), tmp_path / "eyes")
    for name in PROBABILITIES:
        pd.testing.assert_series_equal(of_cache[name], of_photographs[name], check_exact=True)

    assert "24 encoded" in CliRunner().invoke(tools, arguments).output  # the cache is of today's version now
    assert "made by another recipe" in invoke("evaluate", "run").output
    later, _ = predict(Path("run"), tmp_path / "eyes")
    for name in PROBABILITIES:
        pd.testing.assert_series_equal(later[name], of_photographs[name], check_exact=True)


def test_pixels_are_those_of_the_loader(real: Real) -> None:
    """Also for each photograph alone, and from the cache itself."""
    cache = open_cache(real.cache)
    metadata = load_model(RunFolder(real.run).model)[1]
    device = torch.device("cpu")
    with open_loader("torchvision", cache, split="all", batch_size=200, size=96) as loader:
        (batch,) = loader.epoch(0)
    for paths in ([real.source], [real.cache]):
        photographs, *_ = gather(paths, metadata.recipe)
        assert [each.id for each in photographs] == cache.manifest["id"].tolist()
        images = torch.cat([each.images for each in render(photographs, metadata, device=device)])
        assert torch.equal(images, batch.images)
        assert torch.equal(next(render(photographs[7:8], metadata, device=device)).images, batch.images[7:8])


def test_a_cache_is_predicted_as_its_photographs_are(real: Real) -> None:
    of_photographs, _ = predict(real.run, real.source)
    of_cache, _ = predict(real.run, real.cache)
    for name in (*PROBABILITIES, "flags"):
        pd.testing.assert_series_equal(of_cache[name], of_photographs[name], check_exact=True)


def test_the_least_sure_are_left_to_a_human(real: Real) -> None:
    plain, _ = predict(real.run, real.source / "val")
    for share in (0, 0.3, 1):
        table, result = predict(real.run, real.source / "val", "--defer", share)
        assert list(table.columns) == [*plain.columns[:-2], "defer", "defer_why", *plain.columns[-2:]]
        pd.testing.assert_frame_equal(table.drop(columns=["defer", "defer_why"]), plain)
        unlike = table["flags"].str.contains("unlike_training|blank")
        sure = table[~unlike]  # weights carry the quantiles of these very photographs
        assert sure["defer"].mean() == pytest.approx(share, abs=0.1 + 1 / len(sure))
        assert (table["defer"][unlike] == 1).all()
        assert ((table["defer_why"] != "") == (table["defer"] == 1)).all()
        assert (table["defer_why"].str.contains("unlike_training|blank") == unlike).all()
        unsure = table["defer_why"].str.contains("unsure").sum()
        assert f"left to a human: {table['defer'].sum()}\n" in result.output
        assert (f"  unsure: {unsure}\n" in result.output) == (unsure > 0)
    odds = np.log(table["p_referable"] / (1 - table["p_referable"]))
    threshold = load_model(RunFolder(real.run).model)[1].operating.threshold  # type: ignore[union-attr]
    table, _ = predict(real.run, real.source / "val", "--defer", 0.3)
    distance = (odds - np.log(threshold / (1 - threshold))).abs()[~unlike]
    deferred = table["defer"][~unlike] == 1
    assert distance[deferred].max() <= distance[~deferred].min()


def test_a_table_says_what_it_must(real: Real) -> None:
    table, _ = predict(real.run / "model.safetensors", real.source / "val")
    assert ["id", *table.columns] == list(COLUMNS)
    p = table[PROBABILITIES].to_numpy(np.float32)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert (table["predicted"] == p.argmax(axis=1)).all()
    np.testing.assert_allclose(table["p_referable"], p[:, 2:].sum(axis=1), atol=1e-6)
    operating = load_model(RunFolder(real.run).model)[1].operating
    assert operating is not None
    assert (table["referable"] == (table["p_referable"] >= operating.threshold)).all()
    assert all(Path(source).is_file() for source in table["source"])


# --- test-time augmentation


def test_tta_is_the_mean_over_the_eight_symmetries(real: Real) -> None:
    model, metadata = load_model(RunFolder(real.run).model)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8))
    views = [images, images.flip(3), images.flip(2), images.flip(2, 3), images.transpose(2, 3)]
    views += [views[4].flip(3), views[4].flip(2), views[4].flip(2, 3)]
    assert {view.numpy().tobytes() for view in symmetries(images)} == {view.numpy().tobytes() for view in views}
    with torch.inference_mode():
        assert metadata.operating is not None
        mean = torch.stack([model(view).softmax(1) for view in views]).mean(0)
        mean = (mean.log() / metadata.operating.temperature).softmax(1)
    np.testing.assert_allclose(probabilities(model, images, replace(metadata, tta=True)), mean.numpy(), atol=1e-6)


def test_tta_does_not_care_how_a_photograph_is_turned(real: Real, tmp_path: Path) -> None:
    model, metadata = load_model(RunFolder(real.run).model)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8))
    turned = images.rot90(1, (2, 3)).flip(2)
    tta = replace(metadata, tta=True)
    assert np.abs(probabilities(model, images, metadata) - probabilities(model, turned, metadata)).max() > 1e-4
    np.testing.assert_allclose(probabilities(model, images, tta), probabilities(model, turned, tta), atol=1e-6)


# --- flags


def test_photographs_unlike_training_are_flagged_and_others_are_not(real: Real, shared: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "noise.png")
    table, result = predict(real.run, real.source / "train", shared / "data/fullres", tmp_path / "noise.png")
    flags = table["flags"]
    full = table["source"].str.contains("fullres")
    assert full.sum() == 4
    assert flags[full].str.contains("unlike_training:size").all()
    assert {"no_disc", "unlike_training:no_disc", "unlike_training:size"} <= set(flags["noise"].split())
    ordinary = flags[~full].drop("noise")
    assert ordinary.str.contains("unlike_training").mean() < 0.1
    assert f"flagged unlike_training:no_disc: {flags.str.contains('unlike_training:no_disc').sum()}" in result.output


def test_weights_from_before_training_was_looked_at_flag_what_the_recipe_flags(trained: Trained) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    assert metadata.statistics is not None
    save_model(Path("old.safetensors"), model, replace(metadata, statistics=None))
    table, _ = predict(Path("old.safetensors"), photograph(Path("noise.png")))
    assert table["flags"].tolist() == ["no_disc"]


def test_one_photograph_is_told_of_in_words_and_several_are_counted(real: Real, tmp_path: Path) -> None:
    photos = sorted((real.source / "val").rglob("*.jpeg"))
    table, result = predict(real.run, photos[0], "--defer", 1)
    (row,) = table.itertuples()
    lines = result.stdout.splitlines()
    assert lines[0] == "found 1 = 1 predicted + 0 rejected"
    assert lines[1].startswith(f"{photos[0].name}: grade {row.predicted}, ")
    assert f"referable: {'yes' if row.referable else 'no'} (p {row.p_referable:.2f}" in lines[1]
    assert lines[2].startswith(f"probabilities: no DR {row.p0:.2f}, mild {row.p1:.2f}")
    assert any(line.startswith("left to a human: unsure") for line in lines)
    assert not any("photographs" in line for line in lines)
    _, result = predict(real.run, photograph(tmp_path / "noise.png"))
    assert "note: No round retina was found" in result.stdout
    _, result = predict(real.run, *photos[:2])
    assert "probabilities:" not in result.stdout
    assert "grade            photographs" in result.stdout


# --- names


def test_ids_are_short_and_unique(trained: Trained, tmp_path: Path) -> None:
    for name in ("a/x.png", "a/c/y.png", "a/c/y.jpg", "a/d/y.jpg", "b/x.png", "b/c/007.png"):
        photograph(tmp_path / name)
    table, result = predict(trained.run, "a", "b", "a/x.png", tmp_path / "b/c/007.png")
    assert list(table.index) == ["007", "a/x.png", "b/x.png", "c/y.jpg", "c/y.png", "d/y"]
    assert "found 6 = 6 predicted + 0 rejected" in result.output


# --- refusals


def test_what_cannot_be_read_is_refused_by_name_and_the_rest_predicted(trained: Trained, tmp_path: Path) -> None:
    photograph(tmp_path / "eyes/good.png")
    whole = photograph(tmp_path / "eyes/cut.jpg").read_bytes()
    (tmp_path / "eyes/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "eyes/empty.png").touch()
    (tmp_path / "eyes/page.jpeg").write_text("<html>not found</html>")
    outside = photograph(tmp_path / "elsewhere/secret.png")
    (tmp_path / "eyes/link.png").symlink_to(outside)
    os.mkfifo(tmp_path / "eyes/fifo.png")
    os.mkfifo(tmp_path / "given.png")
    table, result = predict(trained.run, "eyes", "given.png")
    assert list(table.index) == ["good"]
    assert "found 7 = 1 predicted + 6 rejected" in result.output
    found = rejects()
    bad = {f"eyes/{name}" for name in ("cut.jpg", "empty.png", "page.jpeg", "link.png", "fifo.png")}
    assert found.keys() == bad | {"given.png"}
    assert found["eyes/empty.png"] == "empty file"
    assert "leads out of eyes" in found["eyes/link.png"]
    assert "not a regular file" in found["eyes/fifo.png"]
    assert "not a regular file" in found["given.png"]
    assert "cut off" in found["eyes/cut.jpg"]


def test_reasons_are_those_of_preprocess(trained: Trained, shared: Path) -> None:
    for case in ("B02", "B12"):
        source = shared / "cases" / case / "data"
        done = CliRunner().invoke(tools, ["preprocess", str(source), "--out", f"cache{case}", "--max-rejects", "1"])
        assert done.exit_code == 0, done.output
        with open(f"cache{case}/rejects.csv") as file:
            theirs = {row["source"]: row["reason"] for row in csv.DictReader(file)}
        table, _ = predict(trained.run, source)
        assert len(table) == len(open_cache(f"cache{case}").manifest)
        ours = {str(Path(name).relative_to(source)): reason for name, reason in rejects().items()}
        assert ours
        assert ours == {name: theirs[name] for name in ours}


def test_nothing_predicted_is_a_failure_and_leaves_no_table(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "bad.png").touch()
    _, result = predict(trained.run, "bad.png", exit=1)
    assert "none of 1 photographs could be predicted, see predictions_rejects.csv" in result.output
    assert not Path("predictions.csv").exists()
    assert rejects() == {"bad.png": "empty file"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere"], "nowhere: no such file, folder or cache"),
        (["run", "empty"], "empty: no photographs below it"),
        (["nowhere", "eye.png"], "nowhere does not exist"),
        (["empty", "eye.png"], "empty is not a run"),
        (["started", "eye.png"], "no epoch was finished"),
        (["eye.png", "eye.png"], "eye.png is damaged or not a model of ours"),
        (["run", "other"], "other was made by another recipe"),
        (["run", "eye.png", "--out", "eye.png/p.csv"], "eye.png/p.csv: cannot be written"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    trained: Trained, make_cache: Callable[..., Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    trained.copy("run")
    trained.copy("started")
    (tmp_path / "started/model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "eye.png")
    make_cache({"a": np.zeros((48, 48, 3), np.uint8)}, name="other")
    result = invoke("predict", *arguments, exit=1)
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_a_damaged_photograph_of_a_cache_is_refused_by_name(trained: Trained, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(trained.cache, tmp_path / "cache"))
    row = open_cache(cache).manifest.iloc[3]
    with open(cache / "shards/0000.tar", "r+b") as shard:
        shard.seek(row["offset"] + 100)
        shard.write(b"\0" * 8)
    table, result = predict(trained.run, cache)
    assert row["id"] not in table.index
    assert len(table) == len(open_cache(cache).manifest) - 1
    assert f"{row['id']} in shards/0000.tar is damaged" in result.output


# --- memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(trained: Trained, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / f"{count}"
        folder.mkdir()
        data = photograph(tmp_path / "one.jpg").read_bytes()
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(data)
        script = (
            "import resource, sys; from trainer.cli import main; main(sys.argv[1:], standalone_mode=False); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", script, "predict", str(trained.run), str(folder), "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout.splitlines()[-1])

    small, large = peak(200), peak(10_000)  # kB; 200: the batches ahead are full
    assert large - small < 25_000


def test_a_photograph_that_its_set_calls_ungradable_is_left_to_a_human_and_it_says_why(
    trained: Trained, tmp_path: Path
) -> None:
    pictures = {f"{n}_left": np.random.default_rng(n).integers(0, 40, (32, 32, 3), np.uint8) for n in range(3)}
    cache = write_cache(tmp_path / "bad", pictures, flags={"1_left": "cropped ungradable"})
    table, result = predict(trained.run, cache, "--defer", 0)
    assert table["defer_why"].str.split().map(lambda why: "ungradable" in why).tolist() == [False, True, False]
    assert table["defer"]["1_left"] == 1
    assert "  ungradable: 1\n" in result.output


def test_a_drawn_eye_is_graded_and_flagged_as_one(trained: Trained, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "eyes", 2)
    rows, result = predict(trained.run, tmp_path / "eyes")
    assert all("synthetic" in flags.split() for flags in rows["flags"])
    assert rows["predicted"].notna().all()
    assert "synthetic: 2" in result.output
