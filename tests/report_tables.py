"""The numbers in the tables of a report, for tests that know the right ones."""

import html
import re
from pathlib import Path
from typing import Any

import pytest


def text_of(path: Path) -> str:
    """What a reader sees: without style sheet and tags."""
    page = re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", page)
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def rows_of(page: str, label: str) -> dict[str, list[float | None]]:
    """The table of that label: by the first cell of each row, the first number of each other cell; None without one."""
    rows = {}
    body = page.split(f'aria-label="{label}"', 1)[1].split("</table>", 1)[0].split("<tbody>", 1)[1]
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
        cells = [
            html.unescape(re.sub("<[^>]+>", " ", cell)).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        ]
        rows[cells[0]] = [first_number(cell) for cell in cells[1:]]
    assert rows, label
    return rows


def first_number(cell: str) -> float | None:
    found = re.match(r"(-?[\d.,]+)(\N{NO-BREAK SPACE}%)?", cell.replace("\N{MINUS SIGN}", "-"))
    return found and float(found[1].replace(",", "")) / (100 if found[2] else 1)


def shown(*values: float | None) -> list[Any]:
    """As the page rounds them, to three places; None where the page has no number."""
    return [value if value is None else pytest.approx(value, abs=0.00051) for value in values]
