"""MODEL of SEV-SNP's page ownership (RMP) as a filter of processor accesses: access control, the cipher is the same.

One entry for each 4096-byte page of system memory, after AMD64 APM volume 2, 15.36 (fields: assigned, ASID, GPA,
validated, immutable). The firmware's page states and the checks of its commands are not part of this filter.
"""

from __future__ import annotations

from dataclasses import dataclass

from sevref.status import InputError

PAGE = 0x1000


class RmpFault(InputError):
    """Page fault of the host with the RMP error bit (bit 31): a write to a page that is assigned to a guest."""


class NestedPageFault(InputError):
    """The guest's access leaves the guest and tells the host: the page is not this guest's at this address."""


class VmmCommunication(InputError):
    """#VC inside the guest: it meets a page that it has not validated, so somebody changed its mapping."""


@dataclass
class RmpEntry:
    """Who owns a page: ``asid`` and guest-physical ``gpa`` count while ``assigned``."""

    assigned: bool = False
    asid: int = 0
    gpa: int = 0
    validated: bool = False
    immutable: bool = False
    vmsa: bool = False


class Rmp:
    """The table. A page without an entry belongs to the host."""

    def __init__(self) -> None:
        self._entries: dict[int, RmpEntry] = {}

    def entry(self, address: int) -> RmpEntry:
        """The entry of the page that holds ``address``."""
        return self._entries.setdefault(address & ~(PAGE - 1), RmpEntry())

    def update(self, address: int, asid: int, gpa: int, *, assigned: bool = True, vmsa: bool = False) -> None:
        """RMPUPDATE, an instruction of the host: the page is never validated afterwards.

        ``address`` is system physical, ``gpa`` guest-physical. ``RmpFault`` if the entry is immutable (the firmware
        owns it)."""
        old = self.entry(address)
        if old.immutable:
            raise RmpFault("RMPUPDATE", "an entry that is not immutable", f"page 0x{address:X}")
        self._entries[address & ~(PAGE - 1)] = RmpEntry(assigned, asid, gpa & ~(PAGE - 1), vmsa=vmsa)

    def validate(self, address: int, asid: int, gpa: int) -> None:
        """PVALIDATE, an instruction of the guest. ``NestedPageFault`` if the page is not its own at this address."""
        self.check_guest(address, asid, gpa, private=True, validating=True)
        self.entry(address).validated = True

    def check_host_write(self, address: int, size: int) -> None:
        """A write by the host, with or without C-bit. ``RmpFault`` if a page is assigned."""
        for page in range(address & ~(PAGE - 1), address + size, PAGE):
            if page in self._entries and self._entries[page].assigned:
                raise RmpFault("host write", "a page that is not assigned to a guest", f"page 0x{page:X}")

    def assigned(self, address: int) -> bool:
        """Whether the page is assigned to a guest."""
        page = address & ~(PAGE - 1)
        return page in self._entries and self._entries[page].assigned

    def check_guest(self, address: int, asid: int, gpa: int, *, private: bool, validating: bool = False) -> None:
        """An access of a guest to the host page of ``address``, mapped at ``gpa``."""
        entry, gpa = self.entry(address), gpa & ~(PAGE - 1)
        if not private:
            if entry.assigned:
                raise NestedPageFault("shared access", "a page that is not assigned", f"GPA 0x{gpa:X}")
            return
        if not entry.assigned or (entry.asid, entry.gpa) != (asid, gpa):
            wanted = f"a page assigned to ASID {asid} at GPA 0x{gpa:X}"
            found = f"ASID {entry.asid}, GPA 0x{entry.gpa:X}" if entry.assigned else "not assigned"
            raise NestedPageFault("private access", wanted, found)
        if not entry.validated and not validating:
            raise VmmCommunication("private access", "a page that the guest has validated", f"GPA 0x{gpa:X}")
