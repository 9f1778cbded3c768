"""Rule V (a certificate under a signing key) and S (a peer's certificate): order and status of every check."""

import hashlib
import itertools

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from certs.keys import CEK, N384, OCA, P384, PDH, PEK, RSA1024, STRANGER, oca, pdh, pek, rsa_key, signed
from sevref import InputError, SevError
from sevref.certs import (
    EcdsaSignature,
    RsaSignature,
    SevCertificate,
    SignatureSlot,
    SigningKey,
    add_signature,
    check_peer,
    make_signature,
    new_certificate,
    sign_certificate,
    validate,
)
from sevref.crypto import P384_B, Point, PrivateKey, RsaPublic

GOOD_OCA, GOOD_PEK, GOOD_PDH = oca(), pek(), pdh()
OCA_KEY, PEK_KEY, CEK_KEY = (
    GOOD_OCA.signing_key(),
    GOOD_PEK.signing_key(),
    new_certificate(0x1004, 2, CEK.public, (0, 0)).signing_key(),
)


def verdict(cert, key, **how) -> str:
    try:
        validate(cert, key, **how)
    except SevError as error:
        return error.status.name
    return "SUCCESS"


def key_of(usage, algo, public) -> SigningKey:
    return new_certificate(usage, algo, public, (0, 0)).signing_key()


def changed(cert, **fields) -> SevCertificate:
    return SevCertificate.parse(cert.replace(**fields).pack())


def slot_of(cert, number) -> SignatureSlot:
    return cert.slots[number - 1]


def with_slots(cert, slot1, slot2) -> SevCertificate:
    return SevCertificate.parse(cert.body() + slot1 + slot2)


EMPTY = bytes.fromhex("00100000") + bytes(516)
GOOD = slot_of(GOOD_PEK, 1).pack()  # by the OCA
BAD = GOOD[:8] + bytes([GOOD[8] ^ 1]) + GOOD[9:]
BY_CEK = slot_of(GOOD_PEK, 2).pack()
MALFORMED = bytes(520)


def test_the_generated_chain():
    assert verdict(GOOD_OCA, OCA_KEY) == "SUCCESS"
    assert verdict(GOOD_PEK, OCA_KEY) == verdict(GOOD_PEK, CEK_KEY) == "SUCCESS"
    assert verdict(GOOD_PDH, PEK_KEY) == "SUCCESS"
    assert [(slot.usage, slot.algo) for slot in GOOD_PEK.slots] == [(0x1001, 2), (0x1004, 2)]


# -- step 1: the signing key (K)

POINT = OCA.public
INVALID_KEYS = {
    "usage none": {"pubkey_usage": 0x1000},
    "usage 0x1005": {"pubkey_usage": 0x1005},
    "usage 0x0012": {"pubkey_usage": 0x12},
    "algorithm none": {"pubkey_algo": 0x000},
    "algorithm 4": {"pubkey_algo": 0x004},
    "algorithm 0x104": {"pubkey_algo": 0x104},
    "algorithm 0x201": {"pubkey_algo": 0x201},
    "RSA of 4097 bits": {"pubkey_algo": 0x001, "modulus_size": 4097},
    "curve 0": {"curve": 0},
    "curve 1": {"curve": 1},
    "curve 3": {"curve": 3},
    "curve 0x102": {"curve": 0x102},
    "zero point": {"qx": 0, "qy": 0},
    "off the curve": {"qy": POINT.y ^ 1},
    "x + p": {"qx": POINT.x + P384},
    "y + p": {"qy": POINT.y + P384},
    "x with padding": {"qx": POINT.x + (1 << 384)},
    "y with padding in the last byte": {"qy": POINT.y + (1 << 8 * 71)},
}


def key_with(what, usage=0x1001) -> bytes:
    """Bytes 0x008 to 0x413 of a certificate with a damaged public key."""
    fields = dict(INVALID_KEYS[what])
    body = bytearray(new_certificate(usage, 0x002, POINT, (0, 0)).body())
    for name, offset, size in (
        ("pubkey_usage", 0x008, 4), ("pubkey_algo", 0x00C, 4), ("modulus_size", 0x010, 4),
        ("curve", 0x010, 4), ("qx", 0x014, 72), ("qy", 0x05C, 72),
    ):  # fmt: skip
        if name in fields:
            body[offset : offset + size] = fields.pop(name).to_bytes(size, "little")
    assert not fields
    return bytes(body[8:])


def parsed(key: bytes) -> SevCertificate:
    return SevCertificate.parse(bytes([1, 0, 0, 0]) + bytes(4) + key + EMPTY + EMPTY)


@pytest.mark.parametrize("what", INVALID_KEYS)
def test_the_signing_key_comes_first(what):
    key = parsed(key_with(what)).signing_key()
    # a malformed slot would be BAD_SIGNATURE: the key is looked at before
    assert verdict(with_slots(GOOD_PEK, MALFORMED, MALFORMED), key) == "INVALID_CERTIFICATE"
    assert verdict(GOOD_PEK, key) == "INVALID_CERTIFICATE"


@pytest.mark.parametrize("what", [what for what in INVALID_KEYS if not what.startswith("usage")])
def test_the_certificates_own_key(what):
    cert = parsed(key_with(what, usage=0x1002))
    sign_certificate(cert, OCA, 0x1001, 0x002)
    assert verdict(cert, OCA_KEY) == "INVALID_CERTIFICATE"
    cert.sig1.r ^= 1
    assert verdict(cert, OCA_KEY) == "BAD_SIGNATURE"  # the signature comes before


@pytest.mark.parametrize("x", [0, 1])
def test_coordinates_below_p_are_what_counts(x):
    """x = 0 and x = 1: if p were not the bound, x + p would do as well."""
    square = (x**3 - 3 * x + P384_B) % P384
    y = pow(square, (P384 + 1) // 4, P384)
    assert (y * y - square) % P384 == 0 or x == 1
    if (y * y - square) % P384 == 0:
        check_peer(new_certificate(0x1003, 0x003, Point(x, y), (0, 0)))
        with pytest.raises(SevError, match="INVALID_CERTIFICATE"):
            check_peer(new_certificate(0x1003, 0x003, Point(x + P384, y), (0, 0)))


def test_an_rsa_key_is_valid_whatever_its_numbers():
    cert = signed(0x1002, 0x101, RsaPublic(0, 0, 0), (OCA, 0x1001, 0x002))
    assert verdict(cert, OCA_KEY) == "SUCCESS"


# -- steps 3 to 6: the slots

SLOTS = [  # slot 1, slot 2, under the OCA, under the CEK
    (GOOD, BY_CEK, "SUCCESS", "SUCCESS"),
    (BY_CEK, GOOD, "SUCCESS", "SUCCESS"),
    (GOOD, EMPTY, "SUCCESS", "INVALID_CERTIFICATE"),
    (EMPTY, GOOD, "SUCCESS", "INVALID_CERTIFICATE"),
    (EMPTY, EMPTY, "INVALID_CERTIFICATE", "INVALID_CERTIFICATE"),
    (BAD, EMPTY, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    (BAD, GOOD, "SUCCESS", "INVALID_CERTIFICATE"),
    (GOOD, BAD, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    (GOOD, GOOD, "SUCCESS", "INVALID_CERTIFICATE"),
    (GOOD, MALFORMED, "BAD_SIGNATURE", "BAD_SIGNATURE"),
    (MALFORMED, GOOD, "BAD_SIGNATURE", "BAD_SIGNATURE"),
    (EMPTY, MALFORMED, "BAD_SIGNATURE", "BAD_SIGNATURE"),
    (BAD, BY_CEK, "BAD_SIGNATURE", "SUCCESS"),
]


@pytest.mark.parametrize("case", range(len(SLOTS)))
def test_both_slots(case):
    slot1, slot2, by_oca, by_cek = SLOTS[case]
    cert = with_slots(GOOD_PEK, slot1, slot2)
    assert (verdict(cert, OCA_KEY), verdict(cert, CEK_KEY)) == (by_oca, by_cek)


HEADS = [  # usage, algorithm, what such a slot does beside a good one
    (0x1000, 0x000, "SUCCESS"),
    (0x1000, 0x002, "BAD_SIGNATURE"),
    (0x1000, 0xFFFFFFFF, "BAD_SIGNATURE"),
    (0x0000, 0x000, "BAD_SIGNATURE"),
    (0x1001, 0x000, "BAD_SIGNATURE"),
    (0x1234, 0x000, "BAD_SIGNATURE"),
    (0x1002, 0x002, "SUCCESS"),
    (0x0000, 0x001, "SUCCESS"),
    (0x1001, 0x102, "SUCCESS"),
    (0x1001, 0x003, "SUCCESS"),
    (0xDEADBEEF, 0xFFFF, "SUCCESS"),
    (0x1001, 0x002, "BAD_SIGNATURE"),  # belongs to the key, and zeros do not verify
]


@pytest.mark.parametrize(("usage", "algo", "beside"), HEADS)
def test_heads_of_the_second_slot(usage, algo, beside):
    head = usage.to_bytes(4, "little") + algo.to_bytes(4, "little") + bytes(512)
    assert verdict(with_slots(GOOD_PEK, GOOD, head), OCA_KEY) == beside


def test_the_data_of_an_empty_slot_is_not_looked_at():
    assert verdict(with_slots(GOOD_PEK, GOOD, EMPTY[:8] + b"\xff" * 512), OCA_KEY) == "SUCCESS"


def test_a_slot_belongs_by_usage_and_algorithm():
    cert = with_slots(GOOD_PEK, GOOD, EMPTY)
    assert verdict(cert, key_of(0x1001, 0x102, OCA.public)) == "INVALID_CERTIFICATE"
    assert verdict(cert, key_of(0x1004, 0x002, OCA.public)) == "INVALID_CERTIFICATE"
    assert verdict(cert, key_of(0x1001, 0x002, STRANGER.public)) == "BAD_SIGNATURE"


# -- step 5: keys that cannot sign

ECDH_HEAD = bytes.fromhex("0210000003000000") + bytes(512)
ECDH_384_HEAD = bytes.fromhex("0210000003010000") + bytes(512)


@pytest.mark.parametrize(("algo", "head"), [(0x003, ECDH_HEAD), (0x103, ECDH_384_HEAD)])
def test_an_ecdh_key_signs_nothing(algo, head):
    key = key_of(0x1002, algo, PEK.public)
    by_pek = slot_of(GOOD_PDH, 1).pack()
    assert verdict(with_slots(GOOD_PDH, head, EMPTY), key) == "UNSUPPORTED"
    assert verdict(with_slots(GOOD_PDH, head, MALFORMED), key) == "UNSUPPORTED"  # stops at once
    assert verdict(with_slots(GOOD_PDH, EMPTY, head), key) == "UNSUPPORTED"
    assert verdict(with_slots(GOOD_PDH, MALFORMED, head), key) == "BAD_SIGNATURE"
    assert verdict(with_slots(GOOD_PDH, by_pek, EMPTY), key) == "INVALID_CERTIFICATE"


@pytest.mark.parametrize(("bits", "expected"), [(0, "INVALID_LENGTH"), (7, "INVALID_LENGTH"), (8, "BAD_SIGNATURE")])
def test_tiny_rsa_keys(bits, expected):
    key = key_of(0x1001, 0x001, RsaPublic(0xC5, 3, bits))
    head = bytes.fromhex("0110000001000000") + bytes(512)
    assert verdict(with_slots(GOOD_PEK, head, EMPTY), key) == expected
    assert verdict(with_slots(GOOD_PEK, head, MALFORMED), key) == ("BAD_SIGNATURE" if bits == 8 else "INVALID_LENGTH")
    assert verdict(with_slots(GOOD_PEK, EMPTY, EMPTY), key) == "INVALID_CERTIFICATE"


# -- ECDSA


def pek_with(r, s, second=EMPTY) -> SevCertificate:
    slot = SignatureSlot(usage=0x1001, algo=2, signature=EcdsaSignature(r=r, s=s)).pack()
    return with_slots(GOOD_PEK, slot, second)


R, S = GOOD_PEK.sig1.r, GOOD_PEK.sig1.s


@pytest.mark.parametrize(
    ("r", "s", "expected"),
    [
        (R, S, "SUCCESS"),
        (R, N384 - S, "SUCCESS"),  # signatures are malleable
        (0, S, "BAD_SIGNATURE"),
        (R, 0, "BAD_SIGNATURE"),
        (N384, S, "BAD_SIGNATURE"),
        (R, N384, "BAD_SIGNATURE"),
        (R + N384, S, "BAD_SIGNATURE"),
        (R, S + N384, "BAD_SIGNATURE"),
        (R + (1 << 384), S, "BAD_SIGNATURE"),
        (R, S + (1 << 8 * 71), "BAD_SIGNATURE"),
        (S, R, "BAD_SIGNATURE"),
        (1, 1, "BAD_SIGNATURE"),
        (N384 - 1, N384 - 1, "BAD_SIGNATURE"),
    ],
)
def test_range_of_r_and_s(r, s, expected):
    assert verdict(pek_with(r, s), OCA_KEY) == expected
    if expected == "BAD_SIGNATURE":  # and the next slot still decides
        assert verdict(pek_with(r, s, GOOD), OCA_KEY) == "SUCCESS"


def test_infinity_stops_at_once():
    e = int.from_bytes(hashlib.sha256(GOOD_PEK.body()).digest(), "big")
    r = -e * pow(OCA.d, -1, N384) % N384  # e G + r Q = 0
    for s in (1, 12345):
        assert verdict(pek_with(r, s), OCA_KEY) == "BAD_SIGNATURE"
        assert verdict(pek_with(r, s, GOOD), OCA_KEY) == "BAD_SIGNATURE"
        assert verdict(pek_with(N384 - r, s, GOOD), OCA_KEY) == "SUCCESS"  # e G = r Q: a finite sum


def test_sha384_ecdsa_keys():
    cert = signed(0x1001, 0x102, OCA.public, (OCA, 0x1001, 0x102))
    assert verdict(cert, cert.signing_key()) == "SUCCESS"
    other = signed(0x1001, 0x102, OCA.public, (OCA, 0x1001, 0x002))
    other.sig1_algo = 0x102  # a SHA-256 signature under the other name
    assert verdict(other, cert.signing_key()) == "BAD_SIGNATURE"


# -- RSA

HASH = {0x001: (hashes.SHA256(), 32), 0x101: (hashes.SHA384(), 48)}


@pytest.mark.parametrize("algo", [0x001, 0x101])
@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_rsa_owner_keys(bits, algo):
    key = rsa_key(bits)
    cert = signed(0x1001, algo, key.public, (key, 0x1001, algo))
    assert verdict(cert, cert.signing_key()) == verdict(cert, cert.signing_key(), strict_salt=True) == "SUCCESS"
    data = bytearray(cert.pack())
    assert any(data[0x41C : 0x41C + bits // 8]) and not any(data[0x41C + bits // 8 : 0x61C])
    if bits < 4096:  # the rest of the slot is not read
        data[0x41C + bits // 8] ^= 1
        data[0x61B] ^= 0x80
        assert verdict(SevCertificate.parse(data), cert.signing_key()) == "SUCCESS"
    data[0x41C + bits // 8 - 1] ^= 1
    assert verdict(SevCertificate.parse(data), cert.signing_key()) == "BAD_SIGNATURE"
    below = signed(0x1002, 0x002, PEK.public, (key, 0x1001, algo), (CEK, 0x1004, 0x002))
    assert verdict(below, cert.signing_key()) == verdict(below, CEK_KEY) == "SUCCESS"


def test_an_rsa_pek():
    cert = signed(0x1002, 0x001, RSA1024.public, (OCA, 0x1001, 0x002))
    assert verdict(cert, OCA_KEY) == "SUCCESS"
    below = signed(0x1003, 0x003, PDH.public, (RSA1024, 0x1002, 0x001))
    assert verdict(below, cert.signing_key()) == "SUCCESS"


def library_key(key):
    n = key.public.n
    d = pow(65537, -1, (key.p - 1) * (key.q - 1))
    parts = rsa.rsa_crt_dmp1(d, key.p), rsa.rsa_crt_dmq1(d, key.q), rsa.rsa_crt_iqmp(key.p, key.q)
    return rsa.RSAPrivateNumbers(key.p, key.q, d, *parts, rsa.RSAPublicNumbers(65537, n)).private_key()


@pytest.mark.parametrize(
    ("salt", "strict"),
    [(0, "BAD_SIGNATURE"), (20, "BAD_SIGNATURE"), (31, "BAD_SIGNATURE"), (32, "SUCCESS"), (222, "BAD_SIGNATURE")],
)
def test_salt_lengths(salt, strict):
    """The firmware takes any length, the strict way only the hash's; made by the library, 222 is its greatest."""
    cert = new_certificate(0x1001, 0x001, rsa_key(2048).public, (0, 0))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    value = library_key(rsa_key(2048)).sign(cert.body(), pss, hashes.SHA256())
    slot = SignatureSlot(usage=0x1001, algo=1, signature=RsaSignature(value=int.from_bytes(value, "big")))
    add_signature(cert, slot)
    assert verdict(cert, cert.signing_key()) == "SUCCESS"
    assert verdict(cert, cert.signing_key(), strict_salt=True) == strict


def test_other_paddings_and_byte_orders():
    key = rsa_key(2048)
    cert = new_certificate(0x1001, 0x001, key.public, (0, 0))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    values = {
        "PKCS1v15": library_key(key).sign(cert.body(), padding.PKCS1v15(), hashes.SHA256()),
        "big-endian": library_key(key).sign(cert.body(), pss, hashes.SHA256())[::-1],
    }
    for value in values.values():
        slot = SignatureSlot(usage=0x1001, algo=1, signature=RsaSignature(value=int.from_bytes(value, "big")))
        other = SevCertificate.parse(cert.pack())
        add_signature(other, slot)
        assert verdict(other, cert.signing_key()) == "BAD_SIGNATURE"


@pytest.mark.parametrize(("n", "e"), [(0, 0), (1, 1), (1 << 2047, 65537), ((1 << 2048) - 1, 2)])
def test_senseless_rsa_keys_verify_nothing(n, e):
    head = bytes.fromhex("0110000001000000") + bytes(512)
    assert verdict(with_slots(GOOD_PEK, head, EMPTY), key_of(0x1001, 0x001, RsaPublic(n, e, 2048))) == "BAD_SIGNATURE"


# -- steps 7 and 8


def test_version_after_the_signature():
    cert = new_certificate(0x1002, 0x002, PEK.public, (0, 24))
    cert.version = 2
    sign_certificate(cert, OCA, 0x1001, 0x002)
    assert verdict(cert, OCA_KEY) == "INVALID_CERTIFICATE"
    cert.sig1.s ^= 1
    assert verdict(cert, OCA_KEY) == "BAD_SIGNATURE"
    with pytest.raises(SevError, match="VERSION is 2"):
        check_peer(cert)


USAGES = (0x0000, 0x0013, 0x1001, 0x1002, 0x1003, 0x1004)
MAY_SIGN = {(0x1003, 0x1002), (0x1002, 0x1001), (0x1002, 0x1004), (0x1001, 0x1001), (0x1004, 0x0013)}


@pytest.mark.parametrize(("usage", "signer"), list(itertools.product(USAGES, USAGES)))
def test_who_may_sign_whom(usage, signer):
    cert = signed(usage, 0x002, PEK.public, (STRANGER, signer, 0x002))
    expected = "SUCCESS" if (usage, signer) in MAY_SIGN else "INVALID_CERTIFICATE"
    assert verdict(cert, key_of(signer, 0x002, STRANGER.public)) == expected


def test_what_is_never_checked():
    cert = new_certificate(0x1002, 0x102, PEK.public, (9, 9))
    cert.reserved = b"\xff\xff"
    cert.pubkey.filler = b"\xff" * 880
    sign_certificate(cert, OCA, 0x1001, 0x002)
    cert.sig1.filler = b"\xff" * 368
    assert verdict(cert, OCA_KEY) == "SUCCESS"
    ecdh = signed(0x1002, 0x003, PEK.public, (OCA, 0x1001, 0x002))
    assert verdict(ecdh, OCA_KEY) == "SUCCESS"  # that the algorithm suits the usage


def test_the_signature_covers_the_whole_body_and_no_slot():
    for offset in range(0, 0x414, 13):
        data = bytearray(GOOD_PDH.pack())
        data[offset] ^= 0x40
        assert verdict(SevCertificate.parse(data), PEK_KEY) == "BAD_SIGNATURE", hex(offset)
    last = bytearray(GOOD_PDH.pack())
    last[0x413] ^= 0x01
    assert verdict(SevCertificate.parse(last), PEK_KEY) == "BAD_SIGNATURE"


# -- S

PEER = [
    ({}, "SUCCESS"),
    ({"pubkey_usage": 0x1002}, "INVALID_CERTIFICATE"),
    ({"pubkey_algo": 0x103}, "INVALID_CERTIFICATE"),
    ({"pubkey_algo": 0x002}, "INVALID_CERTIFICATE"),
    ({"version": 0}, "INVALID_CERTIFICATE"),
    ({"version": 0x101}, "INVALID_CERTIFICATE"),
    ({"api_major": 255, "api_minor": 255, "reserved": b"\1\1"}, "SUCCESS"),
    ({"sig1_usage": 0, "sig2_algo": 77}, "SUCCESS"),
]


@pytest.mark.parametrize(("fields", "expected"), PEER)
def test_peer(fields, expected):
    cert = changed(GOOD_PDH, **fields)
    if expected == "SUCCESS":
        check_peer(cert)
    else:
        with pytest.raises(SevError, match=expected):
            check_peer(cert)


@pytest.mark.parametrize("what", INVALID_KEYS)
def test_peer_key(what):
    with pytest.raises(SevError, match="INVALID_CERTIFICATE"):
        check_peer(parsed(key_with(what, usage=0x1003)))


def test_an_unsigned_peer_certificate_passes():
    check_peer(new_certificate(0x1003, 0x003, PDH.public, (0, 0)))


# -- making signatures


def test_the_first_free_slot_is_overwritten():
    cert = new_certificate(0x1002, 0x002, PEK.public, (0, 24))
    cert = with_slots(cert, bytes.fromhex("0010000002000000") + b"\xff" * 512, EMPTY)  # free: usage alone counts
    sign_certificate(cert, OCA, 0x1001, 0x002)
    assert cert.pack()[0x414:] == GOOD + EMPTY
    add_signature(cert, BY_CEK)
    assert cert.pack() == GOOD_PEK.pack()
    with pytest.raises(SevError, match="INVALID_CERTIFICATE"):
        add_signature(cert, BY_CEK)
    assert cert.pack() == GOOD_PEK.pack()


def test_a_free_second_slot():
    cert = with_slots(GOOD_PEK, GOOD, EMPTY)
    sign_certificate(cert, CEK, 0x1004, 0x002)
    assert cert.pack() == GOOD_PEK.pack()
    with pytest.raises(SevError, match="INVALID_CERTIFICATE"):
        add_signature(with_slots(GOOD_PEK, MALFORMED, GOOD), GOOD)  # all zero is not free


def test_nonce_and_salt_are_the_callers():
    cert = new_certificate(0x1001, 0x002, OCA.public, (0, 0))
    nonces = iter([5, 7])
    one = make_signature(cert, OCA, 0x1001, 0x002, nonce=lambda: next(nonces))
    two = make_signature(cert, OCA, 0x1001, 0x002, nonce=lambda: next(nonces))
    assert (one.signature.r, two.signature.r) == (PrivateKey(5).public.x % N384, PrivateKey(7).public.x % N384)
    again = make_signature(cert, OCA, 0x1001, 0x002)
    assert again == make_signature(cert, OCA, 0x1001, 0x002) != one  # deterministic without a nonce
    cert = new_certificate(0x1001, 0x001, RSA1024.public, (0, 0))
    salted = [make_signature(cert, RSA1024, 0x1001, 0x001, salt=bytes([n]) * 32) for n in (1, 1, 2)]
    assert salted[0] == salted[1] != salted[2]
    assert make_signature(cert, RSA1024, 0x1001, 0x001) != make_signature(cert, RSA1024, 0x1001, 0x001)


@pytest.mark.parametrize(
    ("key", "algo"), [(OCA, 0x001), (RSA1024, 0x002), (OCA, 0x003), (OCA, 0x000), (RSA1024, 0x103)]
)
def test_a_key_signs_only_with_its_algorithms(key, algo):
    with pytest.raises(InputError):
        sign_certificate(new_certificate(0x1001, 0x002, OCA.public, (0, 0)), key, 0x1001, algo)
