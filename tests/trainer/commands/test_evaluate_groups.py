"""`trainer evaluate` by eye and by subgroup: what the terminal, the file of metrics, the page and the card say."""

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from tests.trainer.commands.test_report import text_of
from tests.trainer.conftest import write_clinic, write_tiny_cache

Trainer = Callable[..., Result]


@pytest.fixture
def run(clinic: Path) -> Path:
    """A copy that a test may change, ./run."""
    return Path(shutil.copytree(clinic / "run", "run"))


def metrics_of(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "metrics_test.json").read_text())
    return fields


def test_figures_by_eye_are_scikit_learns_of_the_mean_of_a_visits_photographs(clinic: Path) -> None:
    metrics = metrics_of(clinic / "run")
    columns = [f"p{grade}" for grade in range(5)]
    table = pd.read_csv(clinic / "run" / "predictions_test.csv", dtype=dict.fromkeys(columns, "float32"))
    patient, visit = table["id"].str[2:], table["id"].str[0].map({"a": 1, "b": 1, "c": 2})
    eyes = table.astype(dict.fromkeys(columns, "float64")).drop(columns="id").groupby([patient, visit]).mean()
    # As a table of predictions has them: means that differ in the last bits of a double are a tie.
    p = eyes[columns].to_numpy(np.float32).astype(np.float64)
    found = metrics["eye"]
    assert (metrics["photographs"], found["photographs"], found["patients"]) == (312, 208, 104)
    assert found["eyes"] == {"several": 104, "disagreeing": 0, "eye_unknown": 0, "visit": "visit"}
    assert found["accuracy"] == pytest.approx(accuracy_score(eyes["grade"], p.argmax(axis=1)))
    assert found["referable_auc"] == pytest.approx(roc_auc_score(eyes["grade"] >= 2, p[:, 2:].sum(axis=1)), abs=1e-6)
    referred = p[:, 2:].sum(axis=1) >= found["operating"]["threshold"]
    assert found["operating"]["sensitivity"] == recall_score(eyes["grade"] >= 2, referred)
    assert found["eye"] is found["patient"] is found["calibration"] is None


def test_by_eye_is_a_column_of_the_table(run: Path, trainer: Trainer) -> None:
    lines = trainer("evaluate", run, "--by", "eye", "--loader", "torchvision").stdout.splitlines()
    assert lines[0].endswith("  test, by eye")
    rows = {line.split("  ")[0] or line.strip().split("  ")[0]: line.split()[-1] for line in lines}
    assert (rows["photographs"], rows["eyes"], rows["of several photographs"]) == ("312", "208", "104")


def test_groups_stand_in_the_metrics_and_one_that_was_made_worse_is_named(clinic: Path) -> None:
    found = metrics_of(clinic / "run")["subgroups"]
    site, age = found["columns"]
    names = [group["name"] for group in site["groups"]]
    assert names == ["Hill", "North", "South", "not stated"]
    assert sum(group["photographs"] for group in site["groups"]) == 312
    assert site["groups"][0]["figures"] is None
    assert [group["name"] for group in age["groups"]] == ["30 to 38", "39 to 47", "48 to 58", "59 to 69"]
    assert (found["worst"]["column"], found["worst"]["group"], found["worst"]["significant"]) == ("site", "South", True)
    table = pd.read_csv(clinic / "run" / "predictions_test.csv")
    numbers = table["id"].str.extract(r"/(\d+)_")[0].astype(int)
    south = table[(numbers % 3 == 1) & (numbers < 130)]
    auc = roc_auc_score(south["grade"] >= 2, south[["p2", "p3", "p4"]].sum(axis=1))
    assert site["groups"][2]["figures"]["referable_auc"] == pytest.approx(auc, abs=1e-6)


def test_the_terminal_the_page_and_the_card_show_eyes_and_groups(clinic: Path, run: Path, trainer: Trainer) -> None:
    printed = trainer("evaluate", run, "--subgroup", "site", "--subgroup", "age", "--loader", "torchvision").output
    page = html.unescape(text_of(clinic / "run" / "report.html"))
    card = (clinic / "run" / "CARD.md").read_text()
    assert "test, by site" in printed
    assert "earlier results" not in printed
    for text in (printed, page, card):
        assert "Worst group: site = South. " in text
        assert "p values are corrected by Holm's method over all" in text
    for text in (page, card):
        assert "104 eyes were photographed several times" in text
        assert "Photographs of one patient, eye and visit (column visit) are one eye's." in text
        assert "--subgroup site --subgroup age" in text
    assert "By eye, the mean of its photographs" in page
    assert "| by eye, mean of its photographs |" in card
    assert "too few for figures" in page
    assert "| site = Hill | " in card


def test_subgroups_that_are_not_measured_again_are_said_to_go(run: Path, trainer: Trainer) -> None:
    said = trainer("evaluate", run, "--subgroup", "age", "--loader", "torchvision").stderr
    assert "WARNING: the earlier results of test by site are replaced; `--subgroup site` keeps them\n" in said
    assert [column["name"] for column in metrics_of(run)["subgroups"]["columns"]] == ["age"]
    (run / "metrics_test.json").write_text("damaged")
    assert "earlier results" not in trainer("evaluate", run, "--loader", "torchvision").stderr


def test_without_the_cache_the_page_shows_the_groups_and_with_metrics_of_an_earlier_version_none(
    run: Path, trainer: Trainer
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"cache": "moved"}))
    trainer("report", run)
    page = text_of(run / "report.html")
    assert "Worst group: site = South. " in page
    assert "Left out, for the cache is not at hand" in page
    metrics = metrics_of(run)
    del metrics["eye"], metrics["subgroups"]
    (run / "metrics_test.json").write_text(json.dumps(metrics))
    trainer("report", run, "--card", "card.md")
    assert "By eye" not in text_of(run / "report.html")
    assert "### Subgroups" not in Path("card.md").read_text()


def test_a_column_that_was_not_kept_stops_before_anything_is_measured(
    clinic: Path, run: Path, trainer: Trainer
) -> None:
    before = (run / "metrics_test.json").read_bytes()
    failed = trainer("evaluate", run, "--subgroup", "camera", exit=1)
    cache = clinic / "cache"
    assert failed.stderr == f"Error: {cache}: no column 'camera' was kept; the columns kept are: visit, site, age\n"
    assert (run / "metrics_test.json").read_bytes() == before


@pytest.mark.slow
def test_external_sets_have_groups_too(run: Path, trainer: Trainer, tmp_path: Path) -> None:
    write_clinic(tmp_path / "elsewhere", seed=5)
    options = ("--cache", "elsewhere", "--subgroup", "site", "--loader", "torchvision")
    assert "elsewhere, by site" in trainer("evaluate", run, *options).output
    metrics = json.loads((run / "external/elsewhere/metrics.json").read_text())
    assert metrics["subgroups"]["columns"][0]["groups"][0]["name"] == "Hill"
    assert metrics["eye"]["photographs"] == 280
    trainer("report", run, "--card", "card.md")
    assert "elsewhere: subgroups" in text_of(run / "report.html")
    assert "Subgroups of elsewhere:" in Path("card.md").read_text()
    assert "--cache elsewhere --name elsewhere --subgroup site" in Path("card.md").read_text()


def test_by_eye_is_by_photograph_where_each_eye_has_one(run: Path, trainer: Trainer, tmp_path: Path) -> None:
    write_tiny_cache(tmp_path / "ones")
    said = trainer("evaluate", run, "--cache", "ones", "--by", "eye", "--loader", "torchvision").stderr
    assert "no eye has two graded photographs of ones: by eye is by photograph" in said
    twice = trainer("evaluate", run, "--cache", "ones", "--cache", "ones", "--by", "eye", exit=2).stderr
    assert "--by eye is for one cache at a time" in twice
