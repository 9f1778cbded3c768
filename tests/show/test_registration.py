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
    assert data["text/plain"] != repr(shown), "one line is not what a reader of texts wants"
text = lambda shown: shell.display_formatter.format(shown)[0]["text/plain"]
assert text(Session()) == sevref.show.byte_map(Session()).text()
assert text(verify_chain(Chain())).startswith("Certificate chain: ✗ NOT valid") and "Checks of the chain" in text(verify_chain(Chain()))
assert "NODBG" in text(Policy(1)) and text([Policy(1)]) == f"[{Policy(1)!r}]"
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
