"""Mutated certificates: only the documented errors come out, and only unread bytes may change unnoticed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certs.keys import NAPLES, naples
from sevref import InputError, SevError, parse_certificate, verify_chain
from sevref.certs import (
    AmdCertificate,
    Chain,
    SevCertificate,
    amd_roots,
    check_peer,
    load_chain,
    validate,
    validate_amd,
)
from sevref.certs.files import split
from sevref.layout import Layout

# Bytes of the real Naples chain that no signature covers and no rule reads, first and last: behind s of an ECDSA
# signature, behind the 256 bytes of the ASK's RSA signature, and the data of an empty slot.
UNREAD = {
    "ark": [],
    "ask": [],
    "cek": [(0x51C, 0x61B), (0x624, 0x823)],
    "oca": [(0x4AC, 0x61B), (0x624, 0x823)],
    "pek": [(0x4AC, 0x61B), (0x6B4, 0x823)],
    "pdh": [(0x4AC, 0x61B), (0x624, 0x823)],
}
# what a look at a peer's certificate reads: version, usage, algorithm, curve and coordinates
PEER_READS = [(0x000, 0x003), (0x008, 0x0A3)]
EDGES = [
    (place, offset)
    for place, ranges in UNREAD.items()
    for first, last in ranges
    for offset in (first - 1, first, last, last + 1)
    if offset < 0x824
]
XOR = st.integers(1, 255)
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def within(offset: int, ranges) -> bool:
    return any(first <= offset <= last for first, last in ranges)


def chain_with(place: str, data: bytes) -> Chain:
    certs = {name: parse_certificate(value) for name, value in naples().items() if name != place}
    parse = AmdCertificate.parse_prefix if place in ("ark", "ask") else SevCertificate.parse
    return Chain(**certs, **{place: parse(data)})


def changed(place: str, offset: int, xor: int) -> bytes:
    data = bytearray(naples()[place])
    data[offset % len(data)] ^= xor
    return bytes(data)


def accepted(place: str, data: bytes) -> bool:
    """Whether the chain is valid; InputError (the sizes of an AMD certificate) is a refusal too."""
    try:
        result = verify_chain(chain_with(place, data))
    except InputError:
        assert place in ("ark", "ask")
        return False
    assert result.valid == (not result.failures)
    assert not result.valid or data == naples()[place] or result.warnings
    return result.valid


@QUICK
@given(st.sampled_from(NAPLES), st.integers(0, 2083), XOR)
def test_one_byte(place, offset, xor):
    offset %= len(naples()[place])
    assert accepted(place, changed(place, offset, xor)) == within(offset, UNREAD[place])


@pytest.mark.parametrize(("place", "offset"), EDGES)
def test_the_edges(place, offset):
    assert accepted(place, changed(place, offset, 0x01)) == within(offset, UNREAD[place])


@pytest.mark.parametrize("place", NAPLES)
def test_every_byte_of_the_slot_heads(place):
    """Usage and algorithm of both slots: the few bytes outside the body that a rule reads."""
    if place in ("ark", "ask"):
        heads = range(64)
    else:
        heads = (*range(0x414, 0x41C), *range(0x61C, 0x624))
    for offset in heads:
        for xor in (0x01, 0x80):
            assert not accepted(place, changed(place, offset, xor)), hex(offset)


@QUICK
@given(st.sampled_from(NAPLES), st.lists(st.tuples(st.integers(0, 2083), XOR), min_size=2, max_size=6))
def test_several_bytes(place, changes):
    data = bytearray(naples()[place])
    for offset, xor in changes:
        data[offset % len(data)] ^= xor
    differ = [i for i, (a, b) in enumerate(zip(data, naples()[place], strict=True)) if a != b]
    assert accepted(place, bytes(data)) == all(within(offset, UNREAD[place]) for offset in differ)


@QUICK
@given(st.integers(0, 2083), XOR)
def test_a_peer_certificate(offset, xor):
    cert = SevCertificate.parse(changed("pdh", offset, xor))
    try:
        check_peer(cert)
    except SevError as error:
        assert error.status.name == "INVALID_CERTIFICATE" and within(offset, PEER_READS)
    else:
        assert not within(offset, PEER_READS)


ALGOS = st.sampled_from([0, 1, 2, 3, 0x101, 0x102, 0x103, 0xFF])
USAGES = st.sampled_from([0, 0x13, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004, 0xFF])


@st.composite
def wild_certificates(draw):
    """2084 bytes, mostly random, with heads that lead deep into the rules."""
    data = bytearray(draw(st.binary(min_size=64, max_size=64)) * 33)[:2084]
    if draw(st.booleans()):
        data = bytearray(naples()[draw(st.sampled_from(["cek", "oca", "pek", "pdh"]))])
    for offset, kind in (
        (0x008, USAGES),
        (0x00C, ALGOS),
        (0x414, USAGES),
        (0x418, ALGOS),
        (0x61C, USAGES),
        (0x620, ALGOS),
    ):
        data[offset : offset + 4] = draw(kind).to_bytes(4, "little")
    data[0x010:0x014] = draw(st.sampled_from([0, 2, 7, 8, 512, 1024, 4096, 4097, 1 << 31])).to_bytes(4, "little")
    return SevCertificate.parse(data)


@QUICK
@given(wild_certificates(), wild_certificates())
def test_only_documented_errors(cert, parent):
    for key in (
        parent.signing_key(),
        cert.signing_key(),
        amd_roots("milan").ask.signing_key(amd_roots("milan").generation),
    ):
        with pytest.raises(SevError) as caught:
            validate(cert, key)
        assert caught.value.status.name in ("BAD_SIGNATURE", "INVALID_CERTIFICATE", "UNSUPPORTED", "INVALID_LENGTH")
    result = verify_chain(Chain(cek=cert, oca=parent, pek=cert, pdh=parent), strict=True)
    assert not result.valid
    assert isinstance(cert, Layout) and cert.describe() and cert.problems() is not None and repr(cert)


@QUICK
@given(
    st.binary(min_size=64, max_size=1700),
    st.sampled_from([0, 8, 2048, 4096, 2304]),
    st.sampled_from([0, 8, 2048, 4096, 2304]),
)
def test_wild_amd_certificates(data, exponent, modulus):
    data = bytearray(data)
    data[0x38:0x40] = exponent.to_bytes(4, "little") + modulus.to_bytes(4, "little")
    try:
        cert = AmdCertificate.parse_prefix(bytes(data))
    except InputError:
        return
    root = amd_roots("naples")
    for parent in (cert, root.ark):
        with pytest.raises(SevError):
            validate_amd(cert, parent, 0x13, root.generation, root=root)
    for chain in (chain_with("ask", naples()["ask"]), chain_with("ark", naples()["ark"])):
        chain.ask, chain.ark = (cert, chain.ark) if data[0] & 1 else (chain.ask, cert)
        assert not verify_chain(chain, strict=True).valid


@QUICK
@given(
    st.lists(st.tuples(st.sampled_from(NAPLES), st.integers(0, 2100)), max_size=7),
    st.lists(st.tuples(st.integers(0, 12000), XOR), max_size=4),
)
def test_files_of_anything(parts, changes):
    data = bytearray(b"".join(naples()[place][:cut] for place, cut in parts))
    for offset, xor in changes:
        if data:
            data[offset % len(data)] ^= xor
    try:
        found = split(bytes(data), "file")
    except InputError as error:
        assert str(error).startswith("file")
    else:
        verify_chain(Chain(**dict(found)))


@QUICK
@given(st.binary(max_size=3000))
def test_garbage_in_a_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(data)
    with pytest.raises(InputError, match="garbage"):
        load_chain(path)
