"""Entry of the attacker's process: load one attack, close the fence, attack one machine after the other.

Closing the fence: no module can be imported any more, the kernel refuses every further file descriptor (so no file, no
socket, no look into another process), and an audit hook refuses what would need none. Two pipe ends remain. This keeps
*our attacks* honest; it is no sandbox for hostile Python code.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from sevref.attacks.hostile.host import Host, Refused
from sevref.attacks.hostile.pipe import Pipe
from sevref.status import SevError

#: modules that would be a second way to the machine
ENGINE = ("sevref.memory", "sevref.presets", "sevref.tweaks", "sevref.caches", "sevref.attacks.lab")
_FORBIDDEN = ("open", "os.", "socket.", "subprocess.", "ctypes.", "import", "mmap.", "shutil.", "fcntl.")


def close_fence() -> None:
    """From here on there is nothing but the two pipe ends. ``RuntimeError`` if the engine has been loaded already."""
    loaded = [name for name in ENGINE if name in sys.modules]
    if loaded:
        raise RuntimeError(f"the attacker's process has {loaded} loaded")
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    sys.addaudithook(_refuse)


def _refuse(event: str, _arguments: object) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"the fence: {event}")


def main() -> None:
    """``python -c ... MODULE FUNCTION``: serve briefs from stdin until it closes."""
    os.environ.clear()
    module, name = sys.argv[1:3]
    attack: Callable[[Host], dict[str, Any]] = getattr(importlib.import_module(module), name)
    pipe = Pipe(sys.stdout.buffer, sys.stdin.buffer)
    sys.stdout = sys.stderr  # what an attack prints must not get into the pipe
    close_fence()
    while True:
        try:
            brief = pipe.receive()
        except EOFError:
            return
        try:
            claim = attack(Host(pipe, brief))
        except Refused as refusal:
            pipe.send({"op": "end", "claim": {}, "refused": refusal.kind, "why": refusal.why})
        except SevError as error:  # the driver's form of a refusal
            pipe.send({"op": "end", "claim": {}, "refused": f"AMD-SP: {error.status.name}", "why": error.rule})
        else:
            pipe.send({"op": "end", "claim": claim})
