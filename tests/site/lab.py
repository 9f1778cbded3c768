"""JupyterLab as `sevref lab` starts it, its notebooks and their panels, for a reader who has a keyboard and no mouse."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache

import nbformat

from support import ROOT

TOKEN = "sevref-test"
PATIENCE = 180  # seconds, on a loaded machine
PANEL = "controls that need a kernel"
NOTEBOOKS = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]

#: the words beside a control; ipywidgets writes spaces that do not break, and some without width
LABEL = (
    "[...e.querySelectorAll('.widget-label, .widget-label-basic')]"
    ".map(l => l.textContent.replace(/[\\s\\u200b]+/g, ' ').trim()).find(words => words)"
)
CONTROLS = "'.widget-inline-hbox:not(.widget-html), .widget-checkbox'"

#: keeps the numbers of the messages to the kernel that it has not yet done with
COUNT = """
void (pending = new Set());
void book.sessionContext.session.kernel.anyMessage.connect((_, {msg, direction}) => {
  if (direction === 'send' && msg.channel === 'shell') pending.add(msg.header.msg_id);
  if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') pending.delete(msg.parent_header.msg_id);
});
"""
SETTLE = """
(async () => {
  for (let quiet = 0; quiet < 4; quiet = pending.size ? 0 : quiet + 1)
    await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
})()
"""


@cache
def panels(name):
    """The cells of a notebook that show a panel."""
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    shown = [[o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", ())] for cell in cells]
    return [i for i, texts in enumerate(shown) if any(PANEL in text for text in texts)]


class Server:
    """The process; settings, kernels and copies of the notebooks live in a folder of their own."""

    def __init__(self, home):
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
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.address = f"http://127.0.0.1:{port}/"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("api/status")
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, (home / "log").read_text()
                time.sleep(0.2)

    def ask(self, path):
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Notebook:
    """A notebook in the tab, all of whose cells are run afresh. ``error`` is that of the cell that ended with one."""

    def __init__(self, page, name):
        self.page, self.name = page, name
        page.problems.clear()
        self.command("docmanager:open", path=name)
        page.evaluate(f"void (book = [...jupyterapp.shell.widgets('main')].find(w => w.context?.path === {name!r}))")
        page.evaluate("book.context.ready.then(() => book.revealed).then(() => book.sessionContext.ready)")
        page.wait("book.sessionContext.session?.kernel?.status === 'idle'", PATIENCE)
        page.evaluate(COUNT)
        page.evaluate("void (code = book.content.widgets.filter(w => w.model.type === 'code'))")
        self.command("notebook:clear-all-cell-outputs")
        assert page.evaluate("code.length > 0 && code.every(w => w.model.outputs.length === 0)")
        self.command("notebook:run-all-cells")
        outputs = "code.flatMap(w => w.model.outputs.toJSON())"
        self.error = page.evaluate(f"{outputs}.find(o => o.output_type === 'error')?.evalue")
        self.skipped = page.evaluate(
            "code.filter(w => w.model.sharedModel.source.trim() && w.model.executionCount === null).length"
        )
        self.settle()

    def command(self, name, **arguments):
        self.page.evaluate(f"jupyterapp.commands.execute({name!r}, {json.dumps(arguments)}).then(() => 1)")

    def settle(self):
        """Until everything that was sent to the kernel is answered and shown.

        A control holds a move back while the one before it is not answered, and sends it then: so nothing may be open
        for some turns of the page."""
        self.page.evaluate(SETTLE)

    def theme(self, dark):
        self.command("apputils:change-theme", theme="JupyterLab Dark" if dark else "JupyterLab Light")
        self.page.wait(f"document.body.dataset.jpThemeLight === '{'false' if dark else 'true'}'", PATIENCE)
        self.page.wait("!document.getElementById('jupyterlab-splash')", PATIENCE)  # covers the page meanwhile

    def width(self, pixels):
        self.page.look(pixels, 1000)
        self.page.wait(f"innerWidth === {pixels} && book.node.getBoundingClientRect().right <= {pixels}", PATIENCE)

    def close(self):
        self.page.evaluate("book.sessionContext.shutdown().then(() => book.dispose())")


class Panel:
    """A panel in the tab, found by the cell that shows it, operated by keys."""

    def __init__(self, book, cell):
        self.book, self.page = book, book.page
        self.root = f"book.content.widgets[{cell}].node"
        self.status = f"{self.root}.querySelector('[role=status]')"
        self.page.evaluate(f"book.content.activeCellIndex = {cell}")
        self.page.evaluate(f"book.content.scrollToItem({cell}, 'start').then(() => 1)")
        self.page.wait(f"{self.status}?.textContent", PATIENCE)
        self.page.wait(f"[...{self.root}.querySelectorAll({CONTROLS})].length", PATIENCE)

    @property
    def labels(self):
        return self.page.evaluate(f"[...{self.root}.querySelectorAll({CONTROLS})].map(e => {LABEL})")

    @property
    def strangers(self):
        """What takes the focus above the answer and is part of no control with a label."""
        return self.page.evaluate(
            f"looks.controls({self.root}.querySelector('.jp-OutputArea'))"
            f".filter(e => !e.closest({CONTROLS}) && !e.closest('[role=status]'))"
            ".map(e => e.outerHTML.slice(0, 80))"
        )

    @property
    def answer(self):
        """The answer on show, without what differs only in space."""
        return self.page.evaluate(f"{self.status}.innerText.replace(/\\s+/g, ' ')")

    def row(self, name):
        """The row of a table of the answer whose first cell with words has these, as one line; None without one."""
        rows = f"[...{self.status}.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.innerText.trim()).filter(c => c))"
        return self.page.evaluate(f"{rows}.find(r => r[0] === {json.dumps(name)})?.join(' ')")

    @property
    def cut(self):
        """Labels that end in dots because they do not fit."""
        return self.page.evaluate(
            f"[...{self.root}.querySelectorAll('.widget-label, .widget-label-basic, .widget-label-basic span')]"
            ".filter(e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX !== 'visible')"
            ".map(e => `${e.textContent}: ${e.scrollWidth} in ${e.clientWidth}`)"
        )

    @property
    def missed(self):
        """What takes the focus in the panel, but not when a reader goes from the cell through it by Tab."""
        number = self.page.look_for(f"watch({self.root}.querySelector('.jp-OutputArea'))")
        self.page.evaluate(f"{self.root}.focus()")
        self.page.press(*["Tab"] * (number + 5))
        return self.page.look_for("missed()")

    def reach(self, label, inside):
        """From the cell, Tab after Tab, to the part of a control that takes keys."""
        goal = f"[...{self.root}.querySelectorAll({CONTROLS})].find(e => {LABEL} === {json.dumps(label)})"
        assert self.page.evaluate(f"Boolean({goal})"), f"no control {label!r} among {self.labels}"
        self.page.evaluate(f"{self.root}.focus()")
        for _ in range(40):
            self.page.press("Tab")
            if self.page.evaluate(
                f"{goal}.contains(document.activeElement) && document.activeElement.matches({inside!r})"
            ):
                return
        raise AssertionError(f"the keyboard does not reach {label!r}")

    def set(self, label, value):
        """Tick (bool), move by arrows (int), choose (str) from the list, type ("=" and what to type); until the answer is there."""
        page, active = self.page, "document.activeElement"
        if isinstance(value, bool):
            self.reach(label, "input[type=checkbox]")
            if page.evaluate(f"{active}.checked") is not value:
                page.press(" ")
            assert page.evaluate(f"{active}.checked") is value
        elif isinstance(value, int):
            self.reach(label, ".noUi-handle")
            at = int(float(page.evaluate(f"{active}.getAttribute('aria-valuenow')")))
            page.press(*["ArrowRight" if value > at else "ArrowLeft"] * abs(value - at))
            assert float(page.evaluate(f"{active}.getAttribute('aria-valuenow')")) == value
        elif value.startswith("="):
            self.reach(label, "input:not([type=checkbox]), .widget-readout")
            page.press("all", *value[1:], "Enter")
        else:
            self.reach(label, "select")
            options = page.evaluate(f"[...{active}.options].map(o => o.text.replace(/\\s/g, ' '))")
            steps = options.index(value) - page.evaluate(f"{active}.selectedIndex")
            page.press(" ")  # opens the list: without it the arrows are JupyterLab's, and move from cell to cell
            page.wait(f"{active}.matches(':open')", PATIENCE)
            page.press(*["ArrowDown" if steps > 0 else "ArrowUp"] * abs(steps), "Enter")
            self.book.settle()  # the kernel may take the choice back
            assert page.evaluate(f"{active}.selectedIndex") == options.index(value)
        self.book.settle()
