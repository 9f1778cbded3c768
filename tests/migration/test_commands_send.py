"""SEND_UPDATE_DATA, SEND_UPDATE_VMSA, SEND_FINISH, SEND_CANCEL: sheet 30, 5.4 and 5.5, in both profiles."""

import hmac
import json

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from firmware.kit import (
    ACTIVATE,
    ATTESTATION,
    DBG_DECRYPT,
    DEACTIVATE,
    ES,
    GUEST_AT,
    LAUNCH_FINISH,
    LAUNCH_MEASURE,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    OUT,
    PLAIN,
    SEND_CANCEL,
    SEND_FINISH,
    SEND_UPDATE_DATA,
    SEND_UPDATE_VMSA,
    Rig,
    attest_buf,
    debug_buf,
    measure_buf,
    refused,
    u32,
    update_buf,
)
from migration.ladder import ASEG, FAR, OUTSIDE, climb, outside, packet_buf, send_start_buf
from sevref import Status as S
from support import vectors

PROFILES = ["spec", "genoa"]
LIMIT = {"spec": 0x4000, "genoa": 0x5000}
HDR, TRANS = 0x20000, 0x21000
CONTEXT = {"spec": 3, "genoa": 2}  # of a VMSA packet
POLICY_ES = 4
VMSA_AT = 0x40000


def page(fill: int = 7) -> bytes:
    return bytes((fill * i + (i >> 8)) & 0xFF for i in range(4096))


class Sending:
    """A guest in SUPDATE with known plaintext at GUEST_AT; with ``es`` a VMSA at VMSA_AT."""

    def __init__(self, profile: str, es: bool = False) -> None:
        self.profile = profile
        self.rig = rig = Rig(profile).init(es=es)
        self.asid = ES if es else PLAIN
        self.handle = rig.start(POLICY_ES if es else 0)
        rig.activate(self.handle, self.asid)
        rig.put(GUEST_AT, page() * 6)
        rig.ok(LAUNCH_UPDATE_DATA, update_buf(self.handle, GUEST_AT, 0x6000))
        if es:
            rig.put(VMSA_AT, page(13))
            rig.ok(LAUNCH_UPDATE_VMSA, update_buf(self.handle, VMSA_AT))
        rig.ok(LAUNCH_MEASURE, measure_buf(self.handle))
        rig.ok(LAUNCH_FINISH, u32(self.handle))
        rig.put(0x8000, rig.chain()[0].pack())
        rig.ok(0x40, send_start_buf(self.handle))
        rig.rng.taken()
        self.tek, self.tik = rig.rng.last[-4:-2]

    def expect(self, context: int, plain: bytes) -> tuple[bytes, bytes]:
        """Header and ciphertext, from the last draw and nothing but the library."""
        assert self.rig.rng.taken() == [16]
        iv = self.rig.rng.last[0]
        data = Cipher(algorithms.AES(self.tek), modes.CTR(iv)).encryptor().update(plain)
        covered = bytes([context]) + u32(0) + iv + u32(len(plain)) * 2 + data
        return u32(0) + iv + hmac.digest(self.tik, covered, "sha256"), data


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("es", [False, True], ids=["data", "vmsa"])
def test_order_of_send_update(profile: str, es: bool) -> None:
    sending = Sending(profile, es)
    rig, out, limit = sending.rig, outside(profile), LIMIT[profile]
    command = SEND_UPDATE_VMSA if es else SEND_UPDATE_DATA
    launching = rig.start(POLICY_ES if es else 0)
    unbound = rig.guest(4, bound=False, policy=POLICY_ES if es else 0)
    plain = rig.guest(4, bound=False)
    rungs = [({"handle": 77}, S.INVALID_GUEST), ({"handle": launching}, S.INVALID_GUEST_STATE)]
    if es:
        rungs += [({"handle": plain}, S.UNSUPPORTED)]
    rungs += [({"handle": unbound}, S.INACTIVE)]
    lengths = (0, 8, 24, limit + 16, limit + 0x1000)
    rungs += [({"guest_len": n, "trans_len": 0x8000}, S.INVALID_LENGTH) for n in lengths]
    rungs += [({"trans_len": n}, S.INVALID_LENGTH) for n in (0, 4095)]
    rungs += [({"guest": GUEST_AT + low}, S.INVALID_ADDRESS) for low in (1, 8, 15)]
    rungs += [({"guest": FAR}, S.INVALID_ADDRESS), ({"guest": OUTSIDE}, out), ({"guest": ASEG}, S.INVALID_ADDRESS)]
    good = {"handle": sending.handle}
    if es:
        good["guest"] = VMSA_AT
        rungs += [({"guest": GUEST_AT}, S.INVALID_PARAM), ({"guest": VMSA_AT + 16}, S.INVALID_PARAM)]
        refused(rig, command, packet_buf(**good, guest_len=4080), S.INVALID_PARAM)
    if profile == "spec":
        rungs += [({"trans": FAR}, S.INVALID_ADDRESS), ({"hdr": FAR}, S.INVALID_ADDRESS)]
    answer = climb(rig, command, packet_buf, good, rungs)
    assert answer == packet_buf(**good)
    plain_text = rig.machine.umc.read(sending.asid, VMSA_AT if es else GUEST_AT, 4096)
    header, data = sending.expect(CONTEXT[profile] if es else 2, plain_text)
    assert (rig.get(HDR, 52), rig.get(TRANS, 4096)) == (header, data)
    if not es:
        assert plain_text == page()
    assert rig.guest_info(sending.handle)[0] == 4


@pytest.mark.parametrize("profile", PROFILES)
def test_platform_state_and_the_length_of_the_header(profile: str) -> None:
    """Rows 1 and 2: HDR_LEN comes before the handle, and 52 is written back."""
    for command in (SEND_UPDATE_DATA, SEND_UPDATE_VMSA):
        rig = Rig(profile)
        refused(rig, command, packet_buf(hdr_len=0), S.INVALID_PLATFORM_STATE)
        refused(rig.init(), command, packet_buf(hdr_len=0), S.INVALID_PLATFORM_STATE)
        rig.start()
        for wrong in (0, 51):
            assert rig.run(command, packet_buf(handle=77, hdr_len=wrong)) == S.INVALID_LENGTH
            assert rig.answer == packet_buf(handle=77, hdr_len=52)
        refused(rig, command, packet_buf(handle=77), S.INVALID_GUEST)
    sending = Sending(profile)  # another length wrong: nothing is corrected, HDR_LEN neither
    refused(sending.rig, SEND_UPDATE_DATA, packet_buf(hdr_len=99, guest_len=0), S.INVALID_LENGTH)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("command", [SEND_UPDATE_DATA, SEND_UPDATE_VMSA, SEND_FINISH, SEND_CANCEL])
def test_guest_states(profile: str, command: int) -> None:
    for state in (1, 2, 3, 5, 6):
        rig = Rig(profile).init()
        handle = rig.guest(state)
        buffer = u32(handle) if command in (SEND_FINISH, SEND_CANCEL) else packet_buf(handle=handle)
        refused(rig, command, buffer, S.INVALID_GUEST_STATE)


@pytest.mark.parametrize("profile", PROFILES)
def test_sizes_and_buffers(profile: str) -> None:
    """16 bytes to the limit; the output is GUEST_LEN long, whatever TRANS_LEN; unaligned buffers; HDR_LEN := 52."""
    sending = Sending(profile)
    rig, text = sending.rig, page() * 6
    for size in (16, 32, 48, 4096, 0x4000, LIMIT[profile]):
        hdr, trans = 0x50001, 0x60003
        rig.put(hdr, b"#" * 64)
        rig.put(trans, b"#" * 0x6000)
        buffer = packet_buf(handle=1, hdr=hdr, trans=trans, hdr_len=0x999, guest_len=size, trans_len=0x7FFFFFFF, junk=7)
        answer = rig.ok(SEND_UPDATE_DATA, buffer)
        assert answer == packet_buf(
            handle=1, hdr=hdr, trans=trans, hdr_len=52, guest_len=size, trans_len=0x7FFFFFFF, junk=7
        )
        header, data = sending.expect(2, text[:size])
        assert rig.get(hdr, 64) == header + b"#" * 12 and rig.get(trans, size + 16) == data + b"#" * 16
    # the same page again: another IV, so another packet; and overlapping outputs, where the header wins
    rig.ok(SEND_UPDATE_DATA, packet_buf(handle=1, hdr=TRANS + 16))
    header, data = sending.expect(2, text[:4096])
    assert rig.get(TRANS, 4096) == data[:16] + header + data[68:]


@pytest.mark.parametrize("profile", PROFILES)
def test_c_bit_of_the_guest_address_is_ignored(profile: str) -> None:
    sending = Sending(profile)
    sending.rig.ok(SEND_UPDATE_DATA, packet_buf(handle=1, guest=GUEST_AT | 1 << 51))
    header, data = sending.expect(2, page())
    assert (sending.rig.get(HDR, 52), sending.rig.get(TRANS, 4096)) == (header, data)
    for bit in (46, 50, 52, 55):
        refused(sending.rig, SEND_UPDATE_DATA, packet_buf(handle=1, guest=GUEST_AT | 1 << bit), S.INVALID_ADDRESS)


@pytest.mark.parametrize("profile", PROFILES)
def test_outputs_that_cannot_be_written(profile: str) -> None:
    """Rows 13 and 14: nothing happens, or (Genoa) the IV is used up and TRANS may be written already."""
    for change, written in (({"trans": FAR, "hdr": OUTSIDE}, False), ({"hdr": FAR}, True)):
        sending = Sending(profile)
        rig = sending.rig
        rig.put(TRANS, bytes(4096))
        buffer = packet_buf(handle=1, hdr_len=60, **change)
        assert rig.run(SEND_UPDATE_DATA, buffer) == S.INVALID_ADDRESS and rig.answer == buffer
        if profile == "spec":
            assert rig.rng.taken() == [] and rig.get(TRANS, 4096) == bytes(4096)
        else:
            _, data = sending.expect(2, page())
            assert rig.get(TRANS, 4096) == (data if written else bytes(4096))


@pytest.mark.parametrize("profile", PROFILES)
def test_vmsas(profile: str) -> None:
    """Sent as they stand; a longer packet takes what follows along; DATA sends a VMSA without complaint."""
    sending = Sending(profile, es=True)
    rig = sending.rig
    stored = rig.machine.umc.read(ES, VMSA_AT, 0x2000)
    assert stored[0x380:0x388] == bytes(8) and stored[0x388:0x390] != bytes(8)
    rig.ok(SEND_UPDATE_VMSA, packet_buf(handle=1, guest=VMSA_AT, guest_len=0x2000, trans_len=0x2000))
    assert sending.expect(CONTEXT[profile], stored) == (rig.get(HDR, 52), rig.get(TRANS, 0x2000))
    rig.ok(SEND_UPDATE_DATA, packet_buf(handle=1, guest=VMSA_AT))
    assert sending.expect(2, stored[:4096]) == (rig.get(HDR, 52), rig.get(TRANS, 4096))
    # a wrong checksum, and a pointer that is not this guest's
    for offset in (0x10, 0x388):
        changed = bytearray(stored[:4096])
        changed[offset] ^= 1
        rig.machine.umc.write(ES, VMSA_AT, bytes(changed))
        refused(rig, SEND_UPDATE_VMSA, packet_buf(handle=1, guest=VMSA_AT), S.INVALID_PARAM)


def test_the_vectors_packets() -> None:
    """Header and ciphertext of packet-data-48, -4096 and -iv-wrap, made by the command."""
    found = {v["id"]: v for v in json.loads(vectors("transport.json").read_text())["vectors"]}
    for profile in PROFILES:
        for name in ("packet-data-48", "packet-data-4096", "packet-data-iv-wrap"):
            given, expected = found[name]["inputs"], found[name]["outputs"]
            sending = Sending(profile)
            guest = sending.rig.firmware.guests[1]
            guest.tek, guest.tik = (bytes.fromhex(given[key]) for key in ("tek", "tik"))
            text = bytes.fromhex(given["plaintext"]) if "plaintext" in given else page()
            sending.rig.machine.umc.write(PLAIN, GUEST_AT, text)
            sending.rig.rng.script = [bytes.fromhex(given["iv"])]
            size = given["guest_len"]
            assert size == len(text)
            sending.rig.ok(SEND_UPDATE_DATA, packet_buf(handle=1, guest_len=size, trans_len=size))
            assert sending.rig.get(HDR, 52).hex() == expected["header"]
            assert sending.rig.get(TRANS, size).hex() == expected["ciphertext"]


# ------------------------------------------------------------------------------------------- FINISH and CANCEL


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("command", "state"), [(SEND_FINISH, 6), (SEND_CANCEL, 3)])
def test_finish_and_cancel(profile: str, command: int, state: int) -> None:
    rig = Rig(profile)
    refused(rig, command, u32(77), S.INVALID_PLATFORM_STATE)
    refused(rig.init(), command, u32(77), S.INVALID_PLATFORM_STATE)
    sending = Sending(profile)
    rig = sending.rig
    running = rig.guest(3, bound=False)
    for handle, status in ((77, S.INVALID_GUEST), (0, S.INVALID_GUEST), (running, S.INVALID_GUEST_STATE)):
        refused(rig, command, u32(handle), status)
    rig.ok(ATTESTATION, attest_buf(1))
    digest = rig.get(OUT + 16, 32)
    rig.rng.taken()
    assert rig.ok(command, u32(1)) == u32(1) and rig.rng.taken() == []
    assert rig.guest_info(1) == (state, PLAIN, 0)  # still bound: the processor can still run it
    guest = rig.firmware.guests[1]
    assert (guest.tek, guest.tik, guest.ms, guest.nonce, guest.measure) == (bytes(16),) * 4 + (bytes(32),)
    assert guest.vek != bytes(32) and rig.machine.umc.read(PLAIN, GUEST_AT, 4096) == page()
    rig.ok(ATTESTATION, attest_buf(1))
    assert rig.get(OUT + 16, 32) == digest != bytes(32)
    refused(rig, SEND_UPDATE_DATA, packet_buf(handle=1), S.INVALID_GUEST_STATE)
    refused(rig, command, u32(1), S.INVALID_GUEST_STATE)
    unbound = rig.guest(4, bound=False)
    rig.ok(command, u32(unbound))  # neither needs an ASID


@pytest.mark.parametrize("profile", PROFILES)
def test_what_sent_refuses_and_what_not(profile: str) -> None:
    """Section 4: in SENT the guest can be looked at, debugged, unbound; not bound, sent or received."""
    rig = Rig(profile).init()
    handle = rig.guest(6)
    rig.ok(DBG_DECRYPT, debug_buf(handle))
    rig.ok(ATTESTATION, attest_buf(handle))
    rig.ok(DEACTIVATE, u32(handle))
    refused(rig, ACTIVATE, u32(handle) + u32(PLAIN + 1), S.INVALID_GUEST_STATE)
    refused(rig, DBG_DECRYPT, debug_buf(handle), S.INACTIVE)
    rig.ok(0x20, u32(handle))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_guest_in_supdate_may_move_to_another_asid(profile: str) -> None:
    """ACTIVATE in SUPDATE makes it active at once; PDH_GEN does not disturb the open channel."""
    sending = Sending(profile)
    rig = sending.rig
    rig.ok(DEACTIVATE, u32(1))
    refused(rig, SEND_UPDATE_DATA, packet_buf(handle=1), S.INACTIVE)
    rig.activate(1, PLAIN + 1)
    rig.ok(0x09)
    rig.rng.taken()
    rig.ok(SEND_UPDATE_DATA, packet_buf(handle=1))
    assert sending.expect(2, page()) == (rig.get(HDR, 52), rig.get(TRANS, 4096))
