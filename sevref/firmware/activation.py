"""Binding guests to ASIDs, and ending them (SEV API 55766, "Guest management")."""

from __future__ import annotations

from sevref.firmware import buffers as b
from sevref.firmware.asids import Use
from sevref.firmware.commands import command
from sevref.firmware.guest import Guest
from sevref.firmware.processor import SecureProcessor, require
from sevref.firmware.state import GuestState, PlatformState
from sevref.status import Status


@command(0x20)
def decommission(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    sp.require_platform_state()
    guest = sp.guest(buf.handle)
    require(guest.asid == 0, Status.ACTIVE, f"guest {guest.handle} is still bound to ASID {guest.asid}")
    if sp.pool is not None:
        sp.pool.give_back(guest.vmsa_slots)
    del sp.guests[guest.handle]
    if not sp.guests:
        sp.state = PlatformState.INIT


@command(0x21)
def activate(sp: SecureProcessor, buf: b.ActivateBuffer) -> None:
    sp.require_platform_state()
    guest = sp.guest(buf.handle)
    asid = buf.asid
    sp.asids.require_in_range(asid)
    taken = sp.asids.states(asid) & {Use.ALLOCATED, Use.IN_USE}
    require(not taken, Status.ASID_OWNED, f"ASID {asid} is bound to a guest")
    require(guest.asid == 0, Status.ACTIVE, f"guest {guest.handle} is already bound to ASID {guest.asid}")
    sp.require_guest_state(guest)
    require_clean_and_fitting(sp, guest, asid)
    sp.machine.umc.install(asid, guest.vek)
    sp.asids.bind(guest, asid, sp.asids.all_ccxs)


def require_clean_and_fitting(sp: SecureProcessor, guest: Guest, asid: int) -> None:
    """First binding of a guest: the ASID is clean on every CCX, and of the half that the guest's policy wants."""
    states = sp.asids.states(asid)
    require(Use.DIRTY not in states, Status.DFFLUSH_REQUIRED, f"ASID {asid} needs WBINVD and DF_FLUSH before reuse")
    require(states == {Use.CLEAN}, Status.ASID_OWNED, f"ASID {asid} is not clean on every CCX")
    sp.asids.require_half(asid, guest.es)  # INVALID_ASID


@command(0x22)
def deactivate(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    sp.require_platform_state()
    guest = sp.guest(buf.handle)
    sp.require_bound(guest)
    sp.asids.release(guest)  # the key stays in its slot until the ASID is activated again


@command(0x23)
def guest_status(sp: SecureProcessor, buf: b.GuestStatusBuffer) -> None:
    sp.require_platform_state()
    guest = sp.guests.get(buf.handle)
    if guest is None:  # no error: the state says so
        buf.state = GuestState.UNINIT
        return
    buf.policy, buf.asid, buf.state = guest.policy, guest.asid, guest.state
