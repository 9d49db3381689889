"""Mixed photographs: the share that the loss is told is the share that the eye sees."""

import numpy as np
import pytest
import torch

from trainer.training.mixup import mix

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 40, 40), np.uint8))
BEFORE = torch.stack([IMAGES[3], IMAGES[0], IMAGES[1], IMAGES[2]])


def test_mixup_is_a_weighted_mean_with_the_photograph_before() -> None:
    mixed, share = mix(IMAGES, BEFORE, 0.4, 0, seed=1, epoch=2, step=3)
    torch.testing.assert_close(mixed, share * IMAGES.float() + (1 - share) * BEFORE.float())
    assert 0 < share < 1


@pytest.mark.parametrize("step", range(12))
def test_cutmix_pastes_one_rectangle_and_tells_its_area(step: int) -> None:
    kept = IMAGES.clone()
    mixed, share = mix(IMAGES, BEFORE, 0, 1.0, seed=0, epoch=0, step=step)
    assert torch.equal(IMAGES, kept)
    pasted = (mixed != IMAGES).any(dim=(0, 1))  # of four noisy photographs each pixel differs in one at least
    rows, columns = pasted.any(dim=1).nonzero().flatten(), pasted.any(dim=0).nonzero().flatten()
    if len(rows):
        box = (..., slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        assert torch.equal(mixed[box], BEFORE[box])
        assert pasted[box].all()
    assert share == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)


def test_shares_follow_the_beta_distribution() -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)); 4,000 draws know them to 2 % (four sigma)."""
    pixel = IMAGES[:1, :, :1, :1]
    shares = [mix(pixel, pixel, 0.2, 0, seed=0, epoch=0, step=step).share for step in range(4000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.06)


def test_both_take_turns_and_a_step_always_draws_the_same() -> None:
    def draw(**key: int) -> torch.Tensor:
        return mix(IMAGES, BEFORE, 0.4, 1.0, **({"seed": 5, "epoch": 1, "step": 7} | key)).images

    kinds = [draw(step=step).dtype for step in range(100)]
    assert 30 <= kinds.count(torch.uint8) <= 70
    assert torch.equal(draw(), draw())
    for change in ({"seed": 6}, {"epoch": 2}, {"step": 8}):
        other, first = draw(**change).float(), draw().float()
        assert not torch.equal(other, first)
