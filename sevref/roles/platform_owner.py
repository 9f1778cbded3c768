"""The platform owner: holds an OCA key, signs the PEKs of its machines, and so makes them one domain."""

from __future__ import annotations

from sevref.certs import Algo, SevCertificate, Usage, new_certificate, sign_certificate, validate
from sevref.crypto import PrivateKey, RandomSource, as_point, draw_private, random_source
from sevref.status import InputError


class PlatformOwner:
    """An owner with one OCA key pair (P-384) and its self-signed certificate ``oca``.

    A new key comes from ``rng``, else from the stream ``name`` of ``seed``, else from the operating system; an owner
    who has one already brings ``key``, and ``oca`` if it has a certificate too. The private key stays in here;
    signatures are deterministic (RFC 6979). ``InputError`` if ``oca`` is for another key, ``SevError`` (as ``validate``
    of ``sevref.certs``) if it is no OCA certificate signed by itself.

        >>> from sevref import Machine, Platform, PlatformOwner
        >>> platform, owner = Platform(Machine(seed=b"docs")), PlatformOwner(seed=b"docs")
        >>> platform.init()
        >>> platform.pek_cert_import(owner.sign_csr(platform.pek_csr()), owner.oca)
        >>> platform.platform_status().owner
        1
    """

    def __init__(
        self,
        *,
        name: str = "platform owner",
        seed: bytes | None = None,
        rng: RandomSource | None = None,
        key: PrivateKey | None = None,
        oca: SevCertificate | None = None,
    ) -> None:
        self.name = name
        self._key = key or draw_private(rng or random_source(seed, name), f"OCA key of {name}")
        if oca is None:
            # Owners' tools write API 0.0 into an OCA; nobody checks it.
            oca = new_certificate(Usage.OCA, Algo.ECDSA_SHA256, self._key.public, (0, 0))
            sign_certificate(oca, self._key, Usage.OCA, Algo.ECDSA_SHA256)
        elif as_point(oca) != self._key.public:
            raise InputError("OCA certificate", "the public half of the owner's key", "another key")
        validate(oca, oca.signing_key())
        self.oca: SevCertificate = oca

    def __repr__(self) -> str:
        return f"PlatformOwner({self.name!r})"

    def sign_csr(self, csr: SevCertificate) -> SevCertificate:
        """The PEK of a certificate signing request (PEK_CSR) with this owner's signature in slot 1, the body untouched.

        ``InputError`` unless it is an unsigned PEK: version 1, usage PEK, algorithm ECDSA_SHA256, both slots empty."""
        usage, algo = csr.pubkey_usage, csr.pubkey_algo
        if csr.version != 1:
            raise InputError("CSR: VERSION", 1, csr.version)
        if (usage, algo) != (Usage.PEK, Algo.ECDSA_SHA256):
            raise InputError("CSR: key usage and algorithm", "PEK (0x1002), 0x2", f"0x{usage:X}, 0x{algo:X}")
        if not csr.unsigned:
            raise InputError("CSR: signature slots", "both empty", "a signature")
        signed = SevCertificate.parse(csr.pack())
        sign_certificate(signed, self._key, Usage.OCA, self.oca.pubkey_algo)
        return signed
