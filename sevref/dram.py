"""DRAM cells, and the memory controller's key slots in front of them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.memory import Engine, KeySlot

PAGE = 0x1000
#: key id of plain accesses, and of host accesses with the C-bit
NONE, HOST = 0, 1023
#: page address of the processor -> page address of the cells (both multiples of 4096)
Alias = Callable[[int], int]


class Dram:
    """The memory cells: a byte array for each region (start, size). Addresses are physical, without the C-bit.

    ``alias`` says which cells answer to a page: memory modules that lie about their size, or a switch on the bus, make
    two addresses one place. It comes after the encryption, which sees the processor's address."""

    def __init__(self, regions: tuple[tuple[int, int], ...], alias: Alias | None = None) -> None:
        # Anonymous pages: a page of DRAM costs nothing until it is touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._regions = [(start, memoryview(mmap.mmap(-1, size, flags=flags))) for start, size in regions]
        self.alias = alias

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """The range as (address, writable view) of neighbouring cells: one piece, or a page each under an alias.

        ``InputError`` outside DRAM, before the first piece."""
        if self.alias is None or not size:
            yield address, self._cells(address, size)
            return
        spans = [
            (start, min(address + size, start - start % PAGE + PAGE) - start)
            for start in (max(page, address) for page in range(address - address % PAGE, address + size, PAGE))
        ]
        views = [self._cells(self.alias(start - start % PAGE) + start % PAGE, part) for start, part in spans]
        yield from zip((start for start, _ in spans), views, strict=True)

    def _cells(self, address: int, size: int) -> memoryview:
        for start, cells in self._regions:
            if start <= address and address + size <= start + len(cells):
                return cells[address - start : address - start + size]
        raise InputError("physical address", "a range inside one DRAM region", f"0x{address:X}, {size} bytes")

    def view(self, address: int, size: int) -> memoryview:
        """``size`` bytes as one piece: writable cells, or a copy where an alias scatters them.

        ``InputError`` outside DRAM."""
        views = [view for _, view in self.pieces(address, size)]
        return views[0] if len(views) == 1 else memoryview(b"".join(views))

    def read(self, address: int, size: int) -> bytes:
        """``size`` raw bytes at ``address``: a guest's private memory reads as ciphertext.

        ``InputError`` unless the range lies inside one DRAM region."""
        return bytes(self.view(address, size))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put raw bytes at ``address``, past every key.

        ``InputError`` unless the range lies inside one DRAM region."""
        for start, view in self.pieces(address, len(data)):
            view[:] = data[start - address : start - address + len(view)]


class MemoryController:
    """The engine's key slots, and access to DRAM through them.

    Key id 0 is none, 1 to 1022 are ASIDs, 1023 is the host. A slot that was never loaded holds a seed of 32 zero bytes.
    ``snoop`` writes back and drops the host's cached lines of a range before the AMD-SP accesses host memory there;
    with ``evicts`` also before it writes to guest memory."""

    def __init__(self, dram: Dram, engine: Engine) -> None:
        self.dram, self.engine = dram, engine
        self._slots: dict[int, KeySlot] = {}
        self.snoop: Callable[[int, int], None] | None = None
        self.evicts = True

    def install(self, key_id: int, seed: bytes) -> None:
        """Load the 32-byte VEK seed into a slot; the slot keeps it until the next install or a power cycle."""
        self._slots[key_id] = self.engine.new_key(seed)

    def _key(self, key_id: int) -> KeySlot | None:
        if key_id == NONE:
            return None
        if key_id not in self._slots:
            self._slots[key_id] = self.engine.host_key() if key_id == HOST else self.engine.new_key(bytes(32))
        return self._slots[key_id]

    def _covering(self, key_id: int, address: int, size: int) -> Iterator[tuple[int, int, int, memoryview]]:
        """For each piece of the range: its start and end, and the address and cells of the blocks that cover it."""
        low = address if key_id == NONE else address & ~15
        high = address + size if key_id == NONE else address + size + 15 & ~15
        for base, view in self.dram.pieces(low, high - low):
            yield max(base, address), min(base + len(view), address + size), base, view

    def read(self, key_id: int, address: int, size: int, *, snoop: bool = True) -> bytes:
        """``size`` bytes at any alignment, decrypted with the slot's key."""
        if snoop and self.snoop and key_id in (NONE, HOST):
            self.snoop(address, size)
        key, read = self._key(key_id), self.engine.read
        pieces = self._covering(key_id, address, size)
        return b"".join([read(key, view, start, end - start, base=base) for start, end, base, view in pieces])

    def write(self, key_id: int, address: int, data: bytes, *, snoop: bool = True) -> None:
        """Write at any alignment: covering blocks are decrypted, merged and encrypted with the same key."""
        if snoop and self.snoop and (self.evicts or key_id in (NONE, HOST)):
            self.snoop(address, len(data))
        key, source = self._key(key_id), memoryview(data)
        for start, end, base, view in self._covering(key_id, address, len(data)):
            self.engine.write(key, view, start, source[start - address : end - address], base=base)

    def encrypt_in_place(self, source_key_id: int, key_id: int, address: int, size: int) -> None:
        """Re-encrypt a 16-byte aligned range from one slot's key to another's, without a copy of the range."""
        if self.snoop and self.evicts:
            self.snoop(address, size)
        source, key = self._key(source_key_id), self._key(key_id)
        for start, view in self.dram.pieces(address, size):
            self.engine.decrypt_into(source, start, view)
            self.engine.encrypt_into(key, start, view)
