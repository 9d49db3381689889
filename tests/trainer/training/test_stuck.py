"""A training that sees nothing is told so while it runs, with the option that may free it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from sklearn.metrics import roc_auc_score

from tests.trainer.recorded import ROW
from trainer.config import FitConfig
from trainer.inference.forward import Outputs
from trainer.run_folder import RunFolder
from trainer.training.checkpoint import Progress, newest_checkpoint, save_checkpoint
from trainer.training.stuck import STUCK_AUC, advice, sees_nothing

Fit = Callable[..., Result]


def outputs(grades: list[int], referable: list[float], likeliest: int = 0) -> Outputs:
    """Logits whose likeliest grade is one for all, and that rank by `referable`."""
    logits = torch.zeros(len(grades), 5)
    logits[:, 2] = torch.tensor(referable)
    logits[:, likeliest] = 5
    return Outputs(np.arange(len(grades)), torch.tensor(grades), logits)


def test_one_grade_and_a_ranking_by_chance_is_seeing_nothing() -> None:
    grades, score = [0, 2, 0, 3, 1, 4, -1], [0.1, 0.2, 0.3, 0.25, 0.05, 0.15, 9.0]
    auc = roc_auc_score(np.array(grades[:-1]) >= 2, score[:-1])
    assert auc > STUCK_AUC
    assert not sees_nothing(outputs(grades, score)), "it ranks"
    assert sees_nothing(outputs(grades, [-s for s in score]))
    two = outputs(grades, [-s for s in score])
    two.logits[0] = torch.tensor([0.0, 9, 0, 0, 0])
    assert not sees_nothing(two), "it tells two grades apart"
    assert not sees_nothing(outputs([0, 1, 0], [0.1, 0.2, 0.3])), "nothing is referable"


def test_it_is_said_once_and_what_may_help(fit: Fit, make_cache: Callable[..., Path]) -> None:
    """All photographs are the same: no network can tell them apart."""
    picture = np.full((32, 32, 3), 90, np.uint8)
    ids = [f"{number}_left" for number in range(16)]
    splits = {id: "train" if number < 8 else "val" for number, id in enumerate(ids)}
    cache = make_cache(dict.fromkeys(ids, picture), {id: 2 * (n % 2) for n, id in enumerate(ids)}, splits)
    done = fit(cache, "--epochs", 7)
    (line,) = (line for line in done.stderr.splitlines() if "one grade" in line and "ranked" in line)
    assert line.startswith("WARNING: the last 5 epochs gave every validation photograph one grade")
    assert line.endswith("--sampling balanced shows rare grades more often")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--sampling balanced"),
        ({"sampling": "balanced", "weights": "none"}, "pretrained weights"),
        ({"sampling": "balanced", "weights": "imagenet", "lr": 0.5}, "a lower --lr than 0.5"),
    ],
)
def test_what_was_done_already_is_not_proposed(settings: dict[str, object], words: str) -> None:
    assert words in advice(FitConfig(**settings))  # type: ignore[arg-type]


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save_checkpoint(run, Progress(3, [], [ROW] * 3, stuck=3), {"phase": "finetune", "model": {}, "optimizer": {}})
    found = newest_checkpoint(run)
    assert found
    assert found[0].stuck == 3
