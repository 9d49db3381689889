"""Warnings, patients, dates and names against the cases that decide them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainer.conftest import Trained
from tests.trainer.recorded import OF_SET, recorded
from trainer.reporting.disclosure import (
    NOT_RECORDED,
    UNKNOWN_PATIENTS,
    data_set,
    dates,
    people,
    synthetic_line,
    synthetic_photographs,
    warnings,
)
from trainer.reporting.external import Site
from trainer.reporting.narrative import LeakStatement
from trainer.run_folder import RunFolder

FINE = LeakStatement(False, "No leak: no patient of the 5 test photographs is in train.")


def test_nothing_is_warned_of_where_nothing_is_wrong() -> None:
    assert warnings(FINE, False, "", []) == []


def test_a_leak_unknown_patients_and_drawn_eyes_are_all_said_and_in_this_order() -> None:
    leak = LeakStatement(True, "LEAK: 5 of 5 test photographs")
    assert warnings(leak, True, "SYNTHETIC: 1", []) == [leak.text, UNKNOWN_PATIENTS, "SYNTHETIC: 1"]


def test_leaks_and_drawn_eyes_of_external_sets_are_said_with_their_names() -> None:
    exposure = {"photographs": 4, "trained_on": 2, "same": 0, "chosen_by": 0}
    of_set = OF_SET | {"other_recipe": True, "ungradable": 1, "synthetic": 3}
    record = recorded(**of_set, split="all", photographs=4, exposure=exposure)
    lines = warnings(FINE, False, "", [Site("clinic", record)])
    assert lines[0].startswith("clinic: LEAK: 2 of 4 photographs (50%)")
    assert lines[1].startswith("clinic: SYNTHETIC: 3 of 4 photographs are no photographs of eyes")
    assert len(lines) == 2  # the other recipe and the ungradable one stand with the set


def test_drawn_eyes_are_counted_by_split_from_the_cache_or_from_the_run() -> None:
    config: Any = SimpleNamespace(photographs={"train": 50, "val": 6, "test": 14}, synthetic={"train": 20, "val": 0})
    assert synthetic_photographs(config, None) == {"train": (20, 50)}
    line = synthetic_line({"train": (20, 50)}, "test")
    assert line.startswith("SYNTHETIC: 20 of 50 train photographs are no photographs of eyes")
    assert line.endswith("The network learned from them; the photographs measured are others.")
    both = synthetic_line({"train": (20, 50), "test": (14, 14)}, "test")
    assert "20 of 50 train, 14 of 14 test photographs" in both
    assert both.endswith("The figures say nothing of real eyes.")
    assert synthetic_line({}, "test") == ""


@pytest.mark.parametrize(
    ("patients", "unknown", "words"),
    [
        (8, 0, " of 8 patients"),
        (1, 0, " of 1 patient"),
        (16, 16, ", whose patients are not known"),
        (12, 4, " of 12 patients, where 4 photographs of unknown patients count as one patient each"),
    ],
)
def test_patients_are_claimed_only_as_far_as_something_tells_them(patients: int, unknown: int, words: str) -> None:
    assert people(patients, unknown, 16) == words


def test_a_known_set_has_its_title_and_another_the_name_of_its_folder() -> None:
    known: Any = SimpleNamespace(data_set="APTOS 2019", cache="/data/x/cache")
    unknown: Any = SimpleNamespace(data_set="", cache="/data/hospital/cache")
    assert data_set(known, None) == "APTOS 2019"
    assert data_set(unknown, None) == "hospital (the name of its folder; no known set was recognised)"
    later: Any = SimpleNamespace(index=SimpleNamespace(data_set="IDRiD"))
    assert data_set(unknown, later) == "IDRiD"  # a run from before config.json kept it


def test_dates_are_those_noted_and_missing_ones_are_called_so(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(trained.copy(tmp_path / "run"))
    assert set(run.read_dates()) == {"trained", "measured val", "measured test"}
    run.dates.unlink()
    monkeypatch.setattr("trainer.reporting.disclosure.today", lambda: "2026-02-03")
    measured: Any = SimpleNamespace(run=run, split="test")
    assert dates(measured) == {"trained": NOT_RECORDED, "measured": NOT_RECORDED, "page": "2026-02-03"}
    monkeypatch.setattr("trainer.run_folder.today", lambda: "2026-01-02")
    run.note_date("trained")
    monkeypatch.setattr("trainer.run_folder.today", lambda: "2026-01-05")
    run.note_date("measured test", "measured val")
    assert dates(measured) == {"trained": "2026-01-02", "measured": "2026-01-05", "page": "2026-02-03"}
    run.dates.write_text(
        '{"trained": "2026-01-02", "measured val": null, "measured test": "<b>today</b>", "x": "2026-13-01"}'
    )
    assert run.read_dates() == {"trained": "2026-01-02"}
    run.dates.write_text("{")
    assert run.read_dates() == {}
