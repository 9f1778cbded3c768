"""Guest policy: the 32 bits that a guest owner imposes on the platform (SEV API 55766, "Guest policy").

A policy is a little-endian u32 on the wire. Nothing but POLICY_MAC in the session authenticates it.
"""

from __future__ import annotations

from typing import Any

from sevref.layout import BitTable
from sevref.status import InputError

#: bit -> (name, meaning when set). Bits 15:6 are reserved and must be zero, 23:16 and 31:24 hold the API minimum.
BITS: BitTable = {
    0: ("NODBG", "debugging of the guest is forbidden"),
    1: ("NOKS", "sharing the guest's key with another guest is forbidden"),
    2: ("ES", "SEV-ES is required: register state is encrypted too"),
    3: ("NOSEND", "sending the guest to another platform is forbidden"),
    4: ("DOMAIN", "the guest may only be sent inside its owner's domain (same OCA)"),
    5: ("SEV", "the guest may only be sent to an authenticated SEV platform"),
}
RESERVED_MASK = 0x0000FFC0


class Policy(int):
    """A guest policy as a 32-bit integer with names; compares and packs as the plain integer.

    Bits: 0 NODBG, 1 NOKS, 2 ES, 3 NOSEND, 4 DOMAIN, 5 SEV, 15:6 zero, 23:16 minimum API major, 31:24 minimum API minor
    (SEV API 55766, "Guest policy"). ``InputError`` for a number outside 32 bits.

        >>> from sevref import Policy
        >>> policy = Policy.make("NODBG", "ES", api=(0, 24))
        >>> hex(policy), policy.es, policy.api
        ('0x18000005', True, (0, 24))
    """

    def __new__(cls, value: int = 0) -> Policy:
        if not 0 <= value < 1 << 32:
            raise InputError("policy", "an integer of 32 bits", hex(value))
        return super().__new__(cls, value)

    @classmethod
    def make(cls, *names: str, api: tuple[int, int] = (0, 0)) -> Policy:
        """Policy from bit names (``"NODBG"``, ``"ES"``, ...) and the minimum API version (major, minor).

        ``InputError`` for an unknown name and for a version part that is not 0 to 255.
        """
        by_name = {name: bit for bit, (name, _) in BITS.items()}
        value = 0
        for name in names:
            if name.upper() not in by_name:
                raise InputError("policy bit", "one of " + ", ".join(by_name), name)
            value |= 1 << by_name[name.upper()]
        if not all(0 <= part < 256 for part in api):
            raise InputError("policy API version", "two numbers from 0 to 255", f"{api[0]}.{api[1]}")
        return cls(value | api[0] << 16 | api[1] << 24)

    def has(self, name: str) -> bool:
        """Whether the bit called ``name`` is set; ``InputError`` for an unknown name."""
        return bool(self & Policy.make(name))

    @property
    def nodbg(self) -> bool:
        """Bit 0: debugging of the guest is forbidden."""
        return bool(self & 1)

    @property
    def noks(self) -> bool:
        """Bit 1: sharing the guest's key with another guest is forbidden."""
        return bool(self & 2)

    @property
    def es(self) -> bool:
        """Bit 2: SEV-ES is required: register state is encrypted too."""
        return bool(self & 4)

    @property
    def nosend(self) -> bool:
        """Bit 3: sending the guest to another platform is forbidden."""
        return bool(self & 8)

    @property
    def domain(self) -> bool:
        """Bit 4: the guest may only be sent inside its owner's domain (same OCA)."""
        return bool(self & 16)

    @property
    def sev(self) -> bool:
        """Bit 5: the guest may only be sent to a platform whose chain leads to AMD."""
        return bool(self & 32)

    @property
    def api(self) -> tuple[int, int]:
        """Minimum API version (major, minor) of a platform that may hold the guest: bits 23:16 and 31:24."""
        return self >> 16 & 0xFF, self >> 24 & 0xFF

    @property
    def reserved(self) -> int:
        """Bits 15:6, which must be zero."""
        return self & RESERVED_MASK

    def allows_api(self, major: int, minor: int) -> bool:
        """Whether a platform of API ``major.minor`` satisfies the minimum (major first, then minor)."""
        return (major, minor) >= self.api

    def table(self) -> list[dict[str, Any]]:
        """One row per bit or field: what it is called, whether it is set, what it means."""
        rows: list[dict[str, Any]] = [
            {"bits": str(bit), "name": name, "set": bool(self >> bit & 1), "meaning": meaning}
            for bit, (name, meaning) in BITS.items()
        ]
        rows.append({"bits": "15:6", "name": "reserved", "set": bool(self.reserved), "meaning": "must be zero"})
        rows.append({"bits": "23:16", "name": "API_MAJOR", "set": self.api[0], "meaning": "minimum API major"})
        rows.append({"bits": "31:24", "name": "API_MINOR", "set": self.api[1], "meaning": "minimum API minor"})
        return rows

    def __str__(self) -> str:
        names = [name for bit, (name, _) in BITS.items() if self >> bit & 1]
        if self.reserved:
            names.append(f"reserved 0x{self.reserved:04X}")
        return f"0x{int(self):08X} ({' '.join(names) or 'no bit'}, API >= {self.api[0]}.{self.api[1]})"

    def __repr__(self) -> str:
        return f"Policy({self})"
