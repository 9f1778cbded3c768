"""What people look at: byte maps, tables, diagrams, widgets.

Everything returned here has HTML for notebooks (inline styles, no scripts, no kernel needed) and a text form. Importing
this package inside IPython makes notebooks show layouts as byte maps and chain results as pictures; the classes
themselves know nothing of HTML.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from sevref.certs import ChainResult
from sevref.driver import Exchange
from sevref.layout import Layout
from sevref.policy import Policy
from sevref.show.bytemap import ByteMap, byte_map
from sevref.show.chain import ChainPicture, chain_picture
from sevref.show.explore import flip_a_bit, man_in_the_middle, measurement_explorer, secret_explorer
from sevref.show.html import Html, Showable, Stack, answer, statement
from sevref.show.sequence import SequenceDiagram, sequence
from sevref.show.states import StateDiagram, state_diagram
from sevref.show.table import Table, checks_table, layout_table, status_table, table
from sevref.show.widgets import Panel, panel

__all__ = [
    "ByteMap",
    "ChainPicture",
    "Exchange",
    "Html",
    "Panel",
    "SequenceDiagram",
    "Showable",
    "Stack",
    "StateDiagram",
    "Table",
    "answer",
    "byte_map",
    "chain_picture",
    "checks_table",
    "digest_of",
    "flip_a_bit",
    "layout_table",
    "man_in_the_middle",
    "measurement_explorer",
    "panel",
    "register",
    "secret_explorer",
    "sequence",
    "state_diagram",
    "statement",
    "status_table",
    "table",
]


def digest_of(shown: Any) -> str:
    """SHA-256 (hex) of what is shown: the bytes of a bytes-like object or array, the text form of a picture."""
    if isinstance(shown, Showable | str):
        return hashlib.sha256(str(shown).encode()).hexdigest()
    return hashlib.sha256(shown.tobytes() if hasattr(shown, "tobytes") else bytes(shown)).hexdigest()


#: what is shown of objects that know nothing of pictures
_PICTURES: dict[type, Callable[[Any], Showable]] = {
    Layout: byte_map,
    ChainResult: lambda result: Stack(chain_picture(result), checks_table(result)),
    Policy: lambda policy: table(policy.table(), "Policy", detail=f"0x{int(policy):08X}"),
}


def _plain(picture: Callable[[Any], Showable], obj: Any, printer: Any, _cycle: bool) -> None:
    """Text form for IPython's printer; inside of a list or a dict an object stays one line."""
    printer.text(repr(obj) if len(printer.stack) > 1 else picture(obj).text())


def register(shell: Any) -> None:
    """Make an IPython shell show layouts, chain results and policies as HTML, and as the text that stands for it."""
    formatters = shell.display_formatter.formatters
    for kind, picture in _PICTURES.items():
        formatters["text/html"].for_type(kind, lambda obj, picture=picture: picture(obj)._repr_html_())
        formatters["text/plain"].for_type(kind, partial(_plain, picture))


def _register_if_running() -> None:
    if "IPython" in sys.modules:
        from IPython import get_ipython

        if (shell := get_ipython()) is not None:
            register(shell)


_register_if_running()
