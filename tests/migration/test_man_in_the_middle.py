"""Sheet 30, sections 10.1 to 10.3, row by row: what each change leads to, and which changes nobody notices.

The certificates given to SEND_START (10.2) are a table in ``test_commands_send_start``; here is its last row.
"""

from collections.abc import Callable

import pytest

from firmware.kit import (
    CERT_AT,
    DATA_AT,
    GUEST_AT,
    HEAD_AT,
    LAUNCH_SECRET,
    LAUNCH_START,
    PDH_GEN,
    PLAIN,
    RECEIVE_FINISH,
    RECEIVE_START,
    RECEIVE_UPDATE_DATA,
    SEND_CANCEL,
    SEND_START,
    SESSION_AT,
    secret_buf,
    u32,
)
from firmware.test_launch import Secret
from migration.ladder import packet_buf, receive_start_buf, send_start_buf
from migration.test_commands_receive import Receiving, page
from migration.test_commands_send_start import DOMAIN, SEV, Sender
from sevref import Algo, Machine, PrivateKey, SeededRandom, Session, SimulatedAmd, Usage
from sevref import Status as S
from sevref.certs import new_certificate, sign_certificate
from sevref.crypto import P384_P
from sevref.firmware.identity import chip_id, derive_cek

PROFILES = ["spec", "genoa"]
NOT_DETECTED = S.SUCCESS

# (offset in SESSION or the peer's certificate) -> answer of RECEIVE_START and LAUNCH_START
SESSION_ROWS = [
    *((offset, S.BAD_MEASUREMENT) for offset in (0x00, 0x0F)),  # NONCE
    *((offset, S.BAD_MEASUREMENT) for offset in (0x10, 0x2F)),  # WRAP_TK
    *((offset, S.BAD_MEASUREMENT) for offset in (0x30, 0x3F)),  # WRAP_IV: POLICY_MAC alone catches it
    *((offset, S.BAD_MEASUREMENT) for offset in (0x40, 0x5F)),  # WRAP_MAC
    *((offset, S.BAD_MEASUREMENT) for offset in (0x60, 0x7F)),  # POLICY_MAC
]
CERT_ROWS = [
    *((offset, S.INVALID_CERTIFICATE) for offset in (0x00, 0x08, 0x0D, 0x10, 0x14, 0x44, 0x5C, 0xA3)),
    *((offset, NOT_DETECTED) for offset in (0x04, 0x05, 0x06, 0xA4, 0x200, 0x413, 0x414, 0x41C, 0x61C, 0x823)),
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("command", [RECEIVE_START, LAUNCH_START], ids=["receive", "launch"])
def test_sessions(profile: str, command: int) -> None:
    """10.1. A session has no label: whatever it was made for, both commands answer alike."""
    receiving = Receiving(profile, 1)
    rig = receiving.rig
    for at, rows in ((SESSION_AT, SESSION_ROWS), (CERT_AT, CERT_ROWS)):
        for offset, status in rows:
            before = rig.get(at + offset, 1)
            rig.put(at + offset, bytes([before[0] ^ 1]))
            assert rig.run(command, receive_start_buf(policy=1)) == status, hex(offset)
            rig.put(at + offset, before)
    for bit in range(32):  # POLICY, API and reserved bits as well
        assert rig.run(command, receive_start_buf(policy=1 ^ 1 << bit)) == S.BAD_MEASUREMENT
    good = receiving.opened.godh
    x, y = good.public_point
    negated = new_certificate(Usage.PDH, Algo.ECDH_SHA256, type(good.public_point)(x, P384_P - y), (0, 0))
    other = new_certificate(Usage.PDH, Algo.ECDH_SHA256, PrivateKey(77).public, (0, 0))
    for cert, status in ((negated, NOT_DETECTED), (other, S.BAD_MEASUREMENT)):
        rig.put(CERT_AT, cert.pack())
        assert rig.run(command, receive_start_buf(policy=1)) == status
    # the whole set replaced by the attacker's own: the firmware cannot know (at launch the owner does, by its TIK)
    own = Session.create(rig.chain()[0], 1, rng=SeededRandom(b"attacker", "attacker"))
    rig.put(CERT_AT, own.godh.pack())
    rig.put(SESSION_AT, own.session.pack())
    for _ in range(2):  # and again: replay
        assert rig.run(command, receive_start_buf(policy=1)) == NOT_DETECTED
    rig.ok(PDH_GEN)
    assert rig.run(command, receive_start_buf(policy=1)) == S.BAD_MEASUREMENT


# (what, change of (header, data, GUEST_LEN, TRANS_LEN)) -> RECEIVE_UPDATE_DATA, LAUNCH_SECRET; 64 bytes each
Change = Callable[[bytearray, bytearray], tuple[int, int] | None]


def flip(part: int, offset: int) -> Change:
    def change(header: bytearray, data: bytearray) -> None:
        (header, data)[part][offset] ^= 1 if offset or part else 2

    return change


def compressed(header: bytearray, _data: bytearray) -> None:
    header[0] ^= 1


def lengths(guest: int, trans: int) -> Change:
    return lambda _header, _data: (guest, trans)


PACKET_ROWS: list[tuple[str, Change, S, S]] = [
    ("FLAGS bit 0", compressed, S.UNSUPPORTED, S.BAD_MEASUREMENT),
    ("FLAGS bit 1", flip(0, 0), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("FLAGS bit 24", flip(0, 3), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("IV", flip(0, 4), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("MAC", flip(0, 20), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("payload", flip(1, 40), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("both lengths shortened", lengths(48, 48), S.BAD_MEASUREMENT, S.BAD_MEASUREMENT),
    ("lengths unequal", lengths(48, 64), S.INVALID_LENGTH, S.INVALID_LENGTH),
    ("lengths unaligned", lengths(40, 40), S.INVALID_LENGTH, S.INVALID_LENGTH),
    ("zero", lengths(0, 0), S.INVALID_LENGTH, S.INVALID_LENGTH),
    ("over the limit", lengths(0x5010, 0x5010), S.INVALID_LENGTH, S.INVALID_LENGTH),
    ("nothing, twice", lengths(64, 64), NOT_DETECTED, NOT_DETECTED),
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("command", [RECEIVE_UPDATE_DATA, LAUNCH_SECRET], ids=["receive", "secret"])
def test_packets(profile: str, command: int) -> None:
    """10.3, the rows of one packet; then another address, which neither command notices."""
    column = 2 if command == RECEIVE_UPDATE_DATA else 3
    target = Receiving(profile, 1) if column == 2 else Secret(profile)
    rig = target.rig
    if isinstance(target, Receiving):
        target.start()
    header, data = target.packet(page()[:64])
    for name, change, *statuses in PACKET_ROWS:
        head, body = bytearray(header), bytearray(data)
        sizes = change(head, body) or (64, 64)
        rig.put(HEAD_AT, bytes(head))
        rig.put(DATA_AT, bytes(body))
        for _ in range(2):
            found = rig.run(command, secret_buf(1, guest_len=sizes[0], trans_len=sizes[1]))
            assert found == statuses[column - 2], name
    assert rig.run(command, secret_buf(1, guest=GUEST_AT + 0x4560)) == NOT_DETECTED
    assert rig.machine.umc.read(PLAIN, GUEST_AT + 0x4560, 64) == page()[:64]


@pytest.mark.parametrize("profile", PROFILES)
def test_packets_of_other_kinds_and_sessions(profile: str) -> None:
    receiving, secret = Receiving(profile, 1), Secret(profile)
    receiving.start()
    receiving.place(*receiving.packet(page(), 1))
    assert receiving.rig.run(RECEIVE_UPDATE_DATA, packet_buf()) == S.BAD_MEASUREMENT  # a secret packet
    secret.place(*secret.packet(bytes(64), context=2, trailer=b""))
    assert secret.rig.run(LAUNCH_SECRET, secret_buf(1)) == S.BAD_MEASUREMENT  # a data packet
    secret.place(*secret.packet(bytes(64), trailer=bytes(32)))
    assert secret.rig.run(LAUNCH_SECRET, secret_buf(1)) == S.BAD_MEASUREMENT  # after another measurement
    old = Secret(profile, version=(0, 16, 1))
    old.place(*old.packet(bytes(64), trailer=b""))
    assert old.rig.run(LAUNCH_SECRET, secret_buf(1)) == NOT_DETECTED  # API <= 0.16: no measurement in the MAC


@pytest.mark.parametrize("profile", PROFILES)
def test_two_live_copies(profile: str) -> None:
    """10.3, last rows: finish early, and a sender that keeps its guest; nobody notices."""
    sender = Sender(profile, 0)
    rig = sender.rig
    sender.place()
    rig.ok(SEND_START, send_start_buf(sender.handle))
    rig.put(CERT_AT, rig.chain()[0].pack())
    copy = int.from_bytes(rig.ok(RECEIVE_START, receive_start_buf())[:4], "little")
    rig.ok(RECEIVE_FINISH, u32(copy))  # no page was ever sent
    rig.ok(SEND_CANCEL, u32(sender.handle))
    assert [rig.guest_info(handle)[0] for handle in (sender.handle, copy)] == [3, 3]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("policy", "status"), [(SEV, NOT_DETECTED), (SEV | DOMAIN, S.POLICY_FAILURE)])
def test_an_extracted_cek(profile: str, policy: int, status: S) -> None:
    """10.2: the CEK of any chip of the product makes a chain for a key of the attacker's: the published attack."""
    chip = Machine("milan", seed=b"a chip whose secret got out")
    secret = chip.fused_chip_key()
    amd = SimulatedAmd("milan")
    amd.enrol(chip)
    cek_key, keys = derive_cek(secret), [PrivateKey(number) for number in (1001, 1002, 1003)]
    oca_key, pek_key, pdh_key = keys
    oca = new_certificate(Usage.OCA, Algo.ECDSA_SHA256, oca_key.public, (1, 55))
    pek = new_certificate(Usage.PEK, Algo.ECDSA_SHA256, pek_key.public, (1, 55))
    pdh = new_certificate(Usage.PDH, Algo.ECDH_SHA256, pdh_key.public, (1, 55))
    sign_certificate(oca, oca_key, Usage.OCA, Algo.ECDSA_SHA256)
    sign_certificate(pek, oca_key, Usage.OCA, Algo.ECDSA_SHA256)
    sign_certificate(pek, cek_key, Usage.CEK, Algo.ECDSA_SHA256)
    sign_certificate(pdh, pek_key, Usage.PEK, Algo.ECDSA_SHA256)
    cek = amd.certify(chip_id(secret))
    sender = Sender(profile, policy)
    sender.answers(status, pdh=pdh.pack(), pek=pek.pack(), oca=oca.pack(), cek=cek.pack())
