"""The documentation site: built strictly, complete, and nothing in it comes from another host."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import pipeline
import trainer
from tests.browser import Driver, chromium, open_page, resize

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def build(root: Path, to: Path) -> "subprocess.CompletedProcess[str]":
    """As `make docs` does. With --quiet nothing is an error, in spite of --strict."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


def test_every_page_of_the_repository_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(site).as_posix().removesuffix("index.html").rstrip("/") for path in site.rglob("*.html")}
    assert pages - {"404.html"} == {path.stem for path in SOURCES[1:]} | {
        *("", "CHANGELOG", "CONTRIBUTING", "SECURITY", "gpu"),
    }


def test_a_dead_link_a_missing_anchor_and_an_unlisted_page_fail(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra docs")
    for name in ("docs", "benchmarks", "pipeline", "trainer"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.jpg"))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*.yml"), ROOT / "LICENSE"):
        shutil.copy(path, tmp_path)
    (tmp_path / "docs/forgotten.md").write_text("[a](nowhere.md) [b](training.md#nowhere) [c](../nowhere.md)")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for words in ("'nowhere.md', but", "an anchor '#nowhere'", "'../nowhere.md', but", "forgotten.md"):
        assert words in done.stderr, done.stderr


def test_the_reference_has_every_name_for_users(site: Path) -> None:
    shown = set(re.findall(r'<h3 id="([\w.]+)"', (site / "api/index.html").read_text("utf-8")))
    homes = {package: package._HOMES for package in (pipeline, trainer)}
    assert {f"{package.__name__}.{name}" for package, names in homes.items() for name in names} <= shown


def test_a_parameter_has_a_line_of_its_own(site: Path) -> None:
    page = (site / "api/index.html").read_text("utf-8")
    assert "<li><code>batch_size</code>: photographs a batch" in page.replace('<span class="whole">', "")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page, "an example is code"


# --- nothing from elsewhere


def test_no_resource_of_a_page_lies_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = path.read_text("utf-8")
        resources = re.findall(r"<(?:link|script|img|iframe|source|object|embed)\b[^>]*", page)
        assert resources
        for tag in resources:
            assert not re.search(r"""(?:src|href|data|srcset)=["']?(?:https?:)?//""", tag), (path, tag)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_a_browser_asks_no_other_host_and_a_phone_shows_pages_whole(address: str, site: Path, tmp_path: Path) -> None:
    """Tables and code scroll where they are too wide; the page itself never does."""
    with chromium(tmp_path / "profile") as driver:
        resize(driver, 390, "dark")
        driver.get("about:blank")
        driver.get_log("performance")  # of the browser's own first page
        for path in sorted(site.rglob("index.html")):
            open_page(driver, address + path.relative_to(site).as_posix().removesuffix("index.html"))
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, path
            broken = "return [...document.images].filter(each => !each.naturalWidth).map(each => each.src)"
            assert driver.execute_script(broken) == [], path
        assert driver.get_log("browser") == []
        asked = {event["params"]["request"]["url"] for event in sent(driver)}
        assert len(asked) > 20
        assert {each for each in asked if not each.startswith((address, "data:"))} == set()


def sent(driver: Driver) -> list[dict[str, Any]]:
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [event for event in events if event["method"] == "Network.requestWillBeSent"]


def test_the_search_finds_without_a_network(address: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium(tmp_path / "profile") as driver:
        open_page(driver, f"{address}?q=microaneurysm")
        driver.find_element(By.CSS_SELECTOR, ".md-search__input").click()
        found = ".md-search-result__item a[href]"
        WebDriverWait(driver, 20).until(lambda _: driver.find_elements(By.CSS_SELECTOR, found))
        pages = [each.get_attribute("href") for each in driver.find_elements(By.CSS_SELECTOR, found)]
        assert any(each.startswith(f"{address}tutorial/") for each in pages), pages


# --- pictures


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_picture_says_in_words_what_it_shows(source: Path) -> None:
    text = source.read_text("utf-8")
    assert len(PICTURE.findall(text)) == text.count("![")
    assert "<img" not in text
    for words, target in PICTURE.findall(text):
        name = set(Path(target).stem.split("_"))
        assert len(set(words.lower().split()) - name) >= 5, f"{target}: {words!r}"
