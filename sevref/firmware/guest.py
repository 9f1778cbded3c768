"""Guest contexts (GCTX), and the pool of VMSA checksum slots in the trusted memory region."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sevref.firmware.digest import LaunchDigest
from sevref.firmware.state import GuestState
from sevref.policy import Policy

MAX_GUESTS = 1024


@dataclass(repr=False)
class Guest:
    """What the firmware keeps of one guest. Keys are bytes as drawn or unwrapped; none is in the ``repr``."""

    handle: int
    policy: Policy
    vek: bytes  #: 32-byte seed of the memory key
    oek: bytes  #: offline encryption key, AES-256
    state: GuestState = GuestState.LUPDATE
    asid: int = 0
    ccxs: frozenset[int] = frozenset()
    nonce: bytes = bytes(16)
    ms: bytes = bytes(16)
    tek: bytes = bytes(16)
    tik: bytes = bytes(16)
    measure: bytes = bytes(32)
    digest: LaunchDigest = field(default_factory=LaunchDigest)
    launch_digest: bytes = bytes(32)
    oek_iv_count: int = 0
    vmsa_slots: list[int] = field(default_factory=list)

    @property
    def es(self) -> bool:
        """Whether this is an SEV-ES guest: bit 2 of its policy."""
        return self.policy.es

    def close_channel(self) -> None:
        """Wipe the keys of the trusted channel and the running digest; VEK, OEK and the final digest stay."""
        self.nonce = self.ms = self.tek = self.tik = bytes(16)
        self.measure = bytes(32)
        self.digest = LaunchDigest()

    def __repr__(self) -> str:
        return f"Guest({self.handle}, {self.state.name}, ASID {self.asid}, policy {self.policy})"


class VmsaPool:
    """Checksum slots: slot k is 8 bytes at TMR base + 0x80000 + 8k. A queue; its last element is never handed out."""

    SLOTS = 65536
    OFFSET = 0x80000

    def __init__(self, tmr_base: int) -> None:
        self.base = tmr_base + self.OFFSET
        self._free = deque(range(self.SLOTS))

    @property
    def available(self) -> bool:
        """Whether ``take`` has a slot to give."""
        return len(self._free) > 1

    def take(self) -> int:
        """Physical address of the oldest free slot."""
        return self.base + 8 * self._free.popleft()

    def give_back(self, addresses: list[int]) -> None:
        """Return a guest's slots, oldest first."""
        self._free.extend((address - self.base) // 8 for address in addresses)


_CRC32C = []
for _value in range(256):
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _CRC32C.append(_value)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli): reflected, initial value all ones, inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def vmsa_checksum(page: bytes) -> bytes:
    """Checksum of a VMSA page over its first 0xFC0 bytes, 8 bytes as stored in its slot.

    Value i of three is the CRC-32C of bytes 8i..8i+7 of each 24-byte group; the low half is the CRC-32C of the three as
    12 little-endian bytes, the high half their XOR.
    """
    body = page[:0xFC0]
    parts = [crc32c(b"".join(body[i : i + 8] for i in range(8 * k, len(body), 24))) for k in range(3)]
    low = crc32c(b"".join(part.to_bytes(4, "little") for part in parts))
    return low.to_bytes(4, "little") + (parts[0] ^ parts[1] ^ parts[2]).to_bytes(4, "little")
