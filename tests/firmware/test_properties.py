"""Mutated command buffers, certificates and sessions: the mailbox always answers with a status, and a command that
fails changes nothing that a host can see, except where a sheet says so."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware.kit import (
    ACTIVATE,
    ACTIVATE_EX,
    ATTESTATION,
    BUF,
    BUFFERS,
    CERT,
    CERT_AT,
    CHAIN,
    COMMANDS,
    COPY,
    DATA_AT,
    DBG_DECRYPT,
    DBG_ENCRYPT,
    DEACTIVATE,
    DECOMMISSION,
    DOWNLOAD_FIRMWARE,
    ES,
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
    OUT,
    OUT2,
    PDH_CERT_EXPORT,
    PEK_CERT_IMPORT,
    PEK_CSR,
    PLAIN,
    PLATFORM_STATUS,
    POLICY_ES,
    RECEIVE_FINISH,
    RECEIVE_START,
    RECEIVE_UPDATE_DATA,
    RECEIVE_UPDATE_VMSA,
    RING_BUFFER,
    SEND_CANCEL,
    SEND_FINISH,
    SEND_START,
    SEND_UPDATE_DATA,
    SEND_UPDATE_VMSA,
    SESSION,
    SESSION_AT,
    SHUTDOWN,
    SWAP_IN,
    SWAP_OUT,
    TMR,
    Rig,
    attest_buf,
    csr_buf,
    debug_buf,
    export_buf,
    id_buf,
    import_buf,
    init_buf,
    init_ex_buf,
    measure_buf,
    refused,
    secret_buf,
    send_start_buf,
    start_buf,
    status_buf,
    swap_buf,
    u32,
    u64,
    update_buf,
)
from sevref import PlatformOwner, SevCertificate
from sevref import Status as S
from sevref.machine import AddressMap
from sevref.transport import Context, make_packet

MODERATE = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
LOW = MIB  # DRAM: 0-1 MiB, and one more that is the trusted memory region in some of the worlds

SESSION_START = start_buf(1, 0, CERT_AT, CERT, SESSION_AT, SESSION)

# h handle, p policy, a address, l length, o small number, . reserved word, n 16 bytes, b one byte (the sheets' tables)
FIELDS = {
    INIT: "o.al", INIT_EX: "loal.al", PEK_CSR: "al", PEK_CERT_IMPORT: "al.al", PDH_CERT_EXPORT: "al.al",
    DOWNLOAD_FIRMWARE: "al", GET_ID: "al", RING_BUFFER: "aaaabb..", PLATFORM_STATUS: "...",
    DECOMMISSION: "h", ACTIVATE: "ho", DEACTIVATE: "h", GUEST_STATUS: "hpob", COPY: "hlaa", ACTIVATE_EX: "lhooa",
    LAUNCH_START: "hpal.al", LAUNCH_UPDATE_DATA: "h.al", LAUNCH_UPDATE_VMSA: "h.al", LAUNCH_MEASURE: "h.al",
    LAUNCH_SECRET: "h.al.al.al", LAUNCH_FINISH: "h", ATTESTATION: "h.anl",
    SEND_START: "hpal.al.al.al", SEND_UPDATE_DATA: "h.al.al.al", SEND_UPDATE_VMSA: "h.al.al.al", SEND_FINISH: "h",
    SEND_CANCEL: "h", RECEIVE_START: "hpal.al", RECEIVE_UPDATE_DATA: "h.al.al.al", RECEIVE_UPDATE_VMSA: "h.al.al.al",
    RECEIVE_FINISH: "h", DBG_DECRYPT: "h.aal", DBG_ENCRYPT: "h.aal", SWAP_OUT: "hoaaaa", SWAP_IN: "hoaaa",
}  # fmt: skip

ADDRESSES = st.one_of(
    st.sampled_from([OUT, OUT2, CERT_AT, SESSION_AT, GUEST_AT, HEAD_AT, DATA_AT, TMR, BUF]),
    st.sampled_from([0, 1, 0xA0000 - 16, 0xA0000, 0xC0000, LOW - 0x5000, LOW - 0x1000, LOW - 16, LOW, TMR + LOW]),
    st.builds(lambda a, b: a | 1 << b, st.sampled_from([OUT, GUEST_AT]), st.sampled_from([46, 51, 55, 56, 63])),
    st.integers(0, 2 * MIB),
    st.integers(0, (1 << 64) - 1),
)
LENGTHS = st.one_of(
    st.sampled_from(
        [0, 0x18, 0x24, 0x30, 0x34, 64, 128, 0xD0, 0x100, CERT, 3200, 4096, CHAIN, 0x4000, 0x5000, 0x8000, MIB]
    ),
    st.integers(0, 0x6000),
    st.integers(0, 0xFFFFFFFF),
)
VALUES = {
    "h": st.one_of(st.integers(1, 6), st.integers(0, 14), st.sampled_from([1024, 1025, 0xFFFFFFFF])).map(u32),
    "p": st.one_of(st.sampled_from([0, 1, 4, 0x18000001]), st.integers(0, 0xFFFFFFFF)).map(u32),
    "a": ADDRESSES.map(u64),
    "l": LENGTHS.map(u32),
    "o": st.one_of(st.integers(0, 3), st.sampled_from([ES, PLAIN, 300, 301, 510]), st.integers(0, 0xFFFFFFFF)).map(u32),
    ".": st.sampled_from([0, 0, 1, 0xFFFFFFFF]).map(u32),
    "n": st.just(b"n" * 16),
    "b": st.integers(0, 3).map(lambda value: bytes([value])),
}
# A good buffer of each command for the guests of ``world``; what is drawn below differs from it in some fields.
LAUNCHING, MEASURED, RUNNING, RECEIVING, SENT, SENDING = 1, 2, 3, 4, 5, 6
GOOD = {
    INIT: init_buf(1, 0, TMR, MIB), INIT_EX: init_ex_buf(0x24, 1, TMR, MIB, 0, 0x30000, 0x8000), PEK_CSR: csr_buf(),
    PEK_CERT_IMPORT: import_buf(), PDH_CERT_EXPORT: export_buf(), DOWNLOAD_FIRMWARE: u64(GUEST_AT) + u32(0x100),
    GET_ID: id_buf(), RING_BUFFER: u64(OUT) * 4 + bytes([1, 1]) + bytes(6), PLATFORM_STATUS: bytes(12),
    DECOMMISSION: u32(RECEIVING), ACTIVATE: u32(RECEIVING) + u32(ES + 5), DEACTIVATE: u32(RUNNING),
    GUEST_STATUS: status_buf(RUNNING), COPY: u32(RUNNING) + u32(4096) + u64(OUT) + u64(GUEST_AT),
    ACTIVATE_EX: u32(0x18) + u32(RECEIVING) + u32(ES + 5) + u32(1) + u64(0x7000), LAUNCH_START: SESSION_START,
    LAUNCH_UPDATE_DATA: update_buf(LAUNCHING, 0xC0000, 0xA000), LAUNCH_UPDATE_VMSA: update_buf(LAUNCHING),
    LAUNCH_MEASURE: measure_buf(LAUNCHING), LAUNCH_SECRET: secret_buf(MEASURED), LAUNCH_FINISH: u32(MEASURED),
    ATTESTATION: attest_buf(SENT), SEND_START: send_start_buf(RUNNING), SEND_UPDATE_DATA: secret_buf(SENDING),
    SEND_UPDATE_VMSA: secret_buf(SENDING, guest_len=4096), SEND_FINISH: u32(SENDING), SEND_CANCEL: u32(SENDING),
    RECEIVE_START: SESSION_START, RECEIVE_UPDATE_DATA: secret_buf(RECEIVING),
    RECEIVE_UPDATE_VMSA: secret_buf(RECEIVING, guest_len=4096), RECEIVE_FINISH: u32(RECEIVING),
    DBG_DECRYPT: debug_buf(RUNNING, 0x30000, 0xC0000, 0xA000), DBG_ENCRYPT: debug_buf(RUNNING, 0x30000, 0xC0000, 0xA000),
    SWAP_OUT: swap_buf(RUNNING, OUT, GUEST_AT) + bytes(8), SWAP_IN: swap_buf(RUNNING, GUEST_AT, OUT),
}  # fmt: skip
WIDTH = {"h": 4, "p": 4, "a": 8, "l": 4, "o": 4, ".": 4, "n": 16, "b": 1}
IDS = st.one_of(st.sampled_from(sorted(COMMANDS)), st.sampled_from(sorted(GOOD)), st.sampled_from(sorted(GOOD)))


@st.composite
def calls(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """A command, its buffer (a good one with some fields changed) and where it lies."""
    command = draw(IDS)
    buffer, offset = b"", 0
    mutate = draw(st.integers(0, 3))  # 0: a good one as it is
    for kind in FIELDS.get(command, ""):
        good = GOOD[command][offset : offset + WIDTH[kind]]
        buffer += draw(VALUES[kind]) if mutate and draw(st.integers(0, mutate + 1)) == 0 else good
        offset += WIDTH[kind]
    return command, buffer, draw(ADDRESSES) if draw(st.integers(0, 7)) == 0 else BUF


def world(profile: str, state: str) -> Rig:
    """A platform in UNINIT, INIT, or WORKING with a guest in each state, all but the sent one bound to an ASID."""
    rig = Rig(profile, machine_args={"address_map": AddressMap(((TMR, MIB), (0, LOW)))})
    if state == "UNINIT":
        return rig
    rig.init(es=True)
    if state == "WORKING":
        for guest_state, policy in ((1, POLICY_ES), (2, 0), (3, POLICY_ES), (5, POLICY_ES), (6, POLICY_ES), (4, 0)):
            handle = rig.guest(guest_state, policy=policy, bound=False)
            if guest_state != 6:
                rig.activate(handle, PLAIN + handle if policy == 0 else ES + handle + 5)
            if guest_state == 2:
                measure = rig.get(OUT, 32)
        data = make_packet(bytes(16), bytes(16), Context.SECRET, bytes(64), iv=bytes(16), trailer=measure)
        rig.put(HEAD_AT, data[0].pack())
        rig.put(DATA_AT, data[1])
    rig.put(0x30000, b"\xff" * 0x8000)
    rig.owner(1)
    return rig


ADDRESS = {S.INVALID_ADDRESS, S.INVALID_CONFIG}
# What a failing command may leave behind: (command, statuses, what changes, profiles), with the sheet's place.
LEFT_BEHIND = [
    # sheet 10, 3.1: the store was erased
    (INIT, {S.SECURE_DATA_INVALID}, {"flash"}, "spec genoa"),
    (INIT_EX, {S.SECURE_DATA_INVALID}, {"flash", "dram"}, "spec genoa"),
    # sheet 10, 3.1: checks 13 to 16 come after the identity was stored and the flags were cleared
    (INIT, {*ADDRESS, S.INVALID_LENGTH}, {"flash", "wbinvd"}, "spec genoa"),
    (INIT_EX, {*ADDRESS, S.INVALID_LENGTH}, {"flash", "wbinvd", "dram"}, "spec genoa"),
    # sheet 10, 3.8 row 4: the PDH has been written
    (PDH_CERT_EXPORT, ADDRESS, {"dram"}, "spec genoa"),
    # sheet 20, 3.3 and 6.1: earlier chunks stay
    (LAUNCH_UPDATE_DATA, ADDRESS, {"dram"}, "genoa"),
    (DBG_DECRYPT, ADDRESS, {"dram"}, "genoa"),
    (DBG_ENCRYPT, ADDRESS, {"dram"}, "genoa"),
    # sheet 30, 5.4 rows 13 and 14: the ciphertext is written before the header's address is looked at
    (SEND_UPDATE_DATA, ADDRESS, {"dram"}, "genoa"),
    (SEND_UPDATE_VMSA, ADDRESS, {"dram"}, "genoa"),
]
LENGTH_REPORTS = {command for command, (_, _, kind) in BUFFERS.items() if kind == "io+L"}


def without(regions: list[bytes], at: int, size: int) -> list[bytes]:
    """Memory without the bytes of the command buffer."""
    high, low = (bytearray(region) for region in regions)
    for region, base in ((high, TMR), (low, 0)):
        for i in range(max(at, base), min(at + size, base + len(region))):
            region[i - base] = 0
    return [bytes(high), bytes(low)]


@MODERATE
@given(
    st.sampled_from(["spec", "genoa"]),
    st.sampled_from(["WORKING", "WORKING", "WORKING", "WORKING", "INIT", "UNINIT"]),
    st.lists(calls(), min_size=8, max_size=16),
)
def test_any_command_anywhere(profile: str, state: str, commands: list[tuple[int, bytes, int]]) -> None:
    rig = world(profile, state)
    handles = range(1, 9)
    for command, buffer, at in commands:
        if any(base <= at and at + 80 <= base + MIB for base in (0, TMR)):
            rig.put(at, buffer)
        before = rig.observe(handles)
        rig.rng.taken()
        status = rig.platform.mailbox(command, at)
        assert type(status) is S
        drawn = rig.rng.taken()
        if status is S.SUCCESS:
            continue
        after = rig.observe(handles)
        changed = {key for key in before if before[key] != after[key]}
        if status is S.INVALID_LENGTH and command in LENGTH_REPORTS:
            where = at & ~(1 << 51), BUFFERS[command][1]
            if at >> 51 & 1 == 0 and without(before["dram"], *where) == without(after["dram"], *where):
                changed -= {"dram"}
            elif at >> 51 & 1:
                changed -= {"dram"}  # through the host's key: whole blocks change
        allowed: set[str] = set()
        for which, statuses, what, profiles in LEFT_BEHIND:
            if command == which and status in statuses and profile in profiles:
                allowed |= what
        assert changed <= allowed, f"0x{command:02X} {status.name} changed {changed}"
        if profile == "spec" and drawn:
            assert command in (INIT, INIT_EX) and status in {*ADDRESS, S.INVALID_LENGTH}
    assert rig.run(PLATFORM_STATUS, bytes(12)) in (S.SUCCESS, S.INVALID_ADDRESS)


@settings(MODERATE, max_examples=40)
@given(st.integers(0, 0x1FF), st.integers(0, (1 << 64) - 1), st.binary(min_size=0, max_size=80))
def test_raw_bytes(command: int, address: int, data: bytes) -> None:
    """Nothing but bytes, at any address of 64 bits."""
    for rig in RAW:
        rig.put(BUF, data)
        for at in (address, address % MIB, BUF):
            assert type(rig.platform.mailbox(command, at)) is S


RAW = [Rig(profile, machine_args={"address_map": AddressMap(((0, MIB),))}) for profile in ("spec", "genoa")]


# -------------------------------------------------------------------- one byte of a certificate or of a session

CERTIFICATE_STATUSES = {S.INVALID_CERTIFICATE, S.BAD_SIGNATURE, S.UNSUPPORTED, S.INVALID_LENGTH}
# What nothing signs and nothing reads (sheet 30, section 1.6; rule V of sheet 10, section 3.7)
UNREAD = {
    "godh": [(0x04, 0x08), (0xA4, 0x824)],
    "session": [],
    "pek": [(0x4AC, 0x61C), (0x624, 0x824)],
    "oca": [(0x4AC, 0x61C), (0x624, 0x824)],
}
OFFSETS = st.one_of(
    st.integers(0, 0x823),
    st.sampled_from(
        [0, 4, 8, 12, 16, 20, 0x5C, 0xA3, 0xA4, 0x413, 0x414, 0x418, 0x41C, 0x464, 0x4AB, 0x4AC, 0x61C, 0x620, 0x624]
    ),
)


def unread(what: str, offset: int) -> bool:
    return any(start <= offset < end for start, end in UNREAD[what])


@pytest.fixture(scope="module")
def launchable() -> Rig:
    rig = Rig().init()
    rig.opened = rig.owner(1)  # type: ignore[attr-defined]
    return rig


@settings(MODERATE, max_examples=150)
@given(what=st.sampled_from(["godh", "session"]), offset=OFFSETS, flip=st.integers(1, 255))
def test_launch_start_with_one_byte_changed(launchable: Rig, what: str, offset: int, flip: int) -> None:
    rig = launchable
    opened = rig.opened  # type: ignore[attr-defined]
    parts = {"godh": bytearray(opened.godh.pack()), "session": bytearray(opened.session.pack())}
    offset %= len(parts[what])
    parts[what][offset] ^= flip
    rig.put(CERT_AT, bytes(parts["godh"]))
    rig.put(SESSION_AT, bytes(parts["session"]))
    buffer = start_buf(1, 0, CERT_AT, CERT, SESSION_AT, SESSION)
    if unread(what, offset):
        rig.ok(LAUNCH_START, buffer)
        rig.ok(DECOMMISSION, u32(1))
    else:
        # no byte of a good certificate can be changed so that it stays a good one with another key: a point with one
        # coordinate changed in one byte is off the curve
        refused(rig, LAUNCH_START, buffer, S.INVALID_CERTIFICATE if what == "godh" else S.BAD_MEASUREMENT)


@pytest.fixture(scope="module")
def ownable() -> Rig:
    rig = Rig().init()
    rig.ok(PEK_CSR, csr_buf())
    owner = PlatformOwner(seed=b"owner")
    signed = owner.sign_csr(SevCertificate.parse(rig.get(OUT, CERT)))
    rig.certs = {"pek": signed.pack(), "oca": owner.oca.pack()}  # type: ignore[attr-defined]
    return rig


@settings(MODERATE, max_examples=150)
@given(what=st.sampled_from(["pek", "oca"]), offset=OFFSETS, flip=st.integers(1, 255))
def test_pek_cert_import_with_one_byte_changed(ownable: Rig, what: str, offset: int, flip: int) -> None:
    rig = ownable
    parts = {name: bytearray(data) for name, data in rig.certs.items()}  # type: ignore[attr-defined]
    parts[what][offset] ^= flip
    rig.put(CERT_AT, bytes(parts["pek"]))
    rig.put(OUT2, bytes(parts["oca"]))
    before = rig.observe([])
    status = rig.run(PEK_CERT_IMPORT, import_buf())
    if unread(what, offset):
        assert status is S.SUCCESS
        assert rig.status()[3] == 1
        rig.ok(SHUTDOWN)
        rig.machine.flash[:] = before["flash"]  # type: ignore[arg-type]
        rig.ok(INIT, init_buf())
    else:
        assert status in CERTIFICATE_STATUSES
        rig.put(BUF, bytes(0x1C))
        assert {key: value for key, value in rig.observe([]).items() if key != "dram"} == {
            key: value for key, value in before.items() if key != "dram"
        }


NUMBERS = st.one_of(st.sampled_from([0, 1, 2, 3, 65537, (1 << 4096) - 1]), st.integers(0, (1 << 4096) - 1))
WORDS = st.sampled_from([0, 1, 2, 3, 0x13, 0x101, 0x102, 0x103, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004, 0xFFFFFFFF])


@settings(MODERATE, max_examples=30)
@given(data=st.data())
def test_pek_cert_import_of_made_up_certificates(ownable: Rig, data: st.DataObject) -> None:
    """Two certificates of plausible words and any numbers: RSA keys of any size, empty, even, tiny, with any signature."""
    rig = ownable
    before = rig.chain()[1].pack()
    for at in (CERT_AT, OUT2):
        bits = data.draw(st.one_of(st.sampled_from([0, 7, 8, 2048, 4096, 4097]), st.integers(0, 5000)))
        usage, algo = data.draw(st.sampled_from([(0x1001, 1), (0x1001, 0x101), (0x1001, 2)])), data.draw(WORDS)
        exponent, modulus, *signatures = (data.draw(NUMBERS).to_bytes(512, "little") for _ in range(4))
        cert = u32(1) + u32(0x1800) + u32(usage[0]) + u32(usage[1]) + u32(bits) + exponent + modulus
        for signature in signatures:
            cert += u32(usage[0]) + u32(data.draw(st.one_of(st.just(usage[1]), st.just(algo)))) + signature
        rig.put(at, cert)
    assert rig.run(PEK_CERT_IMPORT, import_buf()) in CERTIFICATE_STATUSES
    assert rig.status()[3] == 0 and rig.chain()[1].pack() == before
