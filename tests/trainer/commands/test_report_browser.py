"""The report as Chromium shows it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import CONTRASTS, Driver, chromium, open_page, resize
from tests.trainer.conftest import Trained, invoke, write_tiny_cache


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    run = trained.copy(folder / "run")
    other = write_tiny_cache(folder / "clinic", train=[0, 1, 2, 3, 4] * 8)
    invoke("evaluate", run, "--cache", other, "--refit", 20)
    invoke("report", run, rendered=True)
    return run / "report.html"


@pytest.fixture
def show(driver: Driver, page: Path) -> Callable[..., None]:
    """show(width=1200, scheme="light") opens the page at that width, in pixels, for readers who like it so."""

    def show(width: int = 1200, scheme: str = "light") -> None:
        resize(driver, width, scheme)
        open_page(driver, page.as_uri())

    return show


def test_it_renders_without_a_complaint_and_without_a_request(
    driver: Driver, page: Path, show: Callable[..., None]
) -> None:
    driver.get_log("performance")
    show()
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:") for url in asked)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return document.querySelector('h1').innerText") == "page0/run"
    drawn = "return [...document.images].every(image => image.naturalWidth > 0)"
    assert driver.execute_script(drawn)
    assert driver.execute_script("return document.images.length") >= 10  # five photographs, each with its heat


@pytest.mark.parametrize("width", [1200, 768, 390])
def test_nothing_is_wider_than_the_screen(width: int, driver: Driver, show: Callable[..., None]) -> None:
    show(width=width)
    # A set is called as its folder, which may have 255 letters and no space.
    driver.execute_script("document.querySelector('.notice').textContent = 'y'.repeat(255)")
    root = "document.documentElement"
    wanted, there = driver.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert wanted <= there <= width
    beyond = """return [...document.querySelectorAll('.tile *')].filter(
        element => element.scrollWidth > element.closest('.tile').clientWidth).length"""
    assert driver.execute_script(beyond) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(scheme: str, driver: Driver, show: Callable[..., None]) -> None:
    show(scheme=scheme)
    contrasts = driver.execute_script(CONTRASTS)
    assert len(contrasts) > 100
    assert min(contrasts)[0] >= 4.5, min(contrasts)
    red, green, blue = driver.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (red + green + blue > 600) == (scheme == "light")


def test_those_who_cannot_see_it_are_told(driver: Driver, show: Callable[..., None]) -> None:
    show()
    counted = driver.execute_script("""
        const count = (selector) => document.querySelectorAll(selector).length;
        const ids = [...document.querySelectorAll('[id]')].map(element => element.id);
        const levels = [...document.querySelectorAll('h1, h2, h3')].map(heading => +heading.tagName[1]);
        return {
          language: document.documentElement.lang,
          landmarks: ['header', 'nav', 'main', 'footer'].map(count),
          pictures_unnamed: count('img:not([alt]), img[alt=""]'),
          figures_unnamed: count('figure > svg:not([role="img"][aria-label])'),
          cells_without_scope: count('th:not([scope])'),
          ids_twice: ids.length - new Set(ids).size,
          links_to_nowhere: [...document.querySelectorAll('a')].filter(a => !document.querySelector(a.hash)).length,
          sections_unnamed: count('section:not([aria-labelledby])'),
          levels_skipped: levels.filter((level, n) => n && level > levels[n - 1] + 1).length,
        }""")
    assert counted == {
        "language": "en",
        "landmarks": [1, 1, 1, 1],
        "pictures_unnamed": 0,
        "figures_unnamed": 0,
        "cells_without_scope": 0,
        "ids_twice": 0,
        "links_to_nowhere": 0,
        "sections_unnamed": 0,
        "levels_skipped": 0,
    }


def test_heat_shows_to_mouse_keyboard_and_on_paper(driver: Driver, show: Callable[..., None]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show()
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
    first = driver.find_element(By.CSS_SELECTOR, ".gallery li")
    heat = first.find_element(By.CSS_SELECTOR, ".heat")

    def opacity() -> str:
        return str(heat.value_of_css_property("opacity"))

    assert opacity() == "0"
    ActionChains(driver).move_to_element(first.find_element(By.CSS_SELECTOR, ".frame")).perform()
    assert opacity() == "1"
    ActionChains(driver).move_to_element(driver.find_element(By.CSS_SELECTOR, "h3")).perform()
    assert opacity() == "0"
    box = first.find_element(By.CSS_SELECTOR, "input")
    driver.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.SPACE)
    driver.execute_script("arguments[0].blur()", box)
    assert opacity() == "1"
    box.send_keys(Keys.SPACE)
    driver.execute_script("arguments[0].blur()", box)
    assert opacity() == "0"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": still})
    assert opacity() == "1"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_it_prints_on_a_few_pages_in_light_colours(driver: Driver, show: Callable[..., None]) -> None:
    show(scheme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    ink = driver.execute_script("return getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"
    beyond = """return [...document.querySelectorAll('table, figure, pre, .box')].filter(
        element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""
    paper = {"width": 688, "height": 990, "deviceScaleFactor": 1, "mobile": False}  # A4 without its margins, CSS pixels
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    assert driver.execute_script(beyond) == 0
    assert driver.execute_script("return document.querySelectorAll('.flow .box').length") >= 6
    assert driver.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    import base64

    pdf = base64.b64decode(
        driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
    )
    assert 4 <= pdf.count(b"/Type /Page\n") <= 18
