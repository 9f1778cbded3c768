"""Certificates: AMD's root and signing keys, the SEV certificates below them, and their chains."""

from sevref.certs.amd import AmdCertificate, AmdSignedPart, read_amd_chain
from sevref.certs.chain import ChainResult, Check, choose_root, verify_chain
from sevref.certs.files import Chain, load_chain, load_roots, parse_certificate
from sevref.certs.roots import Roots, all_amd_roots, amd_roots, simulated_key, simulated_roots
from sevref.certs.sev import (
    Algo,
    CertificateBody,
    Curve,
    EcdsaSignature,
    EcKey,
    RsaKey,
    RsaSignature,
    SevCertificate,
    SignatureSlot,
    SigningKey,
    Usage,
    add_signature,
    make_signature,
    new_certificate,
    sign_certificate,
)
from sevref.certs.validate import check_peer, key_problem, validate, validate_amd

__all__ = [
    "Algo",
    "AmdCertificate",
    "AmdSignedPart",
    "CertificateBody",
    "Chain",
    "ChainResult",
    "Check",
    "Curve",
    "EcKey",
    "EcdsaSignature",
    "Roots",
    "RsaKey",
    "RsaSignature",
    "SevCertificate",
    "SignatureSlot",
    "SigningKey",
    "Usage",
    "add_signature",
    "all_amd_roots",
    "amd_roots",
    "check_peer",
    "choose_root",
    "key_problem",
    "load_chain",
    "load_roots",
    "make_signature",
    "new_certificate",
    "parse_certificate",
    "read_amd_chain",
    "sign_certificate",
    "simulated_key",
    "simulated_roots",
    "validate",
    "validate_amd",
    "verify_chain",
]
