"""Importing sevref.show inside IPython makes notebooks show sevref's objects; outside it changes nothing."""

import subprocess
import sys

PROGRAM = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import sevref.show
from sevref import Policy, Session, amd_roots, verify_chain, Chain
assert not hasattr(Session, "_repr_html_")
for shown in (Session(), Policy(1), verify_chain(Chain())):
    data, _ = shell.display_formatter.format(shown)
    assert data["text/html"].startswith("<div"), shown
    assert data["text/plain"] == repr(shown) or "Check(" in data["text/plain"]
data, _ = shell.display_formatter.format(sevref.show.byte_map(Session()))
assert data["text/plain"] == sevref.show.byte_map(Session()).text()
print("shown")
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_inside_ipython() -> None:
    assert run(PROGRAM).strip() == "shown"


def test_outside_ipython() -> None:
    assert run("import IPython, sevref.show; print('fine')").strip() == "fine"
