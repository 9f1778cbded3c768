"""The trace format: platforms and the memory around them, as a recording names them (``data/traces/README.md``)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from sevref.crypto import RandomSource
from sevref.driver import Platform
from sevref.firmware import BY_NAME, GENOA_1_55_25, SPEC_0_24, Profile
from sevref.firmware import buffers as b
from sevref.machine import Machine
from sevref.policy import Policy
from sevref.status import InputError, Status

#: where states are asked for, in DRAM that is restored afterwards: the first place outside the TMR
QUERY_PLACES = (0x8000, 0x40000)
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (SPEC_0_24, GENOA_1_55_25)}
#: keys of an instance's configuration
CONFIG = ("seed", "cuk", "rkh", "ver", "umc", "sme", "aex", "blsecret", "profile", "machine")
#: keys of ``machine`` when it is not the recorded traces' own
MACHINE = (*("generation", "seed", "dram_size", "ccxs", "cores_per_ccx", "max_asid", "min_sev_asid", "engine"),)
R = TypeVar("R", bound=RandomSource)


def load_trace(path: str | Path) -> dict[str, Any]:
    """A trace from a JSON file, plain or compressed (.gz). ``InputError`` names what is wrong with the file."""
    path = Path(path)
    data = path.read_bytes()
    try:
        trace = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, gzip.BadGzipFile, EOFError) as error:
        raise InputError(str(path), "a trace in JSON", str(error)) from None
    for name, kind in (("trace", str), ("instances", dict), ("steps", list)):
        if not isinstance(trace, dict) or not isinstance(trace.get(name), kind):
            raise InputError(f"{path}: {name}", f"a {kind.__name__}", "none")
    if not all(isinstance(step, dict) for step in trace["steps"]):
        raise InputError(f"{path}: steps", "objects", "something else")
    result: dict[str, Any] = trace
    return result


def number(value: Any) -> int:
    """An integer of a trace: JSON number, or text in decimal or 0x form."""
    return int(value, 0) if isinstance(value, str) else int(value)


class Instance(Generic[R]):
    """One platform of a trace, by its configuration (default: the recorded traces' machine and profile).

    ``rng`` is the random source of its AMD-SP. ``InputError`` names the key of the configuration that cannot be used.
    """

    def __init__(self, name: str, config: Mapping[str, Any], rng: R) -> None:
        where = f"instance {name}"
        unknown = set(config) - set(CONFIG)
        if unknown:
            raise InputError(f"{where}: {', '.join(sorted(unknown))}", f"only {', '.join(CONFIG)}", "an unknown key")
        self.rng = rng
        self.machine = self._machine(name, where, config)
        profile = config.get("profile", GENOA_1_55_25.name)
        if profile not in PROFILES:
            raise InputError(f"{where}: profile", " or ".join(PROFILES), repr(profile))
        version = config.get("ver")
        if version is not None and not (isinstance(version, list) and 3 <= len(version) <= 4):
            raise InputError(f"{where}: ver", "[major, minor, build]", repr(version))
        three = None if version is None else (int(version[0]), int(version[1]), int(version[2]))
        self.platform = Platform(self.machine, PROFILES[profile], version=three)
        self.nv: int | None = None  # NV buffer named by the last INIT_EX

    def _machine(self, name: str, where: str, config: Mapping[str, Any]) -> Machine:
        given: dict[str, Any] = {
            "rng": self.rng,
            "chip_key": _hex(where, config, "cuk"),
            "root_hash": _hex(where, config, "rkh"),
            "store_secret": _hex(where, config, "blsecret"),
            "memory_encryption": bool(config.get("umc", 1)) and bool(config.get("sme", 1)),
            "activate_ex": bool(config.get("aex", 1)),
        }
        wanted = config.get("machine", "recorded")
        if wanted == "recorded":
            return Machine.recorded(name, **{key: value for key, value in given.items() if value is not None})
        if not isinstance(wanted, dict) or set(wanted) - set(MACHINE):
            raise InputError(f"{where}: machine", f'"recorded" or an object of {", ".join(MACHINE)}', repr(wanted))
        words = ("generation", "seed", "engine")
        if not all(isinstance(value, str if key in words else int) for key, value in wanted.items()):
            raise InputError(f"{where}: machine", "names as text, numbers as numbers", repr(wanted))
        settings = {**wanted, "seed": _hex(f"{where}: machine", wanted, "seed")}
        return Machine(name=name, **settings, **given)

    def put(self, address: int, data: bytes, asid: int = 0) -> None:
        """Write as the recording did; what lies outside DRAM was written nowhere."""
        plain = address & ~self.machine.map.c_mask
        try:
            self.machine.dram.view(plain, len(data))
        except InputError:
            return
        if asid:
            self.machine.umc.write(asid, plain, data)
        else:
            self.machine.host_write(address, data)

    def states(self, handle: int | None) -> dict[str, Any]:
        """Platform and guest state as the mailbox tells them; memory is as before afterwards."""
        dram = self.machine.dram
        for place in QUERY_PLACES:
            saved = dram.read(place, 64)
            status = self._ask(BY_NAME["PLATFORM_STATUS"].id, place)
            if status is not Status.SUCCESS:
                continue
            answer = b.PlatformStatusBuffer.parse(dram.read(place, b.PlatformStatusBuffer.SIZE))
            found: dict[str, Any] = {
                "platform_state": answer.state,
                "guest_count": answer.guest_count,
                "ext_owned": answer.owner & 1,
            }
            if handle is not None:
                dram.write(place, b.GuestStatusBuffer(handle=handle).pack())
                self._ask(BY_NAME["GUEST_STATUS"].id, place)
                guest = b.GuestStatusBuffer.parse(dram.read(place, b.GuestStatusBuffer.SIZE))
                found["guest"] = {"handle": handle, **self._guest(guest)}
            dram.write(place, saved)
            return found
        raise InputError("replay", "a place in DRAM for a query", "none")

    def _ask(self, command: int, place: int) -> Status:
        return self.platform.mailbox(command, place)

    def _guest(self, guest: b.GuestStatusBuffer) -> dict[str, int]:
        if guest.state == 0:
            return {"state": 0, "asid": 0, "flags": 0}
        es = Policy(guest.policy).es
        bound = (1 if guest.asid in self.machine.valid_asids else 4) if guest.asid else 0
        return {"state": guest.state, "asid": guest.asid, "flags": bound | (2 | 8 if es else 0)}


def _hex(where: str, config: Mapping[str, Any], key: str) -> bytes | None:
    try:
        return bytes.fromhex(config[key]) if key in config else None
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key}", "hex digits", repr(config[key])) from None
