"""Griffe extension: docstrings are plain text; what Markdown would run together becomes a list or code."""

import re
from typing import Any, Final

import griffe

PARAMETER: Final = re.compile(r"^(\w+(?:, \w+)*): ", re.MULTILINE)
PARAGRAPH: Final = re.compile(r"\n\s*\n")


class Parameters(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(as_markdown, PARAGRAPH.split(obj.docstring.value)))


def as_markdown(paragraph: str) -> str:
    """An example is code. Of `name: what it is` lines there is a list, after what is before the first."""
    if paragraph.startswith(">>>"):
        return f"```pycon\n{paragraph}\n```"
    first = PARAMETER.search(paragraph)
    if not first:
        return paragraph
    before, rest = paragraph[: first.start()], paragraph[first.start() :]
    items = PARAMETER.sub(lambda name: f"* `{name[1]}`: ", rest)
    return f"{before}\n\n{items}" if before else items
