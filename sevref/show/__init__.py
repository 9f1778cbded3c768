"""What people look at: byte maps, tables, diagrams, widgets.

Everything returned here has HTML for notebooks (inline styles, no scripts, no kernel needed) and a text form.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sevref.driver import Exchange
from sevref.show.bytemap import ByteMap, byte_map
from sevref.show.chain import ChainPicture, chain_picture
from sevref.show.html import Html, Showable, Stack, answer
from sevref.show.sequence import SequenceDiagram, sequence
from sevref.show.states import StateDiagram, state_diagram
from sevref.show.table import Table, checks_table, layout_table, status_table, table

__all__ = [
    "ByteMap",
    "ChainPicture",
    "Exchange",
    "Html",
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
    "layout_table",
    "sequence",
    "state_diagram",
    "status_table",
    "table",
]


def digest_of(shown: Any) -> str:
    """SHA-256 (hex) of what is shown: the bytes of a bytes-like object or array, the text form of a
    picture."""
    if isinstance(shown, Showable | str):
        return hashlib.sha256(str(shown).encode()).hexdigest()
    return hashlib.sha256(shown.tobytes() if hasattr(shown, "tobytes") else bytes(shown)).hexdigest()
