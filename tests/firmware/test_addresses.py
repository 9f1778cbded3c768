"""Address checks (sheet 10, section 1.6): each row, both profiles, to the byte, and which row wins."""

import pytest

from firmware.kit import (
    ATTESTATION,
    CERT,
    CERT_AT,
    CHAIN,
    DF_FLUSH,
    GET_ID,
    GUEST_AT,
    INIT,
    LAUNCH_MEASURE,
    LAUNCH_SECRET,
    LAUNCH_START,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    OUT,
    PDH_CERT_EXPORT,
    PEK_CERT_IMPORT,
    PEK_CSR,
    POLICY_ES,
    SESSION,
    SESSION_AT,
    SHUTDOWN,
    Rig,
    attest_buf,
    csr_buf,
    export_buf,
    id_buf,
    import_buf,
    init_buf,
    measure_buf,
    refused,
    secret_buf,
    start_buf,
    update_buf,
)
from sevref import SevError
from sevref import Status as S
from sevref.machine import AddressMap

# DRAM: 0-3 MiB, a gap of 1 MiB, then two regions that touch at 5 MiB. SMM memory at the end of the first region.
MAP = AddressMap(((0, 3 * MIB), (4 * MIB, MIB), (5 * MIB, MIB)), tseg=(0x2FFE00, 0x2FFFFF))
TMR = 0x100000
C_BIT = 1 << 51
MAXIMUM = 0x3FFC_FFFF_FFFF

OK, BAD = S.SUCCESS, S.INVALID_ADDRESS
OUTSIDE = None  # what the profile says

# (address of 64 bytes, answer under SPEC_0_24, answer under GENOA_1_55_25)
ROWS = [
    (0, OK, BAD),
    (1, OK, OK),
    (C_BIT, OK, BAD),
    (C_BIT | 16, OK, OK),
    (0xA0000 - 64, OK, OK),
    (0xA0000 - 63, BAD, BAD),
    (0xA0000, BAD, BAD),
    (0xBFFFF, BAD, BAD),
    (C_BIT | 0xBFFFF, BAD, BAD),
    (0xC0000, OK, OK),
    (0x2FFE00 - 64, OK, OK),
    (0x2FFE00 - 63, BAD, BAD),
    (0x2FFFFF, BAD, BAD),  # SMM memory and out of DRAM: SMM comes first
    (0x300000, OUTSIDE, OUTSIDE),
    (C_BIT | 0x300000, OUTSIDE, OUTSIDE),
    (0x400000 - 1, OUTSIDE, OUTSIDE),
    (0x400000 - 64, OUTSIDE, OUTSIDE),
    (0x400000, OK, OK),
    (0x500000 - 64, OK, OK),
    (0x500000 - 63, OUTSIDE, OUTSIDE),  # across two regions
    (0x500000, OK, OK),
    (0x600000 - 64, OK, OK),
    (0x600000 - 63, OUTSIDE, OUTSIDE),
    (0x600000, OUTSIDE, OUTSIDE),
    (MAXIMUM - 63, OUTSIDE, OUTSIDE),
    (MAXIMUM - 62, BAD, BAD),
    (MAXIMUM, BAD, BAD),
    (MAXIMUM + 1, BAD, BAD),
    (1 << 45, OUTSIDE, OUTSIDE),
    *((1 << bit | 0x400000, BAD, BAD) for bit in (46, 47, 48, 49, 50, 52, 53, 54, 55, 56, 60, 63)),
    (C_BIT | 1 << 50 | 0x400000, BAD, BAD),
    ((1 << 46) - 1, BAD, BAD),
    ((1 << 64) - 1, BAD, BAD),  # wraps
    ((1 << 64) - 64, BAD, BAD),
]


def rig_with_map(profile: str, es: bool = False) -> Rig:
    rig = Rig(profile, machine_args={"address_map": MAP})
    rig.ok(INIT, init_buf(1, 0, TMR, MIB) if es else init_buf())
    return rig


@pytest.mark.parametrize(("profile", "column"), [("spec", 1), ("genoa", 2)])
def test_rows(profile: str, column: int) -> None:
    rig = rig_with_map(profile)
    outside = {"spec": S.INVALID_ADDRESS, "genoa": S.INVALID_CONFIG}[profile]
    for row in ROWS:
        found = rig.run(GET_ID, id_buf(row[0]))
        want = outside if row[column] is OUTSIDE else row[column]
        assert found == want, f"0x{row[0]:X}: {found!r}"
        if want == S.SUCCESS and not row[0] & C_BIT:
            assert rig.get(row[0], 4) == bytes.fromhex("6d6caac2")  # written where it was asked for


@pytest.mark.parametrize(("profile", "column"), [("spec", 1), ("genoa", 2)])
def test_rows_hold_for_command_buffers(profile: str, column: int) -> None:
    """PLATFORM_STATUS: 12 bytes. The rows whose answer does not depend on the length of 64."""
    rig = rig_with_map(profile)
    outside = {"spec": S.INVALID_ADDRESS, "genoa": S.INVALID_CONFIG}[profile]
    skip = {0xA0000 - 63, 0x2FFE00 - 63, 0x400000 - 64, 0x500000 - 63, 0x600000 - 63, MAXIMUM - 62, (1 << 46) - 1}
    for row in ROWS:
        if row[0] not in skip:
            want = outside if row[column] is OUTSIDE else row[column]
            assert rig.platform.mailbox(0x04, row[0]) == want, f"0x{row[0]:X}"


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_trusted_memory_region(profile: str) -> None:
    """Refused from INIT on, enabled or not, until SHUTDOWN; the bytes next to it are not."""
    edges = [(TMR - 64, OK), (TMR - 63, BAD), (TMR, BAD), (C_BIT | TMR, BAD), (TMR + MIB - 1, BAD), (TMR + MIB, OK)]
    rig = rig_with_map(profile, es=True)
    for enable in (False, True):
        if enable:
            rig.machine.wbinvd()
            rig.ok(DF_FLUSH)
        for address, want in edges:
            assert rig.run(GET_ID, id_buf(address)) == want, f"0x{address:X}, enabled: {enable}"
    rig.ok(SHUTDOWN)
    assert rig.run(GET_ID, id_buf(TMR)) == OK


def test_a_failed_init_reserves_nothing() -> None:
    for tmr, length in ((TMR, MIB - 1), (TMR + 0x1000, MIB), (0x300000, MIB), (0, MIB)):
        rig = Rig(machine_args={"address_map": MAP})
        assert rig.run(INIT, init_buf(1, 0, tmr, length)) in (S.INVALID_LENGTH, S.INVALID_ADDRESS)
        assert rig.run(GET_ID, id_buf(TMR)) == OK


def test_forbidden_memory_wins_over_leaving_dram() -> None:
    """2084 bytes that start in DRAM, run over SMM memory and end in the gap."""
    rig = rig_with_map("genoa")
    assert rig.run(PEK_CSR, csr_buf(0x2FFC00)) == S.INVALID_ADDRESS
    assert rig.run(PEK_CSR, csr_buf(0x600000 - CERT + 1)) == S.INVALID_CONFIG
    assert rig.run(PEK_CSR, csr_buf(0x600000 - CERT)) == S.SUCCESS


def test_only_the_bytes_transferred_count() -> None:
    """However long the buffer is said to be."""
    rig = rig_with_map("spec")
    end, huge = 0x600000, 0xFFFFFFFF
    rig.start()
    assert rig.run(PEK_CSR, csr_buf(end - CERT, huge)) == OK
    assert rig.run(GET_ID, id_buf(end - 64, huge)) == OK
    assert rig.run(PDH_CERT_EXPORT, export_buf(end - CERT, huge, 0x500000 - CHAIN, huge)) == OK
    assert rig.run(LAUNCH_MEASURE, measure_buf(1, end - 0x30, huge)) == OK
    assert rig.run(ATTESTATION, attest_buf(1, end - 0xD0, length=huge)) == OK


# every address field of the commands built: command, buffer for an address, and what goes before
FIELDS = {
    "PEK_CSR.CSR_PADDR": (PEK_CSR, lambda a: csr_buf(a)),
    "PEK_CERT_IMPORT.PEK_CERT_PADDR": (PEK_CERT_IMPORT, lambda a: import_buf(pek=a)),
    "PEK_CERT_IMPORT.OCA_CERT_PADDR": (PEK_CERT_IMPORT, lambda a: import_buf(oca=a)),
    "PDH_CERT_EXPORT.PDH_CERT_PADDR": (PDH_CERT_EXPORT, lambda a: export_buf(pdh=a)),
    "GET_ID.ID_PADDR": (GET_ID, lambda a: id_buf(a)),
    "LAUNCH_START.SESSION_PADDR": (
        LAUNCH_START,
        lambda a: start_buf(0, cert=CERT_AT, cert_len=CERT, session=a, session_len=SESSION),
    ),
    "LAUNCH_START.DH_CERT_PADDR": (
        LAUNCH_START,
        lambda a: start_buf(0, cert=a, cert_len=CERT, session=SESSION_AT, session_len=SESSION),
    ),
    "LAUNCH_UPDATE_DATA.PADDR": (LAUNCH_UPDATE_DATA, lambda a: update_buf(1, a)),
    "LAUNCH_UPDATE_VMSA.PADDR": (LAUNCH_UPDATE_VMSA, lambda a: update_buf(1, a)),
    "LAUNCH_SECRET.HDR_PADDR": (LAUNCH_SECRET, lambda a: secret_buf(1, hdr=a)),
    "LAUNCH_SECRET.GUEST_PADDR": (LAUNCH_SECRET, lambda a: secret_buf(1, guest=a)),
    "LAUNCH_SECRET.TRANS_PADDR": (LAUNCH_SECRET, lambda a: secret_buf(1, trans=a)),
}
# at these 16-byte aligned addresses: (SPEC_0_24, GENOA_1_55_25)
BAD_EVERYWHERE = [
    (0xA0000, S.INVALID_ADDRESS, S.INVALID_ADDRESS),
    (0x2FFE00, S.INVALID_ADDRESS, S.INVALID_ADDRESS),
    (TMR, S.INVALID_ADDRESS, S.INVALID_ADDRESS),
    (0x300000, S.INVALID_ADDRESS, S.INVALID_CONFIG),
    (1 << 46, S.INVALID_ADDRESS, S.INVALID_ADDRESS),
    ((1 << 64) - 16, S.INVALID_ADDRESS, S.INVALID_ADDRESS),
]


@pytest.mark.parametrize("field", FIELDS)
def test_every_address_field_is_checked(field: str) -> None:
    command, buffer = FIELDS[field]
    for column, profile in ((1, "spec"), (2, "genoa")):
        rig = rig_with_map(profile, es=True)
        rig.flush()
        if command in (LAUNCH_UPDATE_DATA, LAUNCH_UPDATE_VMSA, LAUNCH_SECRET):
            assert rig.guest(2 if command == LAUNCH_SECRET else 1, policy=POLICY_ES) == 1
        for row in BAD_EVERYWHERE:
            refused(rig, command, buffer(row[0]), row[column])
        if profile == "genoa" and field not in ("LAUNCH_START.DH_CERT_PADDR", "LAUNCH_UPDATE_VMSA.PADDR"):
            assert rig.run(command, buffer(0)) == S.INVALID_ADDRESS


def test_address_zero_is_an_address_under_the_specification() -> None:
    rig = Rig().init()
    opened = rig.owner(1)
    rig.put(0, opened.session.pack())
    handle = rig.start(1, cert=CERT_AT, cert_len=CERT, session=0, session_len=SESSION)
    rig.activate(handle)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, 0, 0x1000))
    rig.ok(GET_ID, id_buf(OUT), at=0)
    assert rig.get(OUT, 2) == bytes.fromhex("6d6c")


# ------------------------------------------------------------------------------------- rows 1 and 2, white box


def test_no_command_built_can_ask_for_nothing_or_for_three_windows() -> None:
    """Lengths are checked before such ranges get here, and LAUNCH_UPDATE_DATA, the only one that may be longer than
    two windows of 64 MiB, tests a range; so the check is called by itself."""
    dram = AddressMap(((0, 4 * MIB), (60 * MIB, 4 * MIB), (64 * MIB, 68 * MIB)), tseg=(100 * MIB, 101 * MIB - 1))
    firmware = Rig(machine_args={"address_map": dram}).firmware

    def answer(address: int, size: int, copies: bool = True) -> S:
        try:
            firmware.check(address, size, "field", copies=copies)
        except SevError as error:
            return error.status
        return S.SUCCESS

    assert answer(GUEST_AT, 0) == S.INVALID_LENGTH
    assert answer(0xA0000, 0) == answer(1 << 60, 0) == S.INVALID_LENGTH  # row 1 before row 3
    window = 64 * MIB
    assert answer(window - 1, window + 1) == S.INVALID_ADDRESS  # two windows: on to the other rows
    assert answer(window - 1, window + 2) == S.INVALID_PARAM  # three
    assert answer(0, 2 * window) == S.INVALID_ADDRESS
    assert answer(0, 2 * window + 1) == S.INVALID_PARAM  # row 2 before row 3: it overlaps ASEG, too
    assert answer(C_BIT, 2 * window + 1) == S.INVALID_PARAM
    assert answer(0, 2 * window + 1, copies=False) == S.INVALID_ADDRESS
    assert answer(window, 36 * MIB) == S.SUCCESS and answer(window, 36 * MIB + 1) == S.INVALID_ADDRESS


def test_a_long_launch_update_is_no_copy() -> None:
    """Row 2 is for copies of whole ranges; no command of the guest sheet can reach it (sheet 20, section 1.4)."""
    rig = Rig().init()
    rig.guest(1)
    for length in (0x8000010, 0xFFFFFFF0):
        refused(rig, LAUNCH_UPDATE_DATA, update_buf(1, 0x100000, length), S.INVALID_ADDRESS)
