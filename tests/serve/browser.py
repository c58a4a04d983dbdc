"""A headless Chromium, driven over its DevTools protocol: JSON objects through two pipes, each ended by a zero byte.

with Browser(profile) as browser:
    page = browser.open("http://127.0.0.1:8000/")
    page.run("document.title")
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60


def find_chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser with a profile of its own; it ends with the block."""

    def __init__(self, profile: Path) -> None:
        # Numbers well above 4, so that neither is overwritten while the browser gets them as its files 3 and 4.
        (asked, ask), (answer, answered) = os.pipe(), os.pipe()
        self._ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (asked, answered)]
        for end in (asked, answered):
            os.close(end)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        own = [f"--user-data-dir={profile}", "--remote-debugging-pipe", "--hide-scrollbars", "about:blank"]
        self._process = subprocess.Popen(
            [str(find_chromium()), *flags, *own],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=lambda: [os.dup2(end, target) for end, target in zip(self._ends, (3, 4), strict=True)],
            start_new_session=True,
        )
        for end in self._ends:
            os.close(end)
        self._ask, self._answer = os.fdopen(ask, "wb", 0), os.fdopen(answer, "rb", 0)
        self._received, self._number = b"", 0
        self.events: list[dict] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ask.close()
        self._answer.close()

    def call(self, method: str, session: str | None = None, **params: object) -> dict:
        """The result of a command; events that come in between are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._ask.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (found := self._read()).get("id") != self._number:
            self.events.append(found)
        assert "error" not in found, found["error"]
        return found["result"]

    def open(self, url: str, *, width: int = 1400, height: int = 900, scheme: str = "light") -> "Page":
        """A new tab of this size and colour scheme with a page in it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.show(width, height, scheme)
        page.call("Page.navigate", url=url)
        page.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        return page

    def _read(self) -> dict:
        while b"\0" not in self._received:
            part = self._answer.read(65536)
            assert part, "the browser has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: object) -> dict:
        """A DevTools command for this tab."""
        return self.browser.call(method, self.session, **params)

    def show(self, width: int, height: int, scheme: str) -> None:
        """Set size and colour scheme: show(390, 844, "dark")."""
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, expression: str) -> object:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> object:
        """The value of an expression as soon as it is true; fails where it never is."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            if value := self.run(f"(() => {{ try {{ return {expression}; }} catch {{ return null; }} }})()"):
                return value
            assert time.monotonic() < ends, f"it never came true: {expression}"
            time.sleep(0.05)

    def type(self, selector: str, text: str, *, enter: bool = True) -> None:
        """Write into a field as a user does, and press Enter."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        if enter:
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def set(self, selector: str, value: str) -> None:
        """Give a field another value, as a slider or a list does that somebody moved."""
        said = "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {bubbles: true}));"
        field = f"const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
        self.run(f"(() => {{ {field} {said} }})()")

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        rect = "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
        x, y = self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); {rect} }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def photograph(self, path: Path) -> None:
        """Write a PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors of scripts, and what the browser logged of refused content or requests."""
        self.run("1")  # reads events that wait
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        thrown = [event["params"]["exceptionDetails"] for event in own if event["method"] == "Runtime.exceptionThrown"]
        logged = [event["params"]["entry"] for event in own if event["method"] == "Log.entryAdded"]
        return [str(each) for each in thrown] + [entry["text"] for entry in logged if entry["level"] == "error"]
