"""Chromium without a window, driven through its DevTools protocol: what a reader sees, and what went wrong meanwhile."""

import base64
import json
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

from support import ROOT

SHOTS = ROOT / "build" / "screenshots"

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--remote-allow-origins=*", "--remote-debugging-port=0", "--force-color-profile=srgb"),
)
KEYS = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
LOOKS = Path(__file__).with_name("looks.js").read_text()


class Browser:
    """One process; ``page()`` opens a tab."""

    def __init__(self, program, folder, patience=60):
        self.patience = patience
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = Path(folder, "DevToolsActivePort")
        end = time.monotonic() + patience
        while not (told.exists() and "\n" in told.read_text()):
            if time.monotonic() > end or self.process.poll() is not None:
                self.close()
                raise RuntimeError("Chromium does not answer")
            time.sleep(0.1)
        self.port = int(told.read_text().split()[0])

    def page(self, width=1400, height=1000, dark=False):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=self.patience) as answer:
            target = json.load(answer)
        return Page(target["webSocketDebuggerUrl"], self.patience, width, height, dark)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Page:
    """A tab. ``problems`` collects errors on the console, exceptions and requests that failed; ``requests`` all URLs."""

    def __init__(self, address, patience, width, height, dark):
        self.socket = websocket.create_connection(address, timeout=patience, suppress_origin=True)
        self.patience, self.count = patience, 0
        self.problems, self.requests, self.loaded = [], [], 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.look(width, height, dark)

    # -- the protocol

    def send(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        return self.count

    def receive(self, number, method):
        """The answer to what was sent under that number; answers to what was sent before it are dropped."""
        while True:
            message = json.loads(self.socket.recv())
            if "error" in message:
                raise RuntimeError(f"{method}: {message['error']['message']}")
            if message.get("id") == number:
                return message["result"]
            self.event(message)

    def call(self, method, **params):
        return self.receive(self.send(method, **params), method)

    def event(self, message):
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Page.loadEventFired":
            self.loaded += 1
        elif kind == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.problems.append(detail.get("exception", {}).get("description", detail["text"]))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    # -- what a reader does

    def look(self, width, height=1000, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url):
        before = self.loaded
        self.call("Page.navigate", url=url)
        end = time.monotonic() + self.patience
        while self.loaded == before:
            if time.monotonic() > end:
                raise TimeoutError(url)
            self.evaluate("1")
            time.sleep(0.02)

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            detail = answer["exceptionDetails"]
            raise RuntimeError(detail.get("exception", {}).get("description", detail["text"]))
        return answer["result"].get("value")

    def look_for(self, call):
        """What one of the functions of looks.js finds, such as ``wide()``."""
        if not self.evaluate("'looks' in window"):
            self.evaluate(LOOKS)
        return self.evaluate(f"looks.{call}")

    def wait(self, script, seconds, pause=0.2):
        """The value of ``script`` as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"{seconds} s without {script}")
            time.sleep(pause)
        return value

    def press(self, *keys):
        """Press keys, one after the other: letters, digits, the names of ``KEYS``, or "all" to mark all of a field."""
        number = 0
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
            if key == "all":
                common = {
                    "key": "a",
                    "code": "KeyA",
                    "windowsVirtualKeyCode": 65,
                    "modifiers": 2,
                    "commands": ["selectAll"],
                }
            self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
            number = self.send("Input.dispatchKeyEvent", type="keyUp", **common)
        self.receive(number, "Input.dispatchKeyEvent")

    def screenshot(self, path, whole=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self):
        self.socket.close()
