"""AMD SEV key management as a specification that runs.

Import this package as an oracle: platforms that answer like AMD's firmware, byte for byte and status for status, and
the checks that the other parties make. See the README for each name in use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are resolved when they are first used: importing sevref costs almost nothing.
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
    from sevref.certs import Algo as Algo
    from sevref.certs import AmdCertificate as AmdCertificate
    from sevref.certs import Chain as Chain
    from sevref.certs import ChainResult as ChainResult
    from sevref.certs import Check as Check
    from sevref.certs import Roots as Roots
    from sevref.certs import SevCertificate as SevCertificate
    from sevref.certs import Usage as Usage
    from sevref.certs import amd_roots as amd_roots
    from sevref.certs import load_chain as load_chain
    from sevref.certs import parse_certificate as parse_certificate
    from sevref.certs import simulated_roots as simulated_roots
    from sevref.certs import verify_chain as verify_chain
    from sevref.crypto import OsRandom as OsRandom
    from sevref.crypto import Point as Point
    from sevref.crypto import PrivateKey as PrivateKey
    from sevref.crypto import ReplayRandom as ReplayRandom
    from sevref.crypto import SeededRandom as SeededRandom
    from sevref.crypto import ecdh as ecdh
    from sevref.driver import Exchange as Exchange
    from sevref.driver import Platform as Platform
    from sevref.firmware import GENOA_1_55_25 as GENOA_1_55_25
    from sevref.firmware import SPEC_0_24 as SPEC_0_24
    from sevref.firmware import GuestState as GuestState
    from sevref.firmware import NotBuiltError as NotBuiltError
    from sevref.firmware import PlatformState as PlatformState
    from sevref.firmware import Profile as Profile
    from sevref.layout import Layout as Layout
    from sevref.machine import AddressMap as AddressMap
    from sevref.machine import Machine as Machine
    from sevref.measurement import AttestationReport as AttestationReport
    from sevref.measurement import MeasurementBlob as MeasurementBlob
    from sevref.measurement import launch_digest as launch_digest
    from sevref.measurement import launch_measurement as launch_measurement
    from sevref.measurement import verify_attestation as verify_attestation
    from sevref.memory import Engine as Engine
    from sevref.policy import Policy as Policy
    from sevref.roles import GuestOwner as GuestOwner
    from sevref.roles import Hypervisor as Hypervisor
    from sevref.roles import PlatformOwner as PlatformOwner
    from sevref.roles import SimulatedAmd as SimulatedAmd
    from sevref.status import InputError as InputError
    from sevref.status import SevError as SevError
    from sevref.status import Status as Status
    from sevref.transport import PacketHeader as PacketHeader
    from sevref.transport import Session as Session
    from sevref.transport import key_wrap_keys as key_wrap_keys
    from sevref.transport import master_secret as master_secret


def layouts() -> dict[str, type[Layout]]:
    """Every binary structure that sevref knows, by name.

    >>> import sevref
    >>> sevref.layouts()["Session"].SIZE
    128
    """
    from sevref.layout import layouts as declared

    for module in (
        "certs",
        "transport",
        "measurement",
        "boot",
        "firmware.buffers",
        "firmware.store",
        "firmware.launch",
        "roles.migration",
    ):
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


__all__ = ["__version__", "layouts", *_HOME]
