"""DBG_DECRYPT, DBG_ENCRYPT, COPY, SWAP_OUT, SWAP_IN: sheet 20, section 6, in both profiles."""

import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firmware.kit import (
    COPY,
    DBG_DECRYPT,
    DBG_ENCRYPT,
    DECOMMISSION,
    ES,
    GUEST_AT,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    PLAIN,
    SWAP_IN,
    SWAP_OUT,
    Rig,
    refused,
    u32,
    u64,
    update_buf,
)
from migration.ladder import ASEG, FAR, OUTSIDE, climb, outside
from sevref import Status as S
from sevref.machine import AddressMap
from support import vectors

PROFILES = ["spec", "genoa"]
NODBG, POLICY_ES = 1, 4
HOST_AT, ENTRY = 0x40000, 0x60000
VMSA_AT = 0x50000


def page(fill: int = 7) -> bytes:
    return bytes((fill * i + (i >> 8)) & 0xFF for i in range(4096))


def dbg_buf(*, handle: int = 1, src: int = GUEST_AT, dst: int = HOST_AT, length: int = 4096, junk: int = 0) -> bytes:
    return u32(handle) + u32(junk) + u64(src) + u64(dst) + u32(length)


def copy_buf(*, handle: int = 1, length: int = 4096, src: int = GUEST_AT, dst: int = GUEST_AT + 0x8000) -> bytes:
    return u32(handle) + u32(length) + u64(src) + u64(dst)


def out_buf(
    *, handle: int = 1, flags: int = 0, src: int = GUEST_AT, dst: int = HOST_AT, entry: int = ENTRY, software: int = 0
) -> bytes:
    return u32(handle) + u32(flags) + u64(src) + u64(dst) + u64(entry) + u64(software)


def in_buf(*, handle: int = 1, flags: int = 0, src: int = HOST_AT, dst: int = GUEST_AT, entry: int = ENTRY) -> bytes:
    return u32(handle) + u32(flags) + u64(src) + u64(dst) + u64(entry)


def with_guest(profile: str, policy: int = 0, *, es: bool = False, size: int = 0x8000) -> Rig:
    """Guest 1 with known plaintext at GUEST_AT, bound, in LUPDATE; with ``es`` a VMSA at VMSA_AT."""
    rig = Rig(profile).init(es=es)
    handle = rig.start(policy | (POLICY_ES if es else 0))
    rig.activate(handle, ES if es else PLAIN)
    rig.put(GUEST_AT, (page() * 8)[:size])
    rig.ok(LAUNCH_UPDATE_DATA, update_buf(handle, GUEST_AT, size))
    if es:
        rig.put(VMSA_AT, page(13))
        rig.ok(LAUNCH_UPDATE_VMSA, update_buf(handle, VMSA_AT))
    rig.rng.taken()
    return rig


# ----------------------------------------------------------------------------------------------------- debugging


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("command", [DBG_DECRYPT, DBG_ENCRYPT])
def test_order_of_debugging(profile: str, command: int) -> None:
    refused(Rig(profile), command, dbg_buf(src=1), S.INVALID_PLATFORM_STATE)
    refused(Rig(profile).init(), command, dbg_buf(src=1), S.INVALID_PLATFORM_STATE)
    rig, out = with_guest(profile), outside(profile)
    nodbg = rig.guest(3, bound=False, policy=NODBG)
    unbound = rig.guest(3, bound=False)
    guest, host = ("src", "dst") if command == DBG_DECRYPT else ("dst", "src")
    good = {guest: GUEST_AT, host: HOST_AT}
    rungs = [({name: at + low}, S.INVALID_ADDRESS) for name, at in good.items() for low in (1, 8, 15)]
    rungs += [({"length": n}, S.INVALID_LENGTH) for n in (1, 8, 4095)]
    rungs += [({"handle": 77}, S.INVALID_GUEST), ({"handle": nodbg}, S.POLICY_FAILURE)]
    rungs += [({"handle": unbound}, S.INACTIVE), ({"length": 0}, S.INVALID_LENGTH)]
    # the guest's side first; the two statuses tell which range was looked at
    rungs += [({guest: FAR}, S.INVALID_ADDRESS), ({guest: OUTSIDE}, out), ({guest: ASEG}, S.INVALID_ADDRESS)]
    rungs += [({host: OUTSIDE}, out), ({host: FAR}, S.INVALID_ADDRESS), ({host: ASEG}, S.INVALID_ADDRESS)]
    refused(rig, command, dbg_buf(**{guest: FAR, host: OUTSIDE}), S.INVALID_ADDRESS)
    refused(rig, command, dbg_buf(**{guest: OUTSIDE, host: FAR}), out)
    rig.put(HOST_AT, page(3))
    assert climb(rig, command, dbg_buf, good, rungs) == dbg_buf(**good) and rig.rng.taken() == []
    if command == DBG_DECRYPT:
        assert rig.get(HOST_AT, 4096) == page()
    else:
        assert rig.machine.umc.read(PLAIN, GUEST_AT, 4096) == page(3) and rig.get(GUEST_AT, 4096) != page(3)


@pytest.mark.parametrize("profile", PROFILES)
def test_debugging_in_any_state_and_of_a_vmsa(profile: str) -> None:
    for state in (1, 2, 3, 4, 5, 6):
        rig = Rig(profile).init()
        handle = rig.guest(state)
        rig.ok(DBG_DECRYPT, dbg_buf(handle=handle))
        rig.ok(DBG_ENCRYPT, dbg_buf(handle=handle, src=HOST_AT, dst=GUEST_AT))
        refused(rig, DBG_DECRYPT, dbg_buf(handle=rig.guest(state, bound=False, policy=NODBG)), S.POLICY_FAILURE)
    rig = with_guest(profile, es=True)
    rig.ok(DBG_DECRYPT, dbg_buf(src=VMSA_AT))
    assert rig.get(HOST_AT, 0x380) == page(13)[:0x380]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_key_depends_on_the_guests_address(profile: str) -> None:
    """Ciphertext that the hypervisor moved does not decrypt to what it was."""
    rig = with_guest(profile)
    rig.put(0x70000, rig.get(GUEST_AT, 4096))
    rig.ok(DBG_DECRYPT, dbg_buf(src=0x70000))
    assert rig.get(HOST_AT, 4096) != page()
    rig.ok(DBG_DECRYPT, dbg_buf(src=GUEST_AT + 16, length=32))
    assert rig.get(HOST_AT, 32) == page()[16:48]


@pytest.mark.parametrize("profile", PROFILES)
def test_chunks_of_a_long_range(profile: str) -> None:
    """Genoa goes 20480 bytes at a time: a late failure leaves the earlier ones done; the specification's way is all or
    nothing."""
    rig = with_guest(profile)
    target = ASEG - 0x5000  # the second chunk runs into SMM memory
    for command, buffer in (
        (DBG_DECRYPT, dbg_buf(dst=target, length=0x6000)),
        (DBG_ENCRYPT, dbg_buf(src=GUEST_AT, dst=target, length=0x6000)),
    ):
        rig.put(target, bytes(0x5000))
        assert rig.run(command, buffer) == S.INVALID_ADDRESS
        found = rig.get(target, 0x5000)
        if profile == "spec":
            assert found == bytes(0x5000)
        elif command == DBG_DECRYPT:
            assert found == (page() * 5)
        else:
            assert rig.machine.umc.read(PLAIN, target, 0x5000) == rig.get(GUEST_AT, 0x5000)


# ---------------------------------------------------------------------------------------------------------- COPY


@pytest.mark.parametrize("profile", PROFILES)
def test_order_of_copy(profile: str) -> None:
    refused(Rig(profile), COPY, copy_buf(handle=77), S.INVALID_PLATFORM_STATE)
    refused(Rig(profile).init(), COPY, copy_buf(handle=77), S.INVALID_PLATFORM_STATE)
    rig, out = with_guest(profile), outside(profile)
    unbound = rig.guest(3, bound=False)
    rungs = [({"handle": 77}, S.INVALID_GUEST), ({"handle": unbound}, S.INACTIVE)]
    rungs += [({"length": n}, S.INVALID_LENGTH) for n in (0, 16, 4095, 4097)]
    rungs += [({name: 0x30000 + low}, S.INVALID_ADDRESS) for name in ("src", "dst") for low in (1, 16, 0x800)]
    window = 64 * MIB
    crossing = {"src": window - 4096, "length": 8192}
    refused(rig, COPY, copy_buf(**crossing), S.INVALID_PARAM)
    refused(rig, COPY, copy_buf(dst=window - 4096, length=8192), S.INVALID_PARAM)
    refused(rig, COPY, copy_buf(src=FAR, dst=window - 4096, length=8192), S.INVALID_PARAM)  # row 7 before row 8
    rungs += [({"src": FAR}, S.INVALID_ADDRESS), ({"src": OUTSIDE}, out), ({"src": ASEG}, S.INVALID_ADDRESS)]
    rungs += [({"dst": OUTSIDE + 0x1000}, out), ({"dst": FAR}, S.INVALID_ADDRESS), ({"dst": ASEG}, S.INVALID_ADDRESS)]
    refused(rig, COPY, copy_buf(src=FAR, dst=OUTSIDE), S.INVALID_ADDRESS)
    refused(rig, COPY, copy_buf(src=OUTSIDE, dst=FAR), out)
    # SRC = DST is dealt with before the ranges, whatever the C-bit
    for at in (ASEG, OUTSIDE, FAR):
        rig.ok(COPY, copy_buf(src=at, dst=at))
        rig.ok(COPY, copy_buf(src=at, dst=at ^ 1 << 51))
    good: dict[str, int] = {}
    climb(rig, COPY, copy_buf, good, rungs)
    assert rig.rng.taken() == []
    read = rig.machine.umc.read
    assert read(PLAIN, GUEST_AT + 0x8000, 4096) == page() == read(PLAIN, GUEST_AT, 4096)
    assert rig.get(GUEST_AT, 4096) != rig.get(GUEST_AT + 0x8000, 4096)


@pytest.mark.parametrize("profile", PROFILES)
def test_copy_moves_overlapping_ranges_both_ways(profile: str) -> None:
    rig = with_guest(profile, policy=NODBG)  # no policy bit limits it
    text = b"".join(page(fill) for fill in (3, 5, 7, 11))
    for source, target in ((GUEST_AT, GUEST_AT + 0x1000), (GUEST_AT + 0x1000, GUEST_AT)):
        rig.machine.umc.write(PLAIN, source, text)
        rig.ok(COPY, copy_buf(src=source, dst=target, length=0x4000))
        assert rig.machine.umc.read(PLAIN, target, 0x4000) == text
    for state in (2, 3, 4, 5, 6):
        other = Rig(profile).init()
        other.ok(COPY, copy_buf(handle=other.guest(state)))


# ---------------------------------------------------------------------------------------------------------- SWAP


@pytest.mark.parametrize("profile", PROFILES)
def test_order_of_swap_out(profile: str) -> None:
    refused(Rig(profile), SWAP_OUT, out_buf(src=1), S.INVALID_PLATFORM_STATE)
    refused(Rig(profile).init(), SWAP_OUT, out_buf(src=1), S.INVALID_PLATFORM_STATE)
    rig = with_guest(profile, es=True)
    unbound = rig.guest(3, bound=False, policy=POLICY_ES)
    names = ("src", "dst", "entry")
    rungs = [({name: at}, S.INVALID_ADDRESS) for name in names for at in (FAR, OUTSIDE, ASEG)]  # always this status
    rungs += [({"src": GUEST_AT + 16}, S.INVALID_ADDRESS), ({"dst": HOST_AT + 16}, S.INVALID_ADDRESS)]
    rungs += [({"entry": ENTRY + low}, S.INVALID_ADDRESS) for low in (1, 16, 32)]
    rungs += [({"entry": at}, S.INVALID_PARAM) for at in (GUEST_AT, GUEST_AT + 4032, HOST_AT, HOST_AT + 4032)]
    rungs += [({"handle": 77}, S.INVALID_GUEST), ({"handle": unbound}, S.INACTIVE)]
    rungs += [({"flags": 2 << 1}, S.INVALID_PARAM)]  # not a VMSA
    refused(rig, SWAP_OUT, out_buf(flags=5, src=0, dst=2 * MIB + 0x100000, entry=ENTRY), S.INVALID_ADDRESS)
    refused(rig, SWAP_OUT, out_buf(src=VMSA_AT), S.INVALID_PARAM)  # it is one, and not called so
    guest = rig.firmware.guests[1]
    guest.oek_iv_count = (1 << 64) - 2
    refused(rig, SWAP_OUT, out_buf(), S.AEAD_OFLOW)
    guest.oek_iv_count = (1 << 64) - 3
    rig.ok(SWAP_OUT, out_buf())
    assert rig.get(ENTRY + 8, 8) == u64((1 << 64) - 3)
    guest.oek_iv_count = 0
    climb(rig, SWAP_OUT, out_buf, {}, rungs)
    assert rig.get(ENTRY + 8, 8) == u64(0) and rig.rng.taken() == []  # failures used up no counter
    assert rig.machine.umc.read(ES, GUEST_AT, 4096) == page()  # the source stays


def test_the_vectors_of_page_swap() -> None:
    """AMD's self-test values fix nonce and mode; the derived ones go through the command."""
    found = json.loads(vectors("launch-measure.json").read_text())["page_swap"]
    known = [v for v in found if v["independent"]]
    assert len(known) == 3 and len(found) == 5
    for v in known:
        assert v["nonce"] == v["iv8"] + "00000000"
        sealed = AESGCM(bytes.fromhex(v["key"])).encrypt(
            bytes.fromhex(v["nonce"]), bytes.fromhex(v["plaintext"]), bytes.fromhex(v["aad"])
        )
        assert sealed.hex() == v["ciphertext"] + v["tag"]
    v = next(v for v in found if v["name"] == "derived-swap-out-counter-0-type-0")
    for profile in PROFILES:
        rig = with_guest(profile)
        rig.firmware.guests[1].oek = bytes.fromhex(v["oek"])
        rig.ok(SWAP_OUT, out_buf(software=0x1122334455667788, flags=0xFFFFFFF8))  # bits 31:3 are ignored
        assert rig.get(HOST_AT, 64).hex() == v["ciphertext_first_64"]
        entry = bytearray(rig.get(ENTRY, 64))
        tag, entry[0x10:0x20] = bytes(entry[0x10:0x20]), bytes(16)
        assert entry.hex() == v["aad"]
        assert AESGCM(bytes.fromhex(v["oek"])).decrypt(bytes(12), rig.get(HOST_AT, 4096) + tag, bytes(entry)) == page()


@pytest.mark.parametrize("profile", PROFILES)
def test_counter_and_page_types(profile: str) -> None:
    rig = with_guest(profile, es=True)
    for count, flags in enumerate((0, 2, 6, 0)):  # page types 1 and 3 behave as data, and are stored
        rig.ok(SWAP_OUT, out_buf(flags=flags))
        assert rig.get(ENTRY + 8, 8) == u64(count) and rig.get(ENTRY + 0x3C, 4) == u32(flags)
    rig.ok(SWAP_OUT, out_buf(src=VMSA_AT, flags=4))
    assert rig.get(ENTRY + 0x3C, 4) == u32(4)
    before = rig.machine.umc.read(ES, VMSA_AT, 4096)
    rig.machine.umc.write(ES, VMSA_AT, bytes(4096))
    rig.ok(SWAP_IN, in_buf(flags=4, dst=VMSA_AT))
    assert rig.machine.umc.read(ES, VMSA_AT, 4096) == before  # its slot is the old one
    rig.ok(SWAP_OUT, out_buf(src=VMSA_AT, flags=4))


@pytest.mark.parametrize("profile", PROFILES)
def test_order_of_swap_in(profile: str) -> None:
    refused(Rig(profile), SWAP_IN, in_buf(src=1), S.INVALID_PLATFORM_STATE)
    rig = with_guest(profile)
    unbound = rig.guest(3, bound=False)
    rig.ok(SWAP_OUT, out_buf())
    forged, vmsa = 0x61000, 0x62000
    rig.put(forged, rig.get(ENTRY, 0x10) + bytes(16) + rig.get(ENTRY + 0x20, 32))
    rig.put(vmsa, rig.get(ENTRY, 0x3C) + u32(4))
    rungs = [({name: at}, S.INVALID_ADDRESS) for name in ("src", "dst", "entry") for at in (FAR, OUTSIDE, ASEG)]
    rungs += [({"src": HOST_AT + 16}, S.INVALID_ADDRESS), ({"dst": GUEST_AT + 16}, S.INVALID_ADDRESS)]
    rungs += [({"entry": ENTRY + 16}, S.INVALID_ADDRESS)]
    rungs += [({"entry": at}, S.INVALID_PARAM) for at in (GUEST_AT, HOST_AT, HOST_AT + 4032)]
    rungs += [({"flags": flags}, S.INVALID_PARAM) for flags in (2, 4, 8)]  # type differs; in place, but it is not
    rungs += [({"handle": 77}, S.INVALID_GUEST), ({"handle": unbound}, S.INACTIVE)]
    rungs += [({"entry": forged}, S.BAD_MEASUREMENT)]
    refused(rig, SWAP_IN, in_buf(src=HOST_AT + 0x1000), S.BAD_MEASUREMENT)
    refused(rig, SWAP_IN, in_buf(entry=vmsa, flags=12, src=GUEST_AT), S.INVALID_PARAM)  # a VMSA in place
    rig.machine.umc.write(PLAIN, GUEST_AT, bytes(4096))
    climb(rig, SWAP_IN, in_buf, {}, rungs)
    assert rig.machine.umc.read(PLAIN, GUEST_AT, 4096) == page() and rig.rng.taken() == []


@pytest.mark.parametrize("profile", PROFILES)
def test_every_byte_of_entry_and_page_is_authenticated(profile: str) -> None:
    rig = with_guest(profile)
    rig.ok(SWAP_OUT, out_buf(software=7))
    entry, data = rig.get(ENTRY, 64), rig.get(HOST_AT, 4096)
    for at in range(64):
        changed = bytearray(entry)
        changed[at] ^= 0x80
        rig.put(ENTRY, bytes(changed))
        refused(rig, SWAP_IN, in_buf(), S.BAD_MEASUREMENT)  # bits 31:3 at 0x3C are not compared, but covered
    rig.put(ENTRY, entry)
    for at in (0, 1, 2047, 4095):
        rig.put(HOST_AT, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(rig, SWAP_IN, in_buf(), S.BAD_MEASUREMENT)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_swapping_does_not_notice(profile: str) -> None:
    """Any number of times, at any address, in any state, old ones too; never in another guest or after its end."""
    rig = with_guest(profile)
    rig.ok(SWAP_OUT, out_buf())
    rig.machine.umc.write(PLAIN, GUEST_AT, page(3))
    for target in (GUEST_AT, GUEST_AT + 0x3000, GUEST_AT):
        rig.ok(SWAP_IN, in_buf(dst=target))
        assert rig.machine.umc.read(PLAIN, target, 4096) == page()
    other = rig.start()
    rig.activate(other, PLAIN + 1)
    refused(rig, SWAP_IN, in_buf(handle=other), S.BAD_MEASUREMENT)
    rig.ok(0x22, u32(1))
    rig.ok(DECOMMISSION, u32(1))
    refused(rig, SWAP_IN, in_buf(), S.INVALID_GUEST)
    for state in (2, 3, 4, 5, 6):
        another = Rig(profile).init()
        handle = another.guest(state)
        another.ok(SWAP_OUT, out_buf(handle=handle))
        another.ok(SWAP_IN, in_buf(handle=handle))


@pytest.mark.parametrize("profile", PROFILES)
def test_in_place(profile: str) -> None:
    rig = with_guest(profile)
    for flags in (0, 8, 0xFFFFFFF8):
        rig.ok(SWAP_OUT, out_buf(dst=GUEST_AT))
        assert rig.machine.umc.read(PLAIN, GUEST_AT, 4096) != page()
        rig.ok(SWAP_IN, in_buf(src=GUEST_AT, flags=flags))
        assert rig.machine.umc.read(PLAIN, GUEST_AT, 4096) == page()
    rig.ok(SWAP_OUT, out_buf(dst=GUEST_AT))
    sealed = rig.get(GUEST_AT, 4096)
    rig.put(GUEST_AT, b"x" + sealed[1:])
    refused(rig, SWAP_IN, in_buf(src=GUEST_AT, flags=8), S.BAD_MEASUREMENT)


def test_large_pages() -> None:
    """2 MiB: alignment of source and target, no VMSA, and Genoa's 4 KiB for SWAP_IN's target."""
    for profile in PROFILES:
        rig = Rig(profile, machine_args={"address_map": AddressMap(((0, 16 * MIB),))}).init()
        handle = rig.start()
        rig.activate(handle)
        text = page() * 512
        rig.machine.umc.write(PLAIN, 4 * MIB, text)
        good = {"flags": 1, "src": 4 * MIB, "dst": 8 * MIB}
        rungs = [({"src": 4 * MIB + 4096}, S.INVALID_ADDRESS), ({"dst": 8 * MIB + 4096}, S.INVALID_ADDRESS)]
        rungs += [({"entry": 6 * MIB - 64}, S.INVALID_PARAM), ({"flags": 5}, S.INVALID_PARAM)]
        climb(rig, SWAP_OUT, out_buf, good, rungs)
        assert rig.get(ENTRY + 0x3C, 4) == u32(1)
        refused(rig, SWAP_IN, in_buf(src=8 * MIB, dst=12 * MIB), S.INVALID_PARAM)  # another size than the entry's
        for target in (12 * MIB, 10 * MIB + 4096):
            rig.ok(SWAP_IN, in_buf(flags=1, src=8 * MIB, dst=target))
            assert rig.machine.umc.read(PLAIN, target, 2 * MIB) == text
