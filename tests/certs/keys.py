"""Test keys and small builders shared by the certificate tests. All keys are public: they protect nothing."""

from functools import cache

from sevref.certs import SevCertificate, Usage, new_certificate, sign_certificate, simulated_key
from sevref.crypto import PrivateKey, RsaPrivate
from support import vectors

OCA = PrivateKey(0x0CA0CA0CA)
PEK = PrivateKey(0x9E4009E4)
PDH = PrivateKey(0x9D4009D4)
CEK = PrivateKey(0xCE4000CE4)
STRANGER = PrivateKey(0x57A4632)

RSA1024 = RsaPrivate(
    0xCC709ED6145E049508B3E33EC1E5BC715B20189371E2984EC11D6A2A9AD2F25A8D51167D0254FA6037DEE49054DF713BCC5D2AA45D5045CC653A3B16C72A6981,
    0xC3F6436FB002C1BED816482A0C2B38B17975BCABDC4D873FF70B3583A787DF6CD1DB6F321AA76C3D7B6D09F37BDE93BFF4A3CF7A7084ACE7164EA145B7333E7B,
)
N384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
P384 = 2**384 - 2**128 - 2**96 + 2**32 - 1

NAPLES = ("ark", "ask", "cek", "oca", "pek", "pdh")


def rsa_key(bits: int) -> RsaPrivate:
    if bits == 1024:
        return RSA1024
    return simulated_key({2048: "naples", 4096: "milan"}[bits], Usage.ASK)


@cache
def naples() -> dict[str, bytes]:
    """The real Naples chain, by place."""
    return {place: vectors("certs", "naples", f"{place}.cert").read_bytes() for place in NAPLES}


def signed(usage: int, algo: int, public, *signers, api=(0, 24)) -> SevCertificate:
    """A certificate with the signatures of ``signers``, (key, usage, algo) each."""
    cert = new_certificate(usage, algo, public, api)
    for key, signer_usage, signer_algo in signers:
        sign_certificate(cert, key, signer_usage, signer_algo, salt=bytes(48 if signer_algo & 0x100 else 32))
    return cert


def oca() -> SevCertificate:
    return signed(0x1001, 0x002, OCA.public, (OCA, 0x1001, 0x002))


def pek() -> SevCertificate:
    return signed(0x1002, 0x002, PEK.public, (OCA, 0x1001, 0x002), (CEK, 0x1004, 0x002))


def pdh() -> SevCertificate:
    return signed(0x1003, 0x003, PDH.public, (PEK, 0x1002, 0x002))
