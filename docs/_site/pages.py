"""MkDocs hook: pages that lie outside docs/ join the site, and links between files of the repository lead there.

So each page exists once, and its links are right on a forge too.
"""

import os.path
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]
OUTSIDE: Final = {
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "LICENSE": "LICENSE.txt",  # without a suffix a browser saves it instead of showing it
    "benchmarks/README.md": "gpu.md",  # docs/benchmarks.md has its address
}
"""File of the repository -> its name on the site."""
SOURCES: Final = {name: source for source, name in OUTSIDE.items()}
FIGURE: Final = re.compile(r"(?<=\d) (?:(?:±|to) (?=[+-]?\d)|%)")
CODE: Final = re.compile(r"(?<=<code>)[^<\n]+(?=</code>)")
OPTION: Final = re.compile(r"\S*-\S*")
LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> None:
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    name = page.file.src_uri
    folder = PurePosixPath(SOURCES.get(name, f"docs/{name}")).parent

    def on_site(link: re.Match[str]) -> str:
        target = os.path.normpath(folder / link[1])
        return OUTSIDE.get(target) or os.path.relpath(target, "docs")

    return LINK.sub(on_site, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """`--lr`, 0.52 ± 0.01, 0.48 to 0.57 and 95 % stay on one line, in the narrowest column."""
    html = FIGURE.sub(lambda figure: figure[0].replace(" ", "\N{NO-BREAK SPACE}"), html)
    return CODE.sub(lambda code: OPTION.sub(r'<span class="whole">\g<0></span>', code[0]), html)
