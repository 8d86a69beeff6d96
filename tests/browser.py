"""Debian's chromium for tests: a driver whose pages tell all that they asked for and complained of.

`.ci/install-browser` installs it with axe-core, without which these tests are skipped, or fail under
``DSPROF_REQUIRE_BROWSER=1``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
#: Where `.ci/install-browser` puts axe-core.
AXE = Path(os.environ.get("DSPROF_AXE") or Path(_CACHE, "dsprof", "browser", "axe.min.js"))
WIDE, PHONE = 1280, 360
#: What a page must not do by itself.
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
          "--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage")  # fmt: skip


def missing() -> str:
    """What is not here of what these tests need; empty if all is."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        programs.append("selenium")
    return ", ".join([*programs, *([] if AXE.is_file() else ["axe-core"])])


def require() -> None:
    """Skip where there is no browser, or fail where one must be."""
    if lacks := missing():
        reason = f"{lacks} not found: run .ci/install-browser"
        if os.environ.get("DSPROF_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class Browser:
    """A browser with one page, which is opened anew from a file each time."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.asked: list[str] = []
        self.said: list[str] = []

    def show(self, page: Path, width: int = WIDE, dark: bool = False, script: bool = True) -> None:
        """Open a file, in a window of so many pixels, and forget what was said before."""
        self._tell("Emulation.setScriptExecutionDisabled", value=not script)
        self._tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.driver.get("about:blank")
        self.heard()
        self.asked, self.said = [], []
        self.driver.get(page.as_uri())

    def heard(self) -> None:
        """Take in what the page asked for and complained of until now."""
        self.said += [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script's ``return``."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, query: str) -> list[str]:
        """The texts of all elements that a query finds and that are seen."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
            ".map(e => e.textContent)", query
        )  # fmt: skip

    def keys(self, *keys: str) -> None:
        """Press keys, one after another, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain = chain.send_keys(key)
        chain.perform()

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page."""
        self.run(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
        return [f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
                for one in found["violations"] for node in one["nodes"]]  # fmt: skip

    def _tell(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(command, parameters)


@contextmanager
def started(flags: Sequence[str] = _FLAGS) -> Iterator[Browser]:
    """A browser, as long as the block lasts."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.set_script_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()
