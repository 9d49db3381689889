"""The lightbox in Chromium, as a person uses it: dropping, choosing, by the keyboard alone, on a narrow screen, in the
dark, with names and files that mean harm."""

import csv
import io
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import CONTRASTS, Driver, chromium, open_page, resize
from tests.trainer.serving.conftest import Client, jpeg
from tests.trainer.serving.test_serving_app import bomb

EVIL = "<img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_script_timeout(60)
        yield driver


@pytest.fixture
def show(driver: Driver, client: Client) -> Callable[..., None]:
    """show(width=1200, scheme="light") opens the page anew."""

    def show(width: int = 1200, scheme: str = "light") -> None:
        resize(driver, width, scheme)
        open_page(driver, client.url)
        driver.get_log("browser")

    return show


@pytest.fixture
def choose(driver: Driver, tmp_path: Path) -> Callable[[dict[str, bytes]], None]:
    """Chooses files by the page's own field, and waits until all are done."""

    def choose(files: dict[str, bytes]) -> None:
        folder = tmp_path / "chosen"
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        driver.find_element("id", "files").send_keys("\n".join(str(folder / name) for name in files))
        wait(driver, "!document.querySelector('#results').hidden && bar.value === bar.max")

    return choose


def wait(driver: Driver, condition: str) -> None:
    deadline = time.monotonic() + 60
    while not driver.execute_script(f"const bar = document.querySelector('#bar'); return {condition}"):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def text(driver: Driver, selector: str) -> list[str]:
    return list(
        driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)
    )


def complaints(driver: Driver) -> list[str]:
    """Of the browser, but for the answers by which a photograph is refused."""
    return [each["message"] for each in driver.get_log("browser") if " 422 " not in each["message"]]


def saved(driver: Driver) -> list[dict[str, str]]:
    """The table that the page saves."""
    driver.execute_script("""
        window.saved = null;
        const make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return make(blob); };
    """)
    driver.find_element("id", "save").click()
    wait(driver, "window.saved !== null")
    return list(csv.DictReader(io.StringIO(driver.execute_script("return window.saved"), newline="")))


def test_eyes_stand_beside_each_other_with_all_that_is_known(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    names = ["17_left.jpg", "17_right.jpg", "4_left.jpg", "scan.jpg"]
    choose({name: jpeg(seed) for seed, name in enumerate(names)})
    assert text(driver, ".patient h3") == ["Patient 4", "Patient 17", "scan.jpg"]  # 4 before 17
    right, left = driver.find_elements("css selector", ".patient:nth-of-type(2) .card")
    assert [right.find_element("class name", "name").text, left.find_element("class name", "name").text] == [
        "17_right.jpg", "17_left.jpg",
    ]  # fmt: skip
    assert right.location["y"] == left.location["y"]
    assert right.location["x"] < left.location["x"]  # as the patient faces the reader
    assert "No photograph of this eye." in text(driver, ".patient:nth-of-type(1) .eye")[0]
    for card in text(driver, ".card"):
        assert "Predicted: grade " in card
        assert "Grade 2 or worse has a probability of " in card
        assert all(grade in card for grade in ("0 no DR", "1 mild", "2 moderate", "3 severe", "4 proliferative"))
        assert "No round retina was found" in card
    drawn = "return [...document.images].filter(i => i.src).every(i => i.naturalWidth > 0)"
    assert driver.execute_script(drawn)
    assert text(driver, "#count")[0].startswith("4 of 4 done: 4 graded")
    assert text(driver, "[role=status]#status")[0] == text(driver, "#count")[0]
    assert complaints(driver) == []


def test_it_asks_for_nothing_but_its_own(driver: Driver, client: Client, show: Callable[..., None]) -> None:
    show()
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert sorted(loaded) == [f"{client.url}lightbox.css", f"{client.url}lightbox.js"]
    assert complaints(driver) == []


def test_dropping_files(driver: Driver, show: Callable[..., None]) -> None:
    show()
    driver.execute_async_script(
        """
        const [data, done] = arguments, carried = new DataTransfer();
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        for (const name of ["1_left.jpg", "1_right.jpg"]) carried.items.add(new File([bytes], name));
        const event = (kind) => new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true});
        const field = document.querySelector("#drop");
        field.dispatchEvent(event("dragover"));
        const lit = field.classList.contains("over");
        const opened = field.dispatchEvent(event("drop")); // true where the browser would open the files instead
        done([lit, opened]);
        """,
        b64encode(jpeg()).decode(),
    )
    wait(driver, "document.querySelectorAll('.card').length === 2")
    assert text(driver, ".patient h3") == ["Patient 1"]


def test_the_keyboard_alone(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show()
    choose({"1_left.jpg": jpeg(1), "1_right.jpg": jpeg(2)})
    press = lambda *keys: ActionChains(driver).send_keys(*keys).perform()  # noqa: E731
    focused = lambda: driver.execute_script(  # noqa: E731
        "const e = document.activeElement, style = getComputedStyle(e);"
        "return [e.id || e.className, style.outlineStyle !== 'none']"
    )
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    reached = []
    for _ in range(9):
        press(Keys.TAB)
        name, seen = focused()
        assert seen, name
        reached.append(name)
    assert reached == ["", "choose-files", "choose-folder", "save", "clear", "open", "explain", "open", "explain"]
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).send_keys(Keys.ENTER).perform()
    wait(driver, "document.querySelector('dialog').open")
    assert text(driver, "#large-title") == ["1_left.jpg"]
    press(Keys.ARROW_LEFT)
    assert text(driver, "#large-title") == ["1_right.jpg"]
    wait(driver, "document.querySelector('#original').naturalWidth === 48")
    for _ in range(10):
        press(Keys.TAB)
        if focused()[0] == "show-heat":
            break
    press(Keys.ENTER)
    wait(driver, "document.querySelector('#heat').naturalWidth === 512")
    assert any(words in text(driver, "#heat-words")[0] for words in ("Tinted: where", "Nothing in the picture"))
    press(Keys.ESCAPE)
    assert driver.execute_script("return !document.querySelector('dialog').open")
    assert complaints(driver) == []


def test_files_and_names_that_mean_harm(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    choose({EVIL: jpeg(1), "=1+1.jpg": jpeg(2), "note.jpg": b"a text", "bomb.png": bomb(), "'\"&_left.jpg": jpeg(3)})
    assert sorted(text(driver, ".name")) == sorted([EVIL, "=1+1.jpg", "'\"&_left.jpg"])
    refused = text(driver, "#refused li")
    assert refused == [
        "bomb.png: 60000 x 60000 pixels, more than the 120,000,000 allowed",
        "note.jpg: not an image: text",
    ]
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    driver.find_element("css selector", f"[aria-label='Heat map of {EVIL}']").click()  # an alert would stop selenium
    wait(driver, "document.querySelector('#heat').naturalWidth > 0")
    assert text(driver, "#large-title") == [EVIL]
    driver.find_element("id", "close").click()
    assert [row["source"] for row in saved(driver)] == ["''\"&_left.jpg", "'=1+1.jpg", EVIL]
    assert complaints(driver) == []


def test_a_format_that_the_browser_does_not_know_is_shown_as_the_network_saw_it(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    data = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).save(data, "TIFF")
    choose({"1_left.tif": data.getvalue()})
    driver.find_element("class name", "open").click()
    wait(driver, "document.querySelector('#original').naturalWidth === 32")  # what the run was trained at
    assert "the browser cannot show the file itself" in text(driver, "#original-words")[0]


def test_what_cannot_be_added_is_said(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    choose({"1_left.jpg": jpeg(1)})
    choose({"1_left.jpg": jpeg(2)})
    assert text(driver, "#refused li") == [
        "1_left.jpg: a photograph of this name is on the page already; clear the page, or rename one"
    ]
    driver.find_element("id", "clear").click()
    assert driver.execute_script("return document.querySelector('#results').hidden")
    assert driver.execute_script("return document.activeElement.id") == "choose-files"
    choose({"1_left.jpg": jpeg(2)})
    assert text(driver, "#count")[0].startswith("1 of 1 done: 1 graded")


@pytest.mark.slow
def test_two_hundred_at_once(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    files = {f"{number}_{eye}.jpg": jpeg(number, 40) for number in range(98) for eye in ("left", "right")}
    files |= {f"scan_left_{number}.jpg": jpeg(number, 40) for number in range(9)}  # no patient has so many
    choose(files)
    assert text(driver, "#count")[0].startswith("205 of 205 done: 205 graded")
    assert text(driver, ".patient h3") == [f"Patient {n}" for n in range(98)] + [f"scan_left_{n}.jpg" for n in range(9)]
    rows = saved(driver)
    assert [row["source"] for row in rows] == sorted(files)  # in the order of ids, as predict has them
    assert [row["id"] for row in rows] == [name.removesuffix(".jpg") for name in sorted(files)]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark"), (320, "light")])
def test_on_any_screen_nothing_is_wider_and_all_text_stands_out(
    width: int,
    scheme: str,
    driver: Driver,
    show: Callable[..., None],
    choose: Callable[[dict[str, bytes]], None],
) -> None:
    show(width, scheme)
    choose({"1_left.jpg": jpeg(1), f"{'long' * 30}.jpg": jpeg(2), "note.jpg": b"a text"})
    driver.execute_script("document.querySelector('details').open = true")
    for opened in (False, True):
        if opened:
            driver.find_element("css selector", ".explain").click()
            wait(driver, "document.querySelector('#heat').naturalWidth > 0")
        root = "document.documentElement"
        wanted, there = driver.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
        assert wanted <= there <= width
        contrasts = [each for each in driver.execute_script(CONTRASTS) if each[0] is not None]
        assert min(contrasts)[0] >= 4.5, min(contrasts)
    red, green, blue = driver.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (red + green + blue > 600) == (scheme == "light")


def test_those_who_cannot_see_it_are_told(
    driver: Driver, show: Callable[..., None], choose: Callable[[dict[str, bytes]], None]
) -> None:
    show()
    choose({"1_left.jpg": jpeg(1)})
    told = driver.execute_script("""
        const visible = (element) => element.checkVisibility();
        const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
        const levels = [...document.querySelectorAll('h1, h2, h3, h4')].filter(visible).map((h) => +h.tagName[1]);
        return {
          language: document.documentElement.lang,
          unnamed: [...document.querySelectorAll('button, img')].filter(visible).filter(
            (e) => !(e.textContent.trim() || e.alt || e.ariaLabel || e.querySelector('img[alt]:not([alt=""])'))
          ).length,
          twice: ids.length - new Set(ids).size,
          jumps: levels.filter((level, at) => at && level > levels[at - 1] + 1).length,
          motion: [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter(
            (rule) => /transition|animation/.test(rule.cssText)).length,
        };
    """)
    assert told == {"language": "en", "unnamed": 0, "twice": 0, "jumps": 0, "motion": 0}
