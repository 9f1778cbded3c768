"""Both certificate formats: every byte has its field, and every byte survives."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.keys import OCA, naples, rsa_key
from sevref import InputError
from sevref.certs import (
    AmdCertificate,
    AmdSignedPart,
    CertificateBody,
    EcdsaSignature,
    EcKey,
    RsaKey,
    RsaSignature,
    SevCertificate,
    SignatureSlot,
    new_certificate,
    parse_certificate,
)
from sevref.crypto import RsaPublic
from support import vectors

# offset and size in bytes, from the tables of the certificate format
SEV_EC = [
    ("version", 0x000, 4),
    ("api_major", 0x004, 1),
    ("api_minor", 0x005, 1),
    ("reserved", 0x006, 2),
    ("pubkey_usage", 0x008, 4),
    ("pubkey_algo", 0x00C, 4),
    ("pubkey.curve", 0x010, 4),
    ("pubkey.qx", 0x014, 72),
    ("pubkey.qy", 0x05C, 72),
    ("pubkey.filler", 0x0A4, 880),
    ("sig1_usage", 0x414, 4),
    ("sig1_algo", 0x418, 4),
    ("sig1.r", 0x41C, 72),
    ("sig1.s", 0x464, 72),
    ("sig1.filler", 0x4AC, 368),
    ("sig2_usage", 0x61C, 4),
    ("sig2_algo", 0x620, 4),
    ("sig2", 0x624, 512),
]
AMD_2048 = [
    ("version", 0x00, 4),
    ("key_id", 0x04, 16),
    ("certifying_id", 0x14, 16),
    ("key_usage", 0x24, 4),
    ("reserved", 0x28, 16),
    ("pubexp_size", 0x38, 4),
    ("modulus_size", 0x3C, 4),
    ("pubexp", 0x40, 256),
    ("modulus", 0x140, 256),
    ("signature", 0x240, 256),
]
ANCHORS = {  # file: API, key usage and algorithm, slot 1, slot 2, first bytes of QX, SHA-256 of the body
    "pdh": ((0, 16), (0x1003, 3), (0x1002, 2), (0x1000, 0), "95522057542425d5", "dbec0cf343b140dc7ded571935e8d0ec8059fd1610ddb3c79eb177e7cd3878a2"),
    "pek": ((0, 16), (0x1002, 2), (0x1001, 2), (0x1004, 2), "2b5331da2f7add5f", "8d55d63b6792c6ed10e11df7afc7e25d6a0428a6351fb9a806ec4160f2b0f390"),
    "oca": ((0, 16), (0x1001, 2), (0x1001, 2), (0x1000, 0), "69d3d4e9f4b1b232", "70bb8f3702b22e848ef7a5dac704186ee80a889273443b4b5466da9405d4cc03"),
    "cek": ((0, 14), (0x1004, 2), (0x0013, 1), (0x1000, 0), "e55b6e37941e810f", "0f6570c3ddec6b393398084251f6924fcfb7d8fa1779e4e36dbbca30ee0c4f38"),
    "cek.unsigned": ((0, 16), (0x1004, 2), (0x1000, 0), (0x1000, 0), "e55b6e37941e810f", "437eca39c38954f6116cbfa280d3c4ca5e38bde497d6f09de21d6dda1baeeb9e"),
}  # fmt: skip


def rows(cert):
    return [(row.name, row.offset, row.size) for row in cert.describe()]


def test_fields_of_a_sev_certificate():
    assert rows(SevCertificate.parse(naples()["pdh"])) == SEV_EC


def test_fields_of_an_amd_certificate():
    assert rows(AmdCertificate.parse(naples()["ark"])) == AMD_2048


def test_fields_of_rsa_keys_and_signatures():
    cert = bytearray(2084)
    cert[0x00C:0x014] = (0x101).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    cert[0x418] = 1
    assert rows(SevCertificate.parse(cert))[6:13] == [
        ("pubkey.modulus_size", 0x010, 4),
        ("pubkey.pubexp", 0x014, 256),
        ("pubkey.pubexp_filler", 0x114, 256),
        ("pubkey.modulus", 0x214, 256),
        ("pubkey.modulus_filler", 0x314, 256),
        ("sig1_usage", 0x414, 4),
        ("sig1_algo", 0x418, 4),
    ]
    assert rows(SevCertificate.parse(cert))[13] == ("sig1.value", 0x41C, 512)


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors(name):
    data = vectors("certs", "naples", f"{name}.cert").read_bytes()
    api, key, slot1, slot2, qx, body = ANCHORS[name]
    cert = SevCertificate.parse(data)
    assert (cert.api_major, cert.api_minor) == api
    assert (cert.pubkey_usage, cert.pubkey_algo) == key
    assert [(slot.usage, slot.algo) for slot in cert.slots] == [slot1, slot2]
    assert cert.public_point.x.to_bytes(48, "little")[:8].hex() == qx
    assert hashlib.sha256(cert.body()).hexdigest() == body
    assert hashlib.sha256(CertificateBody.parse(data[:0x414]).pack()).hexdigest() == body
    assert b"".join(slot.pack() for slot in cert.slots) == data[0x414:]
    assert SignatureSlot.parse(data[0x61C:]) == cert.slots[1]


@pytest.mark.parametrize(
    ("algo", "key", "signature"),
    [
        (0x000, bytes, bytes),
        (0x001, RsaKey, RsaSignature),
        (0x101, RsaKey, RsaSignature),
        (0x002, EcKey, EcdsaSignature),
        (0x102, EcKey, EcdsaSignature),
        (0x003, EcKey, bytes),
        (0x103, EcKey, bytes),
        (0x004, bytes, bytes),
    ],
)
def test_unions_follow_the_algorithm(algo, key, signature):
    data = bytearray(2084)
    for offset in (0x00C, 0x418, 0x620):
        data[offset : offset + 4] = algo.to_bytes(4, "little")
    cert = SevCertificate.parse(data)
    assert (type(cert.pubkey), type(cert.sig1), type(cert.sig2)) == (key, signature, signature)


@settings(deadline=None)
@given(st.binary(min_size=2084, max_size=2084), st.sampled_from([0, 1, 2, 3, 0x101, 0x102, 0x103, 0xFFFF]))
def test_any_2084_bytes_come_back(data, algo):
    data = bytearray(data)
    for offset in (0x00C, 0x418, 0x620):
        data[offset : offset + 4] = algo.to_bytes(4, "little")
    for kind in (bytes(data), bytes(data[:0x010]) + (4096).to_bytes(4, "little") + bytes(data[0x014:])):
        cert = parse_certificate(kind)
        assert cert.pack() == kind and cert.body() == kind[:0x414]
        described = cert.describe()
        assert b"".join(row.data for row in described) == kind
        assert all(row.meaning for row in described)


@settings(deadline=None)
@given(st.binary(min_size=1600, max_size=1600), st.sampled_from([2048, 4096]), st.sampled_from([2048, 4096]))
def test_amd_certificates_of_all_sizes_come_back(data, exponent, modulus):
    size = 64 + exponent // 8 + 2 * modulus // 8
    data = bytearray(data[:size])
    data[0x38:0x40] = exponent.to_bytes(4, "little") + modulus.to_bytes(4, "little")
    cert = parse_certificate(bytes(data))
    assert isinstance(cert, AmdCertificate) and cert.pack() == data
    assert cert.signed_bytes() == data[: size - modulus // 8] == AmdSignedPart.parse(cert.signed_bytes()).pack()
    assert cert.signature_int == int.from_bytes(data[size - modulus // 8 :], "little")
    assert cert.sha256 == hashlib.sha256(data).hexdigest()


def test_a_fresh_certificate():
    data = new_certificate(0x1003, 0x003, OCA.public, (1, 55)).pack()
    expected = bytearray(2084)
    expected[0], expected[4], expected[5], expected[8:10], expected[0x0C], expected[0x10] = 1, 1, 55, b"\x03\x10", 3, 2
    expected[0x14:0x44] = OCA.public.x.to_bytes(48, "little")
    expected[0x5C:0x8C] = OCA.public.y.to_bytes(48, "little")
    expected[0x415] = expected[0x61D] = 0x10
    assert data == expected


def test_a_fresh_rsa_certificate():
    key = rsa_key(2048).public
    data = new_certificate(0x1001, 0x101, key, (0, 0)).pack()
    assert data[0x0C:0x14] == bytes.fromhex("0101000000080000")
    assert data[0x14:0x214] == (65537).to_bytes(512, "little")
    assert data[0x214:0x414] == key.n.to_bytes(512, "little")


def test_a_key_of_another_kind_is_refused():
    with pytest.raises(InputError):
        new_certificate(0x1001, 0x001, OCA.public, (0, 0))
    with pytest.raises(InputError):
        new_certificate(0x1001, 0x002, rsa_key(2048).public, (0, 0))
    with pytest.raises(InputError):
        new_certificate(0x1001, 0x001, RsaPublic(1 << 4097, 3, 4098), (0, 0))
    with pytest.raises(InputError):
        _ = new_certificate(0x1001, 0x001, rsa_key(2048).public, (0, 0)).public_point


# -- bad input


@pytest.mark.parametrize("size", [0, 1, 63, 64, 575, 577, 831, 833, 1599, 1601, 2083, 2085, 2092, 4168])
def test_other_sizes_are_named(size):
    with pytest.raises(InputError, match=f"found {size} bytes"):
        parse_certificate(bytes(size), "my file")


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0x3D, 0x09, "MODULUS_SIZE at offset 0x3C: expected 2048 or 4096 bits, found 2304 bits"),
        (0x39, 0x00, "PUBEXP_SIZE at offset 0x38: expected 2048 or 4096 bits, found 0 bits"),
        (0x3F, 0xFF, "MODULUS_SIZE at offset 0x3C"),
        (0x39, 0x10, "expected 1088 bytes by its size fields, found 832 bytes"),
    ],
)
def test_size_fields_that_do_not_fit_are_named(offset, value, words):
    data = bytearray(naples()["ask"])
    data[offset] = value
    with pytest.raises(InputError, match=words):
        parse_certificate(bytes(data))


def test_the_prefix_reads_zero_behind_the_end():
    data = bytearray(naples()["ark"])
    data[0x3D] = 0x09  # 2304 bits: 896 bytes, 64 more than there are
    cert = AmdCertificate.parse_prefix(bytes(data))
    assert cert.modulus_size == 2304 and cert.pack() == data + bytes(64)
    assert AmdCertificate.parse_prefix(naples()["ark"] + b"rest").pack() == naples()["ark"]
    data[0x3E] = 0x01  # 67840 bits
    with pytest.raises(InputError, match="at most 1600 bytes"):
        AmdCertificate.parse_prefix(bytes(data))
    with pytest.raises(InputError):
        AmdCertificate.parse_prefix(bytes(63))
