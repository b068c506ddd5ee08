"""Headless Chromium, driven over two pipes with its DevTools protocol: a page as a person sees it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Theme(Enum):
    """What a person prefers."""

    LIGHT = "light"
    DARK = "dark"


@dataclass
class Browser:
    """One tab of a running Chromium."""

    to: Any
    back: Any
    session: str = ""
    number: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.to.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.to.flush()
        while True:
            found = self.receive()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def receive(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self.back.read(1)) != b"\0":
            assert byte, "Chromium ended"
            data += byte
        return dict(json.loads(data))

    def open(self, path: Path, *, width: int, theme: Theme) -> None:
        """Shows a file in a window of ``width`` CSS pixels."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": theme.value}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def complaints(self) -> list[str]:
        """What the browser wrote on its console, such as a refused style or script."""
        return [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]


@contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """Chromium with a new empty profile; it ends with the block."""
    assert CHROMIUM
    (given, to_end), (back_end, received) = _pipe_above_9(), _pipe_above_9()
    wired = f'exec "$@" 3<&{given} 4>&{received}'
    command = ["bash", "-c", wired, "chromium", CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(given, received), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(given)
    os.close(received)
    try:
        with os.fdopen(to_end, "wb") as to, os.fdopen(back_end, "rb") as back:
            browser = Browser(to, back)
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            browser.session = session
            for domain in ("Page", "Network", "Log", "Runtime"):
                browser.call(f"{domain}.enable")
            yield browser
    finally:
        process.terminate()
        process.wait(timeout=30)


def _pipe_above_9() -> tuple[int, int]:
    """(end to read, end to write): the shell gives 3 and 4 to Chromium, so that neither may be one of them."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
