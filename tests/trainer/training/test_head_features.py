"""The head phase reads every photograph once, and ends where reading them anew each epoch would."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import NO_AUGMENT, Augment, Schedule
from trainer.network.model import Grader
from trainer.network.pretrained import load_weights
from trainer.training.head_features import FeatureLoader
from trainer.training.learner import CLIP_NORM
from trainer.training.schedule import learning_rate

Fit = Callable[..., Result]
EPOCHS = 4


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file as torchvision's, of a backbone that nobody trained."""
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def plain_head(cache_path: Path, weights: Path) -> tuple[torch.Tensor, list[float]]:
    """The head's weights and the losses by epoch when the photographs go through the frozen network each epoch."""
    torch.manual_seed(0)
    model = Grader("resnet18")
    load_weights(model, weights)
    model.eval()
    decayed, others = [model.head.weight], [model.head.bias]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 5e-4}, {"params": others}], lr=0, momentum=0.9)
    losses = []
    with (
        open_cache(cache_path) as cache,
        open_loader("torchvision", cache, split="train", batch_size=8, augment=Augment(), shuffle=True) as loader,
    ):
        steps = len(loader)
        for epoch in range(EPOCHS):
            total = 0.0
            for step, (images, grades, _) in enumerate(loader.epoch(epoch)):
                with torch.no_grad():
                    features = model.backbone(model.normalise(images))
                loss = F.cross_entropy(model.head(features), grades, reduction="sum")
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(epoch * steps + step, EPOCHS * steps, 0.01)
                optimizer.zero_grad()
                (loss / len(images)).backward()
                torch.nn.utils.clip_grad_norm_(model.head.parameters(), CLIP_NORM)
                optimizer.step()
                total += loss.item()
            losses.append(total / len(cache.rows("train")))
    return model.head.weight.detach(), losses


def test_it_ends_where_the_plain_way_ends(fit: Fit, tiny_cache: Callable[..., Path], weights: Path) -> None:
    cache = tiny_cache()
    fit(cache, "--weights", weights, "--head-epochs", EPOCHS, "--views", EPOCHS, "--epochs", 0, "--run", "run")
    head, losses = plain_head(cache, weights)
    accuracy = pd.read_csv("run/accuracy.csv")
    assert accuracy["loss_train"].tolist() == pytest.approx(losses, abs=2e-5)
    ended = torch.load("run/last.pt", weights_only=True)["model"]["head.weight"]
    assert ended.numpy() == pytest.approx(head.numpy(), abs=2e-5)


def test_a_second_run_reads_no_photograph_for_its_head(
    fit: Fit, tiny_cache: Callable[..., Path], weights: Path, tmp_path: Path
) -> None:
    cache = tiny_cache()
    head = ("--weights", weights, "--head-epochs", 2, "--epochs", 0)
    fit(cache, *head, "--run", "first")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache.features").iterdir()}
    assert {path.name.partition("-")[0] for path in kept} == {"train", "val"}
    fit(cache, *head, "--run", "second", "--lr", 0.02)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache.features").iterdir()} == kept
    fit(cache, *head, "--run", "third", "--seed", 1)  # other views of train, the same of val
    assert len(list((tmp_path / "cache.features").iterdir())) == 3


def test_features_that_are_damaged_are_computed_again(
    fit: Fit, tiny_cache: Callable[..., Path], weights: Path, tmp_path: Path
) -> None:
    cache = tiny_cache()
    head = ("--weights", weights, "--head-epochs", 2, "--epochs", 0)
    fit(cache, *head, "--run", "first")
    for path in (tmp_path / "cache.features").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert "computed again" in fit(cache, *head, "--run", "second").output
    assert Path("first/model.safetensors").read_bytes() == Path("second/model.safetensors").read_bytes()


def test_features_come_in_the_photographs_order_and_views_take_turns(tiny_cache: Callable[..., Path]) -> None:
    with open_cache(tiny_cache()) as cache:
        rows = cache.rows("train")
        features = torch.stack([torch.from_numpy(rows) + 1000 * view for view in range(2)])[..., None].float()
        grades = torch.from_numpy(cache.grades[rows])
        loader = FeatureLoader(
            features, grades, Schedule(rows, Augment(), source_size=32, size=32, batch_size=8, shuffle=True, seed=5)
        )
        settings = {"split": "train", "batch_size": 8, "augment": NO_AUGMENT, "shuffle": True, "seed": 5}
        with open_loader("torchvision", cache, **settings) as photographs:  # type: ignore[arg-type]
            assert len(loader) == len(photographs)
            for epoch in range(3):
                for ours, theirs in zip(loader.epoch(epoch, start=1), photographs.epoch(epoch, start=1), strict=True):
                    assert torch.equal(ours.rows, theirs.rows)
                    assert torch.equal(ours.grades, theirs.grades)
                    assert torch.equal(ours.images[:, 0], ours.rows + 1000.0 * (epoch % 2))
