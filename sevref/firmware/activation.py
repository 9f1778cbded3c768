"""Binding guests to ASIDs, and ending them (SEV API 55766, "ACTIVATE", "DECOMMISSION")."""

from __future__ import annotations

from sevref.firmware import buffers as b
from sevref.firmware.asids import Use
from sevref.firmware.commands import command
from sevref.firmware.guest import Guest
from sevref.firmware.processor import SecureProcessor, require
from sevref.firmware.state import GuestState, PlatformState
from sevref.status import Status

MAX_IDS = 1024


@command(0x20)
def decommission(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """DECOMMISSION (0x20): the context is erased, its VMSA slots are free again."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    require(guest.asid == 0, Status.ACTIVE, f"guest {guest.handle} is still bound to ASID {guest.asid}")  # row 3
    if sp.pool is not None:
        sp.pool.give_back(guest.vmsa_slots)
    del sp.guests[guest.handle]
    if not sp.guests:
        sp.state = PlatformState.INIT


@command(0x21)
def activate(sp: SecureProcessor, buf: b.ActivateBuffer) -> None:
    """ACTIVATE (0x21): the guest's key into the slot of a clean ASID, on every CCX."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    asid = buf.asid
    sp.asids.require_in_range(asid)  # row 3
    taken = sp.asids.states(asid) & {Use.ALLOCATED, Use.IN_USE}
    require(not taken, Status.ASID_OWNED, f"ASID {asid} is bound to a guest")  # row 4
    require(guest.asid == 0, Status.ACTIVE, f"guest {guest.handle} is already bound to ASID {guest.asid}")  # row 5
    sp.require_guest_state(guest)  # row 6
    require_clean_and_fitting(sp, guest, asid)
    sp.machine.umc.install(asid, guest.vek)
    sp.asids.bind(guest, asid, sp.asids.all_ccxs)


def require_clean_and_fitting(sp: SecureProcessor, guest: Guest, asid: int) -> None:
    """First binding of a guest: the ASID is clean on every CCX, and of the half that the guest's policy wants."""
    states = sp.asids.states(asid)
    require(
        Use.DIRTY not in states, Status.DFFLUSH_REQUIRED, f"ASID {asid} needs WBINVD and DF_FLUSH before reuse"
    )  # ACTIVATE row 7, ACTIVATE_EX row 10
    require(
        states == {Use.CLEAN}, Status.ASID_OWNED, f"ASID {asid} is not clean on every CCX"
    )  # ACTIVATE row 8, ACTIVATE_EX row 11
    sp.asids.require_half(asid, guest.es)  # ACTIVATE row 9, ACTIVATE_EX row 13: INVALID_ASID


@command(0x25)
def activate_ex(sp: SecureProcessor, buf: b.ActivateExBuffer) -> None:
    """ACTIVATE_EX (0x25): the same on the CCXs of the listed cores, or some more for a bound guest."""
    sp.require_platform_state()  # row 1
    require(buf.length == buf.SIZE, Status.INVALID_PARAM, f"LENGTH must be {buf.SIZE}, found {buf.length}")  # row 2
    guest = sp.guest(buf.handle)  # row 3
    asid = buf.asid
    sp.asids.require_in_range(asid)  # row 4
    require(
        sp.machine.activate_ex, Status.UNSUPPORTED, "this platform does not map APIC ids to core complexes"
    )  # row 5
    count = buf.numids
    require(1 <= count <= MAX_IDS, Status.INVALID_PARAM, f"NUMIDS must be 1 to {MAX_IDS}, found {count}")  # row 6
    data = sp.read(buf.ids_paddr, 4 * count, "IDS_PADDR")  # row 7
    ids = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    for apic_id in ids:
        require(apic_id < 512, Status.INVALID_PARAM, f"APIC id {apic_id} must be below 512")  # row 8
        require(
            apic_id < len(sp.machine.wbinvd_done), Status.INVALID_CONFIG, f"no core has the APIC id {apic_id}"
        )  # row 8
    ccxs = frozenset(sp.machine.ccx_of(apic_id) for apic_id in ids)
    sp.require_guest_state(guest)  # row 9
    if guest.asid == 0:
        require_clean_and_fitting(sp, guest, asid)
        sp.machine.umc.install(asid, guest.vek)
    else:
        bound = guest.asid
        require(bound == asid, Status.ACTIVE, f"guest {guest.handle} is already bound to ASID {bound}")  # row 12
        sp.asids.require_half(asid, guest.es)  # row 13
        dirty = any(sp.asids.use[ccx][asid] is Use.DIRTY for ccx in ccxs)
        require(not dirty, Status.DFFLUSH_REQUIRED, f"ASID {asid} needs WBINVD and DF_FLUSH before reuse")  # row 14
    sp.asids.bind(guest, asid, ccxs)


@command(0x22)
def deactivate(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """DEACTIVATE (0x22): the ASID is free, and dirty if the guest could run."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_bound(guest)  # row 3
    sp.asids.release(guest)  # the key stays in its slot until the ASID is activated again


@command(0x23)
def guest_status(sp: SecureProcessor, buf: b.GuestStatusBuffer) -> None:
    """GUEST_STATUS (0x23): policy, ASID and state; UNINIT for a handle that names no guest."""
    sp.require_platform_state()  # row 1
    guest = sp.guests.get(buf.handle)
    if guest is None:  # no error: the state says so
        buf.state = GuestState.UNINIT
        return
    buf.policy, buf.asid, buf.state = guest.policy, guest.asid, guest.state
