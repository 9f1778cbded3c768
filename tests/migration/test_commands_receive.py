"""RECEIVE_START, RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA, RECEIVE_FINISH: sheet 30, 5.6 to 5.9 and 10.1, 10.3."""

import dataclasses
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from firmware.kit import (
    ACTIVATE,
    ATTESTATION,
    CERT_AT,
    DATA_AT,
    ES,
    GUEST_AT,
    HEAD_AT,
    LAUNCH_SECRET,
    LAUNCH_START,
    OUT,
    PDH_GEN,
    PLAIN,
    RECEIVE_FINISH,
    RECEIVE_START,
    RECEIVE_UPDATE_DATA,
    RECEIVE_UPDATE_VMSA,
    SESSION_AT,
    Rig,
    attest_buf,
    refused,
    secret_buf,
    u32,
)
from firmware.test_launch import checksum
from migration.ladder import ASEG, FAR, OUTSIDE, climb, outside, packet_buf, receive_start_buf
from sevref import PrivateKey
from sevref import Status as S
from support import vectors

PROFILES = ["spec", "genoa"]
LIMIT = {"spec": 0x4000, "genoa": 0x5000}
CONTEXT = {"spec": 3, "genoa": 2}
NOKS, POLICY_ES = 2, 4
VECTORS = {v["id"]: v for v in json.loads(vectors("transport.json").read_text())["vectors"]}
KEYS = VECTORS["keys"]["outputs"]


def page(fill: int = 13) -> bytes:
    return bytes((fill * i + 5 * (i >> 8) + 1) & 0xFF for i in range(4096))


class Receiving:
    """A platform to which a session has been made; ``start`` makes the guest."""

    def __init__(self, profile: str, policy: int = 0, *, es: bool = False, init: bool = True, **rig: Any) -> None:
        self.profile, self.policy = profile, policy
        self.rig = Rig(profile, **rig).init(es=es)
        self.opened = self.rig.owner(policy)
        self.good = {"policy": policy}

    def start(self, asid: int = PLAIN) -> int:
        handle = int.from_bytes(self.rig.ok(RECEIVE_START, receive_start_buf(**self.good))[:4], "little")
        self.rig.activate(handle, asid)
        self.rig.rng.taken()
        return handle

    def packet(self, plain: bytes, context: int = 2, flags: int = 0, tik: bytes | None = None) -> tuple[bytes, bytes]:
        iv = b"\xff" * 15 + b"\xfe"
        data = Cipher(algorithms.AES(self.opened.tek), modes.CTR(iv)).encryptor().update(plain)
        covered = bytes([context]) + u32(flags) + iv + u32(len(plain)) * 2 + data
        return u32(flags) + iv + hmac.digest(tik or self.opened.tik, covered, "sha256"), data

    def place(self, header: bytes, data: bytes) -> None:
        self.rig.put(HEAD_AT, header)
        self.rig.put(DATA_AT, data)


# ------------------------------------------------------------------------------------------------ RECEIVE_START


@pytest.mark.parametrize("profile", PROFILES)
def test_order_of_receive_start(profile: str) -> None:
    receiving = Receiving(profile)
    rig, out = receiving.rig, outside(profile)
    bad_cert, bad_session, bad_policy = 0x30000, 0x31000, 0x32000
    session, cert = rig.get(SESSION_AT, 128), rig.get(CERT_AT, 2084)
    rig.put(bad_cert, u32(2) + cert[4:])
    rig.put(bad_session, session[:0x40] + bytes([session[0x40] ^ 1]) + session[0x41:])
    rig.put(bad_policy, session[:0x60] + bytes([session[0x60] ^ 1]) + session[0x61:])
    other = rig.start(NOKS)
    rungs = [
        *(({"session_len": n}, S.INVALID_LENGTH) for n in (0, 127, 129)),
        ({"session": OUTSIDE}, out),
        ({"session": FAR}, S.INVALID_ADDRESS),
        *(({"pdh_len": n}, S.INVALID_LENGTH) for n in (0, 2083, 2085)),
        ({"pdh": FAR}, S.INVALID_ADDRESS),
        ({"pdh": OUTSIDE}, out),
        ({"pdh": bad_cert}, S.INVALID_CERTIFICATE),
        ({"session": bad_session}, S.BAD_MEASUREMENT),
        ({"session": bad_policy}, S.BAD_MEASUREMENT),
        ({"policy": 1}, S.BAD_MEASUREMENT),
        ({"handle": 77}, S.INVALID_GUEST),
        ({"handle": other}, S.POLICY_FAILURE),  # another policy, and NOKS
    ]
    # a good and two bad sessions cannot lie at one address: the later ones are left out below an address rung
    answer = climb(rig, RECEIVE_START, receive_start_buf, receiving.good, rungs)
    assert answer == receive_start_buf(handle=2) and rig.rng.taken() == [32, 32]
    assert rig.guest_info(2) == (5, 0, 0) and rig.state == 2


@pytest.mark.parametrize("profile", PROFILES)
def test_policy_checks_after_the_macs(profile: str) -> None:
    """Row 7: version, then reserved bits; both authenticated first."""
    too_new = {"spec": 25 << 24, "genoa": 1 << 16 | 56 << 24}[profile]
    for policy, status in ((too_new, S.POLICY_FAILURE), (1 << 6, S.POLICY_FAILURE), (1 << 15, S.POLICY_FAILURE)):
        receiving = Receiving(profile, policy)
        refused(receiving.rig, RECEIVE_START, receive_start_buf(policy=policy, handle=77), status)
        refused(receiving.rig, RECEIVE_START, receive_start_buf(policy=policy ^ 1), S.BAD_MEASUREMENT)
    for policy in (too_new - (1 << 24), 0x3F & ~POLICY_ES, 8, 16, 32):  # NOSEND, DOMAIN, SEV are not the receiver's
        receiving = Receiving(profile, policy)
        receiving.start()
        assert receiving.rig.guest_info(1)[2] == policy


@pytest.mark.parametrize("profile", PROFILES)
def test_states_of_the_platform(profile: str) -> None:
    refused(Rig(profile), RECEIVE_START, receive_start_buf(session_len=0), S.INVALID_PLATFORM_STATE)
    receiving = Receiving(profile)
    assert receiving.rig.state == 1  # INIT is enough
    receiving.start()
    assert receiving.rig.state == 2
    receiving.start(PLAIN + 1)  # and WORKING; the same session once more: a clone
    assert receiving.rig.status()[8:12] == u32(2)
    guests = receiving.rig.firmware.guests
    assert guests[1].tek == guests[2].tek and guests[1].vek != guests[2].vek


@pytest.mark.parametrize("profile", PROFILES)
def test_es_and_the_draws_before_it(profile: str) -> None:
    """Row 11: UNSUPPORTED; Genoa has drawn the VEK by then (9a), the specification nothing."""
    receiving = Receiving(profile, POLICY_ES)
    rig = receiving.rig
    rig.rng.taken()
    buffer = receive_start_buf(policy=POLICY_ES)
    assert rig.run(RECEIVE_START, buffer) == S.UNSUPPORTED and rig.answer == buffer
    assert rig.rng.taken() == ([] if profile == "spec" else [32])
    assert rig.state == 1 and rig.firmware.guests == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_key_sharing(profile: str) -> None:
    receiving = Receiving(profile, 1)
    rig = receiving.rig
    first = receiving.start()
    second = int.from_bytes(rig.ok(RECEIVE_START, receive_start_buf(policy=1, handle=first))[:4], "little")
    assert (first, second) == (1, 2) and rig.rng.taken() == [32]  # the OEK is always new, the VEK is the other's
    guests = rig.firmware.guests
    assert guests[1].vek == guests[2].vek and guests[1].oek != guests[2].oek
    launched = rig.start(1)  # its state does not matter, nor how it came into being
    rig.ok(RECEIVE_START, receive_start_buf(policy=1, handle=launched))
    noks = Receiving(profile, 1 | NOKS)
    noks.start()
    refused(noks.rig, RECEIVE_START, receive_start_buf(policy=3, handle=1), S.POLICY_FAILURE)
    other = rig.start(5 & ~POLICY_ES | 8)
    refused(rig, RECEIVE_START, receive_start_buf(policy=1, handle=other), S.POLICY_FAILURE)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_received_guest_has_no_launch(profile: str) -> None:
    """No digest, no measurement, no secret (5.7)."""
    receiving = Receiving(profile, 1)
    rig, handle = receiving.rig, receiving.start()
    refused(rig, LAUNCH_SECRET, secret_buf(handle), S.INVALID_GUEST_STATE)
    refused(rig, ATTESTATION, attest_buf(handle), S.INVALID_GUEST_STATE)
    rig.ok(RECEIVE_FINISH, u32(handle))
    rig.ok(ATTESTATION, attest_buf(handle))
    assert rig.get(OUT + 16, 32) == bytes(32) and rig.get(OUT + 48, 4) == u32(1)


@pytest.mark.parametrize("profile", PROFILES)
def test_sessions_and_who_can_open_them(profile: str) -> None:
    """10.1: after PDH_GEN no more; made for LAUNCH_START it opens here too, and the reverse."""
    receiving = Receiving(profile, 1)
    rig = receiving.rig
    rig.ok(LAUNCH_START, receive_start_buf(policy=1))  # the layouts are the same
    receiving.start()
    rig.ok(PDH_GEN)
    old = rig.get(CERT_AT, 2084)
    refused(rig, RECEIVE_START, receive_start_buf(policy=1), S.BAD_MEASUREMENT)
    rig.put(CERT_AT, rig.chain()[0].pack())
    refused(rig, RECEIVE_START, receive_start_buf(policy=1), S.BAD_MEASUREMENT)
    rig.put(CERT_AT, old)
    rig.activate(1, PLAIN + 1)
    rig.ok(RECEIVE_FINISH, u32(2))  # an open channel does not mind


def test_the_vectors_of_tampering() -> None:
    """All 38 of them, through the mailbox, with the vectors' own keys."""
    count = 0
    for vector in VECTORS.values():
        if vector["group"] != "tamper":
            continue
        count += 1
        for profile in PROFILES:
            run = tampered_start if vector["command"] == "RECEIVE_START" else tampered_packet
            assert run(vector, profile) == vector["expect"]["code"], (vector["id"], profile)
    assert count == 38


def with_key(rig: Rig, name: str) -> Rig:
    key = PrivateKey(int(KEYS[name]["d_be"], 16))
    rig.firmware.identity = dataclasses.replace(rig.firmware.identity, pdh_key=key)
    return rig


def mutated(vector: dict[str, Any], parts: dict[str, bytearray], fields: dict[str, int]) -> None:
    change = vector["mutation"]
    if isinstance(change, str):
        return
    if "offset" in change:
        parts[change["buffer"]][change["offset"]] ^= change["xor"]
    elif "replace" in change:
        where, name, part = (change["replace"] + ".").split(".")[:3]
        value = VECTORS[where]["outputs"][name]
        parts[change["buffer"]] = bytearray.fromhex(value[part] if part else value)
    elif "field" in change:
        name = change["field"]
        fields[name] = change["value"] if "value" in change else fields[name] ^ change["xor"]
    else:
        fields.update({name: value for name, value in change.items() if name in fields})


def tampered_start(vector: dict[str, Any], profile: str) -> int:
    parts = {
        "session": bytearray.fromhex(VECTORS["session-migrate"]["outputs"]["session"]),
        "pdh_cert": bytearray.fromhex(KEYS["sender"]["cert"]),
    }
    fields = {"policy": vector["base"]["policy_u32"], "session_len": 128, "pdh_cert_len": 2084}
    mutated(vector, parts, fields)
    api = (*vector["mutation"]["receiver_api"], 1) if "receiver_api" in vector["mutation"] else (1, 17, 1)
    rig = with_key(Rig(profile, version=api).init(), "receiver")
    rig.put(SESSION_AT, bytes(parts["session"]))
    rig.put(CERT_AT, bytes(parts["pdh_cert"]))
    buffer = receive_start_buf(
        policy=fields["policy"], session_len=fields["session_len"], pdh_len=fields["pdh_cert_len"]
    )
    if vector["mutation"] == "issue twice":
        rig.ok(RECEIVE_START, buffer)
    return rig.run(RECEIVE_START, buffer)


def tampered_packet(vector: dict[str, Any], profile: str) -> int:
    packet = VECTORS[vector["base"]["packet"]]
    parts = {
        name: bytearray.fromhex(packet["outputs"][key]) for name, key in (("header", "header"), ("data", "ciphertext"))
    }
    fields = {"guest_len": vector["base"]["guest_len"], "trans_len": vector["base"]["trans_len"]}
    mutated(vector, parts, fields)
    rig = Rig(profile).init()
    handle = rig.guest(5)
    guest = rig.firmware.guests[handle]
    guest.tek, guest.tik = (bytes.fromhex(packet["inputs"][key]) for key in ("tek", "tik"))
    rig.put(HEAD_AT, bytes(parts["header"]))
    rig.put(DATA_AT, bytes(parts["data"]))
    buffer = packet_buf(handle=handle, guest_len=fields["guest_len"], trans_len=fields["trans_len"])
    if vector["mutation"] == "deliver twice":
        rig.ok(RECEIVE_UPDATE_DATA, buffer)
    status = rig.run(RECEIVE_UPDATE_DATA, buffer)
    if status == S.SUCCESS:
        assert rig.machine.umc.read(PLAIN, GUEST_AT, 48).hex() == packet["inputs"]["plaintext"]
    return status


# ----------------------------------------------------------------------------------------------- RECEIVE_UPDATE


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("es", [False, True], ids=["data", "vmsa"])
def test_order_of_receive_update(profile: str, es: bool) -> None:
    policy = POLICY_ES if es else 0
    receiving = Receiving(profile, policy, es=es)
    rig, out, limit = receiving.rig, outside(profile), LIMIT[profile]
    command = RECEIVE_UPDATE_VMSA if es else RECEIVE_UPDATE_DATA
    handle = receiving.start(ES if es else PLAIN)
    unbound = int.from_bytes(rig.ok(RECEIVE_START, receive_start_buf(**receiving.good))[:4], "little")
    running = rig.guest(3, bound=False, policy=policy)
    receiving.place(*receiving.packet(page(), CONTEXT[profile] if es else 2))
    flagged, wrong = 0x50000, 0x51000
    rig.put(flagged, u32(1) + rig.get(HEAD_AT, 52)[4:])
    rig.put(wrong, rig.get(HEAD_AT, 51) + b"\0" if rig.get(HEAD_AT, 52)[51] else rig.get(HEAD_AT, 51) + b"\1")
    rungs = [({"handle": 77}, S.INVALID_GUEST), ({"handle": running}, S.INVALID_GUEST_STATE)]
    rungs += [({"handle": unbound}, S.INACTIVE)]
    rungs += [({"guest_len": n, "trans_len": n}, S.INVALID_LENGTH) for n in (0, 8, 24, limit + 16)]
    rungs += [({"trans_len": n}, S.INVALID_LENGTH) for n in (0, 4080, 4112, limit + 16)]
    rungs += [({"guest_len": n}, S.INVALID_LENGTH) for n in (0, 4080)]
    rungs += [({"hdr_len": n}, S.INVALID_LENGTH) for n in (0, 51)]
    rungs += [({"guest": GUEST_AT + low}, S.INVALID_ADDRESS) for low in (1, 8, 15)]
    rungs += [({"hdr": OUTSIDE}, out), ({"hdr": FAR}, S.INVALID_ADDRESS), ({"hdr": flagged}, S.UNSUPPORTED)]
    rungs += [({"guest": FAR}, S.INVALID_ADDRESS), ({"guest": OUTSIDE}, out), ({"guest": ASEG}, S.INVALID_ADDRESS)]
    rungs += [({"trans": FAR}, S.INVALID_ADDRESS), ({"trans": OUTSIDE}, out), ({"hdr": wrong}, S.BAD_MEASUREMENT)]
    good = {"handle": handle}
    # flags, then the guest's range, then the ciphertext's
    refused(rig, command, packet_buf(handle=handle, hdr=flagged, guest=FAR, trans=FAR), S.UNSUPPORTED)
    refused(rig, command, packet_buf(handle=handle, guest=FAR, trans=OUTSIDE, hdr=wrong), S.INVALID_ADDRESS)
    refused(rig, command, packet_buf(handle=handle, guest=OUTSIDE, trans=FAR, hdr=wrong), out)
    assert climb(rig, command, packet_buf, good, rungs) == packet_buf(**good)
    found = rig.machine.umc.read(ES if es else PLAIN, GUEST_AT, 4096)
    if not es:
        assert found == page()
    else:
        slot = found[0x388:0x390]
        assert found == page()[:0x380] + bytes(8) + slot + page()[0x390:]
        assert rig.get(int.from_bytes(slot, "little"), 8) == checksum(found)
    assert rig.guest_info(handle)[0] == 5 and rig.rng.taken() == []
    rig.ok(command, packet_buf(**good))  # again: nobody minds


@pytest.mark.parametrize("profile", PROFILES)
def test_vmsa_rows(profile: str) -> None:
    """Rows 4 and 11, and what a longer packet brings along."""
    for command in (RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA):
        rig = Rig(profile)
        refused(rig, command, packet_buf(handle=77), S.INVALID_PLATFORM_STATE)
        refused(rig.init(), command, packet_buf(handle=77), S.INVALID_PLATFORM_STATE)
    plain = Receiving(profile)
    plain.start()
    refused(plain.rig, RECEIVE_UPDATE_VMSA, packet_buf(handle=1, guest_len=0), S.UNSUPPORTED)

    receiving = Receiving(profile, POLICY_ES, es=True)
    rig, context = receiving.rig, CONTEXT[profile]
    receiving.start(ES)
    small = page()[:4080]
    receiving.place(*receiving.packet(small, context))
    refused(rig, RECEIVE_UPDATE_VMSA, packet_buf(handle=1, guest_len=4080, trans_len=4080), S.INVALID_LENGTH)
    receiving.place(*receiving.packet(page() + page(3), context))
    rig.ok(RECEIVE_UPDATE_VMSA, packet_buf(handle=1, guest_len=0x2000, trans_len=0x2000))
    assert rig.machine.umc.read(ES, GUEST_AT + 4096, 4096) == page(3)
    receiving.place(*receiving.packet(page(), context))
    before = rig.observe()
    pool = rig.firmware.pool
    taken = []
    while pool.available:
        taken.append(pool.take())
    refused(rig, RECEIVE_UPDATE_VMSA, packet_buf(handle=1), S.RESOURCE_LIMIT)
    assert taken and before["guest 1"] == rig.observe()["guest 1"]


@pytest.mark.parametrize("profile", PROFILES)
def test_kinds_of_packets(profile: str) -> None:
    """10.3: with context 3 DATA and VMSA packets are told apart, with 2 they are not; a secret packet never passes."""
    receiving = Receiving(profile, POLICY_ES, es=True)
    rig = receiving.rig
    receiving.start(ES)
    for made, command in ((CONTEXT[profile], RECEIVE_UPDATE_DATA), (2, RECEIVE_UPDATE_VMSA)):
        receiving.place(*receiving.packet(page(), made))
        if profile == "spec":
            refused(rig, command, packet_buf(handle=1), S.BAD_MEASUREMENT)
        else:
            rig.ok(command, packet_buf(handle=1))
    receiving.place(*receiving.packet(page(), CONTEXT[profile]))
    if profile == "genoa":
        rig.ok(RECEIVE_UPDATE_DATA, packet_buf(handle=1))  # byte for byte, without a slot
        assert rig.machine.umc.read(ES, GUEST_AT, 4096) == page()
    for command in (RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA):
        for context in (0, 1, 4):
            receiving.place(*receiving.packet(page(), context))
            refused(rig, command, packet_buf(handle=1), S.BAD_MEASUREMENT)


@pytest.mark.parametrize("profile", PROFILES)
def test_flags_and_sizes(profile: str) -> None:
    receiving = Receiving(profile)
    rig = receiving.rig
    receiving.start()
    for flags in (2, 0xFFFFFFFE):  # authenticated, otherwise ignored
        receiving.place(*receiving.packet(page(), flags=flags))
        rig.ok(RECEIVE_UPDATE_DATA, packet_buf(handle=1))
    for flags in (1, 3):
        receiving.place(*receiving.packet(page(), flags=flags))
        refused(rig, RECEIVE_UPDATE_DATA, packet_buf(handle=1), S.UNSUPPORTED)
    for size in (16, 32, LIMIT[profile]):
        text = (page() * 5)[:size]
        header, data = receiving.packet(text)
        rig.put(0x50001, header + b"ignored")
        rig.put(0x60003, data)
        rig.ok(RECEIVE_UPDATE_DATA, packet_buf(handle=1, hdr=0x50001, hdr_len=99, trans=0x60003, guest_len=size,
                                               trans_len=size))  # fmt: skip
        assert rig.machine.umc.read(PLAIN, GUEST_AT, size) == text
    before = rig.get(GUEST_AT, 64)
    receiving.place(*receiving.packet(page(), tik=bytes(16)))  # another session's packet
    refused(rig, RECEIVE_UPDATE_DATA, packet_buf(handle=1), S.BAD_MEASUREMENT)
    assert rig.get(GUEST_AT, 64) == before
    receiving.place(*receiving.packet(page()))
    rig.ok(RECEIVE_UPDATE_DATA, packet_buf(handle=1))  # the same place, the next packet: retries have no limit


def test_what_is_not_detected_about_packets() -> None:
    """10.3, the last rows: order, repetition, another address, pages that never come."""
    receiving = Receiving("spec")
    rig = receiving.rig
    receiving.start()
    packets = [receiving.packet(page(fill)) for fill in (3, 5, 7)]
    for index in (2, 0, 0):  # reordered and repeated, each to another place than the sender had it
        receiving.place(*packets[index])
        rig.ok(RECEIVE_UPDATE_DATA, packet_buf(handle=1, guest=GUEST_AT + index * 0x1000))
    rig.ok(RECEIVE_FINISH, u32(1))  # the middle page never came
    assert rig.machine.umc.read(PLAIN, GUEST_AT, 4096) == page(3)
    assert rig.machine.umc.read(PLAIN, GUEST_AT + 0x2000, 4096) == page(7)


# ----------------------------------------------------------------------------------------------- RECEIVE_FINISH


@pytest.mark.parametrize("profile", PROFILES)
def test_receive_finish(profile: str) -> None:
    refused(Rig(profile), RECEIVE_FINISH, u32(77), S.INVALID_PLATFORM_STATE)
    refused(Rig(profile).init(), RECEIVE_FINISH, u32(77), S.INVALID_PLATFORM_STATE)
    for state in (1, 2, 3, 4, 6):
        rig = Rig(profile).init()
        refused(rig, RECEIVE_FINISH, u32(rig.guest(state)), S.INVALID_GUEST_STATE)
        refused(rig, RECEIVE_FINISH, u32(77), S.INVALID_GUEST)
        refused(rig, RECEIVE_FINISH, u32(0), S.INVALID_GUEST)
    receiving = Receiving(profile)
    rig = receiving.rig
    receiving.start()  # right after RECEIVE_START: no completeness check
    assert rig.machine.valid_asids.get(PLAIN, frozenset()) == frozenset()  # pending
    assert rig.ok(RECEIVE_FINISH, u32(1)) == u32(1) and rig.rng.taken() == []
    assert rig.guest_info(1) == (3, PLAIN, 0) and rig.machine.valid_asids[PLAIN]
    guest = rig.firmware.guests[1]
    assert (guest.tek, guest.tik, guest.ms, guest.nonce) == (bytes(16),) * 4
    unbound = int.from_bytes(rig.ok(RECEIVE_START, receive_start_buf(**receiving.good))[:4], "little")
    rig.ok(RECEIVE_FINISH, u32(unbound))
    rig.ok(ACTIVATE, u32(unbound) + u32(PLAIN + 1))
    assert rig.machine.valid_asids[PLAIN + 1]
