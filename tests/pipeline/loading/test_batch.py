import numpy as np
import pytest
import torch
from torchvision.transforms.functional import normalize, to_tensor

from pipeline.loading.batch import normalise

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalises_as_torchvision_does_whatever_the_layout(layout: torch.memory_format) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3), np.uint8)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    ours = normalise(images, 255 * MEAN, 255 * STD)
    theirs = torch.stack([normalize(to_tensor(picture), MEAN.tolist(), STD.tolist()) for picture in pictures])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.permute(0, 2, 3, 1), pictures)  # the batch itself is as it was
