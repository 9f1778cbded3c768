"""Bookkeeping of ASIDs: which are safe to give a new key (SEV API 55766, "ACTIVATE", "DF_FLUSH").

A cache line carries the ASID, not the key, so an ASID must not get a new key while a cache may hold lines of its old
guest. Per ASID and core complex (CCX) the state is one of four; WBINVD on every core and then DF_FLUSH turn dirty
into clean.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from sevref.firmware.state import GuestState
from sevref.status import SevError, Status

if TYPE_CHECKING:
    from sevref.firmware.guest import Guest
    from sevref.machine import Machine

#: states in which an activated guest cannot run yet: its ASID is bound but not valid on the cores ("pending")
NOT_RUNNABLE = frozenset({GuestState.LUPDATE, GuestState.LSECRET, GuestState.RUPDATE})


class Use(Enum):
    """State of one ASID on one CCX."""

    DIRTY = "dirty"
    CLEAN = "clean"
    ALLOCATED = "allocated"  #: bound to a guest that is not runnable yet
    IN_USE = "in use"


class AsidTable:
    """ASID states of one machine; ``use[ccx][asid]``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.use = [[Use.DIRTY] * (machine.max_asid + 1) for _ in range(machine.ccxs)]

    @property
    def all_ccxs(self) -> frozenset[int]:
        """Every core complex of the machine."""
        return frozenset(range(self.machine.ccxs))

    def states(self, asid: int) -> set[Use]:
        """The states that ``asid`` has on the machine's core complexes."""
        return {row[asid] for row in self.use}

    def reset(self) -> None:
        """INIT: every ASID dirty and invalid everywhere; a WBINVD before this does not count."""
        for row in self.use:
            row[:] = [Use.DIRTY] * len(row)
        self.machine.wbinvd_done[:] = [False] * len(self.machine.wbinvd_done)
        self.machine.valid_asids.clear()

    def flush(self) -> bool:
        """DF_FLUSH: dirty becomes clean on each CCX whose cores all ran WBINVD. Whether all CCXs have."""
        complete = True
        for ccx, row in enumerate(self.use):
            if not all(self._flags(ccx)):
                complete = False
                continue
            row[:] = [Use.CLEAN if use is Use.DIRTY else use for use in row]
        return complete

    def _flags(self, ccx: int) -> list[bool]:
        per = self.machine.cores_per_ccx
        return self.machine.wbinvd_done[ccx * per : (ccx + 1) * per]

    def require_in_range(self, asid: int) -> None:
        """``SevError`` INVALID_ASID for 0 and above the machine's maximum."""
        if not 1 <= asid <= self.machine.max_asid:
            raise SevError(Status.INVALID_ASID, f"ASID {asid}: must be 1 to {self.machine.max_asid}")

    def require_half(self, asid: int, es: bool) -> None:
        """``SevError`` INVALID_ASID if an SEV-ES guest asks for a plain SEV ASID or the other way round."""
        minimum = self.machine.min_sev_asid
        if es and asid >= minimum:
            raise SevError(Status.INVALID_ASID, f"ASID {asid}: SEV-ES guests have 1 to {minimum - 1}")
        if not es and asid < minimum:
            raise SevError(Status.INVALID_ASID, f"ASID {asid}: guests without SEV-ES have {minimum} upwards")

    def bind(self, guest: Guest, asid: int, ccxs: frozenset[int]) -> None:
        """ACTIVATE*: add CCXs to the guest; runnable at once unless its state makes it pending."""
        guest.asid, guest.ccxs = asid, guest.ccxs | ccxs
        for ccx in ccxs:
            if self.use[ccx][asid] is Use.CLEAN:
                self.use[ccx][asid] = Use.ALLOCATED
        if guest.state not in NOT_RUNNABLE:
            self.make_runnable(guest)

    def make_runnable(self, guest: Guest) -> None:
        """Allocated becomes in use, and the ASID valid on the cores (LAUNCH_FINISH, RECEIVE_FINISH, ACTIVATE*)."""
        for ccx in guest.ccxs:
            self.use[ccx][guest.asid] = Use.IN_USE
        if guest.asid:
            self.machine.valid_asids[guest.asid] = guest.ccxs

    def release(self, guest: Guest) -> None:
        """DEACTIVATE: allocated becomes clean, in use dirty; then those CCXs need a new WBINVD."""
        per = self.machine.cores_per_ccx
        for ccx in guest.ccxs:
            if self.use[ccx][guest.asid] is Use.IN_USE:
                self.use[ccx][guest.asid] = Use.DIRTY
                self.machine.wbinvd_done[ccx * per : (ccx + 1) * per] = [False] * per
            else:
                self.use[ccx][guest.asid] = Use.CLEAN
        self.machine.valid_asids.pop(guest.asid, None)
        guest.asid, guest.ccxs = 0, frozenset()
