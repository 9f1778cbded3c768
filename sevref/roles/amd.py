"""AMD in a simulation: the root keys, and the service that certifies a chip's endorsement key.

The real service answers to a chip id with a freshly signed CEK certificate, because AMD recorded the chip's
public key when it was made. So does this one, with TEST keys that everybody can read.
"""

from __future__ import annotations

from sevref.certs import Algo, Roots, SevCertificate, Usage, new_certificate, sign_certificate
from sevref.certs.roots import simulated_key, simulated_roots
from sevref.crypto import Point, SeededRandom, as_point
from sevref.firmware.identity import chip_id, derive_cek
from sevref.machine import Machine
from sevref.status import InputError

CHIP_ID_SIZE = 64  #: bytes of a chip's id as GET_ID gives it
_CEK_API = (0, 14)  # what every CEK from AMD's key server says, whatever the firmware


class SimulatedAmd:
    """AMD with test keys: the root to pin, and the service that certifies a chip's CEK.

    ``roots`` to pin, ``register`` for a chip that leaves the factory, ``certify`` for its CEK. ``seed`` starts the
    random stream of the PSS salts: every request returns another signature, as AMD's service does, and the same
    sequence of requests the same signatures. ``InputError`` for an unknown generation.

        >>> from sevref import Machine, Platform, SimulatedAmd
        >>> machine, amd = Machine("milan", seed=b"docs"), SimulatedAmd("milan")
        >>> amd.enrol(machine)
        >>> amd.certify(Platform(machine).get_id()).pubkey_usage == 0x1004
        True
    """

    def __init__(self, generation: str = "milan", seed: bytes = b"") -> None:
        self.roots: Roots = simulated_roots(generation)
        self._key = simulated_key(generation, Usage.ASK)
        self._rng = SeededRandom(seed, "AMD")
        self._chips: dict[bytes, Point] = {}

    def register(self, chip_id: bytes, cek_point: Point) -> None:
        """Record the public CEK of a new chip under its 64-byte id.

        ``InputError`` for an id of another size, or one that already stands for another key.
        """
        if len(chip_id) != CHIP_ID_SIZE:
            raise InputError("chip id", f"{CHIP_ID_SIZE} bytes", f"{len(chip_id)} bytes")
        if self._chips.setdefault(chip_id, Point(*cek_point)) != cek_point:
            raise InputError(f"chip id {chip_id.hex()}", "the key recorded for it", "another key")

    def enrol(self, machine: Machine) -> None:
        """Record the chip of ``machine`` as the factory does, where its secret is known."""
        secret = machine.fused_chip_key()
        self.register(chip_id(secret), derive_cek(secret).public)

    def certify(self, chip_id: bytes, cek: Point | SevCertificate | None = None) -> SevCertificate:
        """A signed CEK certificate of the chip with the 64-byte id, as AMD's service gives it.

        API 0.14, usage CEK, algorithm ECDSA_SHA256, slot 1 by the ASK. ``cek`` (the key, or the unsigned certificate
        that the firmware exports) may be given to be compared with what was recorded. ``InputError`` for an unknown id
        and for another key.
        """
        point = self._chips.get(chip_id)
        if point is None:
            raise InputError(
                f"chip id {chip_id.hex() or '(empty)'}",
                "the id of a chip that this simulated AMD has made",
                f"none of the {len(self._chips)} that are recorded",
            )
        if cek is not None and as_point(cek) != point:
            raise InputError(f"CEK of chip {chip_id.hex()}", "the key recorded for this chip", "another key")
        generation = self.roots.generation
        cert = new_certificate(Usage.CEK, Algo.ECDSA_SHA256, point, _CEK_API)
        salt = self._rng.draw(48 if generation.amd_hash == "sha384" else 32, "PSS salt")
        sign_certificate(cert, self._key, Usage.ASK, generation.ask_algo, salt=salt)
        return cert
