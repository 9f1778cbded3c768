"""Command buffers: what is read, what is written back and when, sizes, alignment, reserved fields."""

import random

import pytest

from firmware.kit import (
    ACTIVATE,
    ATTESTATION,
    BUF,
    BUFFERS,
    CERT,
    CERT_AT,
    CHAIN,
    DATA_AT,
    DEACTIVATE,
    DECOMMISSION,
    DF_FLUSH,
    DOWNLOAD_FIRMWARE,
    DRAM,
    GET_ID,
    GUEST_AT,
    GUEST_STATUS,
    HEAD_AT,
    INIT,
    INIT_EX,
    LAUNCH_FINISH,
    LAUNCH_MEASURE,
    LAUNCH_SECRET,
    LAUNCH_START,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    NODBG,
    NOP,
    OUT,
    OUT2,
    PDH_CERT_EXPORT,
    PEK_CERT_IMPORT,
    PEK_CSR,
    PLATFORM_STATUS,
    SHUTDOWN,
    TMR,
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
    status_buf,
    u32,
    u64,
    update_buf,
)
from sevref import Machine, Platform, SevError
from sevref import Status as S
from sevref.machine import AddressMap
from sevref.transport import Context, make_packet

ASEG = 0xA0000
GARBAGE = [0, 3, ASEG, TMR, DRAM, 1 << 46, 1 << 63, (1 << 64) - 1]
FF = 0xFFFFFFFF


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_commands_without_a_buffer_ignore_the_address(profile: str) -> None:
    rig = Rig(profile).init()
    for address in GARBAGE:
        assert rig.platform.mailbox(NOP, address) == S.SUCCESS
        assert rig.platform.mailbox(DF_FLUSH, address) == S.SUCCESS
        assert rig.platform.mailbox(SHUTDOWN, address) == S.SUCCESS
        rig.ok(INIT, init_buf())
        rig.machine.wbinvd()


@pytest.mark.parametrize("command", [c for c, (_, _, kind) in BUFFERS.items() if kind != "out"])
def test_a_bad_buffer_address_comes_before_the_platform_state(command: int) -> None:
    """In UNINIT most of these would be INVALID_PLATFORM_STATE; INIT would be so in INIT."""
    for profile, outside in (("spec", S.INVALID_ADDRESS), ("genoa", S.INVALID_CONFIG)):
        rig = Rig(profile)
        if command == INIT:
            rig.init()
        for address, want in (
            (ASEG, S.INVALID_ADDRESS),
            (DRAM - 1, outside),
            (DRAM, outside),
            (1 << 46, S.INVALID_ADDRESS),
            ((1 << 64) - 1, S.INVALID_ADDRESS),
        ):
            before = rig.observe()
            assert rig.platform.mailbox(command, address) == want
            assert rig.observe() == before


def test_platform_status_runs_before_its_address_is_looked_at() -> None:
    rig = Rig().init()
    for address in (ASEG, DRAM - 11, DRAM, 1 << 50):
        before = rig.observe()
        assert rig.platform.mailbox(PLATFORM_STATUS, address) == S.INVALID_ADDRESS
        assert rig.observe() == before
    rig.put(BUF, b"\xff" * 16)  # class out: what lies there is not read, and all 12 bytes are written
    assert rig.platform.mailbox(PLATFORM_STATUS, BUF) == S.SUCCESS
    assert rig.get(BUF, 16) == bytes.fromhex("00 18 01 00 00 00 00 0f 00 00 00 00 ff ff ff ff")
    assert rig.platform.mailbox(PLATFORM_STATUS, DRAM - 12) == S.SUCCESS


# ------------------------------------------------------------------------------------------------- sizes

PASSES = {  # what each command answers to an accepted buffer of zeros in UNINIT
    INIT: S.SUCCESS,
    PLATFORM_STATUS: S.SUCCESS,
    GET_ID: S.INVALID_LENGTH,
    INIT_EX: S.INVALID_LENGTH,
    DOWNLOAD_FIRMWARE: S.INVALID_LENGTH,  # with an image at OUT
    LAUNCH_UPDATE_VMSA: S.INVALID_LENGTH,
}


@pytest.mark.parametrize("command", list(BUFFERS))
def test_size_of_the_buffer_next_to_forbidden_memory(command: int) -> None:
    exact, padded, _ = BUFFERS[command]
    passes = PASSES.get(command, S.INVALID_PLATFORM_STATE)
    for profile, size, outside in (("spec", exact, S.INVALID_ADDRESS), ("genoa", padded, S.INVALID_CONFIG)):
        for end, want in ((DRAM, outside), (ASEG, S.INVALID_ADDRESS)):
            rig = Rig(profile)
            rig.put(end - 0x100, bytes(0x100))
            if command == DOWNLOAD_FIRMWARE:
                rig.put(end - size, u64(OUT))
            assert rig.platform.mailbox(command, end - size + 1) == want
            assert rig.platform.mailbox(command, end - size) == passes


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_padding_comes_back_unchanged(profile: str) -> None:
    rig = Rig(profile).init()
    rig.put(BUF, start_buf(NODBG) + b"padding!")
    assert rig.platform.mailbox(LAUNCH_START, BUF) == S.SUCCESS
    assert rig.get(BUF, 0x2C) == start_buf(NODBG, handle=1) + b"padding!"
    rig.put(BUF, status_buf(1) + b"pad")
    assert rig.platform.mailbox(GUEST_STATUS, BUF) == S.SUCCESS
    assert rig.get(BUF, 16) == status_buf(1, NODBG, 0, 1) + b"pad"
    rig.put(BUF, id_buf(length=0) + b"padd")
    assert rig.platform.mailbox(GET_ID, BUF) == S.INVALID_LENGTH
    assert rig.get(BUF, 16) == id_buf(length=64) + b"padd"


def whole_launch(rig: Rig, at: int) -> None:
    """Every guest command once, with the buffer at ``at``."""

    def ok(command: int, buffer: bytes) -> None:
        rig.put(at, buffer)
        assert rig.platform.mailbox(command, at) == S.SUCCESS, f"0x{command:02X}"

    ok(LAUNCH_START, start_buf(4))
    ok(ACTIVATE, u32(1) + u32(7))
    ok(LAUNCH_UPDATE_DATA, update_buf(1))
    ok(LAUNCH_UPDATE_VMSA, update_buf(1, GUEST_AT + 0x1000))
    ok(LAUNCH_MEASURE, measure_buf(1, OUT + 3))
    header, data = make_packet(
        bytes(16), bytes(16), Context.SECRET, b"s" * 64, iv=bytes(16), trailer=rig.get(OUT + 3, 32)
    )
    rig.put(HEAD_AT + 1, header.pack())
    rig.put(DATA_AT + 7, data)
    ok(LAUNCH_SECRET, secret_buf(1, hdr=HEAD_AT + 1, trans=DATA_AT + 7))
    ok(ATTESTATION, attest_buf(1, OUT + 5))
    ok(LAUNCH_FINISH, u32(1))
    ok(GUEST_STATUS, status_buf(1))
    ok(PDH_CERT_EXPORT, export_buf(OUT + 1, CERT, OUT2 + 1, CHAIN))
    ok(PEK_CSR, csr_buf(OUT + 9))
    ok(GET_ID, id_buf(OUT + 11))
    ok(PLATFORM_STATUS, bytes(12))
    ok(DEACTIVATE, u32(1))
    ok(DECOMMISSION, u32(1))


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_no_alignment_and_a_64_mib_boundary_inside_the_buffer(profile: str) -> None:
    dram = ((0, 4 * MIB), (63 * MIB, 2 * MIB))
    rig = Rig(profile, machine_args={"address_map": AddressMap(dram)})
    for at in (BUF + 1, BUF + 15, 64 * MIB - 2, 64 * MIB - 7):
        rig.put(at, init_buf(1, 0, TMR, MIB))
        assert rig.platform.mailbox(INIT, at) == S.SUCCESS
        rig.flush()
        whole_launch(rig, at)
        rig.ok(SHUTDOWN)


# ------------------------------------------------------------------------------------------- reserved fields


@pytest.mark.parametrize(
    "buffer",
    [
        *(init_buf(1 << bit) for bit in range(1, 32)),
        *(init_buf(0, 1 << bit) for bit in (0, 7, 8, 15, 16, 31)),
        init_buf(3, 0, TMR, MIB),
        init_buf(1, 1, TMR, MIB),
    ],
)
def test_init_checks_its_reserved_bits(buffer: bytes) -> None:
    refused(Rig(), INIT, buffer, S.INVALID_CONFIG)


def test_every_other_command_ignores_reserved_fields() -> None:
    rig = Rig().init(es=True)
    assert rig.ok(PDH_CERT_EXPORT, export_buf(reserved=FF))[0x0C:0x10] == b"\xff" * 4
    assert rig.ok(LAUNCH_START, start_buf(4, reserved=FF))[0x14:0x18] == b"\xff" * 4
    rig.activate(1, 7)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(1, reserved=FF))
    rig.ok(LAUNCH_UPDATE_VMSA, update_buf(1, GUEST_AT + 0x1000, reserved=FF))
    assert rig.ok(LAUNCH_MEASURE, measure_buf(1, reserved=FF)) == measure_buf(1, reserved=FF)
    header, data = make_packet(bytes(16), bytes(16), Context.SECRET, bytes(64), iv=bytes(16), trailer=rig.get(OUT, 32))
    rig.put(HEAD_AT, header.pack())
    rig.put(DATA_AT, data)
    rig.ok(LAUNCH_SECRET, secret_buf(1, reserved=FF))
    assert rig.ok(ATTESTATION, attest_buf(1, reserved=FF)) == attest_buf(1, reserved=FF)
    rig = Rig().init()
    rig.put(CERT_AT, bytes(CERT))
    assert rig.run(PEK_CERT_IMPORT, import_buf(reserved=FF)) == S.INVALID_CERTIFICATE  # it got as far as the OCA


# ------------------------------------------------------------------------------------------------ write-back


def test_class_in_is_never_written_back() -> None:
    """Success and failure: the bytes of the buffer stay as the host wrote them."""
    rig = Rig().init(es=True)
    rig.start(4)
    for command, buffer in (
        (ACTIVATE, u32(1) + u32(7)),
        (LAUNCH_UPDATE_DATA, update_buf(1, reserved=0x12345678)),
        (LAUNCH_UPDATE_VMSA, update_buf(1, reserved=0x12345678)),
        (PEK_CERT_IMPORT, import_buf(pek_len=1, reserved=5)),
        (LAUNCH_UPDATE_VMSA, update_buf(1, length=1)),
        (LAUNCH_UPDATE_DATA, update_buf(1, length=0)),
        (LAUNCH_SECRET, secret_buf(1, hdr_len=0, reserved=9)),
        (DEACTIVATE, u32(1)),
        (DECOMMISSION, u32(1)),
    ):
        rig.run(command, buffer)
        assert rig.answer == buffer, f"0x{command:02X}"
    rig = Rig()
    for buffer in (init_buf(1, 0, TMR, 5), init_buf(2), init_buf()):
        rig.run(INIT, buffer)
        assert rig.answer == buffer


def test_class_io_is_written_back_on_success_only() -> None:
    rig = Rig().init()
    refused(rig, LAUNCH_START, start_buf(4), S.UNSUPPORTED)
    refused(rig, LAUNCH_START, start_buf(0, cert=CERT_AT, session_len=1), S.INVALID_LENGTH)  # not even then
    refused(rig, LAUNCH_START, start_buf(0, handle=9), S.INVALID_GUEST)
    assert rig.ok(LAUNCH_START, start_buf(1, reserved=7)) == start_buf(1, handle=1, reserved=7)


@pytest.mark.parametrize(
    ("command", "too_small", "bad_address"),
    [
        (PEK_CSR, csr_buf(length=2083), csr_buf(ASEG)),
        (PDH_CERT_EXPORT, export_buf(pdh_len=2083, reserved=3), export_buf(ASEG, 9999, OUT2, 9999)),
        (GET_ID, id_buf(length=63), id_buf(ASEG, 100)),
        (LAUNCH_MEASURE, measure_buf(1, length=47, reserved=3), measure_buf(1, ASEG, 100)),
        (ATTESTATION, attest_buf(2, length=207, reserved=3), attest_buf(2, ASEG, length=300)),
    ],
)
def test_class_io_with_length(command: int, too_small: bytes, bad_address: bytes) -> None:
    rig = Rig().init()
    assert (rig.guest(1), rig.guest(2, bound=False)) == (1, 2)
    full = {
        PEK_CSR: csr_buf(),
        PDH_CERT_EXPORT: export_buf(reserved=3),
        GET_ID: id_buf(),
        LAUNCH_MEASURE: measure_buf(1, reserved=3),
        ATTESTATION: attest_buf(2, reserved=3),
    }[command]
    assert rig.run(command, too_small) == S.INVALID_LENGTH
    assert rig.answer == full  # every length field set, everything else as it came in
    refused(rig, command, bad_address, S.INVALID_ADDRESS)


def test_a_failing_write_back() -> None:
    """Cannot be brought about from outside with the commands built so far (nothing between the read of a buffer and
    its write-back makes an address bad), so the address check itself fails here from the second time on."""
    for command, buffer, want in (
        (GUEST_STATUS, status_buf(1), S.INVALID_ADDRESS),
        (LAUNCH_START, start_buf(), S.INVALID_ADDRESS),  # and yet the guest exists
        (GET_ID, id_buf(), S.INVALID_ADDRESS),
        (GET_ID, id_buf(length=0), S.INVALID_LENGTH),  # on this path the failure is ignored
        (LAUNCH_MEASURE, measure_buf(1, length=0), S.INVALID_LENGTH),
    ):
        rig = Rig().init()
        rig.start()
        rig.put(BUF, buffer)
        check, seen = rig.firmware.check, []

        def broken(address: int, size: int, what: str, *, copies: bool = True, seen=seen, check=check) -> None:
            if address == BUF:
                seen.append(what)
                if len(seen) > 1:
                    raise SevError(S.INVALID_ADDRESS, "made up by the test")
            check(address, size, what, copies=copies)

        rig.firmware.check = broken
        assert rig.platform.mailbox(command, BUF) == want
        rig.firmware.check = check
        assert len(seen) == 2 and rig.get(BUF, len(buffer)) == buffer
        assert rig.status()[8] == (2 if command == LAUNCH_START else 1)


def test_output_over_the_own_command_buffer() -> None:
    """The write-back comes last and wins."""
    rig = Rig().init()
    rig.ok(GET_ID, id_buf())
    chip_id = rig.get(OUT, 64)
    assert rig.ok(GET_ID, id_buf(BUF, 80)) == id_buf(BUF, 64)
    assert rig.get(BUF, 64) == id_buf(BUF, 64) + chip_id[12:]
    rig.ok(PEK_CSR, csr_buf())
    csr = rig.get(OUT, CERT)
    assert rig.ok(PEK_CSR, csr_buf(BUF - 100)) == csr_buf(BUF - 100)
    assert rig.get(BUF - 100, CERT) == csr[:100] + csr_buf(BUF - 100) + csr[112:]


def test_the_firmware_works_on_a_copy_of_the_buffer() -> None:
    """LAUNCH_UPDATE_DATA over its own command buffer: the buffer is encrypted with the rest and not written back."""
    rig = Rig().init()
    rig.guest(1)
    page = random.Random(3).randbytes(4096)
    rig.put(BUF, page)
    before = rig.get(BUF, 4096)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(1, BUF))
    after = rig.get(BUF, 4096)
    assert after[:0x14] != update_buf(1, BUF) and before[:0x14] != after[:0x14]


def test_buffer_through_the_host_key() -> None:
    """A C-bit in the buffer's address: the buffer is read and written through the host's key."""
    rig = Rig().init()
    c_bit = 1 << 51
    rig.put(OUT, bytes(64))
    rig.machine.host_write(c_bit | BUF, id_buf(c_bit | OUT))
    assert rig.platform.mailbox(GET_ID, c_bit | BUF) == S.SUCCESS
    assert rig.machine.host_read(c_bit | BUF, 12) == id_buf(c_bit | OUT)
    hidden = rig.get(OUT, 64)
    rig.ok(GET_ID, id_buf())
    assert rig.machine.host_read(OUT, 64) == rig.get(OUT, 64) != hidden
    rig.put(OUT, hidden)
    clear = rig.machine.host_read(c_bit | OUT, 64)
    rig.ok(GET_ID, id_buf())
    assert clear == rig.get(OUT, 64)
    assert rig.platform.mailbox(GET_ID, BUF | 1 << 50) == S.INVALID_ADDRESS


def test_driver_buffers_fit_a_small_machine() -> None:
    platform = Platform(Machine(seed=b"x", dram_size=2 * MIB))
    platform.init()
    assert platform.platform_status().state == 1
