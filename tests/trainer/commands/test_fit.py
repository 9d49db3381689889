import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from click.testing import Result
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix

from tests.trainer.conftest import Trained
from trainer.network.metadata import read_metadata
from trainer.network.model import Grader
from trainer.run_folder import ACCURACY_COLUMNS
from trainer.training.head_features import feature_loaders
from trainer.training.learner import set_phase
from trainer.training.schedule import learning_rate

Fit = Callable[..., Result]
Cache = Callable[..., Path]


def test_the_run_folder_holds_what_the_readme_promises(trained: Trained) -> None:
    run = trained.run
    assert {file.name for file in run.iterdir()} == {
        *(
            "config.json",
            "accuracy.csv",
            "accuracy.png",
            "accuracy.svg",
            "tensorboard",
            "last.pt",
            "model.safetensors",
        ),
        "summary.json",
        "dates.json",
        *(f"{name}_{split}.csv" for name in ("predictions", "confusion") for split in ("val", "test")),
        *(f"confusion_{split}_counts.csv" for split in ("val", "test")),
        *(f"confusion_{split}.svg" for split in ("val", "test")),
        *(f"confusion_{split}.png" for split in ("val", "test")),
        *(f"metrics_{split}.json" for split in ("val", "test")),
    }
    config = json.loads((run / "config.json").read_text())
    assert config["asked"]["size"] is None
    assert config["resolved"]["size"] == 32
    assert config["photographs"] == {"train": 20, "val": 5, "test": 5}
    assert config["synthetic"] == {"train": 0, "val": 0, "test": 0}
    accuracy = pd.read_csv(run / "accuracy.csv")
    assert tuple(accuracy.columns) == ACCURACY_COLUMNS
    assert accuracy["epoch"].tolist() == [1, 2]
    assert accuracy["acc_test"].isna().all()
    assert "majority grade, no image" in trained.output


def test_predictions_metrics_and_matrices_are_about_the_same_photographs(trained: Trained) -> None:
    predictions = pd.read_csv(trained.run / "predictions_test.csv")
    assert list(predictions.columns) == ["id", "grade", "predicted", "p0", "p1", "p2", "p3", "p4"]
    assert predictions["id"].tolist() == [f"test{number}_right" for number in range(5)]
    probabilities = predictions[["p0", "p1", "p2", "p3", "p4"]].to_numpy()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (probabilities.argmax(axis=1) == predictions["predicted"]).all()
    metrics = json.loads((trained.run / "metrics_test.json").read_text())
    assert metrics["no_image"]["majority"] == {"accuracy": 0.2, "kappa": 0}
    assert metrics["accuracy"] == accuracy_score(predictions["grade"], predictions["predicted"])
    counts = pd.read_csv(trained.run / "confusion_test_counts.csv", index_col=0).to_numpy()
    assert (counts == confusion_matrix(predictions["grade"], predictions["predicted"], labels=range(5))).all()


def test_the_saved_weights_are_those_of_the_epoch_with_the_best_kappa(trained: Trained) -> None:
    accuracy = pd.read_csv(trained.run / "accuracy.csv")
    best = accuracy.sort_values(["kappa_val", "loss_val"], ascending=[False, True]).iloc[0]
    assert read_metadata(trained.run / "model.safetensors").epoch == best["epoch"]
    predictions = pd.read_csv(trained.run / "predictions_val.csv")
    kappa = cohen_kappa_score(predictions["grade"], predictions["predicted"], weights="quadratic", labels=range(5))
    assert best["kappa_val"] == pytest.approx(kappa, abs=1e-6)


def test_it_learns_what_can_be_learnt(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(train=(0, 4) * 32, val=(0, 4) * 4, test=(0, 4) * 8), "--run", "run", "--epochs", 4)
    assert json.loads((tmp_path / "run" / "metrics_test.json").read_text())["accuracy"] >= 0.9  # guessing: 0.5


@pytest.mark.parametrize("loss", [pytest.param("focal", marks=pytest.mark.slow), "corn", "mse"])
def test_every_loss_learns_and_predicts_five_probabilities(
    loss: str, fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    cache = tiny_cache(train=(0, 4) * 32, val=(0, 4) * 4, test=(0, 4) * 8)
    fit(cache, "--run", "run", "--epochs", 6, "--lr", 0.02, "--loss", loss, "--sampling", "balanced")
    first = (tmp_path / "run" / "predictions_test.csv").read_bytes()
    trainer("evaluate", "run")  # from the weights alone
    assert (tmp_path / "run" / "predictions_test.csv").read_bytes() == first
    predictions = pd.read_csv(tmp_path / "run" / "predictions_test.csv")
    probabilities = predictions[["p0", "p1", "p2", "p3", "p4"]].to_numpy()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (probabilities.argmax(axis=1) == predictions["predicted"]).all()
    assert ((predictions["predicted"] >= 2) == (predictions["grade"] >= 2)).mean() >= 0.9  # guessing: 0.5


def test_the_average_of_the_weights_is_what_is_measured_and_saved(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(), "--run", "run", "--ema", 0.5, "--epochs", 1)
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in checkpoint["average"].items())
    assert not torch.equal(saved["head.weight"], checkpoint["model"]["head.weight"])
    accuracy = pd.read_csv(tmp_path / "run" / "accuracy.csv")["acc_val"].item()
    assert accuracy == 100 * json.loads((tmp_path / "run" / "metrics_val.json").read_text())["accuracy"]


def test_patience_ends_a_run_that_no_longer_gets_better(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    result = fit(tiny_cache(), "--run", "run", "--epochs", 30, "--patience", 1, "--lr", 0.05)
    assert "stopped: no epoch of the last 1 was better on validation" in result.output
    accuracy = pd.read_csv(tmp_path / "run" / "accuracy.csv")
    ranks = list(zip(accuracy["kappa_val"], -accuracy["loss_val"], strict=True))
    assert all(later > earlier for earlier, later in pairwise(ranks[:-1]))
    assert ranks[-1] <= ranks[-2]
    assert "is finished" in trainer("fit", "--run", "run", "--resume").output


@pytest.mark.slow
def test_the_last_epoch_is_kept_where_asked_for_whatever_validation_says(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    cache = tiny_cache(train=(3, 4) * 8, val=(0,) * 4)  # the more is learnt, the worse for validation
    fit(cache, "--run", "best", "--epochs", 4)
    result = fit(cache, "--run", "last", "--epochs", 4, "--keep", "last")
    assert "kept epoch 4 of 4, the last one, not chosen by validation" in result.output
    curves = [pd.read_csv(tmp_path / run / "accuracy.csv") for run in ("best", "last")]
    assert curves[0]["kappa_val"].equals(curves[1]["kappa_val"])
    best, last = (read_metadata(tmp_path / run / "model.safetensors").epoch for run in ("best", "last"))
    assert best < last == 4
    saved = load_file(tmp_path / "last" / "model.safetensors")
    trained = torch.load(tmp_path / "best" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in trained.items())
    measured = (tmp_path / "last" / "predictions_test.csv").read_bytes()
    trainer("evaluate", "last")
    assert (tmp_path / "last" / "predictions_test.csv").read_bytes() == measured
    trainer("report", "last", "--card", "card.md")
    assert "epoch 4 of 4, the last one, not chosen by validation" in (tmp_path / "card.md").read_text()
    assert "The kept epoch is the last one, not chosen by validation" in (tmp_path / "last" / "report.html").read_text()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(trained: Trained, fit: Fit) -> None:
    fit(trained.cache, "--run", "again")
    fit(trained.cache, "--run", "other", "--seed", 1)
    weights = (trained.run / "model.safetensors").read_bytes()
    assert Path("again/model.safetensors").read_bytes() == weights
    assert Path("other/model.safetensors").read_bytes() != weights


def test_the_training_columns_are_pooled_over_photographs_not_batches(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    # 9 photographs in batches of 8: the mean of the two batches' accuracies could not be a multiple of 1/9.
    fit(tiny_cache(train=[0, 1, 2, 3, 4, 0, 1, 2, 3]), "--run", "run", "--epochs", 1)
    right = pd.read_csv(tmp_path / "run" / "accuracy.csv")["acc_train"][0] / 100 * 9
    assert right == pytest.approx(round(right), abs=1e-4)


@pytest.mark.parametrize("photographs", [1, 9])
def test_a_last_batch_of_one_photograph_is_trained_on(
    photographs: int, fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    fit(tiny_cache(train=[2] * photographs, val=[2], test=[2]), "--run", "run", "--epochs", 1)
    metrics = json.loads((tmp_path / "run" / "metrics_test.json").read_text())
    assert (metrics["photographs"], metrics["kappa"], metrics["auc"]) == (1, 0, None)


def test_the_head_phase_leaves_the_backbone_as_it_was(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    pretrained = torchvision.models.resnet18()
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    fit(tiny_cache(), "--run", "run", "--weights", "weights.pth", "--head-epochs", 2, "--epochs", 0)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in pretrained.state_dict().items():  # BatchNorm's running statistics are among them
        if not name.startswith("fc."):
            assert torch.equal(weights[f"backbone.{name}"], tensor), name
    assert pd.read_csv(tmp_path / "run" / "accuracy.csv")["phase"].tolist() == ["head", "head"]


def test_the_first_epoch_of_the_head_counts_its_pass_through_the_backbone(
    fit: Fit, tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone that takes two seconds more: 20 photographs are at most 10 a second then."""
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")

    def slow(*arguments: object) -> object:
        time.sleep(2)
        return feature_loaders(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("trainer.training.learner.feature_loaders", slow)
    fit(tiny_cache(), "--weights", "weights.pth", "--head-epochs", 2, "--epochs", 1, "--run", "run")
    first, second, finetune = pd.read_csv(tmp_path / "run" / "accuracy.csv").to_dict("records")
    assert (first["phase"], second["phase"], finetune["phase"]) == ("head", "head", "finetune")
    assert first["images_per_second"] <= 10
    assert first["seconds"] >= 2
    assert second["images_per_second"] > first["images_per_second"]


def test_of_a_finished_run_the_checkpoint_before_the_last_is_gone(trained: Trained, trainer: Fit) -> None:
    assert trained.previous.exists()  # it was there until the end
    run = trained.unfinished("run")
    trainer("fit", "--run", run, "--resume")
    assert not (run / "previous.pt").exists()
    assert (run / "last.pt").exists()


def test_after_the_head_everything_is_trained_with_a_schedule_of_its_own(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    fit(tiny_cache(), "--run", "run", "--weights", "weights.pth", "--head-epochs", 1, "--epochs", 2, "--lr", 0.02)
    accuracy = pd.read_csv(tmp_path / "run" / "accuracy.csv")
    assert accuracy["phase"].tolist() == ["head", "finetune", "finetune"]
    head, second, third = accuracy["lr"]  # of the last of 3 steps
    assert head == pytest.approx(learning_rate(2, 3, 0.02), rel=1e-3)
    assert [second, third] == pytest.approx([learning_rate(2, 6, 0.02), learning_rate(5, 6, 0.02)], rel=1e-3)


def test_without_pretrained_weights_there_is_no_head_phase(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(), "--run", "run", "--head-epochs", 5, "--epochs", 1)
    assert pd.read_csv(tmp_path / "run" / "accuracy.csv")["phase"].tolist() == ["finetune"]


def test_a_frozen_backbone_does_not_follow_its_batches() -> None:
    model = Grader("resnet18")
    set_phase(model, "head")
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model(torch.full((4, 3, 32, 32), 255, dtype=torch.uint8)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.weight.grad is not None


def test_the_schedule_is_torchs_warm_up_and_cosine() -> None:
    steps, peak = 50, 0.1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=45)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[5])
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [learning_rate(step, steps, peak) for step in range(steps)] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_even_the_shortest_phase_has_a_learning_rate(steps: int) -> None:
    assert all(0 < learning_rate(step, steps, 0.1) <= 0.1 for step in range(steps))


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_rate(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    result = fit(tiny_cache(), "--run", "run", "--lr", "1e38", exit=1)
    assert "the loss is not finite at step 2 of epoch 1 (learning rate" in result.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_test_accuracy_is_tracked_only_where_asked_for(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(), "--run", "run", "--track-test")
    tracked = pd.read_csv(tmp_path / "run" / "accuracy.csv")["acc_test"]
    assert np.isin(tracked, [0, 20, 40, 60, 80, 100]).all()


def test_a_model_that_gives_every_eye_one_grade_is_said_to_do_so(fit: Fit, tiny_cache: Cache) -> None:
    result = fit(tiny_cache(train=[2] * 16, val=[2, 2], test=[2, 2, 1, 2]), "--run", "run", "--lr", 0.001)
    assert "the model gives grade 2 to every photograph of test: accuracy 75.0 %" in result.stderr
    assert "giving all of them grade 2, the commonest of train, makes 75.0 %" in result.stderr


def test_leaks_are_said_aloud_with_their_cure_and_the_fellow_eye_is_scored(fit: Fit, tiny_cache: Cache) -> None:
    result = fit(tiny_cache(leaky=True), "--run", "run", "--epochs", 1)
    assert "5 of 5 test photographs show patients who are in train" in result.stderr
    assert "tools preprocess --split patient" in result.stderr
    assert "fellow eye's grade, no image" in result.output
    assert "100.0 %" in result.output


@pytest.mark.parametrize(
    ("splits", "problem"),
    [
        ({"val": []}, "has no val photographs to choose by"),
        ({"train": []}, "has no train photographs to train on"),
        ({"train": [0, 1, -1, -1]}, "2 of 4 train photographs have no grade, train2_left first"),
        ({"val": [-1]}, "1 of 1 val photographs have no grade"),
    ],
)
def test_a_cache_that_cannot_be_trained_on_is_refused_in_one_line(
    splits: dict[str, list[int]], problem: str, fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    result = fit(tiny_cache(**splits), "--run", "run", exit=1)
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("test", "problem"), [([], "it has no photographs"), ([-1], "its photographs have no grades")])
def test_without_a_graded_test_split_the_run_ends_at_validation(
    test: list[int], problem: str, fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    result = fit(tiny_cache(test=test), "--run", "run", "--epochs", 1)
    assert f"test cannot be measured, {problem}" in result.stderr
    assert result.stdout.splitlines()[-1] == "results: run/ (accuracy.png, ...)"
    assert (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "metrics_test.json").exists()


def test_weights_imagenet_insists_and_auto_says_that_it_trains_from_scratch(
    fit: Fit, tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    cache = tiny_cache()
    insisted = fit(cache, "--run", "a", "--weights", "imagenet", exit=1)
    assert "resnet18-f37072fd.pth" in insisted.stderr
    assert not (tmp_path / "a").exists()
    automatic = fit(cache, "--run", "b", "--weights", "auto", "--epochs", 1)
    assert automatic.stderr.splitlines()[0].startswith("WARNING: TRAINING FROM SCRATCH: ImageNet weights")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["resolved"]["weights"] == "none"


@pytest.mark.parametrize(
    ("options", "exit", "said"),
    [
        (("--run", "taken"), 1, "taken exists and is never overwritten"),
        (("--run", "note.txt/run"), 1, "note.txt/run: cannot be written"),
        (("--run", "new", "--size", 64), 2, "size must be 1 to 32, the cache's own, got 64"),
        (("--run", "new", "--start-size", 48), 1, "start_size must be smaller than the size, 32"),
    ],
)
def test_what_will_fail_says_so_before_weights_are_looked_for(
    options: tuple[object, ...], exit: int, said: str, fit: Fit, tiny_cache: Cache, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    (tmp_path / "note.txt").touch()
    stderr = fit(tiny_cache(), "--weights", "auto", *options, exit=exit).stderr
    assert said in stderr
    assert "TRAINING FROM SCRATCH" not in stderr
    assert not (tmp_path / "new").exists()


def test_a_size_above_the_caches_is_wrong_usage(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    result = fit(tiny_cache(), "--run", "run", "--size", 64, exit=2)
    assert "64" in result.stderr
    assert not (tmp_path / "run").exists()


def test_rare_grades_that_are_made_to_count_twice_are_warned_of(fit: Fit, tiny_cache: Cache) -> None:
    options = ("--epochs", 1, "--sampling", "balanced")
    warning = "lets them count more in addition: usually one of the two is enough"
    cache = tiny_cache()
    assert warning in fit(cache, *options, "--class-weights", "inverse").stderr
    assert warning not in fit(cache, *options).stderr


@pytest.mark.slow
def test_compiled_steps_are_the_plain_ones(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    cache = tiny_cache(train=[0, 1, 2, 3, 4] * 2)  # batches of 4, 4 and 2
    # Of bfloat16, compiled steps round fewer numbers: on a CPU that has it the loss of the third is 0.08 another.
    options = ("--epochs", 1, "--batch", 4, "--lr", 0.001, "--precision", "float32")
    fit(cache, *options, "--run", "plain")
    fit(cache, *options, "--run", "compiled", "--compile")
    plain, compiled = (pd.read_csv(tmp_path / run / "accuracy.csv") for run in ("plain", "compiled"))
    assert compiled["loss_train"].item() == pytest.approx(plain["loss_train"].item(), abs=1e-3)


@pytest.mark.slow
def test_without_a_compiler_compile_is_refused_in_one_line(
    fit: Fit, tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing compiled before"))
    refused = fit(tiny_cache(), "--compile", exit=1)
    assert refused.stderr.splitlines()[-1].startswith("Error: torch.compile fails (")
    assert refused.stderr.splitlines()[-1].endswith("); leave out --compile")
