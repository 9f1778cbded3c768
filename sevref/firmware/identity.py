"""The platform's identity: chip id and CEK from the fuses, OCA, PEK and PDH from randomness (SEV API 55766, "INIT").

Every certificate that the firmware makes is version 1, carries the API version of the firmware that made it, and is
signed with ECDSA P-384 and SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec

from sevref.certs import Algo, SevCertificate, Usage, new_certificate, sign_certificate
from sevref.crypto import P384_N, PrivateKey, RandomSource, draw_private, drawn_nonce, kdf
from sevref.status import InputError

#: order of secp256k1, the curve of the chip id
SECP256K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
EMPTY_SLOT = Usage.INVALID.to_bytes(4, "little") + bytes(4 + 512)


def chip_id(chip_key: bytes) -> bytes:
    """GET_ID of one socket, 64 bytes: X || Y (32 bytes each, *big-endian*) of the chip unique key times G on secp256k1.

    ``InputError`` for a key that is 0 modulo the group order."""
    scalar = int.from_bytes(chip_key, "big") % SECP256K1_N
    if scalar == 0:
        raise InputError("chip unique key", "a value that is not 0 modulo the order of secp256k1", "one (not shown)")
    numbers = ec.derive_private_key(scalar, ec.SECP256K1()).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def derive_cek(chip_key: bytes) -> PrivateKey:
    """The chip endorsement key: 56 bytes of KDF from SHA-256(chip unique key), read little-endian, mapped to 1..n-1."""
    candidate = kdf(hashlib.sha256(chip_key).digest(), b"sev-chip-endorsement-key", size=56)
    return PrivateKey(int.from_bytes(candidate, "little") % (P384_N - 1) + 1)


@dataclass(frozen=True, repr=False)
class Identity:
    """Keys and certificates that the store keeps. ``oca_key`` is None when an owner outside holds it."""

    oca_key: PrivateKey | None
    oca: SevCertificate
    pek_key: PrivateKey
    pek: SevCertificate
    pdh_key: PrivateKey
    pdh: SevCertificate

    @property
    def external(self) -> bool:
        """Whether the platform is externally owned."""
        return self.oca_key is None

    def owned_by(self, oca: SevCertificate, pek: SevCertificate) -> Identity:
        """The same keys under an owner's OCA; the self-owned OCA key is dropped."""
        return replace(self, oca_key=None, oca=oca, pek=pek)

    def __repr__(self) -> str:
        return f"Identity({'externally' if self.external else 'self'} owned)"


@dataclass(frozen=True)
class Issuer:
    """Makes keys and certificates. With ``drawn`` the ECDSA nonces are drawn too, each right before its signature."""

    rng: RandomSource
    api: tuple[int, int]
    drawn: bool

    def nonce(self, what: str) -> Callable[[], int] | None:
        """Source of the nonce of one signature (None: RFC 6979)."""
        return drawn_nonce(self.rng, f"nonce {what}") if self.drawn else None

    def _certificate(self, usage: Usage, key: PrivateKey) -> SevCertificate:
        algo = Algo.ECDH_SHA256 if usage is Usage.PDH else Algo.ECDSA_SHA256
        return new_certificate(usage, algo, key.public, self.api)

    def _sign(self, cert: SevCertificate, signer: Usage, key: PrivateKey) -> None:
        subject = Usage(cert.pubkey_usage).name
        sign_certificate(cert, key, signer, Algo.ECDSA_SHA256, nonce=self.nonce(f"{signer.name} signs {subject}"))

    def fresh(self, cek: PrivateKey) -> Identity:
        """A new self-owned identity: OCA (self-signed), PEK (signed by OCA, then CEK), PDH (signed by PEK)."""
        oca_key = draw_private(self.rng, "OCA key")
        oca = self._certificate(Usage.OCA, oca_key)
        self._sign(oca, Usage.OCA, oca_key)
        pek_key = draw_private(self.rng, "PEK key")
        pek = self._certificate(Usage.PEK, pek_key)
        self._sign(pek, Usage.OCA, oca_key)
        self._sign(pek, Usage.CEK, cek)
        pdh_key, pdh = self.pdh(pek_key)
        return Identity(oca_key, oca, pek_key, pek, pdh_key, pdh)

    def pdh(self, pek_key: PrivateKey) -> tuple[PrivateKey, SevCertificate]:
        """A new PDH key and its certificate."""
        pdh_key = draw_private(self.rng, "PDH key")
        pdh = self._certificate(Usage.PDH, pdh_key)
        self._sign(pdh, Usage.PEK, pek_key)
        return pdh_key, pdh

    def with_new_pdh(self, identity: Identity) -> Identity:
        """The same identity with a new PDH."""
        pdh_key, pdh = self.pdh(identity.pek_key)
        return replace(identity, pdh_key=pdh_key, pdh=pdh)

    def exported_cek(self, cek: PrivateKey) -> SevCertificate:
        """The CEK certificate as the firmware exports it: not signed by anybody."""
        return self._certificate(Usage.CEK, cek)


def without_signatures(cert: SevCertificate) -> SevCertificate:
    """The same body with both signature slots empty: what PEK_CSR returns."""
    return SevCertificate.parse(cert.body() + 2 * EMPTY_SLOT)
