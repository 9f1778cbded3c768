"""Every command of guests reaches SUCCESS, and every row of its table of checks refuses once.

One list of requests (command, row, status) for sheets 20 and 30, all asked of one platform with a guest in each state. Each
request differs from the command's good one (``GOOD``) in one thing, so the row named is the one that refused it; a refused
request changes nothing. The order of the rows is tested in tests/firmware, the rows inside a certificate's
validation (sheet 50, section 2.9) in tests/certs/test_validate.py.
"""

from __future__ import annotations

import functools

import pytest

from firmware.kit import (
    ACTIVATE,
    ACTIVATE_EX,
    ATTESTATION,
    BUF,
    CERT,
    CERT_AT,
    CHAIN,
    COPY,
    DATA_AT,
    DBG_DECRYPT,
    DBG_ENCRYPT,
    DEACTIVATE,
    DECOMMISSION,
    ES,
    GET_ID,
    GUEST_STATUS,
    HEAD_AT,
    LAUNCH_FINISH,
    LAUNCH_MEASURE,
    LAUNCH_SECRET,
    LAUNCH_START,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    NODBG,
    NOKS,
    OUT,
    PLAIN,
    POLICY_ES,
    RECEIVE_FINISH,
    RECEIVE_START,
    RECEIVE_UPDATE_DATA,
    RECEIVE_UPDATE_VMSA,
    SEND_CANCEL,
    SEND_FINISH,
    SEND_START,
    SEND_UPDATE_DATA,
    SEND_UPDATE_VMSA,
    SESSION,
    SESSION_AT,
    SWAP_IN,
    SWAP_OUT,
    Rig,
    attest_buf,
    debug_buf,
    id_buf,
    init_buf,
    measure_buf,
    secret_buf,
    start_buf,
    status_buf,
    swap_buf,
    u32,
    u64,
    update_buf,
)
from sevref import SeededRandom, SimulatedAmd
from sevref import Session as SessionData
from sevref import Status as S
from sevref.certs import Algo, Usage, new_certificate, sign_certificate
from sevref.crypto import draw_private
from sevref.machine import AddressMap
from sevref.transport import Context, make_packet

PAGE, FAR, ODD = 0x1000, 1 << 60, 8
NOSEND, DOMAIN, SEV = 8, 16, 32
# guests: what each is there for
LAUNCHING, MEASURED, RUNNING, RECEIVING, SENT, SENDING = 1, 2, 3, 4, 5, 6
PLAIN_LAUNCHING, CLOSED, OF_DOMAIN, OF_SEV, PLAIN_SENDING, PLAIN_RECEIVING = 7, 8, 9, 10, 11, 12
SEV_NEW, UNBOUND_MEASURED, UNBOUND_SENDING, UNBOUND_RECEIVING = 13, 14, 15, 16
NOBODY = 77
# contents of memory
IDS, NO_CORE, HUGE_ID, OTHER_CERT, OTHER_SESSION = 0x7000, 0x7100, 0x7200, 0xA000, 0xB000
NEW_CERT, NEW_SESSION, ODD_CERT, ODD_SESSION, ES_CERT, ES_SESSION = 0xC000, 0xB100, 0xD000, 0xB200, 0xE000, 0xB300
PDH, PLAT, AMD, FORGED, BAD = 0x60000, 0x61000, 0x63000, 0x64000, 0x65000  # BAD: one spoilt copy after the other
SWAPPED, ENTRY, VMSA_SWAPPED, VMSA_ENTRY = 0x90000, 0x92000, 0x94000, 0x92040
SHORT_HEAD, SHORT_DATA, FLAGGED = 0x22000, 0x23000, 0x24000
SPARE = 50


def at(guest: int) -> int:
    """A guest's memory: a page of data, then a VMSA if it has one."""
    return 0x200000 + guest * 0x4000


def send_buf(
    guest: int = RUNNING,
    pdh: int = PDH,
    pdh_len: int = CERT,
    plat: int = PLAT,
    plat_len: int = CHAIN,
    amd: int = AMD,
    amd_len: int = 3200,
    session: int = OUT,
    session_len: int = SESSION,
) -> bytes:
    parts = u64(pdh) + u32(pdh_len) + u32(0) + u64(plat) + u32(plat_len) + u32(0) + u64(amd) + u32(amd_len) + u32(0)
    return u32(guest) + u32(0) + parts + u64(session) + u32(session_len)


def ex_buf(
    guest: int = UNBOUND_MEASURED, asid: int = PLAIN + SPARE + 1, count: int = 1, ids: int = IDS, length: int = 24
) -> bytes:
    return u32(length) + u32(guest) + u32(asid) + u32(count) + u64(ids)


def copy_buf(guest: int = RUNNING, length: int = PAGE, source: int = 0, target: int = 0) -> bytes:
    return u32(guest) + u32(length) + u64(source or at(RUNNING)) + u64(target or at(RUNNING) + 2 * PAGE)


def session_buf(policy: int = NODBG, handle: int = 0, cert: int = CERT_AT, session: int = SESSION_AT) -> bytes:
    return start_buf(policy, handle, cert, CERT, session, SESSION)


def packet(guest: int, /, **fields: int) -> bytes:
    return secret_buf(guest, **{"guest": at(guest), **fields})


def vmsa_packet(guest: int, /, **fields: int) -> bytes:
    return secret_buf(guest, **{"guest": at(guest) + PAGE, "guest_len": PAGE, **fields})


def out_buf(guest: int = RUNNING, **fields: int) -> bytes:
    return swap_buf(guest, **{"source": at(RUNNING), "target": DATA_AT, "entry": HEAD_AT, **fields}) + bytes(8)


def in_buf(guest: int = RUNNING, **fields: int) -> bytes:
    return swap_buf(guest, **{"source": SWAPPED, "target": at(RUNNING), "entry": ENTRY, **fields})


def owned(rig: Rig, policy: int, cert: int, session: int) -> tuple[bytes, bytes]:
    """A guest owner's certificate and session in memory; its TEK and TIK."""
    opened = SessionData.create(rig.chain()[0], policy, rng=SeededRandom(b"rows", f"owner {policy}"))
    rig.put(cert, opened.godh.pack())
    rig.put(session, opened.session.pack())
    return opened.tek, opened.tik


def bring(rig: Rig, guest: int, state: int, policy: int = 0, bound: bool = True) -> None:
    """Guest number ``guest`` into a state (sheet 20, section 2.2)."""
    if state == 5:
        session = ES_CERT, ES_SESSION
        owned(rig, policy, *session)
        handle = int.from_bytes(rig.ok(RECEIVE_START, session_buf(policy, 0, *session))[:4], "little")
    else:
        handle = rig.start(policy)
    assert handle == guest
    rig.activate(guest, (ES if policy & POLICY_ES else PLAIN) + guest)
    if state != 5:
        rig.ok(LAUNCH_UPDATE_DATA, update_buf(guest, at(guest)))
        if policy & POLICY_ES:
            rig.ok(LAUNCH_UPDATE_VMSA, update_buf(guest, at(guest) + PAGE))
    if state in (2, 3, 4, 6):
        rig.ok(LAUNCH_MEASURE, measure_buf(guest))
    if state in (3, 4, 6):
        rig.ok(LAUNCH_FINISH, u32(guest))
    if state in (4, 6):
        rig.ok(SEND_START, send_buf(guest))
    if state == 6:
        rig.ok(SEND_FINISH, u32(guest))
    if not bound:
        rig.ok(DEACTIVATE, u32(guest))


def world(size: int = 4 * MIB, **machine: object) -> Rig:
    """A platform with all the guests and everything that the requests point at."""
    rig = Rig(machine_args={"address_map": AddressMap(((0x800_0000, MIB), (0, size))), **machine})
    rig.ok(0x01, init_buf(1, 0, 0x800_0000, MIB))
    rig.flush()
    amd = SimulatedAmd("milan", seed=b"rows")
    amd.enrol(rig.machine)
    chain = rig.chain()
    rig.ok(GET_ID, id_buf())
    cek = amd.certify(rig.get(OUT, 64), chain[3])
    rig.put(PDH, chain[0].pack())
    rig.put(PLAT, chain[1].pack() + chain[2].pack() + cek.pack())
    rig.put(AMD, amd.roots.ask.pack() + amd.roots.ark.pack())
    key = draw_private(SeededRandom(b"rows", "forger"), "a key of one's own")
    forged = new_certificate(Usage.PDH, Algo.ECDH_SHA256, key.public, (0, 24))
    sign_certificate(forged, key, Usage.PEK, Algo.ECDSA_SHA256)
    rig.put(FORGED, forged.pack())
    api = 25 << 24  # minor version 25
    for guest, state, policy, bound in (
        (LAUNCHING, 1, POLICY_ES, True),
        (MEASURED, 2, 0, True),
        (RUNNING, 3, POLICY_ES, True),
        (RECEIVING, 5, POLICY_ES, True),
        (SENT, 6, POLICY_ES, False),
        (SENDING, 4, POLICY_ES, True),
        (PLAIN_LAUNCHING, 1, 0, False),
        (CLOSED, 3, NODBG | NOKS | NOSEND, True),
        (OF_DOMAIN, 3, DOMAIN, True),
        (OF_SEV, 3, SEV, True),
        (PLAIN_SENDING, 4, 0, True),
        (PLAIN_RECEIVING, 5, 0, True),
        (SEV_NEW, 3, SEV | api, True),
        (UNBOUND_MEASURED, 2, 0, False),
        (UNBOUND_SENDING, 4, 0, False),
        (UNBOUND_RECEIVING, 5, 0, False),
    ):
        bring(rig, guest, state, policy, bound)
        if guest == MEASURED:
            measure = rig.get(OUT, 32)
    rig.put(IDS, u32(0))
    rig.put(NO_CORE, u32(0) + u32(400))
    rig.put(HUGE_ID, u32(512))
    # sessions: a good one, one of another platform's owner, one for newer firmware, one with a reserved bit
    owned(rig, NODBG | api, NEW_CERT, NEW_SESSION)
    owned(rig, NODBG | 0x40, ODD_CERT, ODD_SESSION)
    tek, tik = owned(rig, POLICY_ES, ES_CERT, ES_SESSION)
    owned(rig, NODBG, CERT_AT, SESSION_AT)
    other = bytearray(rig.get(CERT_AT, CERT))
    other[0x08] ^= 1  # the key's usage
    rig.put(OTHER_CERT, bytes(other))
    other = bytearray(rig.get(SESSION_AT, SESSION))
    other[0x10] ^= 1  # WRAP_TK
    rig.put(OTHER_SESSION, bytes(other))
    # swapped pages of RUNNING; packets for LAUNCH_SECRET (zero keys) and RECEIVE_UPDATE_*
    rig.ok(SWAP_OUT, out_buf(target=SWAPPED, entry=ENTRY))
    rig.ok(SWAP_OUT, out_buf(source=at(RUNNING) + PAGE, target=VMSA_SWAPPED, entry=VMSA_ENTRY, flags=4))
    rig.packets = {  # type: ignore[attr-defined]
        "secret": make_packet(bytes(16), bytes(16), Context.SECRET, bytes(64), iv=bytes(16), trailer=measure),
        "flagged secret": make_packet(
            bytes(16), bytes(16), Context.SECRET, bytes(64), iv=bytes(16), trailer=measure, flags=1
        ),
        "data": make_packet(tek, tik, Context.DATA, bytes(64), iv=bytes(16)),
        "flagged data": make_packet(tek, tik, Context.DATA, bytes(64), iv=bytes(16), flags=1),
        "vmsa": make_packet(tek, tik, Context.VMSA, bytes(PAGE), iv=bytes(16)),
        "short vmsa": make_packet(tek, tik, Context.VMSA, bytes(64), iv=bytes(16)),
    }
    return rig


# command -> the request that succeeds (in this order they all do), and the packet that lies at HEAD_AT and DATA_AT for it
GOOD: dict[int, tuple[bytes, str]] = {
    LAUNCH_START: (session_buf(), ""),
    LAUNCH_UPDATE_DATA: (update_buf(LAUNCHING, at(LAUNCHING)), ""),
    LAUNCH_UPDATE_VMSA: (update_buf(LAUNCHING, at(LAUNCHING)), ""),
    LAUNCH_MEASURE: (measure_buf(LAUNCHING), ""),
    LAUNCH_SECRET: (packet(MEASURED), "secret"),
    LAUNCH_FINISH: (u32(MEASURED), ""),
    ATTESTATION: (attest_buf(RUNNING), ""),
    GUEST_STATUS: (status_buf(NOBODY), ""),
    DECOMMISSION: (u32(SENT), ""),
    ACTIVATE: (u32(PLAIN_LAUNCHING) + u32(PLAIN + SPARE), ""),
    ACTIVATE_EX: (ex_buf(), ""),
    DBG_DECRYPT: (debug_buf(RUNNING, at(RUNNING)), ""),
    DBG_ENCRYPT: (debug_buf(RUNNING, DATA_AT, at(RUNNING)), ""),
    COPY: (copy_buf(), ""),
    SWAP_OUT: (out_buf(), ""),
    SWAP_IN: (in_buf(), ""),
    SEND_START: (send_buf(), ""),
    SEND_UPDATE_DATA: (packet(SENDING), ""),
    SEND_UPDATE_VMSA: (vmsa_packet(SENDING), ""),
    SEND_FINISH: (u32(SENDING), ""),
    SEND_CANCEL: (u32(PLAIN_SENDING), ""),
    RECEIVE_START: (session_buf(), ""),
    RECEIVE_UPDATE_DATA: (packet(RECEIVING), "data"),
    RECEIVE_UPDATE_VMSA: (vmsa_packet(RECEIVING), "vmsa"),
    RECEIVE_FINISH: (u32(RECEIVING), ""),
    DEACTIVATE: (u32(RUNNING), ""),
}

A, L, P, G, GS = S.INVALID_ADDRESS, S.INVALID_LENGTH, S.INVALID_PARAM, S.INVALID_GUEST, S.INVALID_GUEST_STATE
UNALIGNED = at(LAUNCHING) + ODD
# (command, row, status, request); a fifth entry names another packet than the good one. Rows as in the sheets' tables;
# the row "platform state" is asked of every command below.
ROWS: list[tuple[int, str, S, bytes] | tuple[int, str, S, bytes, str]] = [
    # sheet 20, section 3.1
    (LAUNCH_START, "2", L, start_buf(NODBG, 0, CERT_AT, CERT, SESSION_AT, 127)),
    (LAUNCH_START, "3", A, session_buf(session=FAR)),
    (LAUNCH_START, "4", L, start_buf(NODBG, 0, CERT_AT, CERT - 1, SESSION_AT, SESSION)),
    (LAUNCH_START, "5", A, session_buf(cert=FAR)),
    (LAUNCH_START, "6", S.INVALID_CERTIFICATE, session_buf(cert=OTHER_CERT)),
    (LAUNCH_START, "7", S.BAD_MEASUREMENT, session_buf(session=OTHER_SESSION)),
    (LAUNCH_START, "8", S.BAD_MEASUREMENT, session_buf(0)),
    (LAUNCH_START, "9", S.POLICY_FAILURE, session_buf(NODBG | 25 << 24, 0, NEW_CERT, NEW_SESSION)),
    (LAUNCH_START, "10", S.POLICY_FAILURE, session_buf(NODBG | 0x40, 0, ODD_CERT, ODD_SESSION)),
    (LAUNCH_START, "11", G, session_buf(handle=NOBODY)),
    (LAUNCH_START, "12", S.POLICY_FAILURE, start_buf(0, RUNNING)),
    (LAUNCH_START, "12", S.POLICY_FAILURE, start_buf(NODBG | NOKS | NOSEND, CLOSED)),
    # sheet 20, section 3.3
    (LAUNCH_UPDATE_DATA, "2", G, update_buf(NOBODY, at(LAUNCHING))),
    (LAUNCH_UPDATE_DATA, "3", GS, update_buf(MEASURED, at(LAUNCHING))),
    (LAUNCH_UPDATE_DATA, "5", S.INACTIVE, update_buf(PLAIN_LAUNCHING, at(LAUNCHING))),
    (LAUNCH_UPDATE_DATA, "6", A, update_buf(LAUNCHING, UNALIGNED)),
    (LAUNCH_UPDATE_DATA, "7", L, update_buf(LAUNCHING, at(LAUNCHING), 0)),
    (LAUNCH_UPDATE_DATA, "7", L, update_buf(LAUNCHING, at(LAUNCHING), 24)),
    (LAUNCH_UPDATE_DATA, "8", A, update_buf(LAUNCHING, FAR)),
    (LAUNCH_UPDATE_VMSA, "0", L, update_buf(LAUNCHING, at(LAUNCHING), 4080)),
    (LAUNCH_UPDATE_VMSA, "2", G, update_buf(NOBODY, at(LAUNCHING))),
    (LAUNCH_UPDATE_VMSA, "3", GS, update_buf(RUNNING, at(LAUNCHING))),
    (LAUNCH_UPDATE_VMSA, "4", S.UNSUPPORTED, update_buf(PLAIN_LAUNCHING, at(LAUNCHING))),
    (LAUNCH_UPDATE_VMSA, "6", A, update_buf(LAUNCHING, UNALIGNED)),
    (LAUNCH_UPDATE_VMSA, "8", A, update_buf(LAUNCHING, FAR)),
    # sheet 20, section 3.5
    (LAUNCH_MEASURE, "2", G, measure_buf(NOBODY)),
    (LAUNCH_MEASURE, "3", GS, measure_buf(MEASURED)),
    (LAUNCH_MEASURE, "4", L, measure_buf(LAUNCHING, length=0x2F)),
    (LAUNCH_MEASURE, "5", A, measure_buf(LAUNCHING, FAR)),
    # sheet 20, section 3.6
    (LAUNCH_SECRET, "2", G, packet(NOBODY, guest=at(MEASURED))),
    (LAUNCH_SECRET, "3", A, packet(MEASURED, guest=at(MEASURED) + ODD)),
    (LAUNCH_SECRET, "4", L, packet(MEASURED, hdr_len=0x35)),
    (LAUNCH_SECRET, "4", L, packet(MEASURED, guest_len=0)),
    (LAUNCH_SECRET, "4", L, packet(MEASURED, guest_len=40)),
    (LAUNCH_SECRET, "4", L, packet(MEASURED, guest_len=0x4010)),
    (LAUNCH_SECRET, "4", L, packet(MEASURED, trans_len=80)),
    (LAUNCH_SECRET, "5", GS, packet(RUNNING)),
    (LAUNCH_SECRET, "6", S.INACTIVE, packet(UNBOUND_MEASURED)),
    (LAUNCH_SECRET, "7", A, packet(MEASURED, hdr=FAR)),
    (LAUNCH_SECRET, "7", A, packet(MEASURED, guest=FAR)),
    (LAUNCH_SECRET, "7", A, packet(MEASURED, trans=FAR)),
    (LAUNCH_SECRET, "8", S.BAD_MEASUREMENT, packet(MEASURED), "data"),
    (LAUNCH_SECRET, "9", S.UNSUPPORTED, packet(MEASURED), "flagged secret"),
    # sheet 20, sections 3.7, 3.9, 4
    (LAUNCH_FINISH, "2", G, u32(NOBODY)),
    (LAUNCH_FINISH, "3", GS, u32(LAUNCHING)),
    (DECOMMISSION, "2", G, u32(NOBODY)),
    (DECOMMISSION, "3", S.ACTIVE, u32(RUNNING)),
    (ATTESTATION, "2", G, attest_buf(NOBODY)),
    (ATTESTATION, "3", GS, attest_buf(LAUNCHING)),
    (ATTESTATION, "4", L, attest_buf(RUNNING, length=0xCF)),
    (ATTESTATION, "5", A, attest_buf(RUNNING, FAR)),
    # sheet 20, sections 5.4 to 5.6
    (ACTIVATE, "2", G, u32(NOBODY) + u32(PLAIN + SPARE)),
    (ACTIVATE, "3", S.INVALID_ASID, u32(PLAIN_LAUNCHING) + u32(0)),
    (ACTIVATE, "3", S.INVALID_ASID, u32(PLAIN_LAUNCHING) + u32(510)),
    (ACTIVATE, "4", S.ASID_OWNED, u32(PLAIN_LAUNCHING) + u32(PLAIN + MEASURED)),
    (ACTIVATE, "5", S.ACTIVE, u32(MEASURED) + u32(PLAIN + SPARE)),
    (ACTIVATE, "6", GS, u32(SENT) + u32(ES + SPARE)),
    (ACTIVATE, "7", S.DFFLUSH_REQUIRED, u32(PLAIN_LAUNCHING) + u32(PLAIN + UNBOUND_SENDING)),
    (ACTIVATE, "9", S.INVALID_ASID, u32(PLAIN_LAUNCHING) + u32(ES + SPARE)),
    (ACTIVATE_EX, "2", P, ex_buf(length=0x17)),
    (ACTIVATE_EX, "3", G, ex_buf(NOBODY)),
    (ACTIVATE_EX, "4", S.INVALID_ASID, ex_buf(asid=0)),
    (ACTIVATE_EX, "6", P, ex_buf(count=0)),
    (ACTIVATE_EX, "6", P, ex_buf(count=1025)),
    (ACTIVATE_EX, "7", A, ex_buf(ids=FAR)),
    (ACTIVATE_EX, "8", S.INVALID_CONFIG, ex_buf(count=2, ids=NO_CORE)),
    (ACTIVATE_EX, "8", P, ex_buf(ids=HUGE_ID)),
    (ACTIVATE_EX, "9", GS, ex_buf(SENT, ES + SPARE)),
    (ACTIVATE_EX, "10", S.DFFLUSH_REQUIRED, ex_buf(asid=PLAIN + UNBOUND_SENDING)),
    (ACTIVATE_EX, "11", S.ASID_OWNED, ex_buf(asid=PLAIN + MEASURED)),
    (ACTIVATE_EX, "12", S.ACTIVE, ex_buf(MEASURED)),
    (ACTIVATE_EX, "13", S.INVALID_ASID, ex_buf(asid=ES + SPARE)),
    (DEACTIVATE, "2", G, u32(NOBODY)),
    (DEACTIVATE, "3", S.INACTIVE, u32(SENT)),
    # sheet 20, section 6.2
    (COPY, "2", G, copy_buf(NOBODY)),
    (COPY, "3", S.INACTIVE, copy_buf(SENT)),
    (COPY, "4", L, copy_buf(length=0)),
    (COPY, "4", L, copy_buf(length=2048)),
    (COPY, "5", A, copy_buf(source=at(RUNNING) + 16)),
    (COPY, "8", A, copy_buf(source=FAR)),
    (COPY, "8", A, copy_buf(target=FAR)),
    # sheet 20, section 6.3
    (SWAP_OUT, "2", A, out_buf(source=FAR)),
    (SWAP_OUT, "2", A, out_buf(target=FAR)),
    (SWAP_OUT, "2", A, out_buf(entry=FAR)),
    (SWAP_OUT, "3", A, out_buf(source=at(RUNNING) + 16)),
    (SWAP_OUT, "3", A, out_buf(entry=HEAD_AT + 32)),
    (SWAP_OUT, "4", P, out_buf(entry=DATA_AT + 64)),
    (SWAP_OUT, "5", P, out_buf(source=0x200000, target=0x200000, flags=5)),
    (SWAP_OUT, "6", G, out_buf(NOBODY)),
    (SWAP_OUT, "7", S.INACTIVE, out_buf(SENT)),
    (SWAP_OUT, "9", P, out_buf(flags=4)),
    (SWAP_OUT, "9", P, out_buf(source=at(RUNNING) + PAGE)),
    (SWAP_IN, "2", A, in_buf(source=FAR)),
    (SWAP_IN, "3", A, in_buf(target=at(RUNNING) + 16)),
    (SWAP_IN, "4", P, in_buf(entry=SWAPPED)),
    (SWAP_IN, "5", P, in_buf(flags=4)),
    (SWAP_IN, "5", P, in_buf(flags=8)),
    (SWAP_IN, "5", P, in_buf(source=VMSA_SWAPPED, target=VMSA_SWAPPED, entry=VMSA_ENTRY, flags=4 | 8)),
    (SWAP_IN, "6", G, in_buf(NOBODY)),
    (SWAP_IN, "7", S.INACTIVE, in_buf(SENT)),
    (SWAP_IN, "8", S.BAD_MEASUREMENT, in_buf(LAUNCHING)),
    # sheet 30, section 5.2
    (SEND_START, "2", G, send_buf(NOBODY)),
    (SEND_START, "3", L, send_buf(session_len=127)),
    (SEND_START, "4", GS, send_buf(MEASURED)),
    (SEND_START, "5", S.POLICY_FAILURE, send_buf(CLOSED)),
    (SEND_START, "6a", L, send_buf(OF_SEV, plat_len=CHAIN - 1)),
    (SEND_START, "6a", L, send_buf(OF_SEV, pdh_len=CERT - 1)),
    (SEND_START, "6a", L, send_buf(OF_SEV, amd_len=3199)),
    (SEND_START, "6b", A, send_buf(OF_SEV, plat=FAR)),
    (SEND_START, "6b", A, send_buf(OF_SEV, pdh=FAR)),
    (SEND_START, "6b", A, send_buf(OF_SEV, amd=FAR)),
    (SEND_START, "6c", S.INVALID_CERTIFICATE, send_buf(OF_SEV, amd=BAD), "amd 0x38"),
    (SEND_START, "6d", S.BAD_SIGNATURE, send_buf(OF_SEV, amd=BAD), "amd 0x660"),
    (SEND_START, "6e", S.BAD_SIGNATURE, send_buf(OF_SEV, amd=BAD), "amd 0x20"),
    (SEND_START, "6f", S.BAD_SIGNATURE, send_buf(OF_SEV, plat=BAD), "plat 0x106c"),
    (SEND_START, "6g", S.BAD_SIGNATURE, send_buf(OF_SEV, plat=BAD), "plat 0x4"),
    (SEND_START, "6h", S.BAD_SIGNATURE, send_buf(OF_SEV, pdh=FORGED)),
    (SEND_START, "7", S.POLICY_FAILURE, send_buf(SEV_NEW)),
    (SEND_START, "9a", L, send_buf(OF_DOMAIN, plat_len=CHAIN - 1)),
    (SEND_START, "9a", L, send_buf(OF_DOMAIN, pdh_len=CERT - 1)),
    (SEND_START, "9b", A, send_buf(OF_DOMAIN, plat=FAR)),
    (SEND_START, "9b", A, send_buf(OF_DOMAIN, pdh=FAR)),
    (SEND_START, "9c", S.BAD_SIGNATURE, send_buf(OF_DOMAIN, plat=BAD), "plat 0x828"),
    (SEND_START, "9d", S.BAD_SIGNATURE, send_buf(OF_DOMAIN, plat=BAD), "plat 0x4"),
    (SEND_START, "9e", S.BAD_SIGNATURE, send_buf(OF_DOMAIN, pdh=FORGED)),
    (SEND_START, "9f", S.POLICY_FAILURE, send_buf(OF_DOMAIN, plat=BAD), "plat 0x1040"),
    (SEND_START, "10", L, send_buf(pdh_len=CERT - 1)),
    (SEND_START, "10", A, send_buf(pdh=FAR)),
    (SEND_START, "11", S.INVALID_CERTIFICATE, send_buf(pdh=PLAT)),
    (SEND_START, "12a", A, send_buf(session=FAR)),
    # sheet 30, sections 5.5, 5.7, 5.9
    (SEND_FINISH, "2", G, u32(NOBODY)),
    (SEND_FINISH, "3", GS, u32(RUNNING)),
    (SEND_CANCEL, "2", G, u32(NOBODY)),
    (SEND_CANCEL, "3", GS, u32(SENT)),
    (RECEIVE_START, "2", L, start_buf(NODBG, 0, CERT_AT, CERT, SESSION_AT, 129)),
    (RECEIVE_START, "3", A, session_buf(session=FAR)),
    (RECEIVE_START, "4", L, start_buf(NODBG, 0, CERT_AT, CERT + 1, SESSION_AT, SESSION)),
    (RECEIVE_START, "5", A, session_buf(cert=FAR)),
    (RECEIVE_START, "6", S.INVALID_CERTIFICATE, session_buf(cert=OTHER_CERT)),
    (RECEIVE_START, "6", S.BAD_MEASUREMENT, session_buf(session=OTHER_SESSION)),
    (RECEIVE_START, "6", S.BAD_MEASUREMENT, session_buf(0)),
    (RECEIVE_START, "7", S.POLICY_FAILURE, session_buf(NODBG | 25 << 24, 0, NEW_CERT, NEW_SESSION)),
    (RECEIVE_START, "7", S.POLICY_FAILURE, session_buf(NODBG | 0x40, 0, ODD_CERT, ODD_SESSION)),
    (RECEIVE_START, "8", G, session_buf(handle=NOBODY)),
    (RECEIVE_START, "9", S.POLICY_FAILURE, session_buf(handle=RUNNING)),
    (RECEIVE_FINISH, "2", G, u32(NOBODY)),
    (RECEIVE_FINISH, "3", GS, u32(RUNNING)),
]
for _command, _far in ((DBG_DECRYPT, {"source": FAR}), (DBG_ENCRYPT, {"target": FAR})):  # sheet 20, section 6.1
    _good = (
        {"source": at(RUNNING), "target": DATA_AT}
        if _command == DBG_DECRYPT
        else {"source": DATA_AT, "target": at(RUNNING)}
    )
    ROWS += [
        (_command, "2", A, debug_buf(RUNNING, **{**_good, "source": _good["source"] + ODD})),
        (_command, "2", A, debug_buf(RUNNING, **{**_good, "target": _good["target"] + ODD})),
        (_command, "3", L, debug_buf(RUNNING, **_good, length=40)),
        (_command, "4", G, debug_buf(NOBODY, **_good)),
        (_command, "5", S.POLICY_FAILURE, debug_buf(CLOSED, **_good)),
        (_command, "6", S.INACTIVE, debug_buf(SENT, **_good)),
        (_command, "7", L, debug_buf(RUNNING, **_good, length=0)),
        (_command, "8", A, debug_buf(RUNNING, **{**_good, "source": FAR})),
        (_command, "8", A, debug_buf(RUNNING, **{**_good, "target": FAR})),
    ]
for _command, _make in ((SEND_UPDATE_DATA, packet), (SEND_UPDATE_VMSA, vmsa_packet)):  # sheet 30, section 5.4
    _vmsa = _command == SEND_UPDATE_VMSA
    ROWS += [
        (_command, "2", L, _make(SENDING, hdr_len=51)),
        (_command, "3", G, _make(NOBODY, guest=at(SENDING))),
        (_command, "4", GS, _make(RUNNING)),
        (_command, "7", L, _make(SENDING, guest_len=0)),
        (_command, "7", L, _make(SENDING, guest_len=40)),
        (_command, "7", L, _make(SENDING, guest_len=0x4010)),
        (_command, "7", L, _make(SENDING, trans_len=32)),
        (_command, "8", A, _make(SENDING, guest=at(SENDING) + ODD)),
        (_command, "10", A, _make(SENDING, guest=FAR)),
        (_command, "13", A, _make(SENDING, trans=FAR)),
        (_command, "14", A, _make(SENDING, hdr=FAR)),
    ]
ROWS += [
    (SEND_UPDATE_DATA, "6", S.INACTIVE, packet(UNBOUND_SENDING)),
    (SEND_UPDATE_VMSA, "5", S.UNSUPPORTED, vmsa_packet(PLAIN_SENDING)),
    (SEND_UPDATE_VMSA, "11", P, vmsa_packet(SENDING, guest=at(SENDING))),
    (SEND_UPDATE_VMSA, "11", P, vmsa_packet(SENDING, guest_len=4080)),
]
for _command, _make in ((RECEIVE_UPDATE_DATA, packet), (RECEIVE_UPDATE_VMSA, vmsa_packet)):  # sheet 30, section 5.8
    ROWS += [
        (_command, "2", G, _make(NOBODY, guest=at(RECEIVING))),
        (_command, "3", GS, _make(RUNNING)),
        (_command, "6", L, _make(RECEIVING, guest_len=0)),
        (_command, "6", L, _make(RECEIVING, guest_len=40)),
        (_command, "6", L, _make(RECEIVING, guest_len=0x4010)),
        (_command, "6", L, _make(RECEIVING, trans_len=32)),
        (_command, "6", L, _make(RECEIVING, hdr_len=51)),
        (_command, "7", A, _make(RECEIVING, guest=at(RECEIVING) + ODD)),
        (_command, "8a", A, _make(RECEIVING, hdr=FAR)),
        (_command, "9", S.UNSUPPORTED, packet(RECEIVING), "flagged data"),
        (_command, "9a", A, _make(RECEIVING, guest=FAR)),
        (_command, "9a", A, _make(RECEIVING, trans=FAR)),
        (_command, "10", S.BAD_MEASUREMENT, _make(RECEIVING), "secret"),
    ]
ROWS += [
    (RECEIVE_UPDATE_DATA, "5", S.INACTIVE, packet(UNBOUND_RECEIVING)),
    (RECEIVE_UPDATE_VMSA, "4", S.UNSUPPORTED, vmsa_packet(PLAIN_RECEIVING)),
    (RECEIVE_UPDATE_VMSA, "11", L, vmsa_packet(RECEIVING, guest_len=64), "short vmsa"),
]

# Rows that another machine or an unusual state is needed for: tested below.
ELSEWHERE = {
    (LAUNCH_START, "13"), (LAUNCH_START, "14"), (RECEIVE_START, "10"), (RECEIVE_START, "11"), (ACTIVATE_EX, "5"),
    (COPY, "7"), (SWAP_OUT, "8"), (LAUNCH_UPDATE_VMSA, "5"), (LAUNCH_UPDATE_VMSA, "9"), (SEND_UPDATE_VMSA, "6"),
    (RECEIVE_UPDATE_VMSA, "5"), (RECEIVE_UPDATE_VMSA, "11 pool"),
}  # fmt: skip
# All rows of the sheets' tables except row 1 (platform state). Left out: 20 §3.3 row 7 for a VMSA (row 0 is stricter); 20
# §3.7 row 4 and 30 §5.9 (hardware failure); 20 §5.4 row 8 and §5.5 row 14 (the sheet says they cannot be reached); 20 §6.2
# row 6 (a success); 30 rows for SEV-SNP only (5.2 row 8, 5.4 row 9, 5.8 row 8).
SHEETS = {
    LAUNCH_START: "2 3 4 5 6 7 8 9 10 11 12 13 14", LAUNCH_UPDATE_DATA: "2 3 5 6 7 8",
    LAUNCH_UPDATE_VMSA: "0 2 3 4 5 6 8 9", LAUNCH_MEASURE: "2 3 4 5", LAUNCH_SECRET: "2 3 4 5 6 7 8 9",
    LAUNCH_FINISH: "2 3", ATTESTATION: "2 3 4 5", GUEST_STATUS: "", DECOMMISSION: "2 3", ACTIVATE: "2 3 4 5 6 7 9",
    ACTIVATE_EX: "2 3 4 5 6 7 8 9 10 11 12 13", DEACTIVATE: "2 3", DBG_DECRYPT: "2 3 4 5 6 7 8",
    DBG_ENCRYPT: "2 3 4 5 6 7 8", COPY: "2 3 4 5 7 8", SWAP_OUT: "2 3 4 5 6 7 8 9", SWAP_IN: "2 3 4 5 6 7 8",
    SEND_START: "2 3 4 5 6a 6b 6c 6d 6e 6f 6g 6h 7 9a 9b 9c 9d 9e 9f 10 11 12a",
    SEND_UPDATE_DATA: "2 3 4 6 7 8 10 13 14", SEND_UPDATE_VMSA: "2 3 4 5 6 7 8 10 11 13 14", SEND_FINISH: "2 3",
    SEND_CANCEL: "2 3", RECEIVE_START: "2 3 4 5 6 7 8 9 10 11", RECEIVE_UPDATE_DATA: "2 3 5 6 7 8a 9 9a 10",
    RECEIVE_UPDATE_VMSA: "2 3 4 5 6 7 8a 9 9a 10 11", RECEIVE_FINISH: "2 3",
}  # fmt: skip


def test_the_list_is_complete() -> None:
    rows = {(command, row) for command, words in SHEETS.items() for row in words.split()}
    asked = {entry[:2] for entry in ROWS}
    assert asked | ELSEWHERE - {(RECEIVE_UPDATE_VMSA, "11 pool")} == rows
    assert set(SHEETS) == set(GOOD) and not asked & ELSEWHERE


def place(rig: Rig, what: str) -> None:
    """A packet at HEAD_AT and DATA_AT, or at BAD a copy of the certificates with one byte changed."""
    if what.startswith(("plat ", "amd ")):
        kind, offset = what.split()
        source, size = (PLAT, CHAIN) if kind == "plat" else (AMD, 3200)
        blob = bytearray(rig.get(source, size))
        blob[int(offset, 16)] ^= 0x40
        rig.put(BAD, bytes(blob))
    elif what:
        header, data = rig.packets[what]  # type: ignore[attr-defined]
        rig.put(HEAD_AT, header.pack())
        rig.put(DATA_AT, data)


@functools.cache
def common() -> Rig:
    return world()


def refused(rig: Rig, command: int, buffer: bytes, status: S) -> None:
    """The status, and nothing else: no draw, no change but the length report of the sheets."""
    rig.put(BUF, buffer)
    before = rig.observe(range(1, 18))
    rig.rng.taken()
    found = rig.platform.mailbox(command, BUF)
    assert found == status, f"{found.name}: {rig.platform.refusal}"
    assert rig.rng.taken() == []
    if status is L:
        rig.put(BUF, buffer)
    after = rig.observe(range(1, 18))
    assert {key for key in before if before[key] != after[key]} == set()


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: f"{entry[0]:02X}-row-{entry[1]}-{entry[2].name}")
def test_a_row_refuses(entry: tuple[int, str, S, bytes, str]) -> None:
    command, _, status, buffer, *other = entry
    place(common(), other[0] if other else GOOD[command][1])
    refused(common(), command, buffer, status)


def test_every_good_request_succeeds() -> None:
    """One after the other on one platform: in this order none is in the next one's way."""
    rig = world()
    for command, (buffer, what) in GOOD.items():
        place(rig, what)
        rig.ok(command, buffer)


@pytest.mark.parametrize("command", GOOD, ids=lambda command: f"{command:02X}")
def test_platform_state(command: int) -> None:
    rig = Rig()
    if command not in (LAUNCH_START, RECEIVE_START, GUEST_STATUS):
        rig.init()
    refused(rig, command, GOOD[command][0], S.INVALID_PLATFORM_STATE)


def test_rows_that_need_another_machine() -> None:
    rig = world(66 * MIB)
    refused(rig, COPY, copy_buf(length=2 * PAGE, target=64 * MIB - PAGE), P)  # row 7
    rig = world(activate_ex=False)
    refused(rig, ACTIVATE_EX, ex_buf(), S.UNSUPPORTED)  # row 5
    rig = Rig().init()
    refused(rig, LAUNCH_START, start_buf(POLICY_ES), S.UNSUPPORTED)  # row 14
    owned(rig, POLICY_ES, CERT_AT, SESSION_AT)
    refused(rig, RECEIVE_START, session_buf(POLICY_ES), S.UNSUPPORTED)  # row 11
    owned(rig, NODBG, CERT_AT, SESSION_AT)
    for _ in range(1024):
        rig.start()
    refused(rig, LAUNCH_START, session_buf(), S.RESOURCE_LIMIT)  # row 13
    refused(rig, RECEIVE_START, session_buf(), S.RESOURCE_LIMIT)  # row 10


def test_rows_that_need_an_unusual_state() -> None:
    rig = world()
    rig.firmware.guests[RUNNING].oek_iv_count = (1 << 64) - 2  # no sequence of commands gets there in a lifetime
    refused(rig, SWAP_OUT, out_buf(), S.AEAD_OFLOW)  # row 8
    while rig.firmware.pool.available:  # 65535 pages, one after the other
        rig.firmware.pool.take()
    refused(rig, LAUNCH_UPDATE_VMSA, GOOD[LAUNCH_UPDATE_VMSA][0], S.RESOURCE_LIMIT)  # row 9
    place(rig, "vmsa")
    refused(rig, RECEIVE_UPDATE_VMSA, GOOD[RECEIVE_UPDATE_VMSA][0], S.RESOURCE_LIMIT)  # row 11
    for guest in (LAUNCHING, SENDING, RECEIVING):
        rig.ok(DEACTIVATE, u32(guest))
    refused(rig, LAUNCH_UPDATE_VMSA, GOOD[LAUNCH_UPDATE_VMSA][0], S.INACTIVE)  # row 5
    refused(rig, SEND_UPDATE_VMSA, GOOD[SEND_UPDATE_VMSA][0], S.INACTIVE)  # row 6
    refused(rig, RECEIVE_UPDATE_VMSA, GOOD[RECEIVE_UPDATE_VMSA][0], S.INACTIVE)  # row 5
