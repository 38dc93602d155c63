"""A window of Chromium that remembers what went wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARTIFACTS = Path(__file__).with_name("artifacts")
"""Screenshots."""
PATIENCE_S = 60.0
"""For what is to be seen; machines may be slow."""


class Window:
    """A page in a context of its own; `options` are those of Playwright's contexts."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", self._console)

    def _console(self, message: Any) -> None:
        where = str(message.location.get("url", ""))
        if message.type == "error":
            self.wrong.append(f"console: {message.text} {where}")

    def expected(self, *statuses: str) -> None:
        """The browser's console is to have told of an answer with such a status, and that is not wrong."""
        before = len(self.wrong)
        self.forgive(*statuses)
        assert len(self.wrong) < before

    def forgive(self, *statuses: str) -> None:
        """It may have told of that."""
        self.wrong = [text for text in self.wrong if not any(status in text for status in statuses)]

    def still(self) -> None:
        """Nothing moves any more."""

    def shot(self, name: str, of: str = "") -> None:
        """A screenshot of the window, or of one element."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.still()
        (self.page.locator(of) if of else self.page).screenshot(path=ARTIFACTS / f"{name}.png")
