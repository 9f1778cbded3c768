"""The roots of trust: AMD's real ones, and the simulated AMD's, whose private keys everybody can read.

``data/amd_roots.json`` holds AMD's ARK and ASK of each generation as numbers; the certificates are rebuilt
from them. ``data/test_amd_keys.json`` holds TEST keys: two RSA key pairs of 2048 and of 4096 bits with which
``sevref`` plays AMD. A simulated ARK carries the KEY_ID that the generation's firmware has built in, because
nothing else passes there, but another key: its root hash differs, and no real chip accepts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sevref.certs.amd import AmdCertificate
from sevref.certs.sev import Usage
from sevref.crypto import RsaPrivate, SeededRandom, rsa_pss_sign
from sevref.generations import GENERATIONS, Generation
from sevref.generations import generation as generation_by_name
from sevref.resources import read_json


@dataclass(frozen=True)
class Roots:
    """A pinned root: the ARK is trusted because its hash is ``root_hash``, the ASK because the ARK signed it.

    ``root_hash`` covers the signed bytes of the ARK, 32 bytes (Naples) or 48. ``name`` is "amd" for AMD's own, "custom"
    for any other.
    """

    name: str
    generation: Generation
    ark: AmdCertificate
    ask: AmdCertificate
    root_hash: bytes

    @classmethod
    def pin(cls, ark: AmdCertificate, ask: AmdCertificate, generation: Generation, name: str = "custom") -> Roots:
        """Trust ``ark`` from now on: its own hash becomes the pinned one. Nothing is verified."""
        return cls(name, generation, ark, ask, ark.root_hash(generation))


def _certificate(entry: dict[str, Any]) -> AmdCertificate:
    return AmdCertificate(
        version=entry["version"],
        key_id=bytes.fromhex(entry["key_id"]),
        certifying_id=bytes.fromhex(entry["certifying_id"]),
        key_usage=entry["usage"],
        pubexp_size=entry["pubexp_size"],
        modulus_size=entry["modulus_size"],
        pubexp=int(entry["exponent"], 16),
        modulus=int(entry["modulus"], 16),
        signature=int(entry["signature"], 16),
    )


@cache
def _amd_data() -> dict[str, Any]:
    return dict(read_json("amd_roots.json")["generations"])


@cache
def _test_data() -> dict[str, Any]:
    return dict(read_json("test_amd_keys.json"))


@cache
def amd_roots(generation_name: str) -> Roots:
    """AMD's published root of ``naples``, ``rome``, ``milan``, ``genoa`` or ``turin`` (any case).

    ``InputError`` for another name.

        >>> from sevref import amd_roots
        >>> amd_roots("genoa").root_hash.hex()[:16], len(amd_roots("genoa").root_hash)
        ('b66e16ff0ebeed57', 48)
    """
    generation = generation_by_name(generation_name)
    entry = _amd_data()[generation.name]
    ark, ask = _certificate(entry["ark"]), _certificate(entry["ask"])
    return Roots("amd", generation, ark, ask, bytes.fromhex(entry["root_hash"]))


@cache
def all_amd_roots() -> tuple[Roots, ...]:
    """AMD's roots of all generations, oldest first."""
    return tuple(amd_roots(name) for name in GENERATIONS)


# ---------------------------------------------------------------------------- the simulated AMD


def simulated_key(generation_name: str, usage: Usage) -> RsaPrivate:
    """TEST private key of the simulated AMD, ``usage`` ARK or ASK. Everybody has it: it protects nothing."""
    generation = generation_by_name(generation_name)
    pair = _test_data()["keys"][str(generation.rsa_bits)][usage.name.lower()]
    return RsaPrivate(int(pair["p"], 16), int(pair["q"], 16))


def simulated_certificate(generation_name: str, usage: Usage, signature: int = 0) -> AmdCertificate:
    """ARK or ASK of the simulated AMD, with the given signature."""
    generation = generation_by_name(generation_name)
    public = simulated_key(generation_name, usage).public
    test_id = f"TEST-ASK-{generation.name}".encode().ljust(16, b"\0")
    return AmdCertificate(
        version=1,
        key_id=generation.root_key_id if usage is Usage.ARK else test_id,
        certifying_id=generation.root_key_id,
        key_usage=int(usage),
        pubexp_size=public.bits,
        modulus_size=public.bits,
        pubexp=public.e,
        modulus=public.n,
        signature=signature,
    )


def simulated_signature(generation_name: str, usage: Usage) -> int:
    """What ``test_amd_keys.json`` ships: the simulated ARK's signature of its ARK or ASK.

    The salt comes from a fixed stream; the signature as an integer.
    """
    generation = generation_by_name(generation_name)
    size = 48 if generation.amd_hash == "sha384" else 32
    salt = SeededRandom(b"", f"TEST AMD {generation.name} {usage.name}").draw(size, "PSS salt")
    signed = simulated_certificate(generation_name, usage).signed_bytes()
    return rsa_pss_sign(simulated_key(generation_name, Usage.ARK), signed, salt, generation.amd_hash)


@cache
def simulated_roots(generation_name: str) -> Roots:
    """The simulated AMD's root of a generation: TEST keys, trusted by nobody who does not say so.

    ``InputError`` for an unknown generation.
    """
    generation = generation_by_name(generation_name)
    shipped = _test_data()["signatures"][generation.name]
    ark = simulated_certificate(generation_name, Usage.ARK, int(shipped["ark"], 16))
    ask = simulated_certificate(generation_name, Usage.ASK, int(shipped["ask"], 16))
    return Roots.pin(ark, ask, generation)
