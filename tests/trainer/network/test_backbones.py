"""A function of the user's makes the network as torchvision's names do, and what is no network is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.photos.preparation import Recipe
from tests.trainer.plugged import MODULE
from trainer.network.backbones import RESNETS, find_backbone
from trainer.network.metadata import Metadata, read_metadata
from trainer.network.model import Grader, load_model, save_model
from trainer.network.pretrained import pretrain
from trainer.plugs import Plug

METADATA = Metadata(f"{MODULE}:convnext", 32, Recipe(64), epoch=3, plugs=(Plug("model", f"{MODULE}:convnext"),))


def images(n: int = 2, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def function(monkeypatch: pytest.MonkeyPatch, given: object) -> str:
    """The name of a function that gives this."""
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: given)
    return "nets:given"


@pytest.mark.parametrize(("name", "features"), [("convnext", 24), ("resnet10t", 512), ("small", 16)])
@pytest.mark.parametrize("link", ["softmax", "corn"])
def test_a_function_makes_a_network_whose_weights_can_be_saved_and_loaded(
    name: str, features: int, link: str, tmp_path: Path
) -> None:
    model = Grader(f"{MODULE}:{name}", link).eval()
    assert model.head.in_features == features
    logits = model(images())
    assert logits.shape == (2, 5)
    metadata = replace(METADATA, model=f"{MODULE}:{name}", link=link)
    save_model(tmp_path / "model.safetensors", model, metadata)
    loaded, read = load_model(tmp_path / "model.safetensors")
    assert read == metadata == read_metadata(tmp_path / "model.safetensors")
    assert torch.equal(loaded(images()), logits)


def test_torchvisions_resnets_come_by_the_same_protocol() -> None:
    backbone, features = find_backbone("resnet18", "imagenet")()
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, features) == (2, 512)
    assert backbone.gradcam_layers == RESNETS


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(Grader(f"{MODULE}:convnext").state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight


class Remembering(nn.Linear):
    def get_extra_state(self) -> object:
        return "words"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (nn.Linear(3, 3), "nets:given gives Linear; it must give two: a torch.nn.Module and its number of features"),
        ((nn.Linear(3, 3), 2, 3), "gives Linear, int, int; it must give"),
        ((3, nn.Linear(3, 3)), "gives int, Linear; it must give"),
        ((nn.Linear(3, 3), 2.0), "gives Linear, float; it must give"),
        ((nn.Linear(3, 3), 0), "gives Linear, int; it must give"),
        (None, "gives NoneType; it must give"),
        ((nn.LazyLinear(3), 3), "gives layers without a shape; call it once with an image"),
        ((Tied(), 3), "gives two layers with one tensor, one.weight and other.weight; copy it"),
        ((Remembering(3, 3), 3), "whose state _extra_state is no tensor, and cannot be saved"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_no_network_is_refused(given: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=said):
        Grader(function(monkeypatch, given))


def test_a_network_that_no_version_knows_is_one_line(tmp_path: Path) -> None:
    """A name of torchvision's is not enough: `alexnet` has no layers that could be loaded."""
    save_model(tmp_path / "model.safetensors", Grader("resnet18"), replace(METADATA, model="alexnet"))
    with pytest.raises(RunError, match="'alexnet' is no network that this version knows"):
        load_model(tmp_path / "model.safetensors")


def test_weights_of_another_version_of_a_function_are_refused_by_the_layer(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", Grader(f"{MODULE}:small"), METADATA)
    with pytest.raises(RunError, match=r"does not fit .*plugged:convnext: layer head.weight is 5x16, it must"):
        load_model(tmp_path / "model.safetensors")


def test_a_function_with_weights_of_its_own_gives_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start of a training. To load weights later it is told not to fetch its own."""
    model = Grader(f"{MODULE}:with_weights")
    assert not any((each == 0.1).all() for each in model.backbone.parameters())
    assert pretrain(model, "auto") == "pretrained"
    assert [each.unique().tolist() for each in model.backbone.parameters()] == [
        [pytest.approx(0.1 + 0.1 * number)] for number in range(6)
    ]
    assert pretrain(Grader(f"{MODULE}:with_weights"), "none") == "none"


def test_a_function_without_weights_is_trained_from_scratch() -> None:
    assert pretrain(Grader(f"{MODULE}:small"), "auto") == "none"
    with pytest.raises(RunError, match="plugged:small takes no argument `pretrained`, so it brings no weights"):
        pretrain(Grader(f"{MODULE}:small"), "pretrained")
