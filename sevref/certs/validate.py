"""The firmware's certificate checks, in its order, each with its status.

Three procedures: ``validate`` is V of a SEV certificate under a signing key, ``check_peer`` the much weaker look at a
peer's Diffie-Hellman certificate, ``validate_amd`` the check of an ARK or ASK (SEV API 55766, "PEK_CERT_IMPORT",
"SEND_START").
"""

from __future__ import annotations

import hashlib

from sevref.certs.amd import AMD_SIZES, AmdCertificate
from sevref.certs.roots import Roots
from sevref.certs.sev import (
    ECDH_ALGOS,
    RSA_ALGOS,
    Algo,
    Curve,
    EcKey,
    RsaKey,
    SevCertificate,
    SignatureSlot,
    SigningKey,
    Usage,
    algo_name,
    hash_name,
    usage_name,
)
from sevref.crypto import P384_N, Point, PrivateKey, RsaPublic, ecdsa_verify, rsa_pss_verify
from sevref.generations import Generation
from sevref.status import SevError, Status

VALID_USAGES = frozenset({0x0000, 0x0013, 0x1001, 0x1002, 0x1003, 0x1004})
VALID_ALGOS = frozenset({0x001, 0x002, 0x003, 0x101, 0x102, 0x103})
#: which keys may sign a certificate of which usage; any other usage is signed by nobody
SIGNERS: dict[int, tuple[int, ...]] = {
    Usage.PDH: (Usage.PEK,),
    Usage.PEK: (Usage.OCA, Usage.CEK),
    Usage.OCA: (Usage.OCA,),
    Usage.CEK: (Usage.ASK,),
}


def key_problem(usage: int, algo: int, pubkey: RsaKey | EcKey | bytes) -> str | None:
    """Rule K, public key validity: what is wrong with a key, in words, or None.

    RSA keys of any size up to 4096 bits pass, whatever their numbers; an EC key must be a point of P-384 with both
    coordinates below the field prime (all 72 bytes count).
    """
    if usage not in VALID_USAGES:
        return f"usage {usage_name(usage)} is not a key usage"
    if algo not in VALID_ALGOS:
        return f"algorithm {algo_name(algo)} is not a key algorithm"
    if isinstance(pubkey, RsaKey):
        return f"MODULUS_SIZE is {pubkey.modulus_size} bits, more than 4096" if pubkey.modulus_size > 4096 else None
    assert isinstance(pubkey, EcKey)  # the union follows the algorithm
    if pubkey.curve != Curve.P384:
        return f"CURVE is {pubkey.curve}, not 2 (P-384)"
    return None if pubkey.point.valid else "(QX, QY) is not a point of P-384"


def validate(cert: SevCertificate, key: SigningKey, *, strict_salt: bool = False) -> None:
    """V: check ``cert`` under the public key ``key`` of its signer, or raise ``SevError`` of the first rule broken.

    The order is the firmware's: signing key valid (INVALID_CERTIFICATE); then each slot: well formed (BAD_SIGNATURE at
    once), belongs to the key, verifies; the *last* slot that belongs to the key decides (BAD_SIGNATURE), and if none
    does, INVALID_CERTIFICATE. A key that cannot sign gives UNSUPPORTED (ECDH) or INVALID_LENGTH (RSA below 8 bits) at
    once. Then version and own key, then the signer's usage (INVALID_CERTIFICATE). SEV API 55766, "PEK_CERT_IMPORT",
    "SEND_START".

    ``strict_salt`` refuses RSASSA-PSS salts of another length than the hash's; the firmware takes any.
    """
    if problem := key_problem(key.usage, key.algo, key.pubkey):
        raise SevError(Status.INVALID_CERTIFICATE, f"signing key: {problem}")
    body = cert.body()
    last: int | None = None  # slot that belongs to the key, and whether its signature verifies
    verified = False
    for number, slot in enumerate(cert.slots, 1):
        if not slot.well_formed:
            raise SevError(
                Status.BAD_SIGNATURE,
                f"slot {number} is malformed: usage {usage_name(slot.usage)} with algorithm "
                f"{algo_name(slot.algo)} (empty is usage 0x1000 with algorithm 0)",
            )
        if (slot.usage, slot.algo) != (key.usage, key.algo):
            continue
        last, verified = number, _verify_slot(body, slot, key, strict_salt)
    if last is None:
        raise SevError(Status.INVALID_CERTIFICATE, f"no slot holds a signature by {key}")
    if not verified:
        raise SevError(Status.BAD_SIGNATURE, f"slot {last}: the signature by {key} is wrong")
    require_sane(cert)
    if key.usage not in SIGNERS.get(cert.pubkey_usage, ()):
        raise SevError(
            Status.INVALID_CERTIFICATE,
            f"a {usage_name(cert.pubkey_usage)} certificate cannot be signed by {usage_name(key.usage)}",
        )


def require_sane(cert: SevCertificate) -> None:
    """Check what every certificate must have: version 1 and a valid public key.

    ``SevError`` INVALID_CERTIFICATE otherwise.
    """
    if cert.version != 1:
        raise SevError(Status.INVALID_CERTIFICATE, f"VERSION is {cert.version}, not 1")
    if problem := key_problem(cert.pubkey_usage, cert.pubkey_algo, cert.pubkey):
        raise SevError(Status.INVALID_CERTIFICATE, f"public key: {problem}")


def _verify_slot(body: bytes, slot: SignatureSlot, key: SigningKey, strict_salt: bool) -> bool:
    """Whether the slot's signature verifies; raises where the firmware stops at once."""
    if key.algo in ECDH_ALGOS:
        raise SevError(Status.UNSUPPORTED, f"{algo_name(key.algo)} is not a signature algorithm")
    if key.algo in RSA_ALGOS:
        assert isinstance(key.pubkey, RsaKey)
        used = key.pubkey.modulus_size // 8
        if used == 0:
            raise SevError(Status.INVALID_LENGTH, f"RSA modulus of {key.pubkey.modulus_size} bits, below 8")
        value = slot.signature.value & (1 << 8 * used) - 1  # what lies behind in the slot is not read
        return rsa_pss_verify(key.pubkey.public, body, value, hash_name(key.algo), any_salt=not strict_salt)
    assert isinstance(key.pubkey, EcKey)
    r, s, point = slot.signature.r, slot.signature.s, key.pubkey.point
    if ecdsa_verify(point, body, r, s, hash_name(key.algo)):
        return True
    if 0 < r < P384_N and 0 < s < P384_N and _at_infinity(body, r, point, hash_name(key.algo)):
        raise SevError(Status.BAD_SIGNATURE, "the signature's equation ends in the point at infinity")
    return False


def _at_infinity(body: bytes, r: int, public: Point, name: str) -> bool:
    """Whether (e G + r Q)/s is the point at infinity, that is Q = (-e/r) G: the crypto engine then gives up,
    and the other slot is not looked at any more.
    """
    e = int.from_bytes(hashlib.new(name, body).digest(), "big")
    d = -e * pow(r, -1, P384_N) % P384_N
    return d != 0 and PrivateKey(d).public == public


def check_peer(cert: SevCertificate) -> None:
    """S: what LAUNCH_START, SEND_START and RECEIVE_START look at in a peer's Diffie-Hellman certificate.

    Version 1, valid key, usage PDH, algorithm ECDH_SHA256 exactly: ``SevError`` INVALID_CERTIFICATE. No signature,
    slot, reserved byte or API version is looked at: an unsigned certificate passes.
    """
    require_sane(cert)
    if cert.pubkey_usage != Usage.PDH or cert.pubkey_algo != Algo.ECDH_SHA256:
        raise SevError(
            Status.INVALID_CERTIFICATE,
            "a peer's key must have usage PDH (0x1003) and algorithm ECDH_SHA256 (0x003), not "
            f"{usage_name(cert.pubkey_usage)} and {algo_name(cert.pubkey_algo)}",
        )


def validate_amd(
    cert: AmdCertificate,
    parent: AmdCertificate,
    usage: int,
    generation: Generation,
    *,
    root: Roots | None = None,
    strict_salt: bool = False,
) -> None:
    """Check an ARK (its own ``parent``) or an ASK, in the firmware's order (SEV API 55766, "SEND_START").

    ``SevError``: sizes 2048 or 4096 (INVALID_CERTIFICATE), signature (BAD_SIGNATURE), version, usage, CERTIFYING_ID
    (INVALID_CERTIFICATE); with ``root`` also the two checks of an ARK: the generation's KEY_ID and the root hash
    (INVALID_CERTIFICATE). The signature comes before the fields: a changed version is a bad signature. ``strict_salt``
    as in ``validate``.
    """
    for name, bits in ("MODULUS_SIZE", cert.modulus_size), ("PUBEXP_SIZE", cert.pubexp_size):
        if bits not in AMD_SIZES:
            raise SevError(Status.INVALID_CERTIFICATE, f"{name} is {bits} bits, not 2048 or 4096")
    value = cert.signature & (1 << 8 * (parent.modulus_size // 8)) - 1
    key = RsaPublic(*parent.public)
    if not rsa_pss_verify(key, cert.signed_bytes(), value, generation.amd_hash, any_salt=not strict_salt):
        raise SevError(
            Status.BAD_SIGNATURE,
            f"RSASSA-PSS ({generation.amd_hash}) by key {parent.key_id.hex()} does not verify",
        )
    if cert.version != 1:
        raise SevError(Status.INVALID_CERTIFICATE, f"VERSION is {cert.version}, not 1")
    if cert.key_usage != usage:
        raise SevError(
            Status.INVALID_CERTIFICATE, f"KEY_USAGE is {usage_name(cert.key_usage)}, not {usage_name(usage)}"
        )
    if cert.certifying_id != parent.key_id:
        raise SevError(
            Status.INVALID_CERTIFICATE,
            f"CERTIFYING_ID is {cert.certifying_id.hex()}, not the signer's KEY_ID {parent.key_id.hex()}",
        )
    if root is not None:
        require_root_id(cert, root)
        require_root_hash(cert, root)


def require_root_id(ark: AmdCertificate, root: Roots) -> None:
    """Check that KEY_ID is the one that the generation's firmware has built in.

    ``SevError`` INVALID_CERTIFICATE otherwise.
    """
    generation = root.generation
    if ark.key_id != generation.root_key_id:
        raise SevError(
            Status.INVALID_CERTIFICATE,
            f"KEY_ID is {ark.key_id.hex()}, not {generation.root_key_id.hex()} ({generation.name})",
        )


def require_root_hash(ark: AmdCertificate, root: Roots) -> None:
    """Check that the hash of the signed bytes is the pinned (fused) one.

    ``SevError`` INVALID_CERTIFICATE otherwise.
    """
    found = ark.root_hash(root.generation)
    if found != root.root_hash:
        raise SevError(
            Status.INVALID_CERTIFICATE,
            f"root hash is {found.hex()}, not the pinned {root.root_hash.hex()}",
        )
