"""What a step changes: which layers at which rate, and the average of the weights."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result
from torch.optim.swa_utils import AveragedModel

from tests.trainer.recorded import ROW
from trainer.config import FitConfig
from trainer.network.device import choose_precision
from trainer.network.model import Grader
from trainer.training.checkpoint import Progress
from trainer.training.learner import average, make_optimizer, set_phase
from trainer.training.schedule import averaging_decay

Fit = Callable[..., Result]


def walk(model: Grader, step: int) -> None:
    """Other weights, running statistics and counters, as after a step."""
    torch.manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(step))


def test_the_average_is_that_of_torchs_averaged_model() -> None:
    model = Grader("resnet18")
    config = FitConfig(ema=0.9, head_epochs=2, epochs=2)
    ours = Grader("resnet18")
    theirs = AveragedModel(
        model, avg_fn=lambda old, new, n: old + (new - old) * 0.1 / (1 - 0.9 ** (int(n) + 1)), use_buffers=True
    )
    for step in range(6):  # two epochs of three steps, the phase's first
        walk(model, step)
        average(ours, model, averaging_decay(config, epoch=2 + step // 3, step=step % 3, steps=3))
        theirs.update_parameters(model)
    for name, tensor in ours.state_dict().items():
        reference = theirs.module if tensor.is_floating_point() else model  # batches that were counted have no mean
        torch.testing.assert_close(tensor, reference.state_dict()[name])


def test_the_average_weighs_a_phases_weights_geometrically_and_forgets_what_was_before() -> None:
    """Weights 1, 2, 4 with a decay of one half: (1/4 + 2/2 + 4) / (1/4 + 1/2 + 1) = 3."""
    config, mean = FitConfig(ema=0.5, epochs=1), 1000.0
    for step, weight in enumerate((1.0, 2.0, 4.0)):
        decay = averaging_decay(config, epoch=3, step=step, steps=3)
        mean = decay * mean + (1 - decay) * weight
    assert mean == pytest.approx(3)


def test_layers_learn_the_slower_the_farther_from_the_head() -> None:
    model = Grader("resnet18")
    optimizer, scales = make_optimizer(model, FitConfig(layer_decay=0.5, weight_decay=0.1))
    of = {id(each): scale for group, scale in zip(optimizer.param_groups, scales, strict=True)
          for each in group["params"]}  # fmt: skip
    net = model.backbone
    modules = (model.head, net.layer4, net.layer3, net.layer2, net.layer1, net.bn1, net.conv1)
    for module, expected in zip(modules, (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32), strict=True):
        assert {of[id(each)] for each in module.parameters()} == {expected}
    assert len(of) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert {each.ndim > 1 for each in group["params"]} == {group["weight_decay"] == 0.1}


def test_adamw_takes_the_step_of_its_paper() -> None:
    """The first step of AdamW, written out: the moments are corrected to g and g^2, so it is lr * sign(g), and the
    decay of weights is lr * decay * w (Loshchilov and Hutter, ICLR 2019, algorithm 2)."""
    model = Grader("resnet18")
    optimizer, _ = make_optimizer(model, FitConfig(optimizer="adamw", weight_decay=0.1))
    weight, bias = model.head.weight, model.head.bias
    before = weight.detach().clone(), bias.detach().clone()
    gradient = torch.linspace(-1, 1, weight.numel()).view_as(weight) + 0.01
    weight.grad, bias.grad = gradient.clone(), torch.full_like(bias, -2)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before[0] * (1 - 0.01 * 0.1) - 0.01 * gradient.sign())
    torch.testing.assert_close(bias.detach(), before[1] + 0.01)  # a bias has no weight decay


def test_by_default_all_layers_learn_alike_and_the_head_phase_trains_the_head() -> None:
    model = Grader("resnet18")
    assert make_optimizer(model, FitConfig())[1] == [1, 1]
    set_phase(model, "head")
    optimizer, _ = make_optimizer(model, FitConfig(layer_decay=0.5))
    trained = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert trained == [id(each) for each in model.head.parameters()]


@pytest.mark.parametrize(
    ("kappas", "first", "idle"),
    [([], 0, 0), ([0.1], 0, 0), ([0.1, 0.3, 0.2, 0.3], 0, 2), ([0.5, 0.1, 0.2], 2, 1), ([0.5, 0.1], 2, 0)],
)
def test_epochs_without_a_better_one_are_counted_within_the_last_phase(
    kappas: list[float], first: int, idle: int
) -> None:
    assert Progress(history=[ROW._replace(kappa_val=kappa) for kappa in kappas]).idle(first) == idle


def test_steps_in_bfloat16_follow_float32s_to_a_hundredth(fit: Fit, tiny_cache: Callable[..., Path]) -> None:
    """Its numbers have 8 binary digits: a relative error of 2^-9 each, of which means and sums even out."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        fit(tiny_cache(name=precision), "--precision", precision, "--epochs", 1, "--run", f"run-{precision}")
        losses[precision] = pd.read_csv(f"run-{precision}/accuracy.csv")["loss_train"][0]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_auto_is_bfloat16_where_the_machine_multiplies_it() -> None:
    assert choose_precision("auto", "mps") == "float32"
    assert choose_precision("auto", "cpu") == (
        "bfloat16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "float32"
    )
    assert choose_precision("float32", "cpu") == "float32"
