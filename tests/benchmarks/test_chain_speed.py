"""Chain verification against its raw signature checks: the library's verify calls on the same bytes.

Our side parses all six certificates anew each time. Both sides have the library's key objects ready: the raw side in a
list, ours in the cache that is keyed by the key's numbers. Nothing else is kept from one verification to the next.
"""

from collections.abc import Callable
from itertools import cycle

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from certs.keys import NAPLES, naples
from sevref import SimulatedAmd, verify_chain
from sevref.certs import (
    AmdCertificate,
    Chain,
    Roots,
    SevCertificate,
    amd_roots,
    new_certificate,
    sign_certificate,
    simulated_roots,
)
from sevref.crypto import PrivateKey

PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def point(data: bytes) -> ec.EllipticCurvePublicKey:
    """The EC key at 0x014 and 0x05C of a certificate."""
    x, y = number(data[0x014:0x05C]), number(data[0x05C:0x0A4])
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()


def rsa_key(data: bytes) -> rsa.RSAPublicKey:
    """The key of an AMD certificate of 2048 bits."""
    return rsa.RSAPublicNumbers(number(data[0x40:0x140]), number(data[0x140:0x240])).public_key()


def raw_checks(certs: dict[str, bytes]) -> list[Callable[[], None]]:
    """The seven signature checks of a Naples chain, keys and signatures ready."""
    ark, ask, cek, oca, pek, pdh = (certs[place] for place in NAPLES)

    def by_rsa(signer: bytes, signature: bytes, message: bytes) -> Callable[[], None]:
        key = rsa_key(signer)
        return lambda: key.verify(signature[::-1], message, PSS, hashes.SHA256())

    def by_ec(signer: bytes, cert: bytes, slot: int) -> Callable[[], None]:
        key, body = point(signer), cert[:0x414]
        r, s = number(cert[slot + 8 : slot + 80]), number(cert[slot + 80 : slot + 152])
        signature = encode_dss_signature(r, s)
        return lambda: key.verify(signature, body, ec.ECDSA(hashes.SHA256()))

    return [
        by_rsa(ark, ark[0x240:], ark[:0x240]),
        by_rsa(ark, ask[0x240:], ask[:0x240]),
        by_rsa(ask, cek[0x41C:0x51C], cek[:0x414]),
        by_ec(oca, oca, 0x414),
        by_ec(oca, pek, 0x414),
        by_ec(cek, pek, 0x61C),
        by_ec(pek, pdh, 0x414),
    ]


def verify(certs: dict[str, bytes], roots: Roots) -> None:
    amd = {place: AmdCertificate.parse(certs[place]) for place in ("ark", "ask")}
    sev = {place: SevCertificate.parse(certs[place]) for place in ("cek", "oca", "pek", "pdh")}
    assert verify_chain(Chain(**amd, **sev), roots).valid


def simulated_chain(index: int) -> dict[str, bytes]:
    """A chain with keys of its own."""
    keys = [PrivateKey(1000 * index + n) for n in range(1, 5)]
    cek_key, oca_key, pek_key, pdh_key = keys
    amd = SimulatedAmd("naples", seed=bytes([index]))
    amd.register(bytes(64), cek_key.public)
    oca = new_certificate(0x1001, 0x002, oca_key.public, (0, 24))
    sign_certificate(oca, oca_key, 0x1001, 0x002)
    pek = new_certificate(0x1002, 0x002, pek_key.public, (0, 24))
    sign_certificate(pek, oca_key, 0x1001, 0x002)
    sign_certificate(pek, cek_key, 0x1004, 0x002)
    pdh = new_certificate(0x1003, 0x003, pdh_key.public, (0, 24))
    sign_certificate(pdh, pek_key, 0x1002, 0x002)
    certs = (amd.roots.ark, amd.roots.ask, amd.certify(bytes(64)), oca, pek, pdh)
    return {place: cert.pack() for place, cert in zip(NAPLES, certs, strict=True)}


@pytest.mark.vectors
def test_the_real_naples_chain(ratio: Callable[..., float]) -> None:
    certs = naples()
    checks, roots = raw_checks(certs), amd_roots("naples")

    def raw() -> None:
        for check in checks:
            check()

    ratio("chain verification (Naples)", lambda: verify(certs, roots), raw, goal=1.2, rounds=96)


def test_eight_different_chains(ratio: Callable[..., float]) -> None:
    chains = [simulated_chain(index) for index in range(1, 9)]
    raws = [raw_checks(chain) for chain in chains]
    roots = simulated_roots("naples")

    ours_next, raw_next = cycle(chains), cycle(raws)

    def ours() -> None:
        verify(next(ours_next), roots)

    def raw() -> None:
        for check in next(raw_next):
            check()

    ratio("chain verification (8 chains in turn)", ours, raw, goal=1.2, rounds=96)
