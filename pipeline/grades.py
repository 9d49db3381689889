"""The five grades of the International Clinical Diabetic Retinopathy scale (Wilkinson et al., Ophthalmology 2003)."""

import re
from typing import Final

GRADES: Final = ("no DR", "mild", "moderate", "severe", "proliferative")
N_GRADES: Final = len(GRADES)
REFERABLE: Final = 2
"""The lowest grade that is referred to an ophthalmologist: moderate or worse."""
UNKNOWN: Final = -1
"""Stands in integer arrays for a photograph that nobody has graded."""

_GRADE = re.compile(r"\s*([0-4])(\.0*)?\s*", re.ASCII)


def parse_grade(text: str) -> int:
    """The grade written in a table's cell.

    Spreadsheets write 2 as "2.0" or " 2 ", so both are read; anything else ("", "NaN", "1e0", "True", a digit of
    another script) raises ValueError with the value quoted, because a wrong guess here trains on a wrong grade.

    >>> parse_grade("2.0")
    2
    """
    match = _GRADE.fullmatch(text)
    if match is None:
        raise ValueError(f"grade {text!r} is not in 0..4" if text.strip() else "the grade is empty")
    return int(match[1])
