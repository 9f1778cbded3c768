"""What differs from one EPYC generation to the next, as one table of data.

Sources of the columns: SEV API 55766, appendix "AMD certificate format", and AMD's published ARK and ASK certificates
(sizes, hash, root KEY_ID); the memory engine of a generation is a preset of ``sevref.memory``. Naples parts of one
launch differ (EPYC 7251 has ``xe-zen1``), so a machine can be given another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sevref.status import InputError


@dataclass(frozen=True)
class Generation:
    """One product line. Sizes are in bits, the key id is bytes in the order of the certificate file."""

    name: str
    rsa_bits: int  #: modulus of ARK and ASK
    amd_hash: str  #: hash of AMD-format signatures and of the fused root hash
    ask_algo: int  #: algorithm under which the ASK signs a CEK (0x001 RSA-SHA256, 0x101 RSA-SHA384)
    root_key_id: bytes  #: KEY_ID of the only ARK that this generation's firmware accepts
    engine: str  #: name of the memory-engine preset


GENERATIONS: dict[str, Generation] = {
    row.name: row
    for row in (
        Generation("naples", 2048, "sha256", 0x001, bytes.fromhex("1bb987c359494606b174945601c9ea5b"), "xex-zen1"),
        Generation("rome", 4096, "sha384", 0x101, bytes.fromhex("e6002122fb58419399d15fee7b131351"), "xex-boot-random"),
        Generation(
            "milan", 4096, "sha384", 0x101, bytes.fromhex("94c38e4177d0479292a7ae671d083fb6"), "xex-boot-random"
        ),
        Generation(
            "genoa", 4096, "sha384", 0x101, bytes.fromhex("9f9d4a8fe761456599f6946c4c010f3a"), "xts-boot-random"
        ),
        Generation(
            "turin", 4096, "sha384", 0x101, bytes.fromhex("d05c3a8bde484904b49552422ceb3942"), "xts-boot-random"
        ),
    )
}


def generation(name: str) -> Generation:
    """The generation called ``name`` (any case). ``InputError`` names the known ones."""
    try:
        return GENERATIONS[name.lower()]
    except KeyError:
        raise InputError("generation", "one of " + ", ".join(GENERATIONS), name) from None
