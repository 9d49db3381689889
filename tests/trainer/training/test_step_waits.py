"""A training step never makes the host wait for the GPU, shown without one.

Tensors here are fake: they have a shape and the device "cuda", but no memory, so none is needed. A GPU works behind the
host, which only puts work into its queue. Whoever asks for a value, or copies to or from ordinary memory without
`non_blocking`, empties the queue first: at 512 px a step of ResNet-18 then has the GPU idle while the host prepares.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.cache.cache import Cache
from pipeline.loading.batch import Batch, Loader
from trainer.config import FitConfig
from trainer.network.model import Grader
from trainer.training import learner, loop
from trainer.training.checkpoint import Progress
from trainer.training.learner import Learner
from trainer.training.loop import CHECK_EVERY, train_epoch
from trainer.training.signals import Stopper

BATCH, SIDE, STEPS = 4, 32, 2 * CHECK_EVERY
CUDA = torch.device("cuda:0")
ASKS_FOR_VALUES = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique2"})
"""aten's operations behind `.item()`, `.tolist()`, `bool()`, `float()`, `torch.equal` and the like."""


class Waits(TorchDispatchMode):
    """Raises AssertionError where the host would wait for the GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        on_gpu = any(each.is_cuda for each in tensors)
        assert not (name in ASKS_FOR_VALUES and on_gpu), f"{func} waits for the GPU"
        if name.startswith("index"):
            masks = [each for each in args[1] if each is not None and each.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} by a mask waits for the GPU"
        if name in ("_to_copy", "copy_"):
            to = torch.device(kwargs.get("device") or tensors[0].device)
            between = {to.type, *(each.device.type for each in tensors)} == {"cpu", "cuda"}
            non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
            assert not between or non_blocking, f"{func} between host and GPU waits for it"
        if name == "_fused_sgd_":
            return None  # changes tensors in place, and torch cannot fake it
        return func(*args, **kwargs)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where the block waits for the GPU."""

    def synchronize(*_: object) -> None:
        raise AssertionError("synchronize waits for the GPU")

    with monkeypatch.context() as patch, Waits():
        patch.setattr(torch.cuda, "synchronize", synchronize)
        yield


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


def fake_model(link: str = "softmax") -> Grader:
    with CUDA:
        return Grader("resnet18", link)


def make_learner(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Learner:
    link = {"corn": "corn", "mse": "distance"}.get(settings.get("loss", "ce"), "softmax")
    # A fake tensor cannot be copied by deepcopy, nor autocast on a machine without a GPU.
    monkeypatch.setattr(learner, "deepcopy", lambda model: fake_model(link))
    # Nor has torch's engine a queue to put a backward pass into; nothing in that is ours.
    monkeypatch.setattr(Tensor, "backward", lambda loss: give_gradients(made))
    config = FitConfig(device="cuda", weights="none", epochs=1, batch=BATCH, size=SIDE, precision="float32", **settings)
    cache = SimpleNamespace(rows=lambda split: range(STEPS * BATCH), recipe=SimpleNamespace(size=SIDE))
    loaders = {"train": cast(Loader, Batches())}
    made = Learner(config, cast(Cache, cache), loaders, fake_model(link), torch.ones(5, device=CUDA))
    made.open("finetune")
    return made


def give_gradients(made: Learner) -> None:
    for group in made.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)


class Batches:
    """A loader's place: its batches lie on the GPU already."""

    def __len__(self) -> int:
        return STEPS

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        images = torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.uint8, device=CUDA)
        grades = torch.empty(BATCH, dtype=torch.int64, device=CUDA)
        for _ in range(start, STEPS):
            yield Batch(images.to(memory_format=torch.channels_last), grades, torch.empty(BATCH, dtype=torch.int64))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"ema": 0.99, "label_smoothing": 0.1},
    {"mixup": 0.2, "cutmix": 1.0},
    {"loss": "focal"},
    {"loss": "corn"},
    {"loss": "mse", "layer_decay": 0.7},
]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_never_waits(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    made = make_learner(monkeypatch, **settings)
    batch = next(Batches().epoch(0))
    with watched(monkeypatch):
        for step in range(3):
            figures = made.step(batch, 0, step, 0.01)
    assert figures.is_cuda


@pytest.mark.usefixtures("fake")
def test_between_two_looks_at_the_losses_the_loop_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken until the first look, which is allowed to wait and is the only one that does."""
    made = make_learner(monkeypatch)
    monkeypatch.setattr(made, "step", lambda *_: torch.ones(3, device=CUDA))  # the step itself is tested above
    # Without a driver no event can be recorded; the copy that it waits for is watched.
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None, query=lambda: False))
    looks: list[int] = []
    monkeypatch.setattr(loop, "check_finite", lambda progress: looks.append(len(progress.steps)))
    progress = Progress()
    with watched(monkeypatch):
        for _ in train_epoch(made, progress, Stopper()):
            pass
    assert len(progress.steps) == STEPS
    assert looks == [CHECK_EVERY, STEPS, STEPS]


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda figures: figures[0].item(),
    "tolist": lambda figures: figures.tolist(),
    "bool": lambda figures: bool(figures[0] > 0),
    "float": lambda figures: float(figures[0]),
    "cpu": lambda figures: figures.cpu(),
    "to": lambda figures: figures.to("cpu"),
    "mask": lambda figures: figures[figures > 0],
    "equal": lambda figures: torch.equal(figures, figures),
    "synchronize": lambda figures: torch.cuda.synchronize(),
    "from the host": lambda figures: figures + torch.ones(3).to(CUDA),
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("wait", WAITS)
def test_whoever_made_a_step_wait_would_be_told(monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
    made = make_learner(monkeypatch)
    score = made._score

    def waiting(logits: Tensor, grades: Tensor) -> tuple[Tensor, Tensor]:
        loss, right = score(logits, grades)
        WAITS[wait](loss.detach().expand(3))
        return loss, right

    monkeypatch.setattr(made, "_score", waiting)
    with pytest.raises(AssertionError, match="waits for"), watched(monkeypatch):
        made.step(next(Batches().epoch(0)), 0, 0, 0.01)


@pytest.mark.usefixtures("fake")
def test_a_copy_that_nobody_waits_for_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch):
        torch.ones(3, device=CUDA).to("cpu", non_blocking=True)
