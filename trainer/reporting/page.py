"""Fills in the templates of the page and the model card; formats numbers, drawings and text for them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.reporting.drawings import BLUE, DIM, FAINT, INK, ORANGE, PAPER

HERE: Final = Path(__file__).parent
VARIABLES: Final = {
    INK: "var(--ink)",
    DIM: "var(--dim)",
    FAINT: "var(--line)",
    PAPER: "var(--paper)",
    BLUE: "var(--blue)",
    ORANGE: "var(--mark)",
}
"""Colours of the drawings -> variables of the page's style sheet, which has each for a light and a dark background."""


def render(template: str, fields: Mapping[str, object], folder: Path = HERE) -> bytes:
    """A template of a folder filled in, as UTF-8.

    In an .html.j2 everything but Markup is escaped. Bytes of an id that are not valid UTF-8 become question marks.
    """
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"duration": duration, "number": number, "plain": plain}
    return environment.get_template(template).render(fields).encode("utf-8", "replace")


def number(value: float, kind: str) -> str:
    """
    >>> number(0.9376, "decimals"), number(7026, "count")
    ('0.938', '7,026')
    >>> number(0.9376, "percent").replace(chr(0xa0), "_")  # its space never breaks a line
    '93.8_%'
    """
    formats = {"percent": "{:.1%}", "count": "{:,}", "decimals": "{:.3f}"}
    return formats[kind].format(value).replace("%", "\N{NO-BREAK SPACE}%").replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """
    >>> duration(59), duration(90), duration(9000)
    ('59 s', '1.5 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def plain(text: object) -> str:
    """A user's text escaped for Markdown, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(text).split()))


def inline_svg(path: Path, alt: str) -> Markup:
    """An SVG for use inside the page, in the page's colours. alt: the description for screen readers."""
    text = path.read_text("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{path.stem}-", text)  # ids are one namespace on a page
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: VARIABLES.get(match[0].upper(), match[0]), text)
    opening = f'<svg role="img" aria-label="{Markup.escape(alt)}" '
    return Markup(opening + re.sub(r'<svg ([^>]*?)width="\S+" height="\S+"', r"\1", text, count=1))
