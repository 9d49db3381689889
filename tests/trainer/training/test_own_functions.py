"""Trainings with a network, a loss and an augmentation of the user's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torchvision.transforms import v2

from pipeline.errors import RunError
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.plan import Shard
from tests.trainer.plugged import MODULE
from trainer.config import FitConfig
from trainer.network.metadata import read_metadata
from trainer.network.model import Grader
from trainer.training.augmentation import AugmentedLoader, Draws, augmented
from trainer.training.learner import make_optimizer
from trainer.training.losses import losses
from trainer.training.trial import try_plugs

Fit = Callable[..., Result]
Cache = Callable[..., Path]
CPU = torch.device("cpu")
ALL = ("--model", f"{MODULE}:small", "--loss", f"{MODULE}:each", "--augment", f"{MODULE}:brighter")


def curves(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "accuracy.csv", dtype=str).drop(columns=["seconds", "images_per_second"])


# --- a training


def test_all_three_are_recorded_in_the_run_and_in_its_weights(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    import timm

    model = ("--model", f"{MODULE}:resnet10t")
    output = fit(tiny_cache(), *ALL, *model, "--epochs", 1, "--optimizer", "adamw", "--run", "run").output
    assert "run run: tests.trainer.plugged:resnet10t (4.9 M parameters), weights none" in output
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["resolved"]["loss"] == f"{MODULE}:each"
    assert config["resolved"]["augment"] == f"{MODULE}:brighter"
    needs = {"tests": "", "timm": f"timm=={timm.__version__}"}
    wanted = [
        {"option": "model", "function": f"{MODULE}:resnet10t", "needs": needs},
        {"option": "loss", "function": f"{MODULE}:each", "needs": {"tests": ""}},
        {"option": "augment", "function": f"{MODULE}:brighter", "needs": {"tests": ""}},
    ]
    assert config["plugs"] == wanted
    assert read_metadata(tmp_path / "run/model.safetensors").as_dict()["plugs"] == tuple(wanted)


def test_without_a_name_a_run_is_called_by_the_function(fit: Fit, tiny_cache: Cache) -> None:
    output = fit(tiny_cache(), "--model", f"{MODULE}:small", "--epochs", 1).output
    assert "results: runs/tests.trainer.plugged.small-none-32px-torchvision-" in output


def test_killed_within_an_epoch_and_resumed_it_is_the_undisturbed_run(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which draws from torch's own generator, and an average of the weights."""
    options = (*ALL, "--ema", 0.9, "--mixup", 0.3, "--checkpoint-minutes", 0)
    fit(tiny_cache(), *options, "--run", "whole")

    class Killed(BaseException):
        pass

    saved = []

    def kill(*each: object) -> None:
        save(*each)  # type: ignore[arg-type]
        saved.append(each)
        if len(saved) == 5:  # after the first step of the second epoch
            raise Killed

    from trainer.training.loop import save_checkpoint as save

    monkeypatch.setattr("trainer.training.loop.save_checkpoint", kill)
    with pytest.raises(Killed):
        fit("cache", *options, "--run", "killed")
    monkeypatch.setattr("trainer.training.loop.save_checkpoint", save)
    torch.manual_seed(99)
    assert "resuming after step" in trainer("fit", "--run", "killed", "--resume").output
    pd.testing.assert_frame_equal(curves(tmp_path / "whole"), curves(tmp_path / "killed"))
    one, other = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed"))
    assert one == other


def test_a_loss_for_each_photograph_a_mean_and_ours_are_one(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    tiny_cache(train=[0, 1, 2, 3, 4] * 3 + [0])  # an uneven last batch
    for run, loss in (("ours", "ce"), ("each", f"{MODULE}:each"), ("mean", f"{MODULE}:mean")):
        fit("cache", "--model", f"{MODULE}:plain", "--loss", loss, "--mixup", 0.3, "--batch", 6, "--run", run)
    ours, each, mean = (curves(tmp_path / run) for run in ("ours", "each", "mean"))
    pd.testing.assert_frame_equal(ours, each)
    for column in ("loss_train", "loss_val"):
        np.testing.assert_allclose(mean[column].astype(float), ours[column].astype(float), rtol=1e-4)


def test_class_weights_weigh_a_loss_for_each_photograph(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    tiny_cache()
    options = ("--model", f"{MODULE}:plain", "--class-weights", "inverse", "--epochs", 1)
    for run, loss in (("ours", "ce"), ("each", f"{MODULE}:each")):
        fit("cache", *options, "--loss", loss, "--run", run)
    pd.testing.assert_frame_equal(curves(tmp_path / "ours"), curves(tmp_path / "each"))
    refused = fit("cache", *options, "--loss", f"{MODULE}:mean", "--run", "mean", exit=1).stderr.splitlines()[-1]
    assert "plugged:mean gives one number for a batch, so --class-weights cannot weigh its photographs" in refused
    assert not (tmp_path / "mean").exists()


def test_settings_in_a_file_may_name_functions(trainer: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    lines = [f'{option} = "{name}"' for option, name in zip(("model", "loss", "augment"), ALL[1::2], strict=True)]
    more = ['cache = "cache"', "epochs = 1", "batch = 8", 'optimizer = "adamw"', 'device = "cpu"', 'weights = "none"']
    (tmp_path / "fit.toml").write_text("\n".join([*lines, *more]))
    tiny_cache()
    trainer("fit", "--config", "fit.toml", "--run", "run")
    asked = json.loads((tmp_path / "run/config.json").read_text())["asked"]
    assert [asked[option] for option in ("model", "loss", "augment")] == list(ALL[1::2])
    trainer("fit", "--config", "run/config.json", "--run", "again")
    pd.testing.assert_frame_equal(curves(tmp_path / "run"), curves(tmp_path / "again"))


def test_weights_that_the_function_brings_begin_with_the_head_and_are_recorded(
    trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    """The backbone stays as it is, with the statistics of its BatchNorm. Its features are stored nowhere: the function
    may change, and its name does not."""
    options = ("--model", f"{MODULE}:with_weights", "--augment", f"{MODULE}:brighter", "--batch", 8, "--device", "cpu")
    trainer("fit", "--cache", tiny_cache(), *options, "--head-epochs", 2, "--views", 2, "--epochs", 0, "--run", "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["resolved"]["weights"] == "pretrained"
    assert set(curves(tmp_path / "run")["phase"]) == {"head"}
    from trainer.network.model import read_weights

    weights = read_weights(tmp_path / "run/model.safetensors")
    assert (weights["backbone.0.weight"] == 0.1).all()
    assert (weights["backbone.1.running_mean"] == 0).all()
    assert not (tmp_path / "cache.features").exists()


def test_weights_that_cannot_be_loaded_leave_a_training_from_scratch(
    trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    options = ("--model", f"{MODULE}:out_of_reach", "--batch", 8, "--device", "cpu", "--epochs", 1)
    result = trainer("fit", "--cache", tiny_cache(), *options, "--run", "run")
    assert "WARNING: TRAINING FROM SCRATCH: tests.trainer.plugged:out_of_reach fails" in result.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["resolved"]["weights"] == "none"


# --- what is refused before anything is written


class Given(nn.Module):
    """A network that makes this of the images."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.make = nn.Conv2d(3, 3, 1), make

    def forward(self, images: Tensor) -> object:
        return self.make(self.layer(images))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda x: x,
            r"for 2 images the network gives a float32 \(2, 3, 32, 32\), it must give floats \(2, 3\)",
        ),
        (lambda x: x.mean((2, 3))[:1], r"gives a float32 \(1, 3\)"),
        (lambda x: x.mean((2, 3))[:, :2], r"gives a float32 \(2, 2\)"),
        (lambda x: x.mean((2, 3)).long(), r"gives a int64 \(2, 3\)"),
        (lambda x: x.mean((2, 3)).double(), "nets:given fails.*RuntimeError: mat1 and mat2 must have the same dtype"),
        (lambda x: [x], "gives list"),
        (lambda x: x.view(2, -1).mean((2, 3)), r"nets:given fails \(test_own_functions.py, line \d+\): "),
    ],
)
def test_a_network_with_another_shape_is_refused(
    make: Callable[[Tensor], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (Given(make), 3))
    config = FitConfig(model="nets:given", device="cpu", precision="float32", size=32)
    with pytest.raises(RunError, match=said):
        try_plugs(config, Grader("nets:given"))


def test_a_function_that_gives_one_network_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are loaded into it would change the network that is trained, or another member of an ensemble."""
    config = FitConfig(model="nets:given", device="cpu", precision="float32", size=32)
    network = Given(lambda x: x.mean((2, 3)))
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (network, 3))
    with pytest.raises(RunError, match="nets:given gives the same network when it is called again"):
        try_plugs(config, Grader("nets:given"))
    widths = iter((4, 5, 6))
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (nn.Linear(3, next(widths)), 3))
    with pytest.raises(RunError, match="nets:given gives another network when it is called again"):
        try_plugs(config, Grader("nets:given"))


def test_a_trial_changes_nothing_and_covers_the_images_that_grow() -> None:
    sizes = []
    model = Grader(f"{MODULE}:small")
    model.backbone[0].register_forward_hook(lambda _, given, __: sizes.append(given[0].shape[-1]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = FitConfig(model=f"{MODULE}:small", device="cpu", precision="float32", size=48, start_size=32)
    try_plugs(config, model)
    assert sizes == [32, 32, 48, 48]  # in training and in evaluation
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda logits, grades: 1.0,
            "gives float for 10 photographs; it must give 10 losses, or one number",
        ),
        (lambda logits, grades: logits, r"gives a tensor \(10, 5\) for 10"),
        (lambda logits, grades: logits.argmax(1) - grades * 1.0, "gives a loss without a gradient"),
        (lambda logits, grades: F.cross_entropy(logits, grades)[None], r"gives a tensor \(1,\) for 10"),
        (lambda logits, grades: grades, r"gives a tensor \(10,\) for 10"),
        (lambda logits, grades: logits.detach().sum(), "gives a loss without a gradient"),
        (lambda logits, grades: (logits - 1e9).log().sum(), "the loss or its gradient is not finite"),
        (lambda logits: logits.sum(), "nets:loss fails.*TypeError: .*takes 1 positional argument but 2 were given"),
    ],
)
def test_a_loss_with_another_shape_is_refused(
    loss: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.losses.load_function", lambda name: loss)
    with pytest.raises(RunError, match=said):
        try_plugs(FitConfig(loss="nets:loss", device="cpu", size=32), Grader("resnet18"))


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (
            lambda images, random: images / 255,
            r"gives float32 \(2, 3, 32, 32\) on cpu; it must give uint8",
        ),
        (lambda images, random: images[:1], r"gives uint8 \(1, 3, 32, 32\) on cpu; it must give uint8 \(2"),
        (lambda images, random: images[..., :16], r"gives uint8 \(2, 3, 32, 16\)"),
        (lambda images, random: None, "gives NoneType; it must give a tensor, uint8"),
        (lambda images, random: images * random(4), "nets:augment fails.*RuntimeError: The size of tensor"),
    ],
)
def test_an_augmentation_with_another_shape_is_refused(
    augment: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.augmentation.load_function", lambda name: augment)
    with pytest.raises(RunError, match=said):
        try_plugs(FitConfig(augment="nets:augment", device="cpu", size=32), Grader("resnet18"))


def test_layer_decay_is_for_networks_with_a_resnets_stages() -> None:
    config = FitConfig(layer_decay=0.5, device="cpu", precision="float32", size=32)
    with pytest.raises(RunError, match=r"is for stages named layer1, layer2, layer3, layer4, and .*convnext has none"):
        try_plugs(replace(config, model=f"{MODULE}:convnext"), Grader(f"{MODULE}:convnext"))
    config, model = replace(config, model=f"{MODULE}:resnet10t"), Grader(f"{MODULE}:resnet10t")
    try_plugs(config, model)
    _, scales = make_optimizer(model, config)
    assert sorted(set(scales)) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("distributed.sync_batchnorm", "training.trial"):
        monkeypatch.setattr(f"trainer.{module}.world_size", lambda: 2)


class Unused(Given):
    def __init__(self) -> None:
        super().__init__(lambda x: x.mean((2, 3)))
        self.left = nn.Linear(3, 3)


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: nn.Sequential(Given(lambda x: x), BatchNormAct2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
         "1 is a BatchNormAct2d whose statistics several processes cannot share"),
        (lambda: nn.Sequential(Given(lambda x: x.mean((2, 3))), nn.BatchNorm1d(3)), "1 is a BatchNorm1d whose"),
        (Unused, "its output does not depend on left.weight; several processes cannot train that"),
        (lambda: Given(lambda x: x.mean((2, 3)).view(-1, 3) if len(x) else x.view(0, -1)),
         r"nets:given of no photographs, as a process may get them at an epoch's end, fails \(test_own_functions.py"),
    ],
)  # fmt: skip
def test_what_several_processes_cannot_train_is_refused(
    network: Callable[[], nn.Module], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subclass of BatchNorm does more than normalise, so ours, which has the statistics of all, cannot replace it."""
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (network(), 3))
    config = FitConfig(model="nets:given", device="cpu", precision="float32", size=32)
    with pytest.raises(RunError, match=said):
        try_plugs(config, Grader("nets:given"))


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("name", ["small", "convnext", "resnet10t"])
def test_what_several_processes_can_train_is_not(name: str) -> None:
    config = FitConfig(model=f"{MODULE}:{name}", device="cpu", precision="float32", size=32)
    try_plugs(config, Grader(f"{MODULE}:{name}"))


def test_norms_of_one_dimension_have_no_weight_decay() -> None:
    model = Grader(f"{MODULE}:convnext")
    optimizer, _ = make_optimizer(model, FitConfig(weight_decay=0.1))
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.1 if parameter.ndim > 1 else 0), name


# --- the loss and the numbers of an augmentation


def test_a_loss_of_no_photographs_is_none_and_can_be_trained() -> None:
    """A process may get none at an epoch's end."""
    logits = torch.zeros(0, 5, requires_grad=True)
    found = losses(f"{MODULE}:mean", logits, torch.zeros(0, dtype=torch.int64), torch.ones(5))
    assert found.shape == (0,)
    found.sum().backward()
    assert logits.grad is not None


def test_a_photographs_numbers_depend_on_its_place_in_the_epoch_alone() -> None:
    whole = Draws(3, 5, range(12), CPU)
    first, second = whole(2, 3), whole(1)
    assert first.shape == (12, 2, 3)
    assert first.dtype == torch.float32
    ranks = [Draws(3, 5, range(rank, 12, 2), CPU) for rank in range(2)]  # as two processes have them
    for rank, draws in enumerate(ranks):
        assert torch.equal(draws(2, 3), first[rank::2])
        assert torch.equal(draws(1), second[rank::2])
    assert Draws(3, 5, range(0), CPU)(2, 3).shape == (0, 2, 3)
    for other in (Draws(4, 5, range(12), CPU), Draws(3, 6, range(12), CPU)):
        assert not torch.equal(other(2, 3), first)


def test_the_numbers_are_uniform() -> None:
    from scipy.stats import kstest

    numbers = Draws(0, 0, range(50), CPU)(200).flatten().numpy()
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


class Pictures(Loader):
    """Ten photographs in batches of 4 / ranks."""

    def __init__(self, shard: Shard) -> None:
        self._rows = torch.arange(10)[shard.rank :: shard.world_size].split(4 // shard.world_size)

    def __len__(self) -> int:
        return len(self._rows)

    def epoch(self, number: int, start: int = 0):  # type: ignore[no-untyped-def]
        for rows in self._rows[start:]:
            yield Batch(torch.full((len(rows), 3, 4, 4), 100, dtype=torch.uint8), rows % 5, rows)

    def close(self) -> None:
        pass


def test_resuming_and_several_processes_change_no_image() -> None:
    def images(epoch: int, start: int = 0, shard: Shard = Shard()) -> list[Tensor]:  # noqa: B008
        loader = AugmentedLoader(Pictures(shard), f"{MODULE}:brighter", seed=7, batch=4, shard=shard)
        assert len(loader) == 3
        return [batch.images for batch in loader.epoch(epoch, start)]

    whole = images(1)
    assert torch.equal(images(1, start=1)[0], whole[1])
    assert not torch.equal(images(0)[0], whole[0])
    assert not torch.equal(whole[0][0], whole[0][1])
    for rank in range(2):
        for step, part in enumerate(images(1, shard=Shard(rank, 2))):
            assert torch.equal(part, whole[step][rank::2])


def test_torchs_own_generator_is_set_anew_for_each_batch() -> None:
    """So a function that draws from it, as torchvision's transforms do, is the same in a resumed run."""

    def images(start: int) -> list[Tensor]:
        loader = AugmentedLoader(Pictures(Shard()), f"{MODULE}:by_torch", seed=7, batch=4, shard=Shard())
        return [batch.images for batch in loader.epoch(0, start)]

    torch.manual_seed(1)
    whole = images(0)
    torch.manual_seed(2)
    assert torch.equal(images(2)[0], whole[2])
    assert not torch.equal(whole[0], whole[1])


def test_torchvisions_transforms_may_be_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of docs/plugs.md."""
    transform = v2.RandomErasing(p=1.0)
    function = lambda images, random: torch.stack([transform(each) for each in images])  # noqa: E731
    monkeypatch.setattr("trainer.training.augmentation.load_function", lambda name: function)
    images = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    assert not torch.equal(augmented("nets:erase", images, Draws(0, 0, range(2), CPU)), images)
