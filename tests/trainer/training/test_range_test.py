"""--find-lr: a curve to look at, a rate to take, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from tests.trainer.conftest import FAST, invoke
from trainer.config import FitConfig
from trainer.training.range_test import RATES, SMOOTHING, propose, smooth

Fit = Callable[..., Result]


def test_the_smoothed_loss_is_a_weighted_mean_of_those_so_far() -> None:
    losses = [3.0, 1.0, 2.0]
    weights = SMOOTHING ** np.arange(3)[::-1]
    assert smooth(losses)[-1] == pytest.approx((weights * losses).sum() / weights.sum())


def test_the_rate_proposed_is_that_of_the_lowest_loss() -> None:
    """Of a loss that falls until 0.5 and rises from there."""
    valley = np.abs(np.log(RATES / 0.5))
    assert propose(RATES, valley, "cosine") == pytest.approx(0.5, rel=0.06)  # the rates are 12 % apart
    assert propose(RATES, valley, "constant") == pytest.approx(0.05, rel=0.06)


def test_a_rate_is_proposed_and_no_run_is_left(
    tiny_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.range_test.RATES", RATES[::3])
    cache = tiny_cache(train=(0, 1, 2, 3, 4) * 13)
    output = invoke("fit", "--cache", cache, *FAST, "--find-lr", "--precision", "float32", rendered=True).stdout
    found = re.fullmatch(r"drawn: lr.png\nproposed: --lr (\S+)\n", output)
    assert found
    assert 1e-3 <= float(found[1]) <= 3  # of two grades alone hardly a rate fails, on some machines not the highest, 10
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "lr.png", "lr.svg"}
    with Image.open("lr.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("asked", "sought"), [("fading", "balanced"), ("balanced", "balanced"), ("natural", "natural")]
)
def test_while_the_rate_rises_the_grades_do_not_change(
    asked: str, sought: str, fit: Fit, tiny_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small set is seen many times in a test, and fading sampling would be natural at its end."""

    def opened(config: FitConfig, _: Cache) -> None:
        raise RunError(f"sampling {config.sampling}")

    monkeypatch.setattr("trainer.commands.fit.open_loaders", opened)
    assert f"Error: sampling {sought}" in fit(tiny_cache(), "--find-lr", "--sampling", asked, exit=1).stderr


def test_a_rate_is_not_sought_for_a_run_that_has_one(fit: Fit, tiny_cache: Callable[..., Path]) -> None:
    assert "leave out --resume" in fit(tiny_cache(), "--find-lr", "--resume", exit=2).stderr
    assert "leave out --run" in fit(tiny_cache(name="other"), "--find-lr", "--run", "run", exit=2).stderr


def test_where_the_curve_cannot_be_written_the_rate_is_said(
    fit: Fit, tiny_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.range_test.RATES", RATES[::12])
    (tmp_path / "lr.png").symlink_to("/dev/full")
    stderr = fit(tiny_cache(), "--find-lr", exit=1).stderr
    assert re.fullmatch(r"Error: lr.png: cannot be written \(.+\); proposed: --lr \S+", stderr.splitlines()[-1])
