"""What `trainer folds` says at its end."""

import json
from pathlib import Path

import pandas as pd
import pytest

from trainer.reporting.folds import say_second_look
from trainer.run_folder import FoldsFolder


@pytest.mark.parametrize(
    ("interval", "warned"), [((-0.011, 0.036), True), ((0.0, 0.1), True), (None, True), ((0.2, 0.4), False)]
)
def test_a_list_of_networks_that_grade_by_chance_says_little(
    interval: tuple[float, float] | None, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FoldsFolder(tmp_path)
    folder.results.metrics.write_text(json.dumps({"kappa": 0.012, "intervals": {"kappa": interval}}))
    say_second_look(folder, pd.DataFrame({"id": ["1_left"]}))
    said = capsys.readouterr()
    assert "grades worth a second look: 1 photographs" in said.out
    assert ("kappa is 0.012: it is not shown that these networks grade better than chance" in said.err) is warned
