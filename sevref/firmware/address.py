"""Which system physical addresses the firmware touches.

The order is that of AMD's published firmware: first hit wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sevref.status import SevError, Status

if TYPE_CHECKING:
    from sevref.firmware.processor import SecureProcessor

WINDOW = 64 << 20


def _overlaps(start: int, end: int, ranges: Iterable[tuple[int, int] | None]) -> bool:
    return any(span is not None and start <= span[1] and span[0] <= end for span in ranges)


def check_range(sp: SecureProcessor, address: int, size: int, what: str, *, copies: bool = True) -> None:
    """Check the range [address, address + size - 1] of the field ``what``; the first rule broken decides.

    ``copies`` is False where the firmware only tests a range (TMR, NV buffer, queue pages). ``SevError`` INVALID_LENGTH
    for no bytes at all, INVALID_PARAM for a copy over more than two 64 MiB windows, INVALID_ADDRESS for forbidden
    memory; outside DRAM what the profile says (INVALID_ADDRESS, under GENOA_1_55_25 INVALID_CONFIG).
    """
    machine, map_ = sp.machine, sp.machine.map
    shown = f"{what} 0x{address:X} for {size} bytes"
    if size == 0:
        raise SevError(Status.INVALID_LENGTH, f"{what}: a range of 0 bytes")
    start = address & ~map_.c_mask
    end = start + size - 1
    if copies and end // WINDOW - start // WINDOW > 1:
        raise SevError(Status.INVALID_PARAM, f"{shown}: spans more than two 64 MiB windows")
    if (start | end) & map_.key_id_mask or end > map_.maximum:
        raise SevError(Status.INVALID_ADDRESS, f"{shown}: address bits above the physical maximum")
    if _overlaps(start, end, [map_.aseg]):
        raise SevError(Status.INVALID_ADDRESS, f"{shown}: overlaps the legacy SMM range (ASEG)")
    if _overlaps(start, end, [sp.tmr]):
        raise SevError(Status.INVALID_ADDRESS, f"{shown}: overlaps the SEV-ES trusted memory region")
    if _overlaps(start, end, [map_.tseg]):
        raise SevError(Status.INVALID_ADDRESS, f"{shown}: overlaps the SMM range (TSEG)")
    if sp.profile.reject_address_zero and start == 0:
        raise SevError(Status.INVALID_ADDRESS, f"{shown}: contains address 0")
    if not any(base <= start and end < base + length for base, length in machine.map.dram):
        raise SevError(sp.profile.outside_dram_status, f"{shown}: not inside one DRAM region")
