"""`trainer ensemble`: several runs, or all folds, as one network that every command takes as a run."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from tests.report_tables import text_of
from tests.trainer.conftest import FAST, invoke, write_tiny_cache
from trainer.kinds import PROBABILITIES
from trainer.network.metadata import read_metadata
from trainer.serving.facts import collect_facts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one cache, and their ensemble."""
    folder = tmp_path_factory.mktemp("ensemble")
    write_tiny_cache(folder / "cache")
    for seed in (0, 1):
        invoke("fit", "--cache", folder / "cache", *FAST, "--seed", seed, "--run", folder / f"s{seed}")
    invoke("ensemble", folder / "both", folder / "s0", folder / "s1", "--device", "cpu")
    return folder


def p(path: Path) -> np.ndarray:
    return pd.read_csv(path)[list(PROBABILITIES)].to_numpy()


def test_predictions_are_the_mean_of_the_runs_calibrated_ones(made: Path) -> None:
    mean = (p(made / "s0/predictions_test.csv") + p(made / "s1/predictions_test.csv")) / 2
    operating = read_metadata(made / "both/model.safetensors").operating
    assert operating is not None
    expected = softmax(np.log(mean) / operating.temperature, axis=1)
    np.testing.assert_allclose(p(made / "both/predictions_test.csv"), expected, atol=1e-5)


def test_the_threshold_is_chosen_on_the_mean_over_validation(made: Path) -> None:
    """The lowest-threshold rule written out: all referable photographs of validation are found, for nine of ten."""
    operating = read_metadata(made / "both/model.safetensors").operating
    assert operating is not None
    val = pd.read_csv(made / "both/predictions_val.csv")
    referred = val[["p2", "p3", "p4"]].sum(axis=1) >= operating.threshold
    assert referred[val["grade"] >= 2].all()


def test_every_command_takes_it_as_a_run(made: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(made / "both", both)
    before = (both / "predictions_test.csv").read_bytes()
    invoke("evaluate", both, "--device", "cpu")
    assert (both / "predictions_test.csv").read_bytes() == before
    invoke("predict", both, made / "cache", "--device", "cpu", "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv").set_index("id")
    test = pd.read_csv(both / "predictions_test.csv").set_index("id")
    np.testing.assert_allclose(table.loc[test.index, list(PROBABILITIES)], test[list(PROBABILITIES)], atol=1e-5)
    invoke("explain", both, made / "cache", "--device", "cpu", "--out", tmp_path / "explained")
    assert "Ensemble of 2 resnet18" in invoke("show", both).output
    assert "from PyTorch" in invoke("export", both, "--pt2", tmp_path / "m.pt2").output
    assert (
        "Ensemble of 2 resnet18 at 32 x 32 pixels"
        in collect_facts(both, read_metadata(both / "model.safetensors")).what
    )
    compared = invoke("compare", made / "s0", both, "--out", tmp_path / "c").output
    assert "both - s0" in compared
    row = pd.read_csv(tmp_path / "c.csv").set_index("run").loc["both"]
    assert row["model"] == "Ensemble of 2 resnet18"
    assert row[["seed", "keep", "epochs", "kept_epoch"]].isna().all(), "its members may differ in these"


def test_report_and_card_say_what_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "both", tmp_path / "both")
    invoke("report", tmp_path / "both", "--card", tmp_path / "CARD.md")
    for text in (text_of(tmp_path / "both/report.html"), (tmp_path / "CARD.md").read_text()):
        assert "Ensemble of 2 resnet18" in text
        assert "s0: resnet18, epoch" in text
        assert f"trainer ensemble {tmp_path / 'both'} {made / 's0'} {made / 's1'}" in text
        assert "approximate" not in text


def test_it_is_never_trained(made: Path) -> None:
    before = (made / "both/model.safetensors").read_bytes()
    line = invoke("fit", "--run", made / "both", "--resume", exit=1).stderr
    assert "both is an ensemble, which is not trained; train its runs" in line
    line = invoke("fit", "--config", made / "both/config.json", exit=2).stderr
    assert "it is the config.json of an ensemble; give that of one of its runs" in line
    assert (made / "both/model.safetensors").read_bytes() == before


def test_killed_while_it_is_written_there_is_no_ensemble(made: Path, tmp_path: Path) -> None:
    """As a kill does: it ends where the results are written. The same command then makes it."""
    options = (made / "s0", made / "s1", "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.commands.ensemble.write_summary", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            invoke("ensemble", tmp_path / "out", *options)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    invoke("ensemble", tmp_path / "out", *options)
    assert (tmp_path / "out/predictions_test.csv").read_bytes() == (made / "both/predictions_test.csv").read_bytes()


def test_what_cannot_be_combined_is_named(made: Path, tmp_path: Path) -> None:
    s0, s1, both, out = made / "s0", made / "s1", made / "both", tmp_path / "out"

    def refused(*runs: Path, to: Path = out) -> str:
        line = invoke("ensemble", to, *runs, "--device", "cpu", exit=1).stderr
        assert not out.exists()
        return line

    assert f"{s0} is one run; an ensemble needs 2 or more" in refused(s0)
    assert f"{s0} is given twice" in refused(s0, s0)
    assert f"{s0 / 'sub'} is inside {s0}, one of the members; choose another OUT" in refused(s0, s1, to=s0 / "sub")
    assert f"{both} is an ensemble itself; give its members" in refused(s0, both)
    assert f"{both} exists and is never overwritten" in refused(s0, s1, to=both)
    other = write_tiny_cache(tmp_path / "other", train=(0, 1, 2, 3, 4) * 3)
    invoke("fit", "--cache", other, *FAST, "--run", tmp_path / "of-other")
    assert "cannot be combined: their caches differ" in refused(s0, tmp_path / "of-other")
    invoke("fit", "--cache", made / "cache", *FAST, "--tta", "--run", tmp_path / "tta")
    assert "cannot be combined: --tta differs (off, on)" in refused(s0, tmp_path / "tta")


def test_what_a_member_was_trained_on_is_not_measured(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "both", tmp_path / "both")
    line = invoke("evaluate", tmp_path / "both", "--split", "train", exit=1).stderr
    assert "a member was trained on 20 photographs of train; measure another split" in line


def test_folds_are_combined_by_out_of_fold_probabilities(made: Path, tmp_path: Path) -> None:
    """Only test, which no fold has seen, is measured, and the rule is said to be approximate."""
    larger = write_tiny_cache(made / "larger", train=(0, 1, 2, 3, 4) * 16)  # each fold validates on every grade
    invoke("folds", "--folds", 2, "--cache", larger, *FAST, "--run", tmp_path / "cv")
    line = invoke("ensemble", tmp_path / "all", tmp_path / "cv", "--device", "cpu", exit=1).stderr
    assert "name that one with --cache" in line or "cache does not exist" in line
    cut = tmp_path / "cv/fold1/predictions_test.csv"
    whole = cut.read_text()
    cut.write_text("".join(whole.splitlines(True)[:-3]))
    options = ("--cache", larger, "--device", "cpu")
    line = invoke("ensemble", tmp_path / "all", tmp_path / "cv", *options, exit=1).stderr
    assert "predictions of 3 folded photographs are missing" in line
    cut.write_text(whole)
    result = invoke("ensemble", tmp_path / "all", tmp_path / "cv", "--cache", larger, "--device", "cpu")
    assert "the decision rule is approximate" in result.stderr
    assert not (tmp_path / "all/metrics_val.json").exists()
    assert json.loads((tmp_path / "all/metrics_test.json").read_text())["photographs"] == 5
    metadata = read_metadata(tmp_path / "all/model.safetensors")
    assert metadata.operating is not None
    means = []
    for member in range(2):
        run = tmp_path / f"cv/fold{member}"
        invoke("predict", run, larger, "--device", "cpu", "--out", tmp_path / f"p{member}.csv")
        means.append(pd.read_csv(tmp_path / f"p{member}.csv").set_index("id"))
    test = pd.read_csv(tmp_path / "all/predictions_test.csv").set_index("id")
    mean = sum(each.loc[test.index, list(PROBABILITIES)].to_numpy() for each in means) / 2
    expected = softmax(np.log(mean) / metadata.operating.temperature, axis=1)
    np.testing.assert_allclose(test[list(PROBABILITIES)], expected, atol=1e-4)
    invoke("report", tmp_path / "all")
    page = text_of(tmp_path / "all/report.html")
    assert "so the decision rule is approximate" in page
    assert "at the threshold fixed on out-of-fold probabilities" in page
    line = invoke("evaluate", tmp_path / "all", "--split", "val", exit=1).stderr
    assert "a member was trained on" in line
    line = invoke("evaluate", tmp_path / "all", "--sensitivity", 0.8, exit=1).stderr
    assert "members were trained on validation too" in line
    assert "leave out --sensitivity" in line


def test_folds_of_a_cache_that_is_all_test_are_combined(tmp_path: Path) -> None:
    """No photograph is in train there. What looks unlike training is told by all photographs that were folded."""
    cache = write_tiny_cache(tmp_path / "cache", train=(), val=(), test=(0, 1, 2, 3, 4) * 16)
    options = ("--cache", cache, *FAST, "--epochs", 1, "--run", tmp_path / "cv")
    invoke("folds", "--folds", 2, "--split", "all", *options)
    invoke("ensemble", tmp_path / "all", tmp_path / "cv", "--cache", cache, "--device", "cpu")
    statistics = read_metadata(tmp_path / "all/model.safetensors").statistics
    assert statistics is not None
    assert statistics.photographs == 80
