"""A headless Chromium, told what to do over its debugging protocol."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def until(self, condition: str, timeout_s: float = 30.0) -> None:
        found = self.evaluate(
            "new Promise((resolve) => { const ends = Date.now() + "
            f"{timeout_s * 1e3}; const look = () => ({condition}) ? resolve(true) : "
            "Date.now() > ends ? resolve(document.body.innerText) : setTimeout(look, 50); look(); })"
        )
        assert found is True, found

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._connection.recv(timeout=60.0))).get("id") != number:
            pass
        assert "error" not in answer, answer
        assert "exceptionDetails" not in answer["result"], answer["result"]["exceptionDetails"]
        result: dict[str, Any] = answer["result"]
        return result


@contextmanager
def page(profile: Path, *flags: str) -> Iterator[Page]:
    assert CHROMIUM
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        *flags,
        "about:blank",
    ]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with connect(_tab(browser), max_size=None) as connection:
            yield Page(connection)
    finally:
        browser.kill()
        browser.communicate()


def _tab(browser: subprocess.Popen[str]) -> str:
    assert browser.stderr is not None
    for line in browser.stderr:
        if "DevTools listening on" in line:
            port = line.rpartition(" ")[2].split("/")[2].rpartition(":")[2]
            tabs = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
            return str(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"])
    raise AssertionError("the browser did not start")
