"""A live JupyterLab, as `sevref lab` opens it: notebooks run all their cells, and panels answer as the firmware does."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import cache

import nbformat
import pytest
from browser import SHOTS

from support import ROOT, peer

pytestmark = [pytest.mark.slow, pytest.mark.peer]

TOKEN = "sevref-test"
PATIENCE = 180  # seconds, on a loaded machine


@cache
def panels():
    """Notebook -> the cells that show a panel."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        shown = [
            i
            for i, cell in enumerate(cells)
            for output in cell.get("outputs", ())
            if "controls that need a kernel" in output.get("data", {}).get("text/plain", "")
        ]
        if shown:
            found[path.name] = shown
    return found


#: notebook -> settings of its first panel, with what the answer has to say (literals from the fact sheets)
SAYS = {
    "01-platform-identity.ipynb": [
        (("flip that bit", False), "checks pass"),
        (("flip that bit", True), "checks fail"),
        (("certificate", "PDH"), "of the PDH was flipped"),
        (("bit", "ArrowRight"), "bit 1 of byte"),
    ],
    "03-key-transport.ipynb": [
        (("change", "POLICY_MAC"), "BAD_MEASUREMENT"),
        (("change", "GODH: usage"), "INVALID_CERTIFICATE"),
        (("change", "GODH: -Q for Q"), "LAUNCH_START: SUCCESS"),
    ],
    "04-launch-and-measurement.ipynb": [
        (("change the image", True), "BAD_MEASUREMENT"),
        (("change the image", False), "the guest owner accepts the measurement"),
        (("given policy", "no bit set: debugging allowed"), "BAD_MEASUREMENT"),
    ],
    "05-secret-injection.ipynb": [
        (("case", "before LAUNCH_MEASURE"), "INVALID_GUEST_STATE"),
        (("case", "flip a bit of FLAGS"), "BAD_MEASUREMENT"),
        (("byte", "31"), "expected 0 to 3 in this case"),
        (("case", "the same packet twice"), "LAUNCH_SECRET: SUCCESS"),
    ],
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of the server that `sevref lab` starts; its settings, kernels and copies live in a folder of their own."""
    peer("chromium")
    home = tmp_path_factory.mktemp("lab")
    (home / "config").mkdir()
    settings = {"LabApp": {"expose_app_in_browser": True}}  # so that a test can ask for "run all cells" by name
    (home / "config" / "jupyter_lab_config.json").write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
        "JUPYTER_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "sevref", "lab", str(home / "notebooks"), "--port", str(port), "--no-browser"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/"
    end = time.monotonic() + PATIENCE
    while True:
        try:
            ask(address, "api/status")
            break
        except (OSError, urllib.error.URLError):
            assert server.poll() is None and time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.5)
    yield address
    server.terminate()
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def ask(address, path, method="GET"):
    request = urllib.request.Request(address + path, method=method, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read() or b"null")


@pytest.fixture
def tab(lab, browser):
    page = browser.page(1400, 1000)
    yield page
    page.close()
    for session in ask(lab, "api/sessions"):
        ask(lab, f"api/sessions/{session['id']}", "DELETE")


BOOK = "[...jupyterapp.shell.widgets('main')][0]"
CODE = f"{BOOK}.content.widgets.filter(w => w.model.type === 'code')"


def run_all(page, address, name):
    """Open a notebook, drop its stored outputs, run all cells; fails if one ends with an error."""
    page.patience = PATIENCE
    page.open(f"{address}lab/tree/{name}?token={TOKEN}&reset")
    page.wait(f"window.jupyterapp && {BOOK}?.context?.isReady", PATIENCE)
    page.evaluate(f"jupyterapp.shell.activateById({BOOK}.id)")
    page.wait(f"{BOOK}.sessionContext.session?.kernel?.status === 'idle'", PATIENCE)
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => 1)")
    assert page.evaluate(f"{CODE}.every(w => w.model.outputs.length === 0)")
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    done = f"{CODE}.filter(w => w.model.sharedModel.source.trim()).every(w => w.model.executionCount !== null)"
    idle = f"{BOOK}.sessionContext.session.kernel.status === 'idle'"
    error = f"{CODE}.flatMap(w => w.model.outputs.toJSON()).find(o => o.output_type === 'error')?.evalue"
    page.wait(f"({error}) || ({done} && {idle})", PATIENCE)
    assert page.evaluate(error) is None


#: controls that a reader moves without typing
KINDS = "'.widget-dropdown, .widget-checkbox, .widget-slider'"
#: the words beside a control; ipywidgets writes spaces that do not break, and some without width
LABEL = (
    "[...e.querySelectorAll('.widget-label, .widget-label-basic')]"
    ".map(l => l.textContent.replace(/[\\s\\u200b]+/g, ' ').trim()).find(words => words)"
)


class Panel:
    """A panel in the page, found by the cell that shows it, operated as a reader would."""

    def __init__(self, page, cell):
        self.page = page
        page.evaluate(f"{BOOK}.content.activeCellIndex = {cell}")
        page.evaluate(f"{BOOK}.content.scrollToItem({cell}, 'start').then(() => 1)")
        self.root = f"{BOOK}.content.widgets[{cell}].node"
        page.wait(f"{self.root}.querySelector('[role=status]')?.textContent", PATIENCE)

    @property
    def answer(self):
        """The answer on show, without what differs only in space."""
        return self.page.evaluate(f"{self.root}.querySelector('[role=status]').innerText.replace(/\\s+/g, ' ')")

    def control(self, label):
        return (
            f"[...{self.root}.querySelectorAll('.widget-inline-hbox, .widget-checkbox')]"
            f".find(e => {LABEL} === {json.dumps(label)})"
        )

    def set(self, label, value):
        """Choose, tick, type or, for a slider, press a key."""
        page, control = self.page, self.control(label)
        page.wait(f"Boolean({control})", PATIENCE)
        if isinstance(value, bool):
            box = f"{control}.querySelector('input[type=checkbox]')"
            if page.evaluate(f"{box}.checked") != value:
                page.evaluate(f"{box}.focus()")
                page.press(" ")
        elif page.evaluate(f"Boolean({control}.querySelector('select'))"):
            words = json.dumps(value)
            page.evaluate(
                f"(s => {{ s.focus(); s.selectedIndex = [...s.options].findIndex(o => o.text.replace(/\\s/g, ' ') === {words});"
                f"s.dispatchEvent(new Event('change', {{bubbles: true}})) }})({control}.querySelector('select'))"
            )
            assert page.evaluate(f"{control}.querySelector('select').selectedIndex") >= 0, value
        elif page.evaluate(f"Boolean({control}.querySelector('.noUi-handle'))"):
            page.evaluate(f"{control}.querySelector('.noUi-handle').focus()")
            page.press(value)
        else:
            page.evaluate(f"(i => {{ i.focus(); i.select() }})({control}.querySelector('input'))")
            page.type(value)
            page.press("Enter")

    def says(self, words, before):
        """Wait until the answer is another one than ``before`` and has ``words`` in it."""
        text = f"{self.root}.querySelector('[role=status]').innerText.replace(/\\s+/g, ' ')"
        try:
            self.page.wait(f"{text} !== {json.dumps(before)} && {text}.includes({json.dumps(words)})", PATIENCE)
        except TimeoutError:
            pytest.fail(f"expected a new answer with {words!r}, found {self.answer[:400]!r}")


@pytest.mark.parametrize("name", SAYS)
def test_a_panel_answers_as_the_firmware_does(lab, tab, name):
    run_all(tab, lab, name)
    shown = Panel(tab, panels()[name][0])
    for (label, value), words in SAYS[name]:
        before = shown.answer
        shown.set(label, value)
        shown.says(words, before)
    tab.screenshot(SHOTS / f"lab-{name.removesuffix('.ipynb')}.png")
    tab.look(400, 1000)
    tab.evaluate("jupyterapp.shell.collapseLeft()")
    time.sleep(1)
    tab.screenshot(SHOTS / f"lab-{name.removesuffix('.ipynb')}-400.png")
    assert tab.problems == []


@pytest.mark.parametrize("name", [name for name in panels() if name not in SAYS])
def test_other_panels_are_alive(lab, tab, name):
    """Every control of every panel moves, and some move changes the answer."""
    run_all(tab, lab, name)
    for cell in panels()[name]:
        shown = Panel(tab, cell)
        answers = [shown.answer]
        labels = tab.wait(
            f"(found => found.length && found)([...{shown.root}.querySelectorAll({KINDS})].map(e => {LABEL}))",
            PATIENCE,
        )
        for label in labels:
            control = shown.control(label)
            if tab.evaluate(f"Boolean({control}.querySelector('select'))"):
                shown.set(
                    label,
                    tab.evaluate(f"[...{control}.querySelector('select').options].at(-1).text.replace(/\\s/g, ' ')"),
                )
            elif tab.evaluate(f"Boolean({control}.querySelector('.noUi-handle'))"):
                shown.set(label, "ArrowRight")
            else:
                shown.set(label, not tab.evaluate(f"{control}.querySelector('input').checked"))
            tab.wait(f"{BOOK}.sessionContext.session.kernel.status === 'idle'", PATIENCE)
            time.sleep(0.5)
            answers.append(shown.answer)
        assert all(answers) and len(set(answers)) > 1, name
    tab.screenshot(SHOTS / f"lab-{name.removesuffix('.ipynb')}.png")
    assert tab.problems == []
