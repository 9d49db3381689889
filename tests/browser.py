"""Chromium for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance(colour) {
  const [r, g, b] = [...rgb(colour)].slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(element) {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (rgb(colour)[3] == 255) return colour;
  }
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest('svg, .unseen, details:not([open]) > :not(summary)')) continue;
  const two = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
  found.push([(two[0] + 0.05) / (two[1] + 0.05), walker.currentNode.data.trim()]);
}
return found;
"""
"""Of each visible text, WCAG's contrast with what lies behind it."""

Driver = Any  # selenium's has no types


@contextmanager
def chromium(profile: Path) -> Iterator[Driver]:
    """A driver of Chromium that logs what a page asks for and complains of; skips the test where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    chauffeur = shutil.which("chromedriver")
    if not browser or not chauffeur:
        pytest.skip("needs Chromium and its driver (Debian: apt install chromium chromium-driver), not here")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(chauffeur))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(driver: Driver, url: str) -> None:
    """Opens a page and waits until all of it is there. Chromium's driver alone does not always wait on a busy machine
    where the same page is opened again."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(url)
    WebDriverWait(driver, 60).until(lambda there: there.execute_script("return document.readyState") == "complete")


def resize(driver: Driver, width: int, scheme: str) -> None:
    """As a window of that width, in pixels, and for readers who like the scheme, "light" or "dark"."""
    like = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": like})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
