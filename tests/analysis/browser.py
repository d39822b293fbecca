"""Chromium without a window, and what a page in it asked for and complained of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@contextmanager
def launched() -> Iterator[Any]:
    """A browser; skips where there is none."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        except sync_api.Error as error:
            if path is not None:
                raise
            pytest.skip(
                "needs Chromium: apt-get install chromium, or playwright install chromium "
                f"({str(error).splitlines()[0]})"
            )
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page, the addresses that it asked for, and the errors that it logged."""

    page: Any
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def quiet(self, home: str) -> bool:
        """Whether nothing went wrong, and nothing but `home` was asked for anything."""
        foreign = [url for url in self.asked if not url.startswith((home, "data:"))]
        assert foreign == []
        assert self.errors == []
        return True


@contextmanager
def opened(browser: Any, address: str, scheme: str = "light", width: int = 1200) -> Iterator[Seen]:
    """The page at an address; a dialog, which only a script of the text could open, is an error."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    seen = Seen(context.new_page())
    seen.page.set_default_timeout(60_000)
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.errors.append(dialog.message), dialog.dismiss()))
    seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    seen.page.goto(address)
    yield seen
    context.close()


CONTRAST = """element => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const style = getComputedStyle(element), svg = element instanceof SVGElement;
  const ink = light(svg ? style.fill : style.color);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""
"""The contrast of an element's text with the page, as WCAG 2 defines it: 1 to 21."""
