"""Platform commands (sheet 10, section 3): every check, the order of the checks, effects, draws, what failures leave."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from firmware.kit import (
    ACTIVATE,
    BUF,
    CERT,
    CERT_AT,
    CHAIN,
    CHIP_KEY,
    DEACTIVATE,
    DECOMMISSION,
    DF_FLUSH,
    DRAM,
    ES,
    GET_ID,
    INIT,
    LAUNCH_START,
    MIB,
    NOP,
    OUT,
    OUT2,
    PDH_CERT_EXPORT,
    PEK_CERT_IMPORT,
    PEK_CSR,
    PLAIN,
    PLATFORM_STATUS,
    POLICY_ES,
    SHUTDOWN,
    TMR,
    Rig,
    csr_buf,
    export_buf,
    id_buf,
    import_buf,
    init_buf,
    refused,
    start_buf,
    u32,
)
from sevref import Algo, PlatformOwner, PrivateKey, SeededRandom, SevCertificate, Usage
from sevref import Status as S
from sevref.certs import new_certificate, sign_certificate
from sevref.certs.roots import simulated_key

ASEG = 0xA0000
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
EIGHT = [48, 48, 48, 48, 48, 48, 48, 16]  # OCA key, nonce, PEK key, nonce, nonce, PDH key, nonce, store IV
KEYS_AND_IV = [48, 48, 48, 16]  # the same where nonces are RFC 6979's


def draws(profile: str, genoa: list[int], spec: list[int]) -> list[int]:
    return genoa if profile == "genoa" else spec


def verifies(cert: bytes, slot: int, point: tuple[int, int], data: bytes | None = None) -> bool:
    """ECDSA P-384 with SHA-256 over the first 0x414 bytes, by the library: r and s little-endian in 72-byte fields."""
    offset = (0x414 + 8, 0x61C + 8)[slot]
    r, s = (int.from_bytes(cert[offset + i : offset + i + 72], "little") for i in (0, 72))
    key = ec.EllipticCurvePublicNumbers(*point, ec.SECP384R1()).public_key()
    try:
        key.verify(encode_dss_signature(r, s), cert[:0x414] if data is None else data, ec.ECDSA(hashes.SHA256()))
    except Exception:
        return False
    return True


def point_of(cert: bytes) -> tuple[int, int]:
    return int.from_bytes(cert[0x14 : 0x14 + 72], "little"), int.from_bytes(cert[0x5C : 0x5C + 72], "little")


def words(cert: bytes, *offsets: int) -> list[int]:
    return [int.from_bytes(cert[i : i + 4], "little") for i in offsets]


# ---------------------------------------------------------------------------------------------------- INIT


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_init_on_an_empty_store(profile: str) -> None:
    rig = Rig(profile, flash=None)
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == draws(profile, EIGHT, KEYS_AND_IV)
    assert rig.machine.flash[0x24C4:] == b"\xff" * (0x8000 - 0x24C4) and rig.machine.flash[:4] != b"\xff" * 4
    first = [cert.pack() for cert in rig.chain()]
    rig.ok(SHUTDOWN)
    stored = bytes(rig.machine.flash)
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == [] and bytes(rig.machine.flash) == stored
    assert [cert.pack() for cert in rig.chain()] == first


def test_the_draws_become_exactly_these_keys_and_signatures() -> None:
    """Sheet 10, section 3.0, item 11 of section 8: candidates above n-2 are thrown away, n-2 is taken."""
    rig = Rig("genoa", flash=None)

    def le(value: int) -> bytes:
        return value.to_bytes(48, "little")

    rig.rng.script = [
        le(N - 1), le(N), b"\xff" * 48, le(N - 2),  # OCA key
        le(N + 1), bytes(48), le(7),  # nonce: above n and 0 are thrown away
        le(5), le(N - 1), le(2),  # PEK key, nonce OCA signs PEK, nonce CEK signs PEK
        le(1), le(3),  # PDH key, nonce PEK signs PDH
        b"\xff" * 16, b"\xff\xff\xff\xff" + bytes(12), b"\xff\xff\xff\x00" + bytes(12),
    ]  # fmt: skip
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == [48] * 12 + [16] * 3
    assert bytes(rig.machine.flash[0x24B4:0x24C4]) == b"\xff\xff\xff\x00" + bytes(12)
    pdh, pek, oca, cek = (cert.pack() for cert in rig.chain())

    def multiple(k: int) -> tuple[int, int]:
        numbers = ec.derive_private_key(k, ec.SECP384R1()).public_key().public_numbers()
        return numbers.x, numbers.y

    assert [point_of(cert) for cert in (oca, pek, pdh)] == [multiple(N - 2), multiple(5), multiple(1)]
    for cert, slot, k, d in (
        (oca, 0, 7, N - 2),
        (pek, 0, N - 1, N - 2),
        (pdh, 0, 3, 5),
        (pek, 1, 2, None),
    ):
        offset = (0x41C, 0x624)[slot]
        r, s = (int.from_bytes(cert[offset + i : offset + i + 72], "little") for i in (0, 72))
        e = int.from_bytes(hashlib.sha256(cert[:0x414]).digest(), "big")
        assert r == multiple(k)[0] % N
        if d is not None:
            assert s == pow(k, -1, N) * (e + d * r) % N
    assert verifies(pek, 1, point_of(cek))


@pytest.mark.parametrize(
    ("script", "drawn"),
    [
        ([bytes(48)], [48]),  # OCA key 0
        ([u32(9) + bytes(44), N.to_bytes(48, "little")], [48, 48]),  # nonce n
        ([u32(9) + bytes(44), u32(8) + bytes(44), u32(5) + bytes(44), u32(8) + bytes(44), u32(7) + bytes(44), bytes(48)],
         [48] * 6),  # PDH key 0
    ],
)  # fmt: skip
def test_impossible_candidates(script: list[bytes], drawn: list[int]) -> None:
    rig = Rig("genoa", flash=None)
    rig.machine.wbinvd()
    rig.rng.script = list(script)
    assert rig.run(INIT, init_buf()) == S.HWERROR_PLATFORM
    assert rig.rng.taken() == drawn
    assert bytes(rig.machine.flash) == b"\xff" * 0x8000 and rig.state == 0
    assert all(rig.machine.wbinvd_done)  # nothing was touched yet
    rig.ok(INIT, init_buf())


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_certificates_of_a_new_identity(profile: str) -> None:
    rig = Rig(profile).init()
    pdh, pek, oca, cek = (cert.pack() for cert in rig.chain())
    api = {"spec": b"\x00\x18", "genoa": b"\x01\x37"}[profile]
    for cert, usage, algo, slots in (
        (oca, 0x1001, 2, [(0x1001, 2), (0x1000, 0)]),
        (pek, 0x1002, 2, [(0x1001, 2), (0x1004, 2)]),
        (pdh, 0x1003, 3, [(0x1002, 2), (0x1000, 0)]),
        (cek, 0x1004, 2, [(0x1000, 0), (0x1000, 0)]),
    ):
        assert cert[:8] == u32(1) + api + bytes(2)
        assert words(cert, 0x08, 0x0C, 0x10) == [usage, algo, 2]
        assert [tuple(words(cert, i, i + 4)) for i in (0x414, 0x61C)] == slots
        assert cert[0x14 + 48 : 0x14 + 72] == cert[0x5C + 48 : 0x5C + 72] == bytes(24)
        assert cert[0xA4:0x414] == bytes(880)
        for slot, (used, _) in zip((0x41C, 0x624), slots, strict=True):
            rest = cert[slot : slot + 512] if used == 0x1000 else cert[slot + 144 : slot + 512]
            assert not any(rest)
    assert verifies(oca, 0, point_of(oca)) and verifies(pek, 0, point_of(oca))
    assert verifies(pek, 1, point_of(cek)) and verifies(pdh, 0, point_of(pek))
    assert not verifies(pdh, 0, point_of(oca))


def test_checks_of_init_in_order() -> None:
    """Each request breaks the named rule and every later one that can be broken with it."""
    off = {"memory_encryption": False}
    refused(Rig(machine_args=off), INIT, init_buf(), S.HWERROR_PLATFORM)
    refused(Rig(machine_args=off), INIT, init_buf(2, 1, 1, 1), S.HWERROR_PLATFORM)
    refused(Rig().init(), INIT, init_buf(2, 1, 1, 1), S.INVALID_PLATFORM_STATE)
    refused(Rig(), INIT, init_buf(3, 0, 1, 1), S.INVALID_CONFIG)
    refused(Rig(), INIT, init_buf(1, 1, 1, 1), S.INVALID_CONFIG)

    corrupt = bytearray(Rig().machine.flash)
    corrupt[100] ^= 1
    rig = Rig(flash=bytes(corrupt))
    assert rig.run(INIT, init_buf(3, 0, 1, 1)) == S.INVALID_CONFIG and bytes(rig.machine.flash) == bytes(corrupt)
    assert rig.run(INIT, init_buf(1, 0, 1, 1)) == S.SECURE_DATA_INVALID  # before the TMR
    assert bytes(rig.machine.flash) == b"\xff" * 0x8000


@pytest.mark.parametrize(
    ("tmr", "length", "want"),
    [
        (TMR + 0x1000, MIB - 1, S.INVALID_ADDRESS),  # alignment before length
        (TMR + 1, MIB, S.INVALID_ADDRESS),
        (TMR + MIB // 2, MIB, S.INVALID_ADDRESS),
        (TMR, MIB - 1, S.INVALID_LENGTH),
        (TMR, MIB + 1, S.INVALID_LENGTH),
        (TMR, 2 * MIB, S.INVALID_LENGTH),
        (TMR, 0, S.INVALID_LENGTH),
        (0, 0, S.INVALID_LENGTH),  # length before the range
        (1 << 46, 1, S.INVALID_LENGTH),
        (0, MIB, S.INVALID_ADDRESS),  # ASEG
        (1 << 46 | TMR, MIB, S.INVALID_ADDRESS),
        (DRAM, MIB, None),  # outside DRAM
    ],
)
@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_tmr_checks_come_after_the_identity(profile: str, tmr: int, length: int, want: S | None) -> None:
    """Rows 14 to 16, and what such a failure leaves: the identity in the store, cleared flags, dirty ASIDs."""
    rig = Rig(profile, flash=None)
    rig.machine.wbinvd()
    outside = {"spec": S.INVALID_ADDRESS, "genoa": S.INVALID_CONFIG}[profile]
    assert rig.run(INIT, init_buf(1, 0, tmr, length)) == (want or outside)
    assert rig.rng.taken() == draws(profile, EIGHT, KEYS_AND_IV)
    assert rig.status()[2:7] == bytes(5)
    assert not any(rig.machine.wbinvd_done)
    rig.ok(INIT, init_buf(1, 0, TMR, MIB))
    assert rig.rng.taken() == []  # the next INIT reuses the identity
    assert rig.status()[2:6] == bytes([1, 0, 1, 0])


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_tmr_below_and_with_the_c_bit(profile: str) -> None:
    rig = Rig(profile)
    rig.ok(INIT, init_buf(1, 0, 1 << 51 | TMR, MIB))  # any C-bit is ignored
    assert rig.run(GET_ID, id_buf(TMR)) == S.INVALID_ADDRESS
    assert rig.run(GET_ID, id_buf(TMR - 64)) == S.SUCCESS
    rig = Rig(profile)
    rig.ok(INIT, init_buf(0, 0, 1, 1))  # without ES the TMR fields are not looked at
    assert rig.status()[4] == 0


def test_init_leaves_every_asid_dirty_and_wants_a_new_wbinvd() -> None:
    rig = Rig()
    rig.machine.wbinvd()
    rig.ok(INIT, init_buf())
    assert not any(rig.machine.wbinvd_done)  # a WBINVD before INIT does not count
    handle = rig.start()
    refused(rig, ACTIVATE, u32(handle) + u32(PLAIN), S.DFFLUSH_REQUIRED)
    refused(rig, DF_FLUSH, b"", S.WBINVD_REQUIRED)
    rig.flush()
    rig.activate(handle)


# --------------------------------------------------------------------------------------- the persistent store


@pytest.mark.parametrize("position", [0, 3, 4, 0x1000, 0x2493, 0x2494, 0x24B3, 0x24B4, 0x24C3])
def test_a_damaged_store(position: int) -> None:
    rig = Rig()
    rig.machine.flash[position] ^= 0x10
    rig.machine.wbinvd()
    assert rig.run(INIT, init_buf()) == S.SECURE_DATA_INVALID
    assert rig.rng.taken() == [] and bytes(rig.machine.flash) == b"\xff" * 0x8000
    assert rig.state == 0 and all(rig.machine.wbinvd_done)
    rig.ok(INIT, init_buf())  # repeating the command starts afresh
    assert rig.rng.taken() == KEYS_AND_IV


def test_what_lies_behind_the_record_is_not_read() -> None:
    rig = Rig()
    before = [cert.pack() for cert in Rig().init().chain()]
    rig.machine.flash[0x24C4:] = bytes(0x8000 - 0x24C4)
    rig.ok(INIT, init_buf())
    assert [cert.pack() for cert in rig.chain()] == before


def test_a_record_that_looks_empty_is_empty() -> None:
    rig = Rig()
    rig.machine.flash[:4] = b"\xff" * 4
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == KEYS_AND_IV


def test_a_store_of_zeros_is_not_empty() -> None:
    assert Rig(flash=bytes(0x8000)).run(INIT, init_buf()) == S.SECURE_DATA_INVALID


def test_the_store_of_another_chip() -> None:
    rig = Rig(machine_args={"chip_key": b"\x01" * 32})
    assert rig.run(INIT, init_buf()) == S.SECURE_DATA_INVALID
    assert bytes(rig.machine.flash) == b"\xff" * 0x8000


def test_the_record_by_an_independent_reading() -> None:
    """Section 4.3: AES-128-CTR, HMAC-SHA-256 over ciphertext and IV, keys by the KDF with the labels' NUL."""
    import hmac

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    rig = Rig().init()
    record = bytes(rig.machine.flash[:0x24C4])

    def derive(label: bytes) -> bytes:
        return hmac.digest(CHIP_KEY, u32(1) + label + b"\0" + bytes(4) + u32(128), "sha256")[:16]

    assert (
        hmac.digest(derive(b"sev-persistent-integrity\0"), record[:0x2494] + record[0x24B4:], "sha256")
        == (record[0x2494:0x24B4])
    )
    cipher = Cipher(algorithms.AES(derive(b"sev-persistent-encryption\0")), modes.CTR(record[0x24B4:])).decryptor()
    plain = cipher.update(record[:0x2494])
    pdh, pek, oca, _ = (cert.pack() for cert in rig.chain())
    assert plain[0x40C : 0x40C + CERT] == pdh and plain[0x103C : 0x103C + CERT] == pek
    assert plain[0x1C70 : 0x1C70 + CERT] == oca and plain[0x1860:0x1864] == bytes(4)
    for offset, cert in ((0, pdh), (0xC30, pek), (0x1864, oca)):
        assert plain[offset : offset + 12 + 144] == cert[0x08 : 0x08 + 12 + 144]
        d = int.from_bytes(plain[offset + 0x9C : offset + 0x9C + 72], "little")
        numbers = ec.derive_private_key(d, ec.SECP384R1()).public_key().public_numbers()
        assert (numbers.x, numbers.y) == point_of(cert)
        assert not any(plain[offset + 0xE4 : offset + 0x40C])


def test_an_old_record_without_an_iv_of_its_own() -> None:
    """A stored IV that begins with FF FF FF FF counts as zero and is left out of the MAC."""
    import hmac

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    rig = Rig()
    record = bytes(rig.machine.flash[:0x24C4])

    def derive(label: bytes) -> bytes:
        return hmac.digest(CHIP_KEY, u32(1) + label + b"\0" + bytes(4) + u32(128), "sha256")[:16]

    key = derive(b"sev-persistent-encryption\0")
    plain = Cipher(algorithms.AES(key), modes.CTR(record[0x24B4:])).decryptor().update(record[:0x2494])
    old = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(plain)
    mac = hmac.digest(derive(b"sev-persistent-integrity\0"), old, "sha256")
    rig.machine.flash[:0x24C4] = old + mac + b"\xff\xff\xff\xff" + b"anything here"[:12]
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == []
    assert [c.pack() for c in rig.chain()] == [c.pack() for c in Rig().init().chain()]


def test_power_cycle_keeps_the_store_alone() -> None:
    rig = Rig().init()
    first = [cert.pack() for cert in rig.chain()]
    rig.guest(3)
    rig.rng.taken()
    rig.machine.power_cycle()
    assert rig.status()[2:] == bytes([0, 0, 0, 0, 0, 15, 0, 0, 0, 0])
    assert not any(rig.machine.wbinvd_done)
    rig.ok(INIT, init_buf())
    assert rig.rng.taken() == []
    assert [cert.pack() for cert in rig.chain()] == first


# ------------------------------------------------------------------------------ SHUTDOWN, PLATFORM_STATUS, NOP


@pytest.mark.parametrize(
    ("profile", "cleared"), [("spec", ((0, 0x100000),)), ("genoa", ((0, 0x40000), (0x80000, 0x100000)))]
)
def test_shutdown(profile: str, cleared: tuple[tuple[int, int], ...]) -> None:
    rig = Rig(profile)
    assert rig.run(SHUTDOWN) == S.SUCCESS  # in UNINIT, too
    for enable in (False, True):
        rig.ok(INIT, init_buf(1, 0, TMR, MIB))
        pattern = bytes([0x5A]) * MIB
        rig.put(TMR, pattern)
        rig.machine.wbinvd()
        if enable:
            rig.ok(DF_FLUSH)
            handle = rig.start(POLICY_ES)
            rig.activate(handle, ES)
        stored, flags = bytes(rig.machine.flash), list(rig.machine.wbinvd_done)
        rig.ok(SHUTDOWN)
        assert rig.status()[2:7] == bytes(5) and rig.status()[8:] == bytes(4)
        assert bytes(rig.machine.flash) == stored and rig.machine.wbinvd_done == flags
        after = bytearray(pattern)
        for start, end in cleared if enable else ():
            after[start:end] = bytes(end - start)
        assert rig.get(TMR, MIB) == bytes(after)
    assert rig.rng.taken() == [32, 32]  # the guest's
    rig.init()
    assert rig.guest_info(1)[0] == 0


def test_shutdown_with_a_running_guest() -> None:
    rig = Rig().init()
    rig.guest(3)
    rig.machine.vcpu(PLAIN).write(0x10000, b"hello, world 123")
    rig.ok(SHUTDOWN)
    assert rig.machine.valid_asids == {}
    assert rig.machine.umc.read(PLAIN, 0x10000, 16) == b"hello, world 123"  # memory keys stay where they are


def test_platform_status_bytes() -> None:
    """Sheet 10, section 8, items 1 and 2."""
    rig = Rig(flash=None)
    assert rig.status().hex(" ") == "00 18 00 00 00 00 00 0f 00 00 00 00"
    assert rig.run(PDH_CERT_EXPORT, export_buf()) == S.INVALID_PLATFORM_STATE
    rig.ok(GET_ID, id_buf())
    rig.init(es=True)
    assert rig.status().hex(" ") == "00 18 01 00 01 00 00 0f 00 00 00 00"
    for _ in range(3):
        rig.start()
    assert rig.status().hex(" ") == "00 18 02 00 01 00 00 0f 03 00 00 00"
    rig = Rig("genoa", version=(1, 51, 3))
    assert rig.status().hex(" ") == "01 33 00 00 00 00 00 03 00 00 00 00"
    assert Rig("genoa").status().hex(" ") == "01 37 00 00 00 00 00 19 00 00 00 00"


def test_nop_does_nothing() -> None:
    rig = Rig().init()
    rig.guest(1)
    refused(rig, NOP, b"", S.SUCCESS)


# -------------------------------------------------------------------------------------------------- PEK_CSR


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_pek_csr(profile: str) -> None:
    rig = Rig(profile).init()
    pek = rig.chain()[1].pack()
    assert rig.ok(PEK_CSR, csr_buf(length=0xFFFF)) == csr_buf(length=CERT)
    empty = u32(0x1000) + bytes(516)
    assert rig.get(OUT, CERT) == pek[:0x414] + empty + empty
    assert rig.rng.taken() == []
    for length in (0, 2083):
        assert rig.run(PEK_CSR, csr_buf(1 << 62, length)) == S.INVALID_LENGTH  # length before address
        assert rig.answer == csr_buf(1 << 62, CERT)
    refused(rig, PEK_CSR, csr_buf(ASEG), S.INVALID_ADDRESS)


def test_the_csr_names_the_version_that_made_the_pek() -> None:
    old = Rig(version=(0, 17, 9), flash=None).init()
    rig = Rig(flash=bytes(old.machine.flash)).init()
    rig.ok(PEK_CSR, csr_buf())
    assert rig.get(OUT + 4, 2) == b"\x00\x11"
    assert [(c.api_major, c.api_minor) for c in rig.chain()] == [(0, 17), (0, 17), (0, 17), (0, 24)]


# ------------------------------------------------------------------------------------------ PDH_CERT_EXPORT


def test_pdh_cert_export() -> None:
    rig = Rig().init()
    assert rig.ok(PDH_CERT_EXPORT, export_buf(OUT, 9999, OUT2, 9999)) == export_buf(OUT, CERT, OUT2, CHAIN)
    certs = rig.get(OUT2, CHAIN)
    usages = [words(c, 8)[0] for c in (rig.get(OUT, CERT), certs[:CERT], certs[CERT : 2 * CERT], certs[2 * CERT :])]
    assert usages == [0x1003, 0x1002, 0x1001, 0x1004]
    for lengths in ((2083, 9999), (9999, 6251), (0, 0), (0, 6252)):
        assert rig.run(PDH_CERT_EXPORT, export_buf(1 << 62, lengths[0], 1 << 62, lengths[1])) == S.INVALID_LENGTH
        assert rig.answer == export_buf(1 << 62, CERT, 1 << 62, CHAIN)
    refused(rig, PDH_CERT_EXPORT, export_buf(ASEG, 9999, 1 << 62, 9999), S.INVALID_ADDRESS)
    rig.ok(PDH_CERT_EXPORT, export_buf(OUT, CERT, OUT + 1000, CHAIN))
    assert rig.get(OUT + 1000, CHAIN) == certs  # where the two overlap the chain wins


def test_bad_address_of_the_chain_comes_after_the_pdh_was_written() -> None:
    rig = Rig("genoa").init()
    pdh = rig.chain()[0].pack()
    rig.put(OUT, bytes(CERT))
    buffer = export_buf(OUT, 9999, DRAM - CHAIN + 1, 9999)
    assert rig.run(PDH_CERT_EXPORT, buffer) == S.INVALID_CONFIG
    assert rig.answer == buffer and rig.get(OUT, CERT) == pdh
    assert rig.run(PDH_CERT_EXPORT, export_buf(DRAM, CERT, ASEG, CHAIN)) == S.INVALID_CONFIG  # the PDH's first


# ---------------------------------------------------------------------------------------------- GET_ID, CEK


@pytest.mark.parametrize(
    ("chip_key", "chip_id", "cek_x", "cek_y"),
    [  # sheet 10, section 5.3
        (
            bytes(range(32)),
            "6d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2487e6222a6664e079c8edf7518defd562dbeda1e7593dfd7f0be285880a24dab",
            "afecf5117786a57a6d00dd745ad35a629dc32823c829c5c7a9873a3f8707fdceccfe7b62284281691298483b7839db74",
            "4ece2ef06f1812698893e21d997cbf06ac20b932d2b94abcfd37a45fa07f49ed9f1d474fea1e065b209cd0758da199a6",
        ),
        (
            b"\x01" * 32,
            "1b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f70beaf8f588b541507fed6a642c5ab42dfdf8120a7f639de5122d47a69a8e8d1",
            "b08a64e69b4dda2615a2db300344bfaa1e11e734ed1b73f7dd40d255a5360f143f318e41a1d60b9b623a4a5739c22adf",
            "14fb7fa430a7825630269b91113e5c542dce9d1b2c940a7cea61319682c5dc1f22e742db381666257c8d838f6be71710",
        ),
    ],
)
def test_chip_id_and_cek(chip_key: bytes, chip_id: str, cek_x: str, cek_y: str) -> None:
    rig = Rig(flash=None, machine_args={"chip_key": chip_key})
    rig.ok(GET_ID, id_buf())  # before INIT
    assert rig.get(OUT, 64).hex() == chip_id
    rig.init()
    cek = rig.chain()[3].pack()
    assert (cek[0x14 : 0x14 + 48].hex(), cek[0x5C : 0x5C + 48].hex()) == (cek_x, cek_y)


def test_cek_scalar_of_vector_1() -> None:
    """The scalar d of section 5.3, big-endian, from the KDF's 56 bytes."""
    from sevref.firmware.identity import derive_cek

    assert derive_cek(bytes(range(32))).d.to_bytes(48, "big").hex() == (
        "0e86960358461467fe5f0a27b40e5ae1a262c61ea152b8d1c08adcf876f62474ecf5956954a220627f626b6fe77eeab4"
    )
    assert derive_cek(b"\x01" * 32).d.to_bytes(48, "big").hex() == (
        "02c62a9db79fc36ec8344be2291724ca7c948bac6f2ada37f47e25150239d8bc928131a6971556c020478b28efc9c30e"
    )


def test_get_id() -> None:
    rig = Rig()
    for length in (64, 65, 127, 128, 129, 0xFFFFFFFF):  # one socket: 64 bytes whatever is asked for
        rig.put(OUT, bytes(200))
        assert rig.ok(GET_ID, id_buf(length=length)) == id_buf(length=64)
        assert rig.get(OUT + 64, 136) == bytes(136) and any(rig.get(OUT + 60, 4))
    for length in (0, 63):
        assert rig.run(GET_ID, id_buf(1 << 62, length)) == S.INVALID_LENGTH  # whatever the address is
        assert rig.answer == id_buf(1 << 62, 64)
    refused(rig, GET_ID, id_buf(ASEG, 128), S.INVALID_ADDRESS)
    assert rig.rng.taken() == []


def test_a_chip_secret_above_the_group_order_counts_modulo_the_order() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    rig = Rig(flash=None, machine_args={"chip_key": (order + 1).to_bytes(32, "big")})
    rig.ok(GET_ID, id_buf())
    generator = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert rig.get(OUT, 32).hex() == generator


# ---------------------------------------------------------------------------------------------- PEK_CERT_IMPORT


class Import:
    """A CSR of a self-owned platform, an owner, and what is imported."""

    def __init__(self, profile: str = "spec") -> None:
        self.rig = Rig(profile).init()
        self.before = [cert.pack() for cert in self.rig.chain()]
        self.rig.ok(PEK_CSR, csr_buf())
        self.csr = SevCertificate.parse(self.rig.get(OUT, CERT))
        self.owner = PlatformOwner(seed=b"owner")
        self.oca = SevCertificate.parse(self.owner.oca.pack())
        self.pek = self.owner.sign_csr(self.csr)
        self.rig.rng.taken()

    def run(self, pek: SevCertificate | bytes | None = None, oca: SevCertificate | bytes | None = None) -> S:
        pek, oca = pek or self.pek, oca or self.oca
        self.rig.put(CERT_AT, pek if isinstance(pek, bytes) else pek.pack())
        self.rig.put(OUT2, oca if isinstance(oca, bytes) else oca.pack())
        return self.rig.run(PEK_CERT_IMPORT, import_buf())

    def refused(
        self, want: S, pek: SevCertificate | bytes | None = None, oca: bytes | SevCertificate | None = None
    ) -> None:
        flash = bytes(self.rig.machine.flash)
        assert self.run(pek, oca) == want
        assert self.rig.rng.taken() == [] and bytes(self.rig.machine.flash) == flash
        assert self.rig.status()[3] == 0 and [cert.pack() for cert in self.rig.chain()] == self.before


def patched(cert: SevCertificate, offset: int, data: bytes) -> bytes:
    old = cert.pack()
    return old[:offset] + data + old[offset + len(data) :]


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_import(profile: str) -> None:
    imported = Import(profile)
    rig = imported.rig
    old_pdh, old_pek, _, old_cek = imported.before
    assert imported.run() == S.SUCCESS
    assert rig.rng.taken() == draws(profile, [48, 48, 16], [48, 16])  # PDH key, nonce, store IV
    pdh, pek, oca, cek = (cert.pack() for cert in rig.chain())
    assert oca == imported.oca.pack() and cek == old_cek
    assert pek[:0x61C] == imported.pek.pack()[:0x61C]  # slot 1 as the owner signed it
    assert pek[0x61C:] == old_pek[0x61C:]  # slot 2: the CEK's signature as before
    assert pdh[:0x14] == old_pdh[:0x14] and pdh[0x14:0x5C] != old_pdh[0x14:0x5C]
    assert verifies(pdh, 0, point_of(pek)) and verifies(pek, 0, point_of(oca)) and verifies(pek, 1, point_of(cek))
    assert rig.status()[3] == 1
    refused(rig, PEK_CERT_IMPORT, import_buf(pek_len=1), S.ALREADY_OWNED)  # before the lengths
    rig.ok(SHUTDOWN)
    assert rig.status()[3] == 0
    rig.ok(INIT, init_buf())
    assert rig.status()[3] == 1 and [cert.pack() for cert in rig.chain()] == [pdh, pek, oca, cek]
    assert rig.rng.taken() == []


def test_import_of_a_pek_signed_into_slot_2() -> None:
    imported = Import()
    signed = imported.pek.pack()
    swapped = signed[:0x414] + signed[0x61C:] + signed[0x414:0x61C]
    assert imported.run(swapped) == S.SUCCESS
    pek = imported.rig.chain()[1].pack()
    assert [words(pek, i)[0] for i in (0x414, 0x61C)] == [0x1004, 0x1001]
    assert pek[0x414:0x61C] == imported.before[1][0x61C:] and pek[0x61C:] == swapped[0x61C:]


def p384_oca(algo: int) -> tuple[PrivateKey, SevCertificate]:
    key = PrivateKey(0x1234567)
    oca = new_certificate(Usage.OCA, algo, key.public, (0, 0))
    sign_certificate(oca, key, Usage.OCA, algo)
    return key, oca


@pytest.mark.parametrize("algo", [0x2, 0x102, 0x1, 0x101])
def test_kinds_of_oca(algo: int) -> None:
    """P-384 with SHA-256 or SHA-384, and RSA with PSS; the PEK's signature carries the OCA's own algorithm."""
    imported = Import()
    if algo in (0x2, 0x102):
        key, oca = p384_oca(algo)
    else:
        key = simulated_key("milan" if algo == 0x101 else "naples", Usage.ASK)
        oca = new_certificate(Usage.OCA, algo, key.public, (0, 0))
        sign_certificate(oca, key, Usage.OCA, algo, salt=bytes(48 if algo == 0x101 else 32))
    for other in {0x2: (0x102,), 0x102: (0x2,), 0x1: (0x101,), 0x101: (0x1,)}[algo]:
        pek = SevCertificate.parse(imported.csr.pack())
        sign_certificate(pek, key, Usage.OCA, other, **({"salt": bytes(32)} if algo & 0xF == 1 else {}))
        imported.refused(S.INVALID_CERTIFICATE, pek, oca)
    pek = SevCertificate.parse(imported.csr.pack())
    sign_certificate(pek, key, Usage.OCA, algo, **({"salt": bytes(32)} if algo & 0xF == 1 else {}))
    assert imported.run(pek, oca) == S.SUCCESS
    assert imported.rig.chain()[2].pack() == oca.pack()
    imported.rig.ok(SHUTDOWN)
    imported.rig.ok(INIT, init_buf())
    assert imported.rig.chain()[2].pack() == oca.pack() and imported.rig.status()[3] == 1


def test_import_lengths_and_addresses_in_order() -> None:
    imported = Import()
    rig = imported.rig
    rig.put(CERT_AT, bytes(CERT))
    rig.put(OUT2, bytes(CERT))
    for pek, oca in ((2083, CERT), (2085, CERT), (CERT, 2083), (CERT, 2085), (0, 0), (CERT, 0)):
        refused(rig, PEK_CERT_IMPORT, import_buf(1 << 62, pek, 1 << 62, oca), S.INVALID_LENGTH)
    genoa = Import("genoa").rig
    refused(genoa, PEK_CERT_IMPORT, import_buf(pek=DRAM, oca=ASEG), S.INVALID_CONFIG)  # the PEK's address first
    refused(genoa, PEK_CERT_IMPORT, import_buf(pek=ASEG, oca=DRAM), S.INVALID_ADDRESS)
    refused(genoa, PEK_CERT_IMPORT, import_buf(oca=DRAM), S.INVALID_CONFIG)


def test_bad_oca() -> None:
    imported = Import()
    key = PrivateKey(0x999)
    oca = imported.oca
    for offset, data, want in (
        (0x41C, b"\x55", S.BAD_SIGNATURE),  # r
        (0x41C + 72, b"\x55", S.BAD_SIGNATURE),  # s
        (0x41C + 48, b"\x01", S.BAD_SIGNATURE),  # r's padding: too large
        (0x41C, bytes(72), S.BAD_SIGNATURE),  # r = 0
        (0x00, u32(2), S.BAD_SIGNATURE),  # the version is signed
        (0x0C, u32(0x102), S.INVALID_CERTIFICATE),  # no slot of this algorithm
        (0x0C, u32(0x4), S.INVALID_CERTIFICATE),  # not an algorithm
        (0x08, u32(0x1002), S.INVALID_CERTIFICATE),
        (0x08, u32(0x77), S.INVALID_CERTIFICATE),
        (0x10, u32(1), S.INVALID_CERTIFICATE),  # curve
        (0x14, b"\x00\x01", S.INVALID_CERTIFICATE),  # off the curve
        (0x14 + 48, b"\x01", S.INVALID_CERTIFICATE),  # coordinate too large
        (0x414, u32(0x1000), S.BAD_SIGNATURE),  # half-empty slots
        (0x418, u32(0), S.BAD_SIGNATURE),
        (0x61C, u32(0), S.BAD_SIGNATURE),
        (0x620, u32(2), S.BAD_SIGNATURE),
    ):
        imported.refused(want, None, patched(oca, offset, data))
    # a certificate that signs itself, but is no OCA
    for usage, algo in ((Usage.PEK, 0x2), (Usage.CEK, 0x2)):
        other = new_certificate(usage, algo, key.public, (0, 0))
        sign_certificate(other, key, usage, algo)
        imported.refused(S.INVALID_CERTIFICATE, None, other)
    # version 2, correctly signed: after the signature
    new = new_certificate(Usage.OCA, 2, key.public, (0, 0))
    new.version = 2
    sign_certificate(new, key, Usage.OCA, 2)
    imported.refused(S.INVALID_CERTIFICATE, None, new)
    # an ECDH key cannot sign
    dh = new_certificate(Usage.OCA, 3, key.public, (0, 0))
    dh.sig1_usage, dh.sig1_algo, dh.sig1 = 0x1001, 3, bytes(512)
    imported.refused(S.UNSUPPORTED, None, dh)
    # the last matching slot decides
    data = oca.pack()
    bad = bytearray(data[0x414:0x61C])
    bad[10] ^= 1
    imported.refused(S.BAD_SIGNATURE, None, data[:0x61C] + bytes(bad))
    assert imported.run(None, data[:0x414] + bytes(bad) + data[0x414:0x61C]) == S.SUCCESS


def test_bad_pek_and_order_of_the_certificate_checks() -> None:
    imported = Import()
    bad_oca = patched(imported.oca, 0x41C, b"\x55")
    signed = imported.pek
    imported.refused(S.BAD_SIGNATURE, imported.csr, bad_oca)  # the OCA comes before the PEK
    imported.refused(S.INVALID_CERTIFICATE, imported.csr)  # not signed by the OCA
    imported.refused(S.BAD_SIGNATURE, patched(signed, 0x41C, b"\x55"))
    imported.refused(S.BAD_SIGNATURE, patched(signed, 0x04, b"\x07"))  # API version: signed
    zeros = imported.csr.pack()[:0x414] + bytes(1040)  # usage 0 with algorithm 0 is half-empty, not empty
    imported.refused(S.BAD_SIGNATURE, zeros)
    # signed by another owner
    imported.refused(S.BAD_SIGNATURE, PlatformOwner(seed=b"other").sign_csr(imported.csr))
    # a PEK of another platform, signed correctly
    foreign = SevCertificate.parse(patched(imported.csr, 0x04, b"\x07"))
    imported.refused(S.INVALID_CERTIFICATE, imported.owner.sign_csr(foreign))
    # both slots used, with anything: full for the CEK's signature; a bad OCA signature comes before that
    full = signed.pack()[:0x61C] + u32(0x1004) + u32(2) + bytes(512)
    imported.refused(S.INVALID_CERTIFICATE, full)
    imported.refused(S.BAD_SIGNATURE, full[:0x41C] + b"\x55" + full[0x41D:])
    imported.refused(S.INVALID_CERTIFICATE, signed.pack()[:0x61C] + u32(0x77) + u32(0x88) + bytes(512))
    assert imported.run() == S.SUCCESS


def test_import_rolls_back_when_no_pdh_can_be_made() -> None:
    imported = Import()
    imported.rig.rng.script = [bytes(48)]
    flash = bytes(imported.rig.machine.flash)
    assert imported.run() == S.HWERROR_PLATFORM
    assert imported.rig.rng.taken() == [48] and bytes(imported.rig.machine.flash) == flash
    assert [cert.pack() for cert in imported.rig.chain()] == imported.before and imported.rig.status()[3] == 0
    assert imported.run() == S.SUCCESS


def test_guests_forbid_an_import() -> None:
    imported = Import()
    imported.rig.start()
    refused(imported.rig, PEK_CERT_IMPORT, import_buf(), S.INVALID_PLATFORM_STATE)


# -------------------------------------------------------------------------- DF_FLUSH and ASIDs (section 6.2)


def two_ccxs(profile: str = "spec") -> Rig:
    return Rig(profile, machine_args={"ccxs": 2, "cores_per_ccx": 2})


@pytest.mark.parametrize("profile", ["spec", "genoa"])
def test_df_flush_needs_every_core(profile: str) -> None:
    rig = two_ccxs(profile)
    rig.ok(INIT, init_buf())
    handle = rig.start()
    for cores in ([], [0], [1], [2]):
        rig.machine.wbinvd(cores)
        assert rig.run(DF_FLUSH) == S.WBINVD_REQUIRED
        refused(rig, ACTIVATE, u32(handle) + u32(PLAIN), S.DFFLUSH_REQUIRED)  # dirty on the second CCX
    rig.machine.wbinvd([3])
    refused(rig, ACTIVATE, u32(handle) + u32(PLAIN), S.DFFLUSH_REQUIRED)
    rig.ok(DF_FLUSH)
    assert all(rig.machine.wbinvd_done)  # the flags stay
    rig.ok(DF_FLUSH)
    rig.activate(handle)


def test_df_flush_keeps_what_it_did_for_finished_ccxs() -> None:
    """The first CCX is clean after a DF_FLUSH that failed for the second: later only the second one needs a WBINVD."""
    rig = two_ccxs()
    rig.ok(INIT, init_buf())
    rig.machine.wbinvd([0, 1])
    assert rig.run(DF_FLUSH) == S.WBINVD_REQUIRED
    rig.machine.wbinvd_done[0] = False  # as if the second half had come much later
    rig.machine.wbinvd([2, 3])
    assert rig.run(DF_FLUSH) == S.WBINVD_REQUIRED  # core 0
    handle = rig.start()
    rig.activate(handle)


def test_df_flush_in_uninit() -> None:
    refused(Rig(), DF_FLUSH, b"", S.INVALID_PLATFORM_STATE)
    rig = Rig("genoa")
    refused(rig, DF_FLUSH, b"", S.WBINVD_REQUIRED)
    rig.machine.wbinvd()
    refused(rig, DF_FLUSH, b"", S.SUCCESS)  # and no lasting effect:
    rig.ok(INIT, init_buf())
    handle = rig.start()
    refused(rig, ACTIVATE, u32(handle) + u32(PLAIN), S.DFFLUSH_REQUIRED)


def test_life_of_an_asid() -> None:
    rig = two_ccxs().init()
    first, second = rig.start(), rig.start()
    # pending only: allocated, then clean again without a flush
    rig.activate(first)
    refused(rig, ACTIVATE, u32(second) + u32(PLAIN), S.ASID_OWNED)
    rig.ok(DEACTIVATE, u32(first))
    assert all(rig.machine.wbinvd_done)
    rig.activate(second)
    rig.ok(DEACTIVATE, u32(second))
    rig.ok(DECOMMISSION, u32(second))
    # running: in use, then dirty, and the cores need a new WBINVD
    rig.ok(DECOMMISSION, u32(first))
    third = rig.guest(3)
    assert rig.machine.valid_asids == {PLAIN: frozenset({0, 1})}
    rig.ok(DEACTIVATE, u32(third))
    assert not any(rig.machine.wbinvd_done) and rig.machine.valid_asids == {}
    refused(rig, ACTIVATE, u32(third) + u32(PLAIN), S.DFFLUSH_REQUIRED)
    rig.activate(third, PLAIN + 1)  # other clean ASIDs stay usable; a running guest is active at once
    assert rig.machine.valid_asids == {PLAIN + 1: frozenset({0, 1})}
    refused(rig, DF_FLUSH, b"", S.WBINVD_REQUIRED)
    rig.ok(DEACTIVATE, u32(third))
    rig.ok(DECOMMISSION, u32(third))  # no flush needed to decommission
    rig.flush()
    rig.activate(rig.start())


def test_deactivate_does_not_touch_asids_that_are_in_use_elsewhere() -> None:
    rig = Rig().init()
    running, other = rig.guest(3), rig.start()
    rig.activate(other, PLAIN + 1)
    rig.ok(DEACTIVATE, u32(running))
    assert rig.guest_info(other) == (1, PLAIN + 1, 0)
    rig.flush()
    refused(rig, ACTIVATE, u32(running) + u32(PLAIN + 1), S.ASID_OWNED)  # DF_FLUSH leaves allocated ASIDs alone


# ---------------------------------------------------------------------------- ACTIVATE, DEACTIVATE, DECOMMISSION


def test_order_of_activate() -> None:
    """Rows 2 to 9 of sheet 20, section 5.4; each request breaks the named row and the next ones it can."""
    rig = Rig().init(flush=False)  # every ASID is dirty
    plain = rig.start()
    for asid in (0, 510, 1006, 0xFFFFFFFF):
        refused(rig, ACTIVATE, u32(77) + u32(asid), S.INVALID_GUEST)
        refused(rig, ACTIVATE, u32(plain) + u32(asid), S.INVALID_ASID)
    for asid in (1, 99, 100, 509):
        refused(rig, ACTIVATE, u32(plain) + u32(asid), S.DFFLUSH_REQUIRED)  # before the wrong half
    rig.flush()
    rig.activate(plain, 509)
    other = rig.start()
    refused(rig, ACTIVATE, u32(other) + u32(509), S.ASID_OWNED)
    refused(rig, ACTIVATE, u32(plain) + u32(509), S.ASID_OWNED)  # the same again: not ACTIVE
    refused(rig, ACTIVATE, u32(plain) + u32(100), S.ACTIVE)
    refused(rig, ACTIVATE, u32(plain) + u32(99), S.ACTIVE)  # before the wrong half
    refused(rig, ACTIVATE, u32(plain) + u32(0), S.INVALID_ASID)  # before ACTIVE
    refused(rig, ACTIVATE, u32(other) + u32(99), S.INVALID_ASID)
    refused(rig, ACTIVATE, u32(other) + u32(1), S.INVALID_ASID)
    rig.activate(other, 100)
    # SENT: after ASID_OWNED and ACTIVE, before DFFLUSH_REQUIRED and the wrong half
    sent = rig.guest(6, bound=False)
    refused(rig, ACTIVATE, u32(sent) + u32(509), S.ASID_OWNED)
    refused(rig, ACTIVATE, u32(sent) + u32(99), S.INVALID_GUEST_STATE)
    rig.ok(DEACTIVATE, u32(rig.guest(3)))  # now ASID 200 is dirty
    refused(rig, ACTIVATE, u32(sent) + u32(PLAIN), S.INVALID_GUEST_STATE)
    rig.flush()
    bound = rig.guest(6)
    refused(rig, ACTIVATE, u32(bound) + u32(300), S.ACTIVE)


@pytest.mark.parametrize(("policy", "good", "bad"), [(POLICY_ES, (1, 99), (100, 509)), (0, (100, 509), (1, 99))])
def test_halves_of_the_asid_space(policy: int, good: tuple[int, int], bad: tuple[int, int]) -> None:
    rig = Rig().init(es=True)
    handle = rig.start(policy)
    for asid in bad:
        refused(rig, ACTIVATE, u32(handle) + u32(asid), S.INVALID_ASID)
    for asid in good:
        rig.activate(handle, asid)
        rig.ok(DEACTIVATE, u32(handle))


def test_no_asid_for_es_guests_when_the_minimum_is_one() -> None:
    rig = Rig(machine_args={"min_sev_asid": 1, "max_asid": 15}).init(es=True)
    es, plain = rig.start(POLICY_ES), rig.start()
    for asid in (1, 15):
        refused(rig, ACTIVATE, u32(es) + u32(asid), S.INVALID_ASID)
    rig.activate(plain, 1)
    refused(rig, ACTIVATE, u32(es) + u32(16), S.INVALID_ASID)


def test_decommission() -> None:
    rig = Rig().init()
    assert (rig.start(), rig.start()) == (1, 2)
    rig.activate(1)
    refused(rig, DECOMMISSION, u32(1), S.ACTIVE)
    rig.ok(DECOMMISSION, u32(2))
    assert rig.status()[2] == 2 and rig.status()[8] == 1
    refused(rig, DECOMMISSION, u32(2), S.INVALID_GUEST)
    rig.ok(DEACTIVATE, u32(1))
    refused(rig, DEACTIVATE, u32(1), S.INACTIVE)
    rig.ok(DECOMMISSION, u32(1))
    assert rig.status()[2] == 1 and rig.status()[8] == 0
    assert rig.start() == 1  # handles are used again, the lowest first


def test_handles_and_the_limit_of_1024_guests() -> None:
    for profile, drawn in (("spec", []), ("genoa", [32])):
        rig = Rig(profile).init()
        for handle in range(1, 1025):
            assert rig.start() == handle
        rig.rng.taken()
        rig.put(BUF, start_buf(POLICY_ES))  # before UNSUPPORTED
        before = rig.observe()
        assert rig.platform.mailbox(LAUNCH_START, BUF) == S.RESOURCE_LIMIT
        assert rig.rng.taken() == drawn and rig.observe() == before
        assert rig.run(LAUNCH_START, start_buf(handle=5)) == S.RESOURCE_LIMIT
        assert rig.rng.taken() == []  # sharing draws no VEK
        assert rig.status()[8:] == u32(1024)
        rig.ok(DECOMMISSION, u32(700))
        rig.ok(DECOMMISSION, u32(31))
        assert (rig.start(), rig.start()) == (31, 700)
        assert rig.guest_info(1024)[0] == 1


def test_genoa_versions_in_certificates() -> None:
    pdh, *_ = Rig("genoa").init().chain()
    assert (pdh.api_major, pdh.api_minor) == (1, 55) and pdh.pubkey_algo == Algo.ECDH_SHA256
    assert PLATFORM_STATUS == 4 and SeededRandom(b"", "").draw(1)
