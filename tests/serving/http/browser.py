"""Headless Chromium over its DevTools pipe, as far as the page's tests need it.

Messages are JSON ended by a NUL byte, in on descriptor 3 and out on 4.
Source: the Chrome DevTools Protocol.
"""

import base64
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any


class Browser:
    """One page; a context manager."""

    def __init__(self, chromium: str, folder: Path, *, width: int = 900, height: int = 700) -> None:
        self.errors: list[str] = []
        self._serial = 0
        self._session: str | None = None
        self._held = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"),
        ]
        # Out of the way of 3 and 4 first, where Chromium looks for its ends.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        wired = [(os.POSIX_SPAWN_DUP2, end, 3 + i) for i, end in enumerate(ends)]
        self._process = os.posix_spawn(
            chromium, command, dict(os.environ), file_actions=[quiet, *wired]
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)

    def __enter__(self) -> "Browser":
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.send("Page.enable")
        self.send("Runtime.enable")
        self.send("Log.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; events met on the way are looked at for errors."""
        self._serial += 1
        message = {"id": self._serial, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read()
            if got.get("id") == self._serial:
                assert "error" not in got, got
                result: dict[str, Any] = got["result"]
                return result
            if got.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(got["params"]["exceptionDetails"]))
            if got.get("method") == "Log.entryAdded":
                self.errors.append(str(got["params"]["entry"]["text"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            piece = os.read(self._in, 1 << 20)
            assert piece, "Chromium ended"
            self._held += piece
        message, _, self._held = self._held.partition(b"\0")
        got: dict[str, Any] = json.loads(message)
        return got

    def open(self, url: str) -> None:
        """Go to a page."""
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        got = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return got["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 20.0) -> None:
        """Until an expression is true."""
        until_s = time.monotonic() + timeout_s
        while not self.value(expression):
            assert time.monotonic() < until_s, expression
            time.sleep(0.02)

    def type(self, field: str, text: str) -> None:
        """Text into a field by id."""
        self.value(f"document.getElementById({field!r}).focus()")
        self.send("Input.insertText", text=text)

    def press_enter(self, field: str) -> None:
        """The Enter key in a field by id."""
        self.value(f"document.getElementById({field!r}).focus()")
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.send("Input.dispatchKeyEvent", type="keyDown", **key)
        self.send("Input.dispatchKeyEvent", type="keyUp", **key)

    def dark(self, wanted: bool = True) -> None:
        """Which color scheme the reader is said to prefer."""
        scheme = "dark" if wanted else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file: Path) -> None:
        """What the page looks like, as PNG."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
