"""The byte pipe: one JSON object a line, bytes as hexadecimal. Nothing but the standard library."""

from __future__ import annotations

import json
from typing import IO, Any


class Pipe:
    """One end: lines to ``out``, lines from ``into``."""

    def __init__(self, out: IO[bytes], into: IO[bytes]) -> None:
        self._out, self._in = out, into

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; bytes anywhere in it become hexadecimal strings."""
        self._out.write(json.dumps(message, default=_hex).encode() + b"\n")
        self._out.flush()

    def receive(self) -> dict[str, Any]:
        """The next message. ``EOFError`` when the other end is gone."""
        line = self._in.readline()
        if not line:
            raise EOFError("the other end of the pipe is gone")
        message: dict[str, Any] = json.loads(line)
        return message


def _hex(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    raise TypeError(f"cannot send a {type(value).__name__}")
