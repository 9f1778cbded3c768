"""AMD SEV key management as a specification that runs.

Import this package as an oracle: platforms that answer like AMD's firmware, byte for byte and status for status, and the
checks that the other parties make. See the README for each name in use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are resolved when they are first used: importing sevref costs the standard library and the ciphers of cryptography.
_NAMES = {
    "sevref.status": ("Status", "SevError", "InputError"),
    "sevref.layout": ("Layout",),
    "sevref.policy": ("Policy",),
    "sevref.crypto": ("ecdh", "SeededRandom", "ReplayRandom", "OsRandom", "PrivateKey", "Point"),
    "sevref.certs": (
        *("SevCertificate", "AmdCertificate", "Chain", "ChainResult", "Check", "Roots", "Usage", "Algo"),
        *("load_chain", "verify_chain", "parse_certificate", "amd_roots", "simulated_roots"),
    ),
    "sevref.transport": ("Session", "PacketHeader", "master_secret", "key_wrap_keys"),
    "sevref.measurement": (
        *("launch_digest", "launch_measurement", "MeasurementBlob", "AttestationReport", "verify_attestation"),
    ),
    "sevref.memory": ("Engine",),
    "sevref.machine": ("Machine", "AddressMap"),
    "sevref.firmware": ("Profile", "SPEC_0_24", "GENOA_1_55_25", "GuestState", "PlatformState", "NotBuiltError"),
    "sevref.driver": ("Platform", "Exchange"),
    "sevref.roles": ("GuestOwner", "Hypervisor", "PlatformOwner", "SimulatedAmd"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

if TYPE_CHECKING:
    from sevref.certs import (
        Algo,
        AmdCertificate,
        Chain,
        ChainResult,
        Check,
        Roots,
        SevCertificate,
        Usage,
        amd_roots,
        load_chain,
        parse_certificate,
        simulated_roots,
        verify_chain,
    )
    from sevref.crypto import OsRandom, Point, PrivateKey, ReplayRandom, SeededRandom, ecdh
    from sevref.driver import Exchange, Platform
    from sevref.firmware import GENOA_1_55_25, SPEC_0_24, GuestState, NotBuiltError, PlatformState, Profile
    from sevref.layout import Layout
    from sevref.machine import AddressMap, Machine
    from sevref.measurement import (
        AttestationReport,
        MeasurementBlob,
        launch_digest,
        launch_measurement,
        verify_attestation,
    )
    from sevref.memory import Engine
    from sevref.policy import Policy
    from sevref.roles import GuestOwner, Hypervisor, PlatformOwner, SimulatedAmd
    from sevref.status import InputError, SevError, Status
    from sevref.transport import PacketHeader, Session, key_wrap_keys, master_secret


def layouts() -> dict[str, type[Layout]]:
    """Every binary structure that sevref knows, by name."""
    from sevref.layout import layouts as declared

    for module in ("certs", "transport", "measurement", "boot", "firmware.buffers", "firmware.store", "firmware.launch"):
        importlib.import_module(f"sevref.{module}")
    return declared()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sevref' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = ["__version__", "layouts", *_HOME]  # noqa: PLE0604
