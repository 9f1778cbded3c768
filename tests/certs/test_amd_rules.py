"""Checks of an ARK and an ASK, and the AMD certificate buffer of SEND_START."""

import dataclasses

import pytest

from certs.keys import naples
from sevref import InputError, SevError
from sevref.certs import AmdCertificate, Usage, amd_roots, read_amd_chain, simulated_key, simulated_roots, validate_amd
from sevref.crypto import rsa_pss_sign

ROOT = simulated_roots("naples")
NAPLES, MILAN = ROOT.generation, simulated_roots("milan").generation
ARK_KEY = simulated_key("naples", Usage.ARK)


def verdict(cert, parent, usage, generation=NAPLES, **how) -> str:
    try:
        validate_amd(cert, parent, usage, generation, **how)
    except SevError as error:
        return error.status.name
    return "SUCCESS"


def resigned(cert, key=ARK_KEY, hash_name="sha256", salt=bytes(32), **fields) -> AmdCertificate:
    """A changed certificate whose signature is right."""
    cert = cert.replace(**fields)
    cert.signature = rsa_pss_sign(key, cert.signed_bytes(), salt, hash_name)
    return cert


CHANGES = [  # of the ASK: status with the old signature, and when signed again
    ({}, "SUCCESS", "SUCCESS"),
    ({"version": 2}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"version": 0x101}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"key_usage": 0x00}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"key_usage": 0x12}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"key_usage": 0x1013}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"certifying_id": ROOT.ark.key_id[:15] + b"\0"}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),  # 16 bytes count
    ({"certifying_id": b"\0" + ROOT.ark.key_id[1:]}, "BAD_SIGNATURE", "INVALID_CERTIFICATE"),
    ({"key_id": bytes(16)}, "BAD_SIGNATURE", "SUCCESS"),
    ({"reserved": b"\1" * 16}, "BAD_SIGNATURE", "SUCCESS"),
    ({"pubexp": 3}, "BAD_SIGNATURE", "SUCCESS"),
]


@pytest.mark.parametrize(("fields", "old", "again"), CHANGES)
def test_the_signature_comes_before_the_fields(fields, old, again):
    assert verdict(ROOT.ask.replace(**fields), ROOT.ark, 0x13) == old
    assert verdict(resigned(ROOT.ask, **fields), ROOT.ark, 0x13) == again


@pytest.mark.parametrize("field", ["modulus_size", "pubexp_size"])
@pytest.mark.parametrize("bits", [0, 1024, 2047, 2049, 2304, 3072, 8192])
def test_the_sizes_come_before_the_signature(field, bits):
    cert = ROOT.ask.replace(**{field: bits}, pubexp=3, modulus=5, signature=0)
    with pytest.raises(SevError, match=f"INVALID_CERTIFICATE.*is {bits} bits"):
        validate_amd(cert, ROOT.ark, 0x13, NAPLES)


def test_the_arks_own_checks():
    ark = ROOT.ark
    assert verdict(ark, ark, 0x00, root=ROOT) == "SUCCESS"
    assert verdict(ark, ark, 0x13, root=ROOT) == "INVALID_CERTIFICATE"
    other_id = resigned(ark, key_id=bytes(15) + b"\1", certifying_id=bytes(15) + b"\1")
    assert verdict(other_id, other_id, 0x00) == "SUCCESS"
    with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*KEY_ID"):
        validate_amd(other_id, other_id, 0x00, NAPLES, root=ROOT)
    last_byte = ark.key_id[:15] + bytes([ark.key_id[15] ^ 1])
    close = resigned(ark, key_id=last_byte, certifying_id=last_byte)
    with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*KEY_ID"):
        validate_amd(close, close, 0x00, NAPLES, root=ROOT)
    other_bytes = resigned(ark, reserved=b"\1" + bytes(15))
    with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*root hash"):
        validate_amd(other_bytes, other_bytes, 0x00, NAPLES, root=ROOT)
    resalted = resigned(ark, salt=b"\1" * 32)  # the root hash does not cover the signature
    assert resalted != ark and verdict(resalted, resalted, 0x00, root=ROOT) == "SUCCESS"


def test_the_pinned_hash_is_what_counts():
    pinned = dataclasses.replace(ROOT, root_hash=bytes(32))
    assert verdict(ROOT.ark, ROOT.ark, 0x00, root=pinned) == "INVALID_CERTIFICATE"


def test_salt_lengths():
    for salt, strict in ((bytes(0), "BAD_SIGNATURE"), (bytes(32), "SUCCESS"), (bytes(222), "BAD_SIGNATURE")):
        ask = resigned(ROOT.ask, salt=salt)
        assert verdict(ask, ROOT.ark, 0x13) == "SUCCESS"
        assert verdict(ask, ROOT.ark, 0x13, strict_salt=True) == strict


def test_the_generation_decides_the_hash():
    assert verdict(ROOT.ask, ROOT.ark, 0x13, MILAN) == "BAD_SIGNATURE"
    sha384 = resigned(ROOT.ask, hash_name="sha384", salt=bytes(48))
    assert verdict(sha384, ROOT.ark, 0x13, MILAN) == "SUCCESS"
    assert verdict(sha384, ROOT.ark, 0x13, NAPLES) == "BAD_SIGNATURE"


def test_amds_naples_chain_under_other_generations():
    real = amd_roots("naples")
    assert verdict(real.ark, real.ark, 0x00, MILAN) == "BAD_SIGNATURE"
    milan = amd_roots("milan")
    with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*KEY_ID"):
        validate_amd(milan.ark, milan.ark, 0x00, MILAN, root=amd_roots("genoa"))


# -- the buffer of SEND_START

BIG = simulated_roots("milan")


def pair(data: bytes) -> tuple[int, int]:
    ask, ark = read_amd_chain(data)
    return ask.modulus_size, ark.modulus_size


def both(ask, ark) -> bytes:
    return ask.pack() + ark.pack()


def walk(data: bytes, generation) -> str:
    """Parse, then ARK, then ASK: what SEND_START does."""
    try:
        ask, ark = read_amd_chain(data)
        validate_amd(ark, ark, 0x00, generation)
        validate_amd(ask, ark, 0x13, generation)
    except SevError as error:
        return error.status.name
    return "SUCCESS"


def test_the_four_lengths():
    assert pair(both(ROOT.ask, ROOT.ark)) == (2048, 2048)
    assert pair(both(BIG.ask, BIG.ark)) == (4096, 4096)
    for size in (0, 1408, 1663, 1665, 3199, 3201, 3264):
        with pytest.raises(SevError, match="INVALID_LENGTH"):
            read_amd_chain(both(BIG.ask, BIG.ark).ljust(4000, b"\0")[:size])


def test_two_small_certificates_in_a_long_buffer():
    for size in (1664, 2176, 2688, 3200):
        assert walk(both(ROOT.ask, ROOT.ark).ljust(size, b"\xaa"), NAPLES) == "SUCCESS"


def test_the_ark_must_end_within_the_buffer():
    data = both(BIG.ask, BIG.ark)
    assert walk(data, MILAN) == "SUCCESS"
    assert walk(data[:1664], MILAN) == "INVALID_CERTIFICATE"
    assert walk(data[:1600] + bytes(64), MILAN) == "INVALID_CERTIFICATE"
    assert walk(bytes(1664), MILAN) == "INVALID_CERTIFICATE"


@pytest.mark.parametrize(
    ("exponent", "modulus", "parses"),
    [
        (2048, 2304, True),  # found by the check of the sizes
        (2048, 4096, True),
        (4096, 4104, False),  # 1602 bytes
        (4104, 4096, False),  # 1601 bytes
        (4103, 4103, True),  # whole bytes, rounded down
        (12800, 8, False),
        (8, 12800, False),
        (0xFFFFFFFF, 0xFFFFFFFF, False),
    ],
)
def test_sizes_that_do_not_fit(exponent, modulus, parses):
    data = bytearray(both(BIG.ask, BIG.ark))
    data[0x38:0x40] = exponent.to_bytes(4, "little") + modulus.to_bytes(4, "little")
    if parses:
        ask = bytes(data[: 64 + exponent // 8 + 2 * (modulus // 8)])
        data = (ask + BIG.ark.pack()).ljust(3200, b"\0")
        assert pair(bytes(data)) == (modulus, 4096)
        assert walk(bytes(data), MILAN) == ("BAD_SIGNATURE" if modulus == 4096 else "INVALID_CERTIFICATE")
    else:
        with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*ASK"):
            read_amd_chain(bytes(data))


def mixed(ask_key, ark_key, ask_bits, ark_bits) -> tuple[AmdCertificate, bytes, bytes]:
    """An ARK, the signed bytes of an ASK below it, and the ASK's signature as the ARK's size makes it."""
    ark_n, ask_n = ark_key.public.n, ask_key.public.n
    ark = AmdCertificate(
        version=1, key_id=b"R" * 16, certifying_id=b"R" * 16, key_usage=0, pubexp_size=ark_bits,
        modulus_size=ark_bits, pubexp=65537, modulus=ark_n, signature=0,
    )  # fmt: skip
    ark.signature = rsa_pss_sign(ark_key, ark.signed_bytes(), bytes(48), "sha384")
    ask = ark.replace(key_id=b"S" * 16, key_usage=0x13, pubexp_size=ask_bits, modulus_size=ask_bits, modulus=ask_n)
    ask.signature = 0
    value = rsa_pss_sign(ark_key, ask.signed_bytes(), bytes(48), "sha384")
    return ark, ask.signed_bytes(), value.to_bytes(ark_bits // 8, "little")


def test_mixed_sizes():
    small, big = simulated_key("naples", Usage.ASK), simulated_key("milan", Usage.ASK)
    ark, body, signature = mixed(big, ARK_KEY, 4096, 2048)
    natural = body + signature + ark.pack()
    assert len(natural) == 2176 and walk(natural, MILAN) == "INVALID_CERTIFICATE"
    padded = body + signature.ljust(512, b"\0") + ark.pack()
    assert len(padded) == 2432 and walk(padded.ljust(3200, b"\0"), MILAN) == "SUCCESS"
    ark, body, signature = mixed(small, simulated_key("milan", Usage.ARK), 2048, 4096)
    natural = body + signature + ark.pack()
    assert len(natural) == 2688 and walk(natural, MILAN) == "INVALID_CERTIFICATE"
    for_the_parser = body + signature[:256] + ark.pack()
    assert walk(for_the_parser.ljust(2688, b"\0"), MILAN) == "BAD_SIGNATURE"


def test_a_bundle_is_no_certificate():
    with pytest.raises(InputError):
        AmdCertificate.parse(naples()["ask"] + naples()["ark"])
