"""MODEL of the processor's caches: one write-back cache that all cores share, plaintext, tagged by key id and line.

What it shows was reported by researchers (Li et al., CipherLeaks and notes): a line is encrypted with the key that its
tag selects when it is *written back*, and two mappings of one address under different keys are not coherent. Sizes,
ways and replacement are left out: a line stays until somebody flushes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sevref.dram import MemoryController

LINE = 64


@dataclass(repr=False)
class Line:
    """64 bytes of plaintext; ``dirty`` until written back."""

    data: bytearray
    dirty: bool = False


class Cache:
    """A write-back cache that all cores share; MODEL.

    ``coherent_domains``: the processor keeps copies of a line under different key ids coherent (CPUID Fn8000_001F
    EAX[10])."""

    def __init__(self, umc: MemoryController, coherent_domains: bool = False) -> None:
        self._umc, self._coherent = umc, coherent_domains
        self._lines: dict[tuple[int, int], Line] = {}

    def __repr__(self) -> str:
        return f"Cache({len(self._lines)} lines)"

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Line address, first and last-plus-one byte in it."""
        end = address + size
        for line in range(address - address % LINE, end, LINE):
            yield line, max(address - line, 0), min(end - line, LINE)

    def _line(self, key_id: int, address: int) -> Line:
        if self._coherent:
            for other in [key for key in self._lines if key[1] == address and key[0] != key_id]:
                self._drop(*other)
        if (key_id, address) not in self._lines:
            data = self._umc.read(key_id, address, LINE, snoop=False)
            self._lines[key_id, address] = Line(bytearray(data))
        return self._lines[key_id, address]

    def _drop(self, key_id: int, address: int) -> None:
        line = self._lines.pop((key_id, address), None)
        if line is not None and line.dirty:
            self._umc.write(key_id, address, bytes(line.data), snoop=False)

    def read(self, key_id: int, address: int, size: int) -> bytes:
        """A core's read: a hit does not touch DRAM."""
        return b"".join(bytes(self._line(key_id, line).data[a:b]) for line, a, b in self._pieces(address, size))

    def write(self, key_id: int, address: int, data: bytes) -> None:
        """A core's write: the line is filled, changed and dirty."""
        for line, a, b in self._pieces(address, len(data)):
            cached = self._line(key_id, line)
            cached.data[a:b] = data[: b - a]
            cached.dirty, data = True, data[b - a :]

    def flush(self, key_ids: tuple[int, ...], address: int, size: int) -> None:
        """CLFLUSH: write back and drop the lines of the range under these key ids."""
        for line, _, _ in self._pieces(address, size):
            for key_id in key_ids:
                self._drop(key_id, line)

    def write_back_all(self) -> None:
        """WBINVD: write back and drop every line of every ASID."""
        for key in list(self._lines):
            self._drop(*key)
