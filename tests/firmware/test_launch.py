"""Launch commands (sheet 20, sections 3 and 4): every check, the order, effects, draws, what failures leave behind."""

import hashlib
import hmac
import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from firmware.kit import (
    ATTESTATION,
    BUF,
    CERT,
    CERT_AT,
    DATA_AT,
    DEACTIVATE,
    DECOMMISSION,
    DRAM,
    ES,
    GUEST_AT,
    HEAD_AT,
    LAUNCH_FINISH,
    LAUNCH_MEASURE,
    LAUNCH_SECRET,
    LAUNCH_START,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    NOKS,
    OUT,
    PDH_GEN,
    PLAIN,
    POLICY_ES,
    RECEIVE_FINISH,
    REPORT,
    SESSION,
    SESSION_AT,
    TMR,
    Rig,
    attest_buf,
    measure_buf,
    refused,
    secret_buf,
    start_buf,
    u32,
    u64,
    update_buf,
)
from sevref import SPEC_0_24, SeededRandom, Session
from sevref import Status as S
from sevref.machine import AddressMap

ASEG = 0xA0000
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
API_0_24, API_0_25, API_1_0 = 24 << 24, 25 << 24, 1 << 16


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def full(policy: int = 1, handle: int = 0, **changes: int) -> bytes:
    """LAUNCH_START with a session."""
    fields = {"cert": CERT_AT, "cert_len": CERT, "session": SESSION_AT, "session_len": SESSION, **changes}
    return start_buf(policy, handle, **fields)


# -------------------------------------------------------------------------------------------- LAUNCH_START


def test_order_of_launch_start() -> None:
    """Rows 2 to 14 of section 3.1: each request breaks the named row and the ones after it that it can."""
    rig = Rig().init()
    opened = rig.owner(1)
    lender = rig.start(NOKS)
    far = 1 << 60

    # 2 SESSION_LEN, 3 session readable, 4 DH_CERT_LEN, 5 certificate readable
    for length in (0, 0x7F, 0x81):
        refused(rig, LAUNCH_START, full(session=far, cert_len=1, session_len=length), S.INVALID_LENGTH)
    refused(rig, LAUNCH_START, full(session=far, cert_len=1), S.INVALID_ADDRESS)
    for length in (0, CERT - 1, CERT + 1):
        refused(rig, LAUNCH_START, full(cert=far, cert_len=length), S.INVALID_LENGTH)
    refused(rig, LAUNCH_START, full(cert=far), S.INVALID_ADDRESS)

    # 6 certificate, before the MACs
    godh, session = opened.godh.pack(), opened.session.pack()
    for offset, data in (
        (0x00, u32(2)), (0x08, u32(0x1002)), (0x08, u32(0x1000)), (0x0C, u32(0x2)), (0x0C, u32(0x103)), (0x0C, u32(0)),
        (0x10, u32(1)), (0x10, u32(0)), (0x14, bytes(72)), (0x14, bytes([godh[0x14] ^ 1])), (0x14 + 48, b"\x01"),
        (0x5C, bytes([godh[0x5C] ^ 1])), (0x5C + 71, b"\x01"),
    ):  # fmt: skip
        rig.put(CERT_AT, godh[:offset] + data + godh[offset + len(data) :])
        rig.put(SESSION_AT + 0x40, bytes(64))
        refused(rig, LAUNCH_START, full(0xFFFFFFFF, 77), S.INVALID_CERTIFICATE)
    rig.put(CERT_AT, godh)

    # 7 WRAP_MAC, 8 POLICY_MAC, before the policy's version and bits
    for offset in (0x00, 0x0F, 0x10, 0x2F, 0x40, 0x47, 0x48, 0x5F, 0x60, 0x67, 0x68, 0x7F, 0x30):
        rig.put(SESSION_AT, session[:offset] + bytes([session[offset] ^ 1]) + session[offset + 1 :])
        refused(rig, LAUNCH_START, full(), S.BAD_MEASUREMENT)
    rig.put(SESSION_AT, session)
    for policy in (0, 3, 1 | 1 << 6, 1 | API_0_25, 1 | API_1_0, 0xFFFFFFFF):
        refused(rig, LAUNCH_START, full(policy, 77), S.BAD_MEASUREMENT)

    # 9 API version, 10 reserved bits, both before the handle
    for policy in (1 | API_0_25, 1 | API_1_0, 1 | 0xFF << 24, 1 | 1 << 6, 1 | 1 << 15, 0xFFFFFFFF):
        rig.owner(policy)
        refused(rig, LAUNCH_START, full(policy, 77), S.POLICY_FAILURE)
    # 11 handle, 12 sharing, before 14
    rig.owner(POLICY_ES)
    for handle in (77, 1025, 0xFFFFFFFF):
        refused(rig, LAUNCH_START, full(POLICY_ES, handle), S.INVALID_GUEST)
    refused(rig, LAUNCH_START, full(POLICY_ES, lender), S.POLICY_FAILURE)
    rig.owner(NOKS)
    refused(rig, LAUNCH_START, full(NOKS, lender), S.POLICY_FAILURE)  # equal, but the lender forbids it
    # 14
    rig.owner(POLICY_ES)
    refused(rig, LAUNCH_START, full(POLICY_ES), S.UNSUPPORTED)
    assert rig.status()[8] == 1


def test_what_is_not_looked_at_in_the_owners_certificate() -> None:
    """No signature is verified; API version, reserved bytes, the rest of the key and both slots are not read."""
    rig = Rig().init()
    godh = bytearray(rig.owner(1 | API_0_24).godh.pack())
    for start, end in ((0x04, 0x08), (0xA4, 0x414), (0x414, 0x824)):
        godh[start:end] = noise(end - start)
    rig.put(CERT_AT, bytes(godh))
    rig.ok(LAUNCH_START, full(1 | API_0_24))


def test_versions_that_satisfy_a_policy() -> None:
    rig = Rig(version=(1, 10, 3)).init()
    for major, minor, want in (
        (0, 255, S.SUCCESS),
        (1, 10, S.SUCCESS),
        (1, 11, S.POLICY_FAILURE),
        (2, 0, S.POLICY_FAILURE),
    ):
        policy = 1 | major << 16 | minor << 24
        rig.owner(policy)
        assert rig.run(LAUNCH_START, full(policy)) == want


def test_a_failed_start_leaves_the_platform_in_init() -> None:
    rig = Rig().init()
    refused(rig, LAUNCH_START, start_buf(POLICY_ES), S.UNSUPPORTED)
    assert rig.state == 1


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_draws_of_launch_start(profile: str) -> None:
    rig = Rig(profile).init()
    first = rig.start()
    assert rig.rng.taken() == [32, 32]  # VEK, OEK
    vek, oek = rig.rng.last
    guest = rig.firmware.guests[first]
    assert (guest.vek, guest.oek) == (vek, oek)
    second = rig.start(handle=first)
    assert rig.rng.taken() == [32]  # sharing: OEK only
    shared = rig.firmware.guests[second]
    assert (shared.vek, shared.oek) == (vek, rig.rng.last[0]) and shared.oek != oek
    assert rig.run(LAUNCH_START, start_buf(POLICY_ES)) == S.UNSUPPORTED
    assert rig.rng.taken() == ([32] if profile == "genoa" else [])
    assert rig.run(LAUNCH_START, start_buf(POLICY_ES, first)) == S.POLICY_FAILURE
    assert rig.rng.taken() == []


def test_key_sharing() -> None:
    """The new guest reads the lender's memory, has its own handle, ASID, keys and digest; any state lends."""
    page = noise(4096)
    for state in (1, 2, 3, 4, 5, 6):
        rig = Rig().init()
        lender = rig.guest(state)
        sharer = rig.start(handle=lender)
        assert sharer != lender
        rig.machine.umc.write(PLAIN, GUEST_AT, page)
        rig.activate(sharer, PLAIN + 1)
        rig.ok(LAUNCH_MEASURE, measure_buf(sharer))
        rig.ok(LAUNCH_FINISH, u32(sharer))
        assert rig.machine.vcpu(PLAIN + 1).read(GUEST_AT, 4096) == page
        refused(rig, LAUNCH_START, start_buf(1, lender), S.POLICY_FAILURE)


def test_channel_of_the_new_guest() -> None:
    rig = Rig().init()
    opened = rig.owner(1)
    handle = rig.start_with(opened)
    rig.ok(LAUNCH_MEASURE, measure_buf(handle))
    blob = rig.get(OUT, 0x30)
    message = b"\x04\x00\x18\x0f" + u32(1) + hashlib.sha256().digest() + blob[32:]
    assert hmac.digest(opened.tik, message, "sha256") == blob[:32]


def test_the_same_session_twice_makes_two_guests() -> None:
    rig = Rig().init()
    opened = rig.owner(1)
    assert (rig.start_with(opened), rig.start_with(opened)) == (1, 2)


def test_without_a_session() -> None:
    """The other fields are ignored, policy version and reserved bits are not checked, the keys are zero."""
    rig = Rig().init()
    policy = 0xFFFFFFFF & ~POLICY_ES
    handle = int.from_bytes(rig.ok(LAUNCH_START, start_buf(policy, 0, 0, 77, 1 << 60, 99))[:4], "little")
    rig.ok(LAUNCH_MEASURE, measure_buf(handle))
    blob = rig.get(OUT, 0x30)
    message = b"\x04\x00\x18\x0f" + u32(policy) + hashlib.sha256().digest() + blob[32:]
    assert hmac.digest(bytes(16), message, "sha256") == blob[:32]


def test_strict_policy() -> None:
    from dataclasses import replace

    rig = Rig(replace(SPEC_0_24, strict_policy=True)).init()
    for policy in (1 << 6, API_0_25, API_1_0):
        refused(rig, LAUNCH_START, start_buf(policy, 77), S.POLICY_FAILURE)  # before the handle
    refused(rig, LAUNCH_START, start_buf(API_0_24, 77), S.INVALID_GUEST)
    rig.start(API_0_24)


# ------------------------------------------------------------------------------------------- LAUNCH_UPDATE_*


def test_order_of_launch_update_data() -> None:
    rig = Rig().init()
    handle, measured = rig.start(), rig.guest(2, bound=False)
    refused(rig, LAUNCH_UPDATE_DATA, update_buf(77, 1, 1), S.INVALID_GUEST)
    refused(rig, LAUNCH_UPDATE_DATA, update_buf(measured, 1, 1), S.INVALID_GUEST_STATE)
    refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, 1, 1), S.INACTIVE)
    rig.activate(handle)
    for low in (1, 8, 15):
        refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, ASEG + low, 0), S.INVALID_ADDRESS)
        refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT + low, 0), S.INVALID_ADDRESS)
    for length in (0, 1, 8, 15, 17, 4095, 0xFFFFFFFF):
        refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, ASEG, length), S.INVALID_LENGTH)
    refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, ASEG, 16), S.INVALID_ADDRESS)
    refused(rig, LAUNCH_UPDATE_DATA, update_buf(handle, ASEG - 16, 32), S.INVALID_ADDRESS)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, ASEG - 16, 16))


def test_order_of_launch_update_vmsa() -> None:
    rig = Rig().init(es=True)
    plain, es, measured = rig.start(), rig.start(POLICY_ES), rig.guest(2, bound=False)
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(77, 1, 16), S.INVALID_LENGTH)
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(77, 1), S.INVALID_GUEST)
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(measured, 1), S.INVALID_GUEST_STATE)  # before UNSUPPORTED
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(plain, 1), S.UNSUPPORTED)  # before INACTIVE
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(es, 1), S.INACTIVE)
    rig.activate(es, ES)
    rig.firmware.pool._free.clear()
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(es, GUEST_AT + 8), S.INVALID_ADDRESS)
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(es, ASEG), S.INVALID_ADDRESS)  # before RESOURCE_LIMIT
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(es), S.RESOURCE_LIMIT)


def digest_of(rig: Rig, handle: int) -> bytes:
    """The launch digest as ATTESTATION reports it."""
    rig.ok(LAUNCH_MEASURE, measure_buf(handle))
    rig.ok(ATTESTATION, attest_buf(handle))
    return rig.get(OUT + 16, 32)


def test_launch_digest_and_encryption_in_place() -> None:
    rig = Rig().init()
    handle = rig.guest(1)
    first, second = noise(0x3000), noise(0x1010, 2)
    rig.put(GUEST_AT, first)
    rig.put(0x20010, second)
    rig.rng.taken()
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, 0x20010, 0x1010))
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT, 0x1000))
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT + 0x1000, 0x2000))
    assert rig.rng.taken() == []
    cipher = rig.get(GUEST_AT, 0x3000)
    assert cipher != first and rig.machine.umc.read(PLAIN, GUEST_AT, 0x3000) == first
    assert rig.machine.umc.read(PLAIN, 0x20010, 0x1010) == second
    # the same address again: what the host reads there now, ciphertext
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT, 0x20))
    assert digest_of(rig, handle) == hashlib.sha256(second + first + cipher[:0x20]).digest()


def test_nothing_loaded() -> None:
    rig = Rig().init()
    assert digest_of(rig, rig.start()).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_update_through_the_host_key() -> None:
    """A C-bit in PADDR: the plaintext is what the host reads through its own key."""
    rig = Rig().init(es=True)
    handle = rig.guest(1, policy=POLICY_ES)
    data, page = noise(64), noise(4096, 3)
    c_bit = 1 << 51
    rig.machine.host_write(c_bit | GUEST_AT, data)
    rig.machine.host_write(c_bit | GUEST_AT + 0x1000, page)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, c_bit | GUEST_AT, 64))
    rig.ok(LAUNCH_UPDATE_VMSA, update_buf(handle, c_bit | GUEST_AT + 0x1000))
    assert rig.machine.umc.read(ES, GUEST_AT, 64) == data
    assert rig.machine.umc.read(ES, GUEST_AT + 0x1000, 0x380) == page[:0x380]
    assert digest_of(rig, handle) == hashlib.sha256(data + page).digest()


def crc32c(data: bytes) -> int:
    """Bit by bit: reflected polynomial 0x82F63B78, initial all ones, final inversion."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def checksum(page: bytes) -> bytes:
    """Section 3.4 read once more: 168 groups of 24 bytes, three CRC-32C values, their own CRC, their XOR."""
    streams = [b"", b"", b""]
    for group in range(168):
        for i in range(3):
            streams[i] += page[24 * group + 8 * i : 24 * group + 8 * i + 8]
    a, b, c = (crc32c(stream) for stream in streams)
    return u32(crc32c(u32(a) + u32(b) + u32(c))) + u32(a ^ b ^ c)


def test_crc_of_the_check_string() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the published check value of CRC-32C


def test_vmsa_tag_and_checksum() -> None:
    rig = Rig().init(es=True)
    handle = rig.guest(1, policy=POLICY_ES)
    pages = [noise(4096, i) for i in range(2)]
    rig.rng.taken()
    for i, page in enumerate(pages):
        rig.put(GUEST_AT + 0x1000 * i, page)
        rig.ok(LAUNCH_UPDATE_VMSA, update_buf(handle, GUEST_AT + 0x1000 * i))
        slot = TMR + 0x80000 + 8 * i
        tagged = page[:0x380] + bytes(8) + u64(slot) + page[0x390:]
        assert rig.machine.umc.read(ES, GUEST_AT + 0x1000 * i, 4096) == tagged
        assert rig.get(slot, 8) == checksum(tagged)
    assert rig.get(TMR + 0x80010, 8) == bytes(8) and rig.rng.taken() == []
    assert digest_of(rig, handle) == hashlib.sha256(pages[0] + pages[1]).digest()


def test_vmsa_at_an_address_that_is_only_16_byte_aligned() -> None:
    rig = Rig().init(es=True)
    handle = rig.guest(1, policy=POLICY_ES)
    page = noise(4096)
    rig.put(GUEST_AT + 0x330, page)
    rig.ok(LAUNCH_UPDATE_VMSA, update_buf(handle, GUEST_AT + 0x330))
    assert rig.machine.umc.read(ES, GUEST_AT + 0x330 + 0x390, 64) == page[0x390:0x3D0]


def nearly_empty(rig: Rig, left: int) -> None:
    """Take slots as 65536 - left pages would: no test can wait for that many VMSAs."""
    while len(rig.firmware.pool._free) > left:
        rig.firmware.pool._free.popleft()


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_the_pool_runs_out(profile: str) -> None:
    """The last slot is never handed out; under vmsa_measured_before_slot the digest has the page all the same."""
    rig = Rig(profile).init(es=True)
    assert len(rig.firmware.pool._free) == 65536
    handle = rig.guest(1, policy=POLICY_ES)
    nearly_empty(rig, 3)
    pages = [noise(4096, i) for i in range(3)]
    for i in (0, 1):
        rig.put(GUEST_AT, pages[i])
        rig.ok(LAUNCH_UPDATE_VMSA, update_buf(handle))
        assert rig.machine.umc.read(ES, GUEST_AT + 0x388, 8) == u64(TMR + 0x80000 + 8 * (65533 + i))
    rig.put(GUEST_AT, pages[2])
    refused(rig, LAUNCH_UPDATE_VMSA, update_buf(handle), S.RESOURCE_LIMIT)
    loaded = pages if profile == "genoa" else pages[:2]
    assert digest_of(rig, handle) == hashlib.sha256(b"".join(loaded)).digest()


def test_decommission_returns_slots_at_the_tail_oldest_first() -> None:
    rig = Rig().init(es=True)
    first = rig.guest(1, policy=POLICY_ES)
    for i in range(3):
        rig.ok(LAUNCH_UPDATE_VMSA, update_buf(first, GUEST_AT + 0x1000 * i))
    rig.ok(DEACTIVATE, u32(first))
    rig.ok(DECOMMISSION, u32(first))
    second = rig.guest(1, policy=POLICY_ES)
    rig.ok(LAUNCH_UPDATE_VMSA, update_buf(second))
    assert rig.machine.umc.read(ES, GUEST_AT + 0x388, 8) == u64(TMR + 0x80000 + 8 * 3)  # a queue, not a stack
    nearly_empty(rig, 3)  # what is left: slots 0, 1, 2 in the order in which they were taken
    for i in (0, 1):
        rig.put(GUEST_AT, bytes(4096))
        rig.ok(LAUNCH_UPDATE_VMSA, update_buf(second))
        assert rig.machine.umc.read(ES, GUEST_AT + 0x388, 8) == u64(TMR + 0x80000 + 8 * i)


# ------------------------------------------------------------------------------------------- chunks (Genoa)


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_a_range_that_ends_badly(profile: str) -> None:
    """Genoa finishes chunks of 0x5000 bytes; the specification's profile validates everything first."""
    rig = Rig(profile).init()
    handle = rig.guest(1)
    for start, length, done in (
        (DRAM - 0xC000, 0xC010, 0xA000),
        (DRAM - 0xA000, 0xA010, 0xA000),
        (DRAM - 0x5000, 0x5010, 0x5000),
        (DRAM - 0x4FF0, 0x5000, 0),
    ):
        rig.put(DRAM - 0x10000, bytes(0x10000))
        data = noise(DRAM - start, start)
        rig.put(start, data)
        outside = {"spec": S.INVALID_ADDRESS, "genoa": S.INVALID_CONFIG}[profile]
        rig.put(BUF, update_buf(handle, start, length))
        assert rig.platform.mailbox(LAUNCH_UPDATE_DATA, BUF) == outside
        done = done if profile == "genoa" else 0
        if done:
            assert rig.machine.umc.read(PLAIN, start, done) == data[:done]
        assert rig.get(start + done, len(data) - done) == data[done:]
    total = b"".join(noise(DRAM - start, start)[:done] for start, done in
                     ((DRAM - 0xC000, 0xA000), (DRAM - 0xA000, 0xA000), (DRAM - 0x5000, 0x5000)))  # fmt: skip
    assert digest_of(rig, handle) == hashlib.sha256(total if profile == "genoa" else b"").digest()


def test_a_later_chunk_over_forbidden_memory() -> None:
    rig = Rig("genoa").init()
    handle = rig.guest(1)
    data = noise(0x6000)
    rig.put(ASEG - 0x6000, data)
    assert rig.run(LAUNCH_UPDATE_DATA, update_buf(handle, ASEG - 0x6000, 0x6010)) == S.INVALID_ADDRESS
    assert rig.machine.umc.read(PLAIN, ASEG - 0x6000, 0x5000) == data[:0x5000]
    assert rig.get(ASEG - 0x1000, 0x1000) == data[0x5000:]


# ------------------------------------------------------------------------------------------- LAUNCH_MEASURE


def test_order_of_launch_measure() -> None:
    rig = Rig().init()
    handle, measured = rig.start(), rig.guest(2, bound=False)
    refused(rig, LAUNCH_MEASURE, measure_buf(77, length=0), S.INVALID_GUEST)
    refused(rig, LAUNCH_MEASURE, measure_buf(measured, length=0), S.INVALID_GUEST_STATE)
    for length in (0, 47):
        rig.rng.taken()
        assert rig.run(LAUNCH_MEASURE, measure_buf(handle, ASEG, length)) == S.INVALID_LENGTH
        assert rig.answer == measure_buf(handle, ASEG, 48) and rig.rng.taken() == []
    refused(rig, LAUNCH_MEASURE, measure_buf(handle, ASEG), S.INVALID_ADDRESS)
    assert rig.guest_info(handle)[0] == 1


@pytest.mark.parametrize(
    ("profile", "version", "head"),
    [
        ("spec", None, b"\x04\x00\x18\x0f"),
        ("genoa", None, b"\x04\x01\x37\x19"),
        ("spec", (0, 17, 22), b"\x04\x00\x11\x16"),
        ("spec", (0, 16, 9), b""),  # before 0.17: no context byte, no version
    ],
)
def test_launch_measure(profile: str, version: tuple[int, int, int] | None, head: bytes) -> None:
    rig = Rig(profile, version=version, flash=None).init()
    opened = rig.owner(3)
    handle = rig.start_with(opened)
    rig.activate(handle)
    data = noise(0x1230)
    rig.put(GUEST_AT, data)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, length=0x1230))
    rig.put(OUT, b"\xee" * 100)
    rig.rng.taken()
    assert rig.ok(LAUNCH_MEASURE, measure_buf(handle, length=5000)) == measure_buf(handle, length=5000)
    assert rig.rng.taken() == [16]
    blob = rig.get(OUT, 100)
    assert blob[32:48] == rig.rng.last[0] and blob[48:] == b"\xee" * 52
    message = head + u32(3) + hashlib.sha256(data).digest() + blob[32:48]
    assert len(message) == (56 if head else 52)
    assert blob[:32] == hmac.digest(opened.tik, message, "sha256")


class Sha256:
    """SHA-256 with the context of sheet 20, section 3.5: eight words, a 64-byte tail, fill, counter; written from
    FIPS 180-4 for this test."""

    K = [int(x, 16) for x in ["428a2f98", "71374491", "b5c0fbcf", "e9b5dba5", "3956c25b", "59f111f1", "923f82a4", "ab1c5ed5", "d807aa98", "12835b01", "243185be", "550c7dc3", "72be5d74", "80deb1fe", "9bdc06a7", "c19bf174", "e49b69c1", "efbe4786", "0fc19dc6", "240ca1cc", "2de92c6f", "4a7484aa", "5cb0a9dc", "76f988da", "983e5152", "a831c66d", "b00327c8", "bf597fc7", "c6e00bf3", "d5a79147", "06ca6351", "14292967", "27b70a85", "2e1b2138", "4d2c6dfc", "53380d13", "650a7354", "766a0abb", "81c2c92e", "92722c85", "a2bfe8a1", "a81a664b", "c24b8b70", "c76c51a3", "d192e819", "d6990624", "f40e3585", "106aa070", "19a4c116", "1e376c08", "2748774c", "34b0bcb5", "391c0cb3", "4ed8aa4a", "5b9cca4f", "682e6ff3", "748f82ee", "78a5636f", "84c87814", "8cc70208", "90befffa", "a4506ceb", "bef9a3f7", "c67178f2"]]  # fmt: skip

    def __init__(self) -> None:
        words = "6a09e667 bb67ae85 3c6ef372 a54ff53a 510e527f 9b05688c 1f83d9ab 5be0cd19"
        self.h = [int(x, 16) for x in words.split()]
        self.buffer = bytearray(64)
        self.fill = self.counter = 0

    def block(self, block: bytes) -> None:
        def rotr(x: int, n: int) -> int:
            return (x >> n | x << (32 - n)) & 0xFFFFFFFF

        w = [int.from_bytes(block[4 * i : 4 * i + 4], "big") for i in range(16)]
        for i in range(16, 64):
            s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ (w[i - 15] >> 3)
            s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ (w[i - 2] >> 10)
            w.append((w[i - 16] + s0 + w[i - 7] + s1) % 2**32)
        a, b, c, d, e, f, g, h = self.h
        for i in range(64):
            s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)
            t1 = (h + s1 + ((e & f) ^ (~e & 0xFFFFFFFF & g)) + self.K[i] + w[i]) % 2**32
            s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)
            t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) % 2**32
            a, b, c, d, e, f, g, h = (t1 + t2) % 2**32, a, b, c, (d + t1) % 2**32, e, f, g
        self.h = [(x + y) % 2**32 for x, y in zip(self.h, (a, b, c, d, e, f, g, h), strict=True)]

    def update(self, data: bytes) -> None:
        self.counter += len(data)
        for byte in data:
            self.buffer[self.fill] = byte
            self.fill += 1
            if self.fill == 64:
                self.block(bytes(self.buffer))
                self.fill = 0

    def finalise(self) -> bytes:
        """The digest, and the context as the sheet says that it is left."""
        last = bytes(self.buffer[: self.fill]) + b"\x80"
        last += bytes(56 - len(last)) + (8 * self.counter % 2**64).to_bytes(8, "big")
        self.block(last)
        digest = b"".join(word.to_bytes(4, "big") for word in self.h)
        self.h = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(8)]
        self.counter = 8 * self.counter % 2**64
        return digest


@pytest.mark.parametrize("script", ["F", "D16 F", "D32 F", "D48 F D16", "D64 F F", "D4096 F D80 F D48", "F F F D160",
                                    "D16 F D16 F D16 F D16"])  # fmt: skip
@pytest.mark.parametrize("profile", ["genoa", "spec"])
def test_a_failed_measure(profile: str, script: str) -> None:
    """Genoa has drawn and finalised all the same, and goes on from what that left."""
    rig = Rig(profile).init()
    opened = rig.owner(1)
    handle = rig.start_with(opened)
    rig.activate(handle)
    rig.rng.taken()
    slow, loaded = Sha256(), b""
    for i, step in enumerate(script.split()):
        if step == "F":
            want = S.INVALID_CONFIG if profile == "genoa" else S.INVALID_ADDRESS
            buffer = measure_buf(handle, DRAM - 47, 999)
            assert rig.run(LAUNCH_MEASURE, buffer) == want and rig.answer == buffer
            assert rig.rng.taken() == ([16] if profile == "genoa" else [])
            assert rig.guest_info(handle)[0] == 1
            if profile == "genoa":
                slow.finalise()
        else:
            data = noise(int(step[1:]), i)
            rig.put(GUEST_AT, data)
            rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT, len(data)))
            slow.update(data)
            loaded += data
    expected = slow.finalise()
    if profile == "spec":
        assert expected == hashlib.sha256(loaded).digest()  # the test's own SHA-256 is one
    rig.ok(LAUNCH_MEASURE, measure_buf(handle))
    blob = rig.get(OUT, 48)
    head = b"\x04\x01\x37\x19" if profile == "genoa" else b"\x04\x00\x18\x0f"
    assert blob[:32] == hmac.digest(opened.tik, head + u32(1) + expected + blob[32:], "sha256")
    rig.ok(ATTESTATION, attest_buf(handle))
    assert rig.get(OUT + 16, 32) == expected


# -------------------------------------------------------------------------------------------- LAUNCH_SECRET


class Secret:
    """A measured guest with a session, and packets for it made with nothing but the library."""

    def __init__(self, profile: str = "spec", version: tuple[int, int, int] | None = None) -> None:
        self.rig = rig = Rig(profile, version=version, flash=None).init()
        self.opened = rig.owner(1)
        self.handle = rig.start_with(self.opened)
        rig.activate(self.handle)
        rig.ok(LAUNCH_MEASURE, measure_buf(self.handle))
        self.measure = rig.get(OUT, 32)
        rig.put(GUEST_AT, noise(0x6000, 9))
        rig.rng.taken()

    def packet(self, text: bytes, *, flags: int = 0, tek: bytes | None = None, trailer: bytes | None = None,
               context: int = 1) -> tuple[bytes, bytes]:  # fmt: skip
        iv = b"\xff" * 15 + b"\xfe"  # the counter wraps inside the packet
        data = Cipher(algorithms.AES(tek or self.opened.tek), modes.CTR(iv)).encryptor().update(text)
        covered = bytes([context]) + u32(flags) + iv + u32(len(text)) + u32(len(text)) + data
        mac = hmac.digest(self.opened.tik, covered + (self.measure if trailer is None else trailer), "sha256")
        return u32(flags) + iv + mac, data

    def place(self, header: bytes, data: bytes) -> None:
        self.rig.put(HEAD_AT, header)
        self.rig.put(DATA_AT, data)

    def read(self, size: int, at: int = GUEST_AT) -> bytes:
        return self.rig.machine.umc.read(PLAIN, at, size)


def test_launch_secret() -> None:
    secret = Secret()
    rig, text = secret.rig, noise(160, 5)
    secret.place(*secret.packet(text, flags=0xFFFFFFFE))  # FLAGS bits 31:1 are authenticated, otherwise ignored
    before = rig.get(GUEST_AT + 160, 64)
    rig.ok(LAUNCH_SECRET, secret_buf(1, guest_len=160))
    assert secret.read(160) == text and rig.get(GUEST_AT + 160, 64) == before
    assert rig.guest_info(1)[0] == 2 and rig.rng.taken() == []
    rig.ok(LAUNCH_SECRET, secret_buf(1, guest_len=160))  # replay, and to another address
    rig.ok(LAUNCH_SECRET, secret_buf(1, guest=GUEST_AT + 0x1230, guest_len=160))
    assert secret.read(160, GUEST_AT + 0x1230) == text
    rig.ok(DEACTIVATE, u32(1))
    rig.activate(1, PLAIN + 5)  # also on another ASID
    rig.ok(LAUNCH_SECRET, secret_buf(1, guest=0x30000, guest_len=160))
    assert rig.machine.umc.read(PLAIN + 5, 0x30000, 160) == text
    rig.ok(ATTESTATION, attest_buf(1))
    assert rig.get(OUT + 16, 32) == hashlib.sha256().digest()  # the digest is not touched


def test_launch_secret_before_api_0_17() -> None:
    secret = Secret(version=(0, 16, 1))
    secret.place(*secret.packet(b"x" * 64))
    refused(secret.rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)
    secret.place(*secret.packet(b"x" * 64, trailer=b""))
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1))
    assert secret.read(64) == b"x" * 64


def test_order_of_launch_secret() -> None:
    secret = Secret()
    rig = secret.rig
    launching = rig.start()
    header, data = secret.packet(bytes(64))
    secret.place(bytes(0x34), data)
    far = 1 << 60
    refused(rig, LAUNCH_SECRET, secret_buf(77, far, 1, far | 1, 1, far), S.INVALID_GUEST)
    for handle in (1, launching):
        for low in (1, 8, 15):
            refused(rig, LAUNCH_SECRET, secret_buf(handle, far, 1, far | low, 1, far), S.INVALID_ADDRESS)
        for length in (0, 0x33, 0x35, 0x1000):
            refused(rig, LAUNCH_SECRET, secret_buf(handle, far, length, far, trans=far), S.INVALID_LENGTH)
        for guest_len, trans_len in ((0, 0), (8, 8), (24, 24), (0x4010, 0x4010), (64, 48), (64, 80), (64, 0), (48, 64)):
            buffer = secret_buf(handle, far, 0x34, far, guest_len, far, trans_len)
            refused(rig, LAUNCH_SECRET, buffer, S.INVALID_LENGTH)
    refused(rig, LAUNCH_SECRET, secret_buf(launching, far, guest=far, trans=far), S.INVALID_GUEST_STATE)
    rig.ok(DEACTIVATE, u32(1))
    refused(rig, LAUNCH_SECRET, secret_buf(1, far, guest=far, trans=far), S.INACTIVE)
    rig.activate(1)
    for fields in ({"hdr": far}, {"guest": far}, {"trans": far}):
        refused(rig, LAUNCH_SECRET, secret_buf(1, **fields), S.INVALID_ADDRESS)
    refused(rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)
    # compressed: after the MAC
    header, data = secret.packet(bytes(64), flags=1)
    secret.place(header, data)
    refused(rig, LAUNCH_SECRET, secret_buf(1), S.UNSUPPORTED)
    secret.place(header[:-1] + bytes([header[-1] ^ 1]), data)
    refused(rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)


def test_order_of_the_addresses_of_launch_secret() -> None:
    """Header, guest range, transport data: seen where two bad addresses give two statuses (Genoa)."""
    secret = Secret("genoa")
    out, smm = DRAM, ASEG
    for hdr, guest, trans, want in (
        (out, smm, smm, S.INVALID_CONFIG),
        (smm, out, out, S.INVALID_ADDRESS),
        (HEAD_AT, out, smm, S.INVALID_CONFIG),
        (HEAD_AT, smm, out, S.INVALID_ADDRESS),
        (HEAD_AT, GUEST_AT, out, S.INVALID_CONFIG),
        (DRAM - 0x33, smm, smm, S.INVALID_CONFIG),
        (HEAD_AT, DRAM - 48, smm, S.INVALID_CONFIG),
    ):
        refused(secret.rig, LAUNCH_SECRET, secret_buf(1, hdr, guest=guest, trans=trans), want)


@pytest.mark.parametrize(("profile", "limit"), [("spec", 0x4000), ("genoa", 0x5000)])
def test_largest_secret(profile: str, limit: int) -> None:
    secret = Secret(profile)
    text = noise(limit + 16)
    secret.place(*secret.packet(text))
    refused(secret.rig, LAUNCH_SECRET, secret_buf(1, guest_len=limit + 16), S.INVALID_LENGTH)
    secret.place(*secret.packet(text[:limit]))
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1, guest=0x40000, guest_len=limit))
    assert secret.read(limit, 0x40000) == text[:limit]
    secret.place(*secret.packet(text[:16]))
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1, guest_len=16))


def test_every_bit_of_a_packet_is_authenticated() -> None:
    secret = Secret()
    header, data = secret.packet(noise(64))
    for offset in (0, 3, 4, 19, 20, 27, 28, 51):
        secret.place(header[:offset] + bytes([header[offset] ^ 0x80]) + header[offset + 1 :], data)
        refused(secret.rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)
    for offset in (0, 63):
        secret.place(header, data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        refused(secret.rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)
    secret.place(header, data)
    refused(secret.rig, LAUNCH_SECRET, secret_buf(1, guest_len=48), S.BAD_MEASUREMENT)
    for wrong in ({"context": 2}, {"context": 3}, {"trailer": bytes(32)}, {"trailer": b""}):
        secret.place(*secret.packet(bytes(64), **wrong))
        refused(secret.rig, LAUNCH_SECRET, secret_buf(1), S.BAD_MEASUREMENT)
    secret.place(*secret.packet(bytes(64), tek=b"k" * 16))  # right TIK, wrong TEK: garbage is accepted
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1))
    assert secret.read(64) != bytes(64)


def test_guest_range_over_header_and_data() -> None:
    """Both are read completely before the first write."""
    secret = Secret()
    text = noise(128)
    secret.place(*secret.packet(text))
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1, guest=DATA_AT + 32, guest_len=128))
    assert secret.read(128, DATA_AT + 32) == text
    secret.place(*secret.packet(text))
    secret.rig.ok(LAUNCH_SECRET, secret_buf(1, guest=HEAD_AT, guest_len=128))
    assert secret.read(128, HEAD_AT) == text


def test_secret_without_a_session_uses_zero_keys() -> None:
    rig = Rig().init()
    handle = rig.guest(2)
    measure, iv = rig.get(OUT, 32), bytes(range(16))
    data = Cipher(algorithms.AES(bytes(16)), modes.CTR(iv)).encryptor().update(b"open to everyone")
    mac = hmac.digest(bytes(16), b"\x01" + bytes(4) + iv + u32(16) + u32(16) + data + measure, "sha256")
    rig.put(HEAD_AT, bytes(4) + iv + mac)
    rig.put(DATA_AT, data)
    rig.ok(LAUNCH_SECRET, secret_buf(handle, guest_len=16))
    assert rig.machine.umc.read(PLAIN, GUEST_AT, 16) == b"open to everyone"


# ------------------------------------------------------------------------------------------- LAUNCH_FINISH


def test_launch_finish_closes_the_channel() -> None:
    secret = Secret()
    rig = secret.rig
    secret.place(*secret.packet(bytes(64)))
    refused(rig, LAUNCH_FINISH, u32(77), S.INVALID_GUEST)
    rig.ok(LAUNCH_FINISH, u32(1))
    guest = rig.firmware.guests[1]
    assert not any(guest.tek + guest.tik + guest.ms + guest.nonce + guest.measure)
    assert guest.digest.digest() == hashlib.sha256().digest() and any(guest.vek) and any(guest.oek)
    for command, buffer in (
        (LAUNCH_FINISH, u32(1)),
        (LAUNCH_SECRET, secret_buf(1)),
        (LAUNCH_MEASURE, measure_buf(1)),
        (LAUNCH_UPDATE_DATA, update_buf(1)),
    ):
        refused(rig, command, buffer, S.INVALID_GUEST_STATE)
    rig.ok(ATTESTATION, attest_buf(1))
    assert rig.get(OUT + 16, 32) == hashlib.sha256().digest()  # the final digest is kept


# --------------------------------------------------------------------------------------------- ATTESTATION


def report_verifies(report: bytes, pek: bytes) -> bool:
    """ECDSA P-384 with SHA-256 over the first 52 bytes, by the library."""
    x, y = (int.from_bytes(pek[i : i + 72], "little") for i in (0x14, 0x5C))
    r, s = (int.from_bytes(report[i : i + 72], "little") for i in (0x40, 0x88))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    try:
        key.verify(encode_dss_signature(r, s), report[:0x34], ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_attestation(profile: str) -> None:
    rig = Rig(profile).init()
    handle = rig.guest(1, policy=0x29)
    rig.put(GUEST_AT, noise(4096))
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle))
    rig.ok(LAUNCH_MEASURE, measure_buf(handle))
    rig.rng.taken()
    nonce = bytes(range(16))
    rig.put(OUT, b"\xee" * 0x100)
    assert rig.ok(ATTESTATION, attest_buf(handle, nonce=nonce, length=5000)) == attest_buf(handle, nonce=nonce)
    assert rig.rng.taken() == ([48] if profile == "genoa" else [])
    report = rig.get(OUT, REPORT)
    assert report[:0x40] == nonce + hashlib.sha256(noise(4096)).digest() + u32(0x29) + u32(0x1002) + u32(2) + bytes(4)
    assert rig.get(OUT + REPORT, 0x30) == b"\xee" * 0x30
    assert report[0x40 + 48 : 0x88] == report[0x88 + 48 :] == bytes(24)
    pek = rig.chain()[1].pack()
    assert report_verifies(report, pek)
    for offset in (0, 0x10, 0x33):
        assert not report_verifies(report[:offset] + bytes([report[offset] ^ 1]) + report[offset + 1 :], pek)
    rig.ok(ATTESTATION, attest_buf(handle, nonce=nonce))
    assert (rig.get(OUT, REPORT) == report) == (profile == "spec")  # RFC 6979 against a drawn nonce


def test_drawn_nonce_of_a_report() -> None:
    """Genoa: 48 bytes little-endian used as they are; 0 and above n are drawn again; n ends the command."""
    rig = Rig("genoa").init()
    handle = rig.guest(2)
    rig.rng.taken()
    rig.rng.script = [bytes(48), (N + 1).to_bytes(48, "little"), u32(3) + bytes(44)]
    rig.ok(ATTESTATION, attest_buf(handle))
    assert rig.rng.taken() == [48] * 3
    numbers = ec.derive_private_key(3, ec.SECP384R1()).public_key().public_numbers()
    assert int.from_bytes(rig.get(OUT + 0x40, 72), "little") == numbers.x % N
    rig.rng.script = [N.to_bytes(48, "little")]
    before = rig.get(OUT, REPORT)
    buffer = attest_buf(handle, length=999)
    assert rig.run(ATTESTATION, buffer) == S.HWERROR_PLATFORM
    assert rig.answer == buffer and rig.get(OUT, REPORT) == before and rig.rng.taken() == [48]


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_order_of_attestation(profile: str) -> None:
    rig = Rig(profile).init()
    launching, measured = rig.start(), rig.guest(2, bound=False)
    refused(rig, ATTESTATION, attest_buf(77, ASEG, length=0), S.INVALID_GUEST)
    refused(rig, ATTESTATION, attest_buf(launching, ASEG, length=0), S.INVALID_GUEST_STATE)
    rig.rng.taken()
    for length in (0, 0xCF):
        assert rig.run(ATTESTATION, attest_buf(measured, ASEG, length=length)) == S.INVALID_LENGTH
        assert rig.answer == attest_buf(measured, ASEG, length=REPORT) and rig.rng.taken() == []
    buffer = attest_buf(measured, ASEG, length=999)
    assert rig.run(ATTESTATION, buffer) == S.INVALID_ADDRESS and rig.answer == buffer
    assert rig.rng.taken() == ([48] if profile == "genoa" else [])  # the nonce comes before the address there


def test_report_of_a_received_guest_and_of_two_guests() -> None:
    rig = Rig().init()
    received = rig.guest(5, bound=False)
    rig.ok(RECEIVE_FINISH, u32(received))
    rig.ok(ATTESTATION, attest_buf(received))
    assert rig.get(OUT + 16, 32) == bytes(32)  # nothing was measured here
    rig.guest(2, bound=False)
    rig.ok(ATTESTATION, attest_buf(received))
    assert rig.get(OUT + 16, 32) == bytes(32)


# -------------------------------------------------------------------------------------- whose session is it


def test_a_session_for_an_old_pdh_fails() -> None:
    rig = Rig().init()
    rig.owner(1)
    rig.ok(PDH_GEN)
    refused(rig, LAUNCH_START, full(), S.BAD_MEASUREMENT)
    opened = Session.create(rig.chain()[0], 1, rng=SeededRandom(b"x", "y"))  # for the new one
    rig.put(CERT_AT, opened.godh.pack())
    rig.put(SESSION_AT, opened.session.pack())
    rig.start_with(opened)


def test_regions_of_a_large_update() -> None:
    """All of a region at once, from its first byte to its last."""
    rig = Rig(machine_args={"address_map": AddressMap(((0, 4 * MIB), (8 * MIB, 2 * MIB)))}).init()
    handle = rig.guest(1)
    data = noise(2 * MIB)
    rig.put(8 * MIB, data)
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, 8 * MIB, 2 * MIB))
    assert rig.machine.umc.read(PLAIN, 8 * MIB, 2 * MIB) == data
    assert digest_of(rig, handle) == hashlib.sha256(data).digest()
