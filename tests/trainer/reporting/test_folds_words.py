"""What `trainer folds` says at its end."""

import pandas as pd
import pytest

from trainer.evaluation.out_of_fold import OutOfFoldResults
from trainer.reporting.folds import by_chance_line, second_look_line


@pytest.mark.parametrize(
    ("interval", "warned"), [((-0.011, 0.036), True), ((0.0, 0.1), True), (None, True), ((0.2, 0.4), False)]
)
def test_a_list_of_networks_that_grade_by_chance_says_little(
    interval: tuple[float, float] | None, warned: bool
) -> None:
    found = OutOfFoldResults(
        photographs=10,
        patients=10,
        grades=[2] * 5,
        figures={"kappa": 0.012},
        referral=None,
        intervals={"kappa": interval},
        by_fold=[],
        spread={},
        by_seed=[],
    )
    assert "grades worth a second look: 1 photographs" in second_look_line(pd.DataFrame({"id": ["1_left"]}))
    line = by_chance_line(found)
    assert ("kappa is 0.012: it is not shown that these networks grade better than chance" in line) is warned
    assert bool(line) is warned
