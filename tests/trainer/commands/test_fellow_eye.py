"""Networks that take the patient's other eye into account: `trainer fit --fellow-eye` and what takes its runs."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import click
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score

from pipeline.cache.cache import Cache, open_cache
from tests.trainer.conftest import FAST, invoke, train, write_both_eyes, write_tiny_cache
from tests.trainer.recorded import recorded
from trainer.cli import _asked, main
from trainer.config import FitConfig, RunConfig
from trainer.evaluation.evaluate import choose_decision
from trainer.inference.forward import Outputs
from trainer.network.decision import DecisionRule
from trainer.network.metadata import FittedRule, read_metadata
from trainer.reporting.narrative import commands, fellow_rule
from trainer.run_folder import RunFolder

P = [f"p{grade}" for grade in range(5)]
CPU = ("--device", "cpu", "--loader", "torchvision")


class Both:
    """A run of one eye, and one that goes on from it with both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = write_both_eyes(folder / "cache")
        self.one, self.both = folder / "one", folder / "both"
        options = ("--cache", self.cache, *FAST, "--epochs", 4, "--lr", 0.02)
        invoke("fit", *options, "--run", self.one)
        self.output = train("--fellow-eye", self.one, "--run", self.both, "--head-epochs", 12, "--lr", 0.05).output

    def table(self, run: Path, split: str = "test") -> pd.DataFrame:
        return pd.read_csv(run / f"predictions_{split}.csv", dtype={"id": str}).set_index("id")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Both:
    return Both(tmp_path_factory.mktemp("both"))


def test_an_eye_that_tells_nothing_gets_its_grade_from_the_other(runs: Both) -> None:
    one, both = runs.table(runs.one), runs.table(runs.both)
    left = both.index[both.index.str.endswith("left")]
    assert accuracy_score(one.loc[left, "grade"], one.loc[left, "predicted"]) <= 0.75
    assert accuracy_score(both.loc[left, "grade"], both.loc[left, "predicted"]) == 1


def test_one_eye_alone_gets_a_grade_too(runs: Both) -> None:
    both = runs.table(runs.both)
    alone = both[both["fellows"] == 0]
    assert len(alone) == 1
    assert alone["predicted"].equals(alone["grade"])
    assert np.allclose(alone["score"], alone[["p2", "p3", "p4"]].sum(axis=1), atol=1e-6)
    assert (both["fellows"].drop(alone.index) == 1).all()  # the ungraded left eye is one of them


def test_two_decision_rules_are_fitted(runs: Both) -> None:
    metadata = read_metadata(runs.both / "model.safetensors")
    assert metadata.operating is not None
    assert metadata.fellow is not None
    assert metadata.fellow.operating is not None
    assert metadata.fellow.operating != metadata.operating
    both = runs.table(runs.both)
    paired = both["fellows"] > 0
    p = both[["p2", "p3", "p4"]].sum(axis=1)
    # One threshold decides on scores, two on probabilities: they decide alike.
    own = np.where(paired, metadata.fellow.operating.threshold, metadata.operating.threshold)
    assert ((both["score"] >= metadata.operating.threshold) == (p >= own)).all()
    results = json.loads((runs.both / "metrics_test.json").read_text())
    has = both["grade"] >= 2
    assert results["operating"]["sensitivity"] == pytest.approx((p >= own)[has].mean())
    assert results["operating"]["specificity"] == pytest.approx((p < own)[~has].mean())


def test_the_rule_for_one_eye_decides_where_none_fits_both(runs: Both) -> None:
    metadata = replace(read_metadata(runs.both / "model.safetensors"), fellow=FittedRule())
    rule = DecisionRule.of(metadata)
    assert metadata.operating is not None
    assert rule.fellow == replace(rule, fellow=None)
    assert rule.threshold == metadata.operating.threshold
    p = np.linspace(0, 1, 11)
    assert np.allclose(rule.referral_scores(p, np.full(11, True)), p, atol=2e-6)
    assert "The rule for one eye decides for all photographs" in fellow_rule(metadata, "validation")


def test_a_validation_whose_pairs_lack_a_class_says_so(runs: Both, caplog: pytest.LogCaptureFixture) -> None:
    grades = torch.tensor([0, 1, 2, 3])
    logits = 2 * torch.nn.functional.one_hot(torch.tensor([0, 1, 3, 2]), 5).float()
    outputs = Outputs(np.arange(4), grades, logits, logits, fellows=np.array([1, 1, 0, 0]))
    with open_cache(runs.cache) as cache:
        chosen = choose_decision(cache, outputs, read_metadata(runs.one / "model.safetensors"), "likeliest")
    assert chosen.operating is not None
    assert chosen.fellow is not None
    assert chosen.fellow.operating is None
    assert "no operating point can be chosen on validation with the other eye" in caplog.text
    assert "the rule for one eye decides there too" in caplog.text


def test_the_ceiling_is_what_copying_the_other_eyes_grade_would_score(runs: Both) -> None:
    both = runs.table(runs.both)
    copied = {
        id: both["grade"].get(f"{id.split('_')[0]}_{'left' if id.endswith('right') else 'right'}") for id in both.index
    }
    known = [id for id, grade in copied.items() if grade is not None]
    truth = both["grade"][known]
    found = json.loads((runs.both / "metrics_test.json").read_text())["fellow_copy"]
    assert found["photographs"] == len(known) == 24
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, [copied[id] for id in known]))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, [copied[id] for id in known], weights="quadratic"))
    assert found["network_accuracy"] == pytest.approx(accuracy_score(truth, both["predicted"][known]))
    assert "copying that grade would have an accuracy of 100.0 % and a kappa of 1.000" in runs.output
    assert "LEAK" not in runs.output  # the same validation chooses both stages


def test_the_backbone_and_the_run_of_one_eye_stay(runs: Both) -> None:
    from safetensors.torch import load_file

    one, both = (load_file(run / "model.safetensors") for run in (runs.one, runs.both))
    backbone = [name for name in one if name.startswith("backbone.")]
    assert all(one[name].equal(both[name]) for name in backbone)
    assert {name for name in both if name not in one} == {"head.fellow.weight", "head.fellow.bias"}
    assert read_metadata(runs.one / "model.safetensors").fellow is None


def test_predict_gives_what_evaluate_measured_from_a_cache_and_from_files(
    runs: Both, tmp_path: Path, trainer: Callable[..., object]
) -> None:
    trainer("predict", runs.both, runs.cache, "--out", "cached.csv", "--device", "cpu")
    predicted = pd.read_csv("cached.csv", dtype={"id": str}).set_index("id")
    measured = runs.table(runs.both)
    assert np.array_equal(predicted.loc[measured.index, P], measured[P])
    assert (predicted.loc[measured.index, "predicted"] == measured["predicted"]).all()
    assert (predicted["fellow"].loc[measured.index].notna() == (measured["fellows"] > 0)).all()
    assert predicted["fellow"]["0_left"] == "0_right"


def write_photographs(cache: Path, folder: Path, *ids: str) -> None:
    folder.mkdir()
    with open_cache(cache) as opened:
        for id in ids:
            (folder / f"{id}.jpg").write_bytes(opened.read(int(opened.manifest.index[opened.manifest["id"] == id][0])))


def test_eyes_are_paired_by_name_or_by_a_table(runs: Both, trainer: Callable[..., object]) -> None:
    write_photographs(runs.cache, Path("named"), "0_left", "0_right", "1_left")
    trainer("predict", runs.both, "named", "--out", "named.csv", "--device", "cpu")
    named = pd.read_csv("named.csv", na_filter=False).set_index("id")
    assert named["fellow"].to_dict() == {"0_left": "0_right", "0_right": "0_left", "1_left": ""}
    Path("named").rename("coded")
    for old, new in (("0_left", "x17"), ("0_right", "x18"), ("1_left", "x19")):
        Path("coded", f"{old}.jpg").rename(Path("coded", f"{new}.jpg"))
    Path("eyes.csv").write_text("id,patient,eye\nx17,A,OS\nx18,A,OD\n")
    trainer("predict", runs.both, "coded", "--eyes", "eyes.csv", "--out", "coded.csv", "--device", "cpu")
    coded = pd.read_csv("coded.csv", na_filter=False).set_index("id")
    assert coded["fellow"].to_dict() == {"x17": "x18", "x18": "x17", "x19": ""}
    assert np.array_equal(coded[P], named[P])
    Path("visits.csv").write_text("id,patient,eye,visit\nx17,A,left,1\nx18,A,right,2\n")
    trainer("predict", runs.both, "coded", "--eyes", "visits.csv", "--out", "visits.csv_out.csv", "--device", "cpu")
    assert (pd.read_csv("visits.csv_out.csv", na_filter=False)["fellow"] == "").all()


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("id,patient\nx,A\n", "no column eye"),
        ("id,patient,eye\nx,A,left\ny,A,up\n", "eyes.csv:3: 'up' is no eye"),
        ("id,patient,eye\nx,A,left\nx,A,right\n", "eyes.csv:3: x is there twice"),
        ("id,patient,eye\n\n,A,left\n", "eyes.csv:3: the id is empty"),
        ("id,patient,eye\nx,A,left,2019\n", "eyes.csv:2: 4 cells, and the header has 3"),
        ("id,patient,eye\nx,A\n", "eyes.csv:2: 2 cells, and the header has 3"),
        ("", "no column id"),
    ],
)
def test_a_table_of_eyes_with_a_fault_is_refused(
    runs: Both, table: str, line: str, trainer: Callable[..., object]
) -> None:
    write_photographs(runs.cache, Path("photographs"), "0_left")
    Path("eyes.csv").write_text(table)
    result = trainer("predict", runs.both, "photographs", "--eyes", "eyes.csv", "--device", "cpu", exit=1)
    assert line in result.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "table",
    [
        "\ufeffid;patient;eye\r\n0_left;A;left\r\n0_right;A;right\r\n;;\r\n;;\r\n",  # of a spreadsheet
        "ID, Patient, Eye\n0_left, A, left\n0_right, A, right\n",
        "id,patient,eye\n0_left,A,left,\n0_right,A,right,\n",  # with a comma at the end
        "id,patient,eye,visit\n0_left,A,left,1\n0_right,A,right,1 \n",
    ],
)
def test_tables_of_eyes_are_read_as_people_write_them(runs: Both, table: str, trainer: Callable[..., object]) -> None:
    write_photographs(runs.cache, Path("photographs"), "0_left", "0_right")
    Path("eyes.csv").write_text(table, newline="")
    result = trainer("predict", runs.both, "photographs", "--eyes", "eyes.csv", "--out", "out.csv", "--device", "cpu")
    assert pd.read_csv("out.csv")["fellow"].to_list() == ["0_right", "0_left"]
    assert "WARNING" not in result.stderr  # type: ignore[attr-defined]


def test_photographs_that_a_table_of_eyes_does_not_list_are_named(runs: Both, trainer: Callable[..., object]) -> None:
    write_photographs(runs.cache, Path("photographs"), "0_left", "0_right")
    Path("eyes.csv").write_text("id,patient,eye\n0_left.jpg,A,left\n0_right,A,right\n")
    result = trainer("predict", runs.both, "photographs", "--eyes", "eyes.csv", "--out", "out.csv", "--device", "cpu")
    assert "eyes.csv lists 1 of 2 photographs" in result.stderr  # type: ignore[attr-defined]
    assert "such as 0_left" in result.stderr  # type: ignore[attr-defined]


def test_patients_of_two_caches_are_two_patients(runs: Both, trainer: Callable[..., object]) -> None:
    shutil.copytree(runs.cache, "again")
    trainer("predict", runs.both, runs.cache, "again", "--out", "two.csv", "--device", "cpu")
    two = pd.read_csv("two.csv")
    assert len(two) == 2 * len(pd.read_csv(runs.cache / "manifest.csv"))
    assert not two["fellow"].str.contains(";").any()


def test_several_fellows_are_listed_apart(runs: Both, trainer: Callable[..., object]) -> None:
    write_photographs(runs.cache, Path("photographs"), "0_left", "0_right", "1_right")
    for old, new in (("0_left", "A left"), ("0_right", "A right"), ("1_right", "A right 2")):
        Path("photographs", f"{old}.jpg").rename(Path("photographs", f"{new}.jpg"))
    trainer("predict", runs.both, "photographs", "--out", "out.csv", "--device", "cpu")
    fellows = pd.read_csv("out.csv").set_index("id")["fellow"]
    assert fellows.to_dict() == {"A left": "A right;A right 2", "A right": "A left", "A right 2": "A left"}


def test_the_python_api_finds_the_other_eye_by_name(runs: Both, trainer: Callable[..., object]) -> None:
    import trainer as package

    write_photographs(runs.cache, Path("photographs"), "0_left", "0_right", "1_left")
    trainer("predict", runs.both, "photographs", "--out", "out.csv", "--device", "cpu")
    written = pd.read_csv("out.csv", na_filter=False)
    assert written["fellow"].to_list() == ["0_right", "0_left", ""]
    found = package.load_model(runs.both, device="cpu").predict(sorted(Path("photographs").iterdir()))
    assert np.allclose(found.probabilities, written[P], atol=1e-6)


def test_an_eye_by_itself_is_explained(runs: Both, trainer: Callable[..., object]) -> None:
    write_photographs(runs.cache, Path("photographs"), "1_right")
    result = trainer("explain", runs.both, "photographs", "--out", "explained", "--device", "cpu")
    assert "each photograph by itself" in result.stdout  # type: ignore[attr-defined]
    trainer("predict", runs.both, "photographs", "--out", "alone.csv", "--device", "cpu")
    explained, alone = pd.read_csv("explained/explained.csv"), pd.read_csv("alone.csv")
    assert explained["predicted"].dropna().to_list() == alone["predicted"].to_list()


def test_an_exported_network_may_be_given_the_other_eye(runs: Both, trainer: Callable[..., object]) -> None:
    result = trainer("export", runs.both, "--onnx", "both.onnx", "--pt2", "both.pt2")
    assert result.stdout.count("alone and with other eyes") == 2  # type: ignore[attr-defined]
    measured = runs.table(runs.both)
    with open_cache(runs.cache) as cache:
        from pipeline.photos.contact_sheet import decode_small

        def pixels(id: str) -> np.ndarray:
            row = int(cache.manifest.index[cache.manifest["id"] == id][0])
            return np.asarray(decode_small(cache.read(row), 32)).transpose(2, 0, 1)

        ids = [id for id in measured.index if measured["fellows"][id] and id.endswith("left")]
        left, right = (np.stack([pixels(f"{id.split('_')[0]}_{eye}") for id in ids]) for eye in ("left", "right"))
    session = onnxruntime.InferenceSession("both.onnx")
    joined = session.run(None, {"images": left, "fellow_images": right})[0]
    assert np.abs(joined - measured.loc[ids, P].to_numpy()).max() < 1e-4
    alone = session.run(None, {"images": left})[0]
    black = session.run(None, {"images": left, "fellow_images": np.zeros_like(left)})[0]
    assert np.abs(alone - black).max() < 1e-6
    assert np.abs(alone - joined).max() > 0.1


def test_compare_shows_what_the_other_eye_adds_and_the_ceiling(runs: Both, trainer: Callable[..., object]) -> None:
    printed = trainer("compare", runs.one, runs.both).stdout  # type: ignore[attr-defined]
    assert "both - one" in printed
    assert "both, test: on 24 photographs whose other eye is graded" in printed


def test_the_report_and_the_card_say_so(runs: Both, trainer: Callable[..., object]) -> None:
    run = shutil.copytree(runs.both, "both")
    trainer("report", run, "--card", "CARD.md")
    for page in (Path(run, "report.html").read_text(), Path("CARD.md").read_text()):
        assert "other eye was taken into account in 25 of 26 photographs; 1 were graded alone" in page
        assert "Two decision rules were fitted on validation" in page


def made_by(line: str) -> FitConfig:
    """The settings that a command line of a report asks for."""
    _, name, *words = shlex.split(line)
    context = main.commands[name].make_context(name, words, parent=click.Context(main))
    settings = {field.name: context.params[field.name] for field in fields(FitConfig) if field.name != "together"}
    return _asked(context, settings)[0]


def command_of(run: Path, config: RunConfig, *, cache: Cache | None = None) -> str:
    """The line of a report that makes the run."""
    return commands(run, "test", config, read_metadata(run / "model.safetensors"), recorded(), cache, [])[1]


@pytest.mark.parametrize("at_hand", [True, False])
def test_the_reports_command_makes_this_very_run(runs: Both, at_hand: bool, tmp_path: Path) -> None:
    """Also where a setting is that of a training with one eye, and the run of one eye has another."""
    config = RunFolder(runs.both).read_config()
    asked = replace(config.asked, head_epochs=3, views=1, ema=0, batch=32, lr=0.001)
    line = command_of(runs.both, replace(config, asked=asked))
    assert made_by(line) == asked
    assert not {"--weights", "--epochs", "--precision"} & set(shlex.split(line))
    if not at_hand:
        gone = replace(asked, fellow_eye=str(tmp_path / "gone"))
        words = shlex.split(command_of(runs.both, replace(config, asked=gone)))
        given = dict(zip(words[2::2], words[3::2], strict=False))
        assert {"--head-epochs": "3", "--views": "1", "--batch": "32", "--loss": "ce"}.items() <= given.items()


def test_the_rate_of_adamw_is_named_where_it_is_not_its_own(runs: Both) -> None:
    config = RunFolder(runs.one).read_config()
    for rate in (0.001, 0.01):
        asked = replace(config.asked, optimizer="adamw", lr=rate, weight_decay=0.05)
        line = command_of(runs.one, replace(config, asked=asked))
        assert made_by(line) == asked
        assert ("--lr" in line) == (rate == 0.01)


def test_show_names_the_rule_for_photographs_with_their_other_eye(runs: Both, trainer: Callable[..., object]) -> None:
    fellow = read_metadata(runs.both / "model.safetensors").fellow
    assert fellow is not None
    assert fellow.operating is not None
    shown = trainer("show", runs.both).stdout  # type: ignore[attr-defined]
    (line,) = [line for line in shown.splitlines() if line.startswith("with other eye")]
    assert f"temperature {fellow.operating.temperature:g}, referable from {fellow.operating.threshold:.4g} on" in line
    assert "other eye" not in trainer("show", runs.one).stdout  # type: ignore[attr-defined]


def test_another_threshold_moves_both_rules(runs: Both, trainer: Callable[..., object]) -> None:
    run = shutil.copytree(runs.both, "both")
    before = runs.table(runs.both)["score"]
    trainer("evaluate", run, "--specificity", 0.6, *CPU)
    assert np.allclose(runs.table(Path(run))["score"], before, atol=1e-6)


def test_an_interrupted_run_continues_to_the_same_bytes(runs: Both, trainer: Callable[..., object]) -> None:
    options = ("--fellow-eye", runs.one, "--head-epochs", 3)
    train(*options, "--run", "whole")
    with pytest.MonkeyPatch.context() as patch:
        from trainer.training.loop import RunWriter

        publish = RunWriter.publish

        def stop(self: RunWriter, learner: object, progress: object) -> None:
            publish(self, learner, progress)  # type: ignore[arg-type]
            if len(progress.history) == 2:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        patch.setattr(RunWriter, "publish", stop)
        train(*options, "--run", "resumed", exit=130)
    train("--run", "resumed", "--resume")
    whole, resumed = (Path(run, "model.safetensors").read_bytes() for run in ("whole", "resumed"))
    assert whole == resumed
    advice = train("--run", "resumed", "--resume", "--lr", 0.5, exit=1).stderr
    assert f"`trainer fit --fellow-eye {runs.one} --lr 0.5`" in advice


def test_the_learning_rate_is_that_of_the_optimizer(runs: Both, trainer: Callable[..., object]) -> None:
    for run, options, rate in (("sgd", (), 0.01), ("adamw", ("--optimizer", "adamw"), 0.001)):
        train("--fellow-eye", runs.one, "--run", run, "--head-epochs", 1, *options)
        assert json.loads(Path(run, "config.json").read_text())["resolved"]["lr"] == rate


def test_patience_counts_the_epochs_of_the_last_layer_where_there_are_no_others(
    runs: Both, trainer: Callable[..., object]
) -> None:
    trainer("fit", "--fellow-eye", runs.one, "--run", "idle", "--head-epochs", 9, "--patience", 2, "--lr", 1e-12)
    assert pd.read_csv("idle/accuracy.csv")["epoch"].tolist() == [1, 2, 3]  # no epoch is better than the first


def test_an_ensemble_takes_both_eyes_if_its_members_do(runs: Both, trainer: Callable[..., object]) -> None:
    other = train("--fellow-eye", runs.one, "--run", "other", "--head-epochs", 12, "--lr", 0.05, "--seed", 1)
    assert other.exit_code == 0
    trainer("ensemble", "all", runs.both, "other", *CPU)
    table = runs.table(Path("all"))
    assert (table["predicted"] == table["grade"])[table["fellows"] > 0].sum() >= 24  # of 25
    trainer("predict", "all", runs.cache, "--out", "all.csv", "--device", "cpu")
    predicted = pd.read_csv("all.csv", dtype={"id": str}).set_index("id")
    assert np.array_equal(predicted.loc[table.index, P], table[P])
    result = trainer("ensemble", "mixed", runs.both, runs.one, *CPU, exit=1)
    assert "--fellow-eye differs" in result.stderr  # type: ignore[attr-defined]


def test_folds_go_on_from_folds_and_make_an_ensemble(runs: Both, trainer: Callable[..., object]) -> None:
    folded = ("--cache", runs.cache, "--folds", 2)
    trainer("folds", *folded, *FAST, "--epochs", 3, "--lr", 0.02, "--run", "folds")
    both = ("--fellow-eye", "folds", "--run", "both", "--head-epochs", 8, "--lr", 0.05)
    for options, why in (
        ((), "cache does not exist"),
        (("--cache", write_tiny_cache(Path("other").resolve())), "not the cache that"),
        (("--cache", runs.cache, "--folds", 3), "was made with --folds 2, not 3"),
        (("--cache", runs.cache, "--seed", 1), "was made with --seed 0, not 1"),
    ):
        assert why in trainer("folds", *both, *options, exit=1).stderr  # type: ignore[attr-defined]
    alone = trainer("folds", "--cache", runs.cache, "--fellow-eye", runs.one, "--run", "both", exit=1)
    assert "`trainer fit --fellow-eye` takes it" in alone.stderr  # type: ignore[attr-defined]
    fitted = trainer("fit", "--fellow-eye", "folds", "--run", "both", exit=2)
    assert "`trainer folds --fellow-eye` takes it" in fitted.stderr  # type: ignore[attr-defined]
    assert not Path("both").exists()
    Path("cache").symlink_to(runs.cache)
    result = trainer("folds", *both)  # the cache and the folds as before
    for fold in range(2):
        asked = json.loads(Path("both", f"fold{fold}", "config.json").read_text())["asked"]
        assert Path(asked["fellow_eye"]) == Path("folds", f"fold{fold}").resolve()
    assert result.exit_code == 0  # type: ignore[attr-defined]
    with open_cache("both/caches/fold1") as fold1:
        line = command_of(Path("both/fold1"), RunFolder(Path("both/fold1")).read_config(), cache=fold1)
    assert shlex.split(line)[:6] == ["trainer", "folds", "--folds", "2", "--run", "both"]
    assert f"--fellow-eye {Path('folds').resolve()} --head-epochs 8" in line
    assert "--weights" not in line
    shutil.rmtree("both/fold1")
    trainer("folds", *folded, *both)  # the same command continues
    assert Path("both", "fold1", "summary.json").exists()
    trainer("folds", *folded, *FAST, "--run", "both", exit=1)
    trainer("ensemble", "all", "both", "--cache", runs.cache, *CPU)
    metadata = read_metadata(Path("all", "model.safetensors"))
    assert metadata.fellow is not None
    assert metadata.fellow.operating is not None
    assert (runs.table(Path("all"))["fellows"] > 0).sum() == 25


def test_what_does_not_fit_is_refused(runs: Both, tmp_path: Path, trainer: Callable[..., object]) -> None:
    def refused(*options: object, exit: int = 1) -> str:
        return train(*options, "--run", "refused", exit=exit).stderr

    assert "model is resnet18 there" in refused("--fellow-eye", runs.one, "--model", "resnet34")
    assert "weights must be left out" in refused("--fellow-eye", runs.one, "--weights", "none", exit=2)
    assert "epochs must be 0" in refused("--fellow-eye", runs.one, "--epochs", 2, exit=2)
    assert "head_epochs must be at least 1" in refused("--fellow-eye", runs.one, "--head-epochs", 0, exit=2)
    assert "takes the fellow eye already" in refused("--fellow-eye", runs.both, exit=2)
    config = ("--config", runs.one / "config.json")
    assert "leave out --config" in refused(*config, "--fellow-eye", runs.one, exit=2)
    assert "leave out --config" in refused("--fellow-eye", runs.one, *config, exit=2)
    assert "nothing" in refused("--fellow-eye", "nothing", exit=2)
    assert "is not the cache that" in refused("--fellow-eye", runs.one, "--cache", write_tiny_cache(tmp_path / "other"))
    assert "takes the fellow eye too" in refused("--cache", runs.cache, "--weights", runs.both / "model.safetensors")
    assert "leave out --recipe" in refused("--fellow-eye", runs.one, "--recipe", "best", exit=2)
    alone = trainer("fit", "--fellow-eye", runs.one, "--find-lr", exit=2).stderr  # type: ignore[attr-defined]
    assert "leave out --find-lr" in alone
    one = trainer("predict", runs.one, runs.cache, "--eyes", "eyes.csv", exit=1).stderr  # type: ignore[attr-defined]
    assert "takes one eye" in one
    assert not Path("refused").exists()
