from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, to_dtype

from pipeline.errors import RunError
from pipeline.photos.preparation import Recipe
from trainer.config import MODELS
from trainer.network.metadata import Metadata, read_metadata
from trainer.network.model import Grader, Normalise, load_model, save_model
from trainer.network.pretrained import imagenet_file, load_weights

METADATA = Metadata("resnet18", 32, Recipe(64), epoch=3)


@pytest.fixture(scope="module")
def model() -> Grader:
    torch.manual_seed(0)
    return Grader("resnet18").eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub's, and a network where nobody answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "hub" / "checkpoints"


def test_the_models_offered_are_those_of_torchvision() -> None:
    assert sorted(MODELS) == sorted(torchvision.models.list_models(include=["resnet*", "resnext*", "wide_resnet*"]))


def test_normalisation_is_what_torchvisions_weights_were_trained_with(images: Tensor) -> None:
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    expected = normalize(to_dtype(images, torch.float32, scale=True), preset.mean, preset.std)
    torch.testing.assert_close(Normalise()(images), expected, atol=1e-5, rtol=0)


def test_a_saved_model_says_what_it_is_and_predicts_the_same(model: Grader, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, model, METADATA)
    loaded, metadata = load_model(path)
    assert metadata == read_metadata(path) == METADATA
    assert torch.equal(loaded(images), model(images))
    with safe_open(path, "pt") as file:
        assert "resnet18" in str(file.metadata())
        assert "proliferative" in str(file.metadata())


def test_equal_weights_make_equal_files_whatever_their_strides(model: Grader, tmp_path: Path) -> None:
    save_model(tmp_path / "a", model, METADATA)
    other = Grader("resnet18")
    other.load_state_dict(model.state_dict())
    save_model(tmp_path / "b", other.to(memory_format=torch.channels_last), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("architecture", "features"), [("resnet18", 512), ("resnet50", 2048)])
def test_a_small_stem_keeps_the_resolution_and_is_saved_with_the_weights(
    architecture: str, features: int, images: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    small = Grader(architecture, "corn", "small").eval()
    stages = torch.nn.Sequential(small.normalise, *list(small.backbone.children())[:-2])
    assert stages(images).shape == (2, features, 4, 4)  # of 32 pixels; ImageNet's stem leaves one place
    deviation = small.backbone.conv1.weight.std().item()
    assert deviation == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)  # He initialisation by the 9 x 64 outputs
    metadata = replace(METADATA, model=architecture, link="corn", stem="small")
    save_model(tmp_path / "model.safetensors", small, metadata)
    loaded, read = load_model(tmp_path / "model.safetensors")
    assert read == metadata
    assert torch.equal(loaded(images), small(images))
    with pytest.raises(RunError, match="has another stem, choose it with --stem small"):
        load_weights(Grader(architecture), tmp_path / "model.safetensors")


def test_a_coarse_stem_has_imagenets_weights_and_cells_twice_as_wide(images: Tensor, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    coarse = Grader("resnet18", stem="coarse").eval()
    load_weights(coarse, tmp_path / "resnet18.pth")
    seen = theirs.relu(theirs.bn1(theirs.conv1(coarse.normalise(images))))  # (n, 64, 16, 16) of 32 pixels
    edged = torch.nn.functional.pad(seen, (2, 2, 2, 2))  # the values are 0 or more, so 0 is never the largest of them
    pooled = torch.stack(
        [edged[..., y : y + 5, x : x + 5].amax((-2, -1)) for y in (0, 4, 8, 12) for x in (0, 4, 8, 12)], -1
    )
    later = torch.nn.Sequential(theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    torch.testing.assert_close(
        coarse.backbone(coarse.normalise(images)), later(pooled.unflatten(-1, (4, 4))).mean((-2, -1))
    )
    save_model(tmp_path / "model.safetensors", coarse, replace(METADATA, stem="coarse"))
    loaded, read = load_model(tmp_path / "model.safetensors")
    assert read.title == "resnet18 with a coarse stem"
    assert torch.equal(loaded(images), coarse(images))
    with pytest.raises(RunError, match="has another stem, choose it with --stem coarse"):
        load_weights(Grader("resnet18"), tmp_path / "model.safetensors")


def test_a_model_with_layers_of_the_future_is_refused(model: Grader, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model, replace(METADATA, link="copula"))
    with pytest.raises(RunError, match=r"its first or last layers \(imagenet, copula\) are none"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_torchvisions_weights_become_the_backbone(wrap: str | None, images: Tensor, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    state = theirs.state_dict()
    torch.save({wrap: state, "epoch": 1} if wrap else state, tmp_path / "resnet18.pth")
    ours = Grader("resnet18").eval()
    load_weights(ours, tmp_path / "resnet18.pth")
    theirs.fc = torch.nn.Identity()
    normalised = ours.normalise(images)
    assert torch.equal(ours.backbone(normalised), theirs(normalised))


def test_a_torchvision_net_with_five_grades_keeps_its_last_layer(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "graded.pth")
    ours = Grader("resnet18")
    load_weights(ours, tmp_path / "graded.pth")
    assert torch.equal(ours.head.weight, theirs.fc.weight)


def test_our_own_weights_are_taken_whole(model: Grader, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model, METADATA)
    other = Grader("resnet18")
    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other.head.weight, model.head.weight)
    with pytest.raises(RunError, match="is a resnet18, not a resnet34"):
        load_weights(Grader("resnet34"), tmp_path / "model.safetensors")


@pytest.mark.parametrize("link", ["corn", "distance"])
def test_our_own_weights_for_another_loss_are_taken_but_for_the_last_layer(
    link: str, model: Grader, tmp_path: Path
) -> None:
    save_model(tmp_path / "model.safetensors", model, METADATA)
    other = Grader("resnet18", link)
    head = other.head.weight.clone()
    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other.head.weight, head)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor), name


def test_weights_of_another_architecture_are_refused_by_the_layer(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(
        RunError, match=r"resnet18.pth does not fit resnet50: layer backbone.layer1.0.conv1.weight is 64x64x3x3"
    ):
        load_weights(Grader("resnet50"), tmp_path / "resnet18.pth")
    with pytest.raises(RunError, match=r"does not fit resnet34: layer backbone.layer1.2.conv1.weight is missing"):
        load_weights(Grader("resnet34"), tmp_path / "resnet18.pth")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cut.pt", "damaged"),
        ("empty.pt", "damaged"),
        ("noise.pt", "damaged"),
        ("canary_pickle.pt", "nothing of it was run"),
        ("canary_zip.pt", "nothing of it was run"),
        ("numpy_scalar.pt", "more than weights"),
        ("wrong_arch.pt", "layer backbone.conv1.weight is missing"),
    ],
)
def test_a_bad_weight_file_is_one_line_and_never_runs(
    name: str, problem: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=problem) as raised:
        load_weights(Grader("resnet18"), shared / "cases/B49/checkpoints" / name)
    assert name in raised.value.message
    assert "\n" not in raised.value.message
    assert not list(tmp_path.rglob("*CANARY*"))


@pytest.mark.parametrize("content", [b"", b"no header", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_bad_safetensors_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"model.safetensors is damaged or not a model of ours"):
        load_model(tmp_path / "model.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(RunError, match=f"{name} does not exist"):
            load_weights(Grader("resnet18"), tmp_path / name)


def test_imagenet_weights_at_hand_need_no_network(hub: Path) -> None:
    hub.mkdir(parents=True)
    older = hub / "resnet50-0676ba61.pth"  # the first of two sets that torchvision has for it
    older.touch()
    assert imagenet_file("resnet50") == older
    (hub / "resnet50-11ad3fa6.pth").touch()
    assert imagenet_file("resnet50") == hub / "resnet50-11ad3fa6.pth"


def test_without_network_the_message_says_what_goes_where(hub: Path) -> None:
    with pytest.raises(RunError) as raised:
        imagenet_file("resnet18")
    message = raised.value.message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(hub) in message
    assert "\n" not in message
    assert not list(hub.iterdir())
