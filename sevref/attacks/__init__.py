"""The attack lab: what a hostile hypervisor can try, run against the model, and who stops it.

Every attack runs in a process of its own that has nothing but a byte pipe to the machine (``hostile`` is its side of
it, ``lab`` the machine's). What is published about AMD hardware and what is our model stands with each attack in
``catalogue``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sevref.attacks.catalogue import ATTACKS as ATTACKS
    from sevref.attacks.catalogue import Attack as Attack
    from sevref.attacks.grid import matrix as matrix
    from sevref.attacks.lab import Outcome as Outcome
    from sevref.attacks.lab import run as run

# Resolved at first use: the attacker's process imports ``sevref.attacks.hostile`` and must not load the lab with it.
_HOME = {
    "ATTACKS": "sevref.attacks.catalogue",
    "Attack": "sevref.attacks.catalogue",
    "Outcome": "sevref.attacks.lab",
    "run": "sevref.attacks.lab",
    "matrix": "sevref.attacks.grid",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
