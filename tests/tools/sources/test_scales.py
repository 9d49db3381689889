"""Grades as people write them, and scales that are not ICDR."""

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from tools.sources.scales import UNGRADABLE, open_scale, parse_words, why_other_scale


@pytest.mark.parametrize(
    ("grade", "spellings"),
    [
        (0, ["0", "0.0", "No DR", "No_DR", "no dr", "NoDR", "Normal", "No apparent retinopathy", "anodr", "nodr"]),
        (1, ["1", " 1 ", "Mild", "Mild NPDR", "mild_npdr", "bmilddr", "mild nonproliferative diabetic retinopathy"]),
        (2, ["2", "Moderate", "Moderate NPDR", "cmoderatedr", "grade_2", "Class 2", "2 - Moderate"]),
        (3, ["3.0", "Severe", "severe_npdr", "dseveredr", "3. Severe NPDR"]),
        (4, ["4", "PDR", "Proliferative DR", "Proliferate_DR", "eproliferativedr", "proliferative"]),
        (UNGRADABLE, ["ungradable", "Ungradeable"]),
    ],
)
def test_a_grade_in_any_usual_spelling(grade: int, spellings: list[str]) -> None:
    assert [parse_words(text) for text in spellings] == [grade] * len(spellings)


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "-1", "-2", "1.5", "12", "1e0", "True", "nan", "None", "dr", "Train", "healthy", "R2",
     "7. Advanced PDR", "1. No DR signs", "2 - Severe", "\N{ARABIC-INDIC DIGIT TWO}"],
)  # fmt: skip
def test_what_is_no_grade_is_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="grade"):
        parse_words(text)


def test_steps_of_other_scales() -> None:
    scottish, english, paraguay = (open_scale(name) for name in ("scottish", "nhs", "paraguay"))
    assert (scottish.parse("R3"), english.parse("R3")) == (3, 4)  # the same letters, another disease
    assert scottish.parse("r6") == UNGRADABLE
    assert [paraguay.parse(str(step)) for step in range(1, 8)] == [0, 1, 2, 3, 3, 4, 4]
    assert paraguay.parse("5. Very Severe NPDR") == 3
    assert not open_scale("messidor").exact
    with pytest.raises(ValueError, match="no step of the scale messidor"):
        open_scale("messidor").parse("4")


def test_a_scale_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "clinic.toml"
    path.write_text('title = "Our clinic"\nexact = true\ncodes = { "1" = 0, "2" = 1, "5" = 4, "x" = "ungradable" }\n')
    scale = open_scale(str(path))
    assert (scale.name, scale.parse("1"), scale.parse("5.0"), scale.parse("X")) == ("clinic", 0, 4, UNGRADABLE)
    for wrong in ("codes = { 1 = 7 }\n", "title = 3\n", "codes = [1]\n", "no toml"):
        path.write_text(wrong)
        with pytest.raises(SourceError, match=r"clinic\.toml: not a scale"):
            open_scale(str(path))
    with pytest.raises(SourceError, match="choose icdr, messidor, scottish, nhs, paraguay, or a TOML file"):
        open_scale("german")


def test_grades_of_another_scale_are_told_by_their_values() -> None:
    assert "R3 is severe background" in (why_other_scale(["R0", "R1M0", "R3A", ""]) or "")
    assert "from 1 to 5" in (why_other_scale(["1", "2", "3", "4", "5"]) or "")
    assert why_other_scale(["0", "1", "5"]) is None
    assert why_other_scale(["1", "2", "3", "4"]) is None
