import numpy as np
import torch

from trainer.network.model import Grader
from trainer.network.views import mean_logits


def test_the_mean_is_of_probabilities_over_all_flips_and_turns() -> None:
    torch.manual_seed(0)
    model = Grader("resnet18", "corn").eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8))
    with torch.inference_mode():
        views = [view.rot90(turns, (2, 3)) for view in (images, images.flip(2)) for turns in range(4)]
        expected = torch.stack([model(view).softmax(dim=1) for view in views]).mean(dim=0)
        torch.testing.assert_close(mean_logits(model, images).softmax(dim=1), expected)
