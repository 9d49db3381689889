"""External validation: another cache is measured beside the run's own results, and never instead of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from sklearn.metrics import cohen_kappa_score, confusion_matrix, recall_score, roc_auc_score

from pipeline.cache.cache import open_cache
from pipeline.cache.index import CacheIndex
from pipeline.storage.url import Url, path_or_url
from tests.conftest import write_cache
from tests.report_tables import rows_of, shown
from tests.trainer.conftest import FAST, Trained, invoke, write_tiny_cache
from trainer.evaluation.external import camera_sizes
from trainer.network.image_statistics import ImageStatistics, TrainingStatistics
from trainer.network.model import load_model, save_model
from trainer.run_folder import set_name

Trainer = Callable[..., Result]
GRADES = [0, 1, 2, 3, 4, 0, 2, 0, 4, 1]
NEW = {f"{n // 2}_{'left' if n % 2 else 'right'}": grade for n, grade in enumerate(GRADES)}
"""Photographs by grade: both eyes of five patients."""


def write_site(folder: Path, seed: int = 5, size: int = 32) -> Path:
    """A cache of NEW in several splits and one photograph without a grade in none, that no other seed has."""
    random = np.random.default_rng(seed)
    pictures = {id: random.integers(0, 255, (size, size, 3), np.uint8) for id in (*NEW, "ungraded_left")}
    splits = {id: ("train", "val", "test")[int(id[0]) % 3] if id in NEW else "" for id in pictures}
    return write_cache(folder, pictures, NEW, splits)


@pytest.fixture
def run(trained: Trained) -> Path:
    return trained.copy("run")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "clinic" / "cache")


def metrics_of(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(Path(f"run/external/{name}/metrics.json").read_text())
    return fields


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_runs_own_results_stay_and_the_sets_lie_in_a_folder_of_their_own(
    run: Path, site: Path, trainer: Trainer
) -> None:
    before = tree(run)
    done = trainer("evaluate", "run", "--cache", site)
    after = tree(run)
    new = {"predictions.csv", "metrics.json", "confusion.csv", "confusion_counts.csv", "confusion.png", "confusion.svg"}
    forest = {"external/forest.png", "external/forest.svg"}
    assert after.keys() - before.keys() == {f"external/clinic/{name}" for name in new} | forest
    assert {name: after[name] for name in before} == before
    assert "written: run/external/clinic run/external/forest.png" in done.output
    trainer("evaluate", "run", "--cache", site)
    assert tree(run) == after, "measured again, it is the same"


def test_all_its_graded_photographs_are_measured_and_the_figures_are_scikit_learns(
    run: Path, site: Path, trainer: Trainer
) -> None:
    done = trainer("evaluate", "run", "--cache", site)
    assert "clinic: 1 of 11 photographs have no grade; the metrics leave them out" in done.stderr
    table, found = pd.read_csv("run/external/clinic/predictions.csv"), metrics_of("clinic")
    assert set(table["id"]) == {*NEW, "ungraded_left"}
    table = table.dropna(subset="grade")
    grades, truth = table["grade"].astype(int), table["grade"] >= 2
    score = table[["p2", "p3", "p4"]].sum(axis=1)
    referred = score >= found["operating"]["threshold"]
    assert grades.tolist() == table["id"].map(NEW).tolist()
    assert (found["photographs"], found["patients"]) == (10, 5)
    assert found["prevalence"] == truth.mean() == 0.5
    kappa = cohen_kappa_score(grades, table["predicted"], labels=range(5), weights="quadratic")
    assert found["kappa"] == pytest.approx(0 if np.isnan(kappa) else kappa)
    assert found["referable_auc"] == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
    assert found["operating"]["sensitivity"] == recall_score(truth, referred)
    assert found["operating"]["specificity"] == recall_score(~truth, ~referred)
    assert (
        found["operating"]["threshold"] == json.loads((run / "metrics_test.json").read_text())["operating"]["threshold"]
    )
    counts = pd.read_csv("run/external/clinic/confusion_counts.csv", index_col=0)
    assert counts.to_numpy().tolist() == confusion_matrix(grades, table["predicted"], labels=range(5)).tolist()
    with open_cache(site) as cache:
        assert found["cache"] == cache.digest
    assert (found["split"], found["name"], found["place"]) == ("all", "clinic", str(site))
    assert found["cameras"] == [{"size": "32 x 32 px", "photographs": 10}]
    assert found["exposure"] == {"photographs": 10, "trained_on": 0, "same": 0, "chosen_by": 0}


def test_a_cache_with_the_runs_digest_is_its_own_wherever_it_lies(
    run: Path, trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    before = (run / "metrics_test.json").read_bytes()
    shutil.copytree(trained.cache, tmp_path / "moved")
    (run / "metrics_test.json").unlink()
    trainer("evaluate", "run", "--cache", "moved")
    assert (run / "metrics_test.json").read_bytes() == before
    assert not (run / "external").exists()
    for option, words in (
        (("--name", "mine"), "--name mine is for another"),
        (("--split", "all"), "--split all is for another"),
        (("--refit", 5), "--refit is for another cache than the run's own"),
    ):
        assert words in trainer("evaluate", "run", "--cache", "moved", *option, exit=1).stderr


def test_the_runs_own_cache_changed_in_place_is_another(run: Path, trainer: Trainer, site: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"cache": str(site)}))
    before = (run / "metrics_test.json").read_bytes()
    stderr = trainer("evaluate", "run").stderr
    assert "is not as it was when run was trained; what is measured goes into run/external/clinic" in stderr
    assert (run / "metrics_test.json").read_bytes() == before
    assert metrics_of("clinic")["photographs"] == 10


def test_several_sets_make_one_table_and_one_figure(run: Path, site: Path, tmp_path: Path) -> None:
    other = write_site(tmp_path / "other", seed=6)
    done = invoke("evaluate", "run", "--cache", site, "--cache", other, rendered=True)
    lines = {line.split("  ")[0]: line for line in done.output.splitlines()}
    assert lines["95 % intervals by patients"].split()[-5:] == ["own", "test", "part", "clinic", "other"]
    assert lines["photographs"].split()[1:] == ["5", "10", "10"]
    assert lines["prevalence of referable"].split()[-6:] == ["60.0", "%", "50.0", "%", "50.0", "%"]
    assert lines["originals"].count("32 x 32 px (100%)") == 2
    figure = Path("run/external/forest.svg").read_text()
    assert all(f"<!-- {name} -->" in figure for name in ("own test part", "clinic", "other"))
    invoke("evaluate", "run", "--cache", other, "--name", "again", rendered=True)
    assert "<!-- clinic -->" in Path("run/external/forest.svg").read_text()


def test_a_name_keeps_what_it_was_given_to(run: Path, site: Path, trainer: Trainer, tmp_path: Path) -> None:
    trainer("evaluate", "run", "--cache", site)
    before = tree(run)
    other = write_site(tmp_path / "other", seed=6)
    evaluate = ("evaluate", "run", "--cache")
    assert "run/external/clinic holds the results of another cache, which stay; choose another --name" in (
        trainer(*evaluate, other, "--name", "clinic", exit=1).stderr
    )
    assert "holds the results of another part of that cache (all)" in (
        trainer(*evaluate, site, "--split", "test", exit=1).stderr
    )
    assert "two caches would write run/external/x/metrics.json; give each its own --name" in (
        trainer(*evaluate, site, "--cache", other, "--name", "x", "--name", "x", exit=1).stderr
    )
    assert "1 --name for 2 --cache" in trainer(*evaluate, site, "--cache", other, "--name", "x", exit=2).stderr
    assert "1 --name for 0 --cache" in trainer("evaluate", "run", "--name", "x", exit=2).stderr
    assert "--refit is for another cache" in trainer("evaluate", "run", "--refit", 5, exit=2).stderr
    for option in (("--json",), ("--by", "patient")):
        assert "one cache at a time" in trainer(*evaluate, site, "--cache", other, *option, exit=2).stderr
    assert tree(run) == before
    trainer(*evaluate, site, "--split", "test", "--name", "its test")
    assert metrics_of("its test")["photographs"] == 2


def test_what_others_put_there_stays(run: Path, site: Path, trainer: Trainer, tmp_path: Path) -> None:
    (run / "external" / "clinic").mkdir(parents=True)
    (run / "external" / "clinic" / "notes.txt").write_text("mine")
    evaluate = ("evaluate", "run", "--cache", site)
    assert "run/external/clinic holds 'notes.txt', which this command did not make" in trainer(*evaluate, exit=1).stderr
    (tmp_path / "elsewhere").mkdir()
    (run / "external" / "linked").symlink_to(tmp_path / "elsewhere")
    assert "no folder of the run" in trainer(*evaluate, "--name", "linked", exit=1).stderr
    assert not list((tmp_path / "elsewhere").iterdir())
    (run / "external" / "forest.png").symlink_to(site / "cache.json")
    assert "forest.png: a link" in trainer(*evaluate, "--name", "new", exit=1).stderr
    (run / "external" / "forest.png").unlink()
    trainer(*evaluate, "--name", "new")
    taken = trainer("predict", "run", site, "--out", "run/external/new/mine.csv", "--device", "cpu", exit=1)
    assert "run/external/new/mine.csv: a file of the run" in taken.stderr
    (run / "external" / "new" / "metrics.json").write_text("{")
    assert "is damaged; delete run/external/new" in trainer(*evaluate, "--name", "new", exit=1).stderr
    assert "run/external/new/metrics.json is damaged; left out" in trainer("report", "run").stderr


def test_a_set_that_cannot_be_measured_leaves_nothing(run: Path, trainer: Trainer, tmp_path: Path) -> None:
    write_tiny_cache(tmp_path / "blank", train=[-1], val=[], test=[])
    stderr = trainer("evaluate", "run", "--cache", "blank", exit=1).stderr
    assert stderr == "Error: blank: it cannot be measured, its photographs have no grades\n"
    assert not (run / "external").exists()


def test_json_is_the_sets_metrics_and_nothing_else(run: Path, site: Path, trainer: Trainer) -> None:
    assert json.loads(trainer("evaluate", "run", "--cache", site, "--json").stdout) == metrics_of("clinic")


def test_by_patient_the_worse_eyes_of_the_set_decide(run: Path, site: Path, trainer: Trainer) -> None:
    output = trainer("evaluate", "run", "--cache", site, "--by", "patient").stdout
    assert output.splitlines()[0].endswith("  clinic, by patient")
    assert metrics_of("clinic")["patient"]["grades"] == [0, 1, 1, 1, 2]  # of 0 1, 2 3, 4 0, 2 0, 4 1


def test_photographs_unlike_training_are_those_that_predict_flags(run: Path, trainer: Trainer, tmp_path: Path) -> None:
    """Half of them are like those of training: noise of their kind; the others are brighter, and blue."""
    random = np.random.default_rng(9)
    pictures = {f"{n}_left": random.integers(0, 40, (32, 32, 3), np.uint8) for n in range(12)}
    for n in range(6):
        pictures[f"{n}_left"][..., 2] += np.uint8(150)
    write_cache(tmp_path / "blue", pictures, {id: n % 5 for n, id in enumerate(pictures)})
    trainer("evaluate", "run", "--cache", "blue")
    trainer("predict", "run", "blue", "--device", "cpu")
    flags = pd.read_csv("predictions.csv", keep_default_na=False)["flags"].str.findall(r"unlike_training:(\w+)")
    drift = metrics_of("blue")["drift"]
    assert drift["photographs"] == 12
    assert drift["unlike"] == (flags.str.len() > 0).sum() >= 6
    assert drift["flags"] == flags.explode().value_counts().sort_index().to_dict()


def test_drift_counts_each_photograph_once_and_each_flag() -> None:
    like = ImageStatistics(10, -1.0, 0.5, 0.2, 0.2, 6.0, -3.0)
    seen = TrainingStatistics.summarise([like] * 20)
    found = seen.drift([like, like._replace(size=12.0), like._replace(size=12.0, red=0.9)])
    assert found == (3, 2, {"colour": 1, "size": 2})


def test_weights_that_do_not_say_how_training_looked_know_no_drift(run: Path, site: Path, trainer: Trainer) -> None:
    model, metadata = load_model(run / "model.safetensors")
    save_model(run / "model.safetensors", model, replace(metadata, statistics=None))
    trainer("evaluate", "run", "--cache", site)
    assert metrics_of("clinic")["drift"] is None


def test_a_set_on_another_scale_says_so_everywhere(run: Path, site: Path, trainer: Trainer) -> None:
    replace(CacheIndex.read(site), scale="messidor", exact=False).write(site)
    done = invoke("evaluate", "run", "--cache", site, rendered=True)
    said = "clinic: The grades were given on the scale messidor, whose steps are not those of ICDR"
    assert said in done.stderr
    assert "messidor (not ICDR's steps)" in done.output
    assert "open: grades on another scale, not to be compared" in Path("run/external/forest.svg").read_text()
    trainer("report", "run", "--card", "card.md")
    assert said in Path("run/report.html").read_text()
    assert said in Path("card.md").read_text()


def test_a_set_of_another_recipe_and_ungradable_photographs_are_said(
    run: Path, trainer: Trainer, tmp_path: Path
) -> None:
    write_site(tmp_path / "large", size=48)
    assert "large was made by another recipe" in trainer("evaluate", "run", "--cache", "large").stderr
    (run / "external/large/metrics.json").write_text(json.dumps(metrics_of("large") | {"ungradable": 3}))
    trainer("report", "run")
    page = Path("run/report.html").read_text()
    assert "large: The photographs were prepared in another way than those of training" in page
    assert "large: 3 of the graded photographs are flagged ungradable" in page


def test_the_page_and_the_card_show_the_sets(run: Path, site: Path, trainer: Trainer) -> None:
    trainer("report", "run", "--card", "card.md")
    assert "Other hospitals" not in Path("run/report.html").read_text() + Path("card.md").read_text()
    trainer("evaluate", "run", "--cache", site, "--specificity", 1)
    Path("run/external/forest.png").unlink()
    trainer("report", "run", "--card", "card.md")
    page, card = Path("run/report.html").read_text(), Path("card.md").read_text()
    found = metrics_of("clinic")
    for text in (page, card):
        text = text.replace("\N{NO-BREAK SPACE}", " ")
        assert "Other hospitals" in text
        assert f"{found['operating']['threshold']:.3f}" in text
        assert f"{100 * found['operating']['specificity']:.1f} %" in text
        assert f"trainer evaluate run --cache {site} --name clinic --specificity 1.0" in text
        assert "2 data sets were measured" in text
    assert 'id="external"' in page
    table = pd.read_csv("run/external/clinic/predictions.csv").dropna(subset="grade").astype({"grade": int})
    truth, score = table["grade"] >= 2, table[["p2", "p3", "p4"]].sum(axis=1)
    referred = score >= found["operating"]["threshold"]
    assert rows_of(page, "Figures of other sets")["clinic"] == shown(
        len(table),
        found["patients"],
        truth.mean(),
        cohen_kappa_score(table["grade"], table["predicted"], weights="quadratic"),
        roc_auc_score(truth, score),
        found["operating"]["threshold"],
        recall_score(truth, referred),
        recall_score(~truth, ~referred),
    )
    assert page.count('<svg role="img" aria-label="') == 9
    assert Path("run/external/forest.png").exists()


def test_a_report_without_test_figures_of_its_own_shows_the_sets_alone(run: Path, site: Path, trainer: Trainer) -> None:
    (run / "metrics_test.json").unlink()
    output = trainer("evaluate", "run", "--cache", site).output
    assert "own test part" not in output
    trainer("report", "run", "--split", "val")
    assert "own test part" not in Path("run/report_val.html").read_text()


def test_a_set_behind_a_url_is_measured_as_the_one_on_this_disk(
    run: Path, site: Path, web: Url, trainer: Trainer
) -> None:
    trainer("evaluate", "run", "--cache", site)
    before = metrics_of("clinic")
    place = (web / "clinic" / "cache").text
    trainer("evaluate", "run", "--cache", place)
    assert metrics_of("clinic") == {**before, "place": place}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/messidor/cache", "messidor"),
        ("/data/messidor", "messidor"),
        ("/data/messidor/cache/", "messidor"),
        ("/data/link/../messidor", "messidor"),
        ("/cache", ""),
        ("s3://eyes/messidor/cache", "messidor"),
        ("s3://eyes/cache", "eyes"),
        ("https://clinic.example/aptos", "aptos"),
    ],
)
def test_a_set_is_called_as_its_folder_or_as_the_one_above_cache(place: str, name: str) -> None:
    assert set_name(path_or_url(place)) == name


def test_the_commonest_sizes_come_first_and_the_others_together() -> None:
    sides = [1000] * 5 + [900] * 4 + [800] * 3 + [700] * 2 + [600, 500]
    table = pd.DataFrame({"width": sides, "height": sides})
    assert [(each.size, each.photographs) for each in camera_sizes(table)] == [
        ("1000 x 1000 px", 5),
        ("900 x 900 px", 4),
        ("800 x 800 px", 3),
        ("700 x 700 px", 2),
        ("2 other sizes", 2),
    ]


def test_ungradable_photographs_are_measured_both_ways(run: Path, trainer: Trainer, tmp_path: Path) -> None:
    """Of a set all of them count; the one with a grade is right or wrong, the two without only add to the referred."""
    random = np.random.default_rng(7)
    bad = {"0_right": "ungradable", "5_left": "ungradable", "6_left": "blank ungradable"}
    pictures = {id: random.integers(0, 255, (32, 32, 3), np.uint8) for id in (*NEW, "5_left", "6_left")}
    write_cache(tmp_path / "clinic", pictures, NEW, dict.fromkeys(pictures, ""), flags=bad)
    output = trainer("evaluate", "run", "--cache", "clinic").output
    found = metrics_of("clinic")["ungradable_referral"]
    assert (found["ungradable"], found["graded"], found["not_counted"]) == (3, 1, 0)
    table = pd.read_csv("run/external/clinic/predictions.csv").set_index("id").dropna(subset="grade")
    threshold = metrics_of("clinic")["operating"]["threshold"]
    referred, truth = table[["p2", "p3", "p4"]].sum(axis=1) >= threshold, table["grade"] >= 2
    without = table.index != "0_right"
    names = ("true_negative", "false_positive", "false_negative", "true_positive")
    ways = found["photographs"]
    assert [ways["left_out"][name] for name in names] == confusion_matrix(
        truth[without], referred[without], labels=[False, True]
    ).ravel().tolist()
    referred["0_right"] = True  # its grade is 0
    assert [ways["referred"][name] for name in names] == confusion_matrix(truth, referred).ravel().tolist()
    assert ways["referred"]["no_grade"] == 2
    assert ways["referred"]["referred"] == (referred.sum() + 2) / 12
    assert found["patients"]["referred"]["no_grade"] == 2
    assert ways["referred"]["specificity"] == recall_score(~truth, ~referred)
    trainer("report", "run", "--card", "card.md")
    page, card = Path("run/report.html").read_text(), Path("card.md").read_text()
    for text in (output, page, card):
        assert "3 ungradable photographs counted, 1 with a grade." in text
        assert "hotographs, ungradable referred" in text
        assert "atients, ungradable left out" in text
    tn, fp, fn, tp = confusion_matrix(truth, referred).ravel()
    shares = shown(tp / (tp + fn), tn / (tn + fp), (referred.sum() + 2) / 12)
    row = rows_of(page, "Ungradable photographs, clinic")["Photographs, ungradable referred"]
    assert row == [*shares, tp, fp, fn, tn, 2]


def test_of_the_runs_own_cache_those_count_whose_patient_is_in_the_split(
    trained: Trained, trainer: Trainer, tmp_path: Path
) -> None:
    """The fellow eyes of two test patients and of one of train, and one that nothing tells whose it is."""
    run, random = trained.copy("run"), np.random.default_rng(8)
    cache = open_cache(trained.cache).manifest
    pictures = {id: random.integers(0, 60, (32, 32, 3), np.uint8) for id in cache["id"]}
    bad = ("test0_left", "test1_left", "train0_right", "nobody")
    pictures |= {id: random.integers(0, 60, (32, 32, 3), np.uint8) for id in bad}
    splits = dict(zip(cache["id"], cache["split"], strict=True)) | dict.fromkeys(bad, "")
    grades = dict(zip(cache["id"], cache["grade"], strict=True))
    write_cache(tmp_path / "own", pictures, grades, splits, flags=dict.fromkeys(bad, "ungradable"))
    config = json.loads((run / "config.json").read_text())
    changed = {"cache": str(tmp_path / "own"), "cache_digest": open_cache(tmp_path / "own").digest}
    (run / "config.json").write_text(json.dumps(config | changed))
    output = trainer("evaluate", "run").output
    found = json.loads((run / "metrics_test.json").read_text())["ungradable_referral"]
    assert (found["ungradable"], found["graded"], found["not_counted"]) == (2, 0, 1)
    assert found["photographs"]["referred"]["no_grade"] == 2
    # their patients have grades, 0 and 1: both are referred wrongly now
    assert found["patients"]["referred"]["no_grade"] == 0
    assert found["patients"]["referred"]["false_positive"] == 2
    said = "1 ungradable photograph not counted: the patient is not known, or is in no split."
    assert said in output
    trainer("report", "run", "--card", "card.md")
    assert said in Path("run/report.html").read_text()
    assert said in Path("card.md").read_text()


def test_a_cache_smaller_than_the_weights_take_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    write_tiny_cache(tmp_path / "cache", size=64)
    write_tiny_cache(tmp_path / "small", size=32)
    invoke("fit", *FAST, "--epochs", 1, "--run", "run")
    stderr = invoke("evaluate", "run", "--cache", "small", exit=1).stderr
    assert "has photographs of 32 px, and the weights take 64 px; `tools preprocess` with --size 64" in stderr
