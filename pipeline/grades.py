"""The five grades of the International Clinical Diabetic Retinopathy scale (Wilkinson et al., Ophthalmology 2003)."""

import re
from typing import Final

GRADES: Final = ("no DR", "mild", "moderate", "severe", "proliferative")
N_GRADES: Final = len(GRADES)
REFERABLE: Final = 2
"""The lowest referable grade: moderate or worse is referred to an ophthalmologist."""
UNKNOWN: Final = -1
"""The grade of an ungraded photograph in integer arrays."""

_GRADE = re.compile(r"\s*([0-4])(\.0*)?\s*", re.ASCII)


def parse_grade(text: str) -> int:
    """The grade, 0 to 4, in a cell of a table.

    Spreadsheets write 2 as "2.0" or " 2 ", so these are read. Anything else ("", "NaN", "1e0", "True", a digit of
    another script) raises ValueError, quoting the value: a wrong guess would be trained on as a wrong grade.

    >>> parse_grade("2.0")
    2
    """
    match = _GRADE.fullmatch(text)
    if match is None:
        raise ValueError(f"grade {text!r} is not in 0..4" if text.strip() else "the grade is empty")
    return int(match[1])
