"""Functions as a user writes them, for --model, --loss and --augment."""

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

MODULE = "tests.trainer.plugged"


def small() -> tuple[nn.Module, int]:
    """With BatchNorm, and with dropout, which draws from torch's own generator."""
    layers = [
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3)),
    ]
    return nn.Sequential(*layers), 16


def plain() -> tuple[nn.Module, int]:
    """Without chance, so that several processes are one."""
    network, features = small()
    assert isinstance(network, nn.Sequential)
    return network[:-1], features


def with_weights(*, pretrained: bool) -> tuple[nn.Module, int]:
    network, features = plain()
    if pretrained:
        for number, parameter in enumerate(network.parameters()):
            nn.init.constant_(parameter, 0.1 + 0.1 * number)
    return network, features


def out_of_reach(*, pretrained: bool) -> tuple[nn.Module, int]:
    """Its weights would have to be downloaded, and cannot be."""
    if pretrained:
        raise OSError("Name or service not known")
    return plain()


def named() -> tuple[nn.Module, int]:
    """Names the layers that explain it."""
    network, features = small()
    network.gradcam_layers = ("2", "5")  # type: ignore[assignment]
    return network, features


def flat() -> tuple[nn.Module, int]:
    """Without feature maps."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), 4


def convnext() -> tuple[nn.Module, int]:
    """torchvision's, as small as it can be."""
    from torchvision.models.convnext import CNBlockConfig

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]
    network = torchvision.models.ConvNeXt(blocks, stochastic_depth_prob=0.2)
    network.classifier[2] = nn.Identity()
    return network, 24


def resnet10t() -> tuple[nn.Module, int]:
    network = timm.create_model("resnet10t", num_classes=0)
    return network, network.num_features


def each(logits: Tensor, grades: Tensor) -> Tensor:
    return F.cross_entropy(logits, grades, reduction="none")


def mean(logits: Tensor, grades: Tensor) -> Tensor:
    return F.cross_entropy(logits, grades)


def brighter(images: Tensor, random) -> Tensor:  # type: ignore[no-untyped-def]
    factor = 0.7 + 0.6 * random(1, 1, 1)
    noise = 20 * random(*images.shape[1:])
    return (images * factor + noise).clamp(0, 255).to(torch.uint8)


def by_torch(images: Tensor, random: object) -> Tensor:
    """Draws from torch's own generator."""
    return (images * torch.rand(len(images), 1, 1, 1, device=images.device)).to(torch.uint8)


def unchanged(images: Tensor, random: object) -> Tensor:
    return images
