"""Not a test: test_distributed.py has torchrun start several of this. Each asserts that the ranks' shares of something
make the whole that it computes alone.

    torchrun --standalone --nproc-per-node 4 tests/trainer/distributed/whole_batches.py CACHE FILE

FILE: what torch.save wrote of `learn` in one process.
"""

import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import RunError
from pipeline.loading.loaders import open_loader
from trainer.config import FitConfig
from trainer.distributed.loaders import batch_per_rank, open_sharded
from trainer.distributed.process_group import (
    from_all,
    from_main,
    gather,
    highest,
    is_main,
    joined,
    shard,
    shifted,
    total,
)
from trainer.distributed.sync_batchnorm import SynchronisedBatchNorm, synchronise
from trainer.inference.forward import run_model
from trainer.network.model import Grader
from trainer.network.views import mean_logits
from trainer.training.learner import Learner
from trainer.training.loop import open_loaders


def check_batchnorm(photographs: int) -> None:
    """Outputs, gradients and running statistics are those of torch's BatchNorm on the whole batch."""
    rank, world = shard()
    torch.manual_seed(photographs)
    theirs = nn.BatchNorm2d(5)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours = deepcopy(theirs)
    synchronise(ours, torch.device("cpu"))
    assert isinstance(ours, SynchronisedBatchNorm)
    for _ in range(2):
        batch = torch.randn(photographs, 5, 6, 7).mul(3).add(20).to(memory_format=torch.channels_last)
        towards = torch.randn(photographs, 5, 6, 7)
        wholes, share = batch.clone().requires_grad_(), batch[rank::world].clone().requires_grad_()
        expected, output = theirs(wholes), ours(share)
        torch.testing.assert_close(output, expected[rank::world], rtol=1e-5, atol=1e-5)
        for layer, out, wanted in ((theirs, expected, towards), (ours, output, towards[rank::world])):
            layer.zero_grad()
            (out * wanted).square().sum().backward()
        assert wholes.grad is not None
        torch.testing.assert_close(share.grad, wholes.grad[rank::world], rtol=1e-4, atol=1e-4)
        for mine, parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(total(mine.grad.clone()), parameter.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(share), theirs.eval()(batch[rank::world]))


def check_bfloat16() -> None:
    """Statistics are as exact as torch's, which adds up in single precision."""
    rank, world = shard()
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(5)
    ours = deepcopy(theirs)
    synchronise(ours, torch.device("cpu"))
    batch = torch.randn(8, 5, 16, 16).add(3).bfloat16()
    wholes, share = batch.clone().requires_grad_(), batch[rank::world].clone().requires_grad_()
    for layer, input in ((theirs, wholes), (ours, share)):
        (layer(input).float() * input.detach().float().sin()).sum().backward()
    assert wholes.grad is not None
    torch.testing.assert_close(share.grad, wholes.grad[rank::world], rtol=0.02, atol=0.02)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def check_evaluation(cache: Cache) -> None:
    """Every photograph of test once, in the order of the manifest, with the logits that it has alone."""
    config = FitConfig(loader="torchvision", device="cpu", size=64, workers=1)
    torch.manual_seed(0)
    model, device = Grader("resnet18").eval(), torch.device("cpu")
    with (
        open_sharded(config, cache, "test", 4) as share,
        open_loader("torchvision", cache, split="test", batch_size=64) as loader,
    ):
        assert len(share) == 4  # of the 13 photographs the last batch has one: for all ranks but one it is empty
        images, grades, rows = next(loader.epoch(0))
        for tta, alone in ((False, model), (True, partial(mean_logits, model))):
            found = run_model(model, share, device, "test", tta=tta)
            assert found.rows.tolist() == rows.tolist() == cache.rows("test").tolist()
            assert torch.equal(found.grades, grades)
            with torch.inference_mode():
                torch.testing.assert_close(found.logits, alone(images))


class DoubleGrader(Grader):
    """A ResNet in double precision: in single, a batch's order alone moves its weights by 0.1 % within three steps."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images.double() / 255))
        return logits


def learn(cache: Cache) -> tuple[Tensor, dict[str, Tensor]]:
    """The figures of an epoch's four steps, the last for 2 photographs, and the weights and their average after it."""
    config = FitConfig(
        batch=8, loader="torchvision", device="cpu", size=64, workers=1, head_epochs=0, epochs=1, lr=0.1, ema=0.5,
        sampling="balanced", class_weights="inverse", loss="ce", label_smoothing=0.1, mixup=0.2, cutmix=1,
    )  # fmt: skip
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 1.5, 1.0, 2.0, 0.7], dtype=torch.float32)
    model = DoubleGrader("resnet18").double()
    synchronise(model, torch.device("cpu"))
    with open_loaders(config, cache) as loaders:
        learner = Learner(config, cache, loaders, model, weights)
        learner.open("finetune")
        learner.set_training()
        batches = enumerate(learner.batches["train"].epoch(0))
        figures = [learner.step(batch, 0, step, config.lr) for step, batch in batches]
    return torch.stack(figures), model.state_dict() | {f"mean.{k}": v for k, v in learner.judged.state_dict().items()}


def check_learning(cache: Cache, alone: Path) -> None:
    """What `learn` made of the same in one process. The loss, and with it each gradient, is single precision."""
    torch.testing.assert_close(learn(cache), torch.load(alone), rtol=1e-4, atol=1e-6)


def check_collectives() -> None:
    rank, world = shard()
    for n in range(1, 3 * world):
        numbers = torch.arange(n)
        assert torch.equal(gather(numbers[rank::world]), numbers)
        assert torch.equal(shifted(numbers[rank::world]), numbers.roll(1, 0)[rank::world])
    assert highest(rank == 1) == 1
    assert highest(rank) == world - 1
    assert from_all(f"rank {rank}") == [f"rank {each}" for each in range(world)]
    assert from_main(lambda: [rank]) == [0]
    assert is_main() == (rank == 0)
    with pytest.raises(RunError, match=f"a batch of 7 photographs cannot be divided among {world} processes"):
        batch_per_rank(7)


if __name__ == "__main__":
    with joined("cpu"):
        check_collectives()
        for photographs in (10, 3):  # of four ranks the last has none of 3
            check_batchnorm(photographs)
        check_bfloat16()
        with open_cache(sys.argv[1]) as cache:
            check_evaluation(cache)
            check_learning(cache, Path(sys.argv[2]))
