"""What was observed, and what turns a digest into a measurement: the two sides of a comparison that are no guest's.

An observed value can be read in several ways, of which one was meant; and an owner can be wrong about TIK, policy,
version and build of the firmware as about the guest.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Iterator
from typing import NamedTuple

from sevref.status import InputError


class Reading(NamedTuple):
    """One way to read the observed value: as a digest, or (``nonce`` given) as a launch measurement."""

    text: str
    value: bytes
    nonce: bytes | None = None


def read_digest(text: str, size: int) -> list[Reading]:
    """Ways to read a digest of ``size`` bytes, the intended ones (hex, base64 of the bytes) first.

    ``InputError`` if the text is neither hex nor base64."""
    found: list[Reading] = []
    for how, data in _decoded(text, "observed digest"):
        if len(data) == size:
            found.append(Reading(how, data))
        elif len(data) == 48 and size == 32:
            found.append(Reading(_also(how, "a launch digest and a nonce"), data[:32]))
        else:
            found.append(Reading(how, data))
    return found + [Reading(_also(r.text, "its bytes in reverse order"), r.value[::-1]) for r in found]


def read_measurement(text: str, what: str = "measurement") -> list[Reading]:
    """Ways to read the output of LAUNCH_MEASURE; intended is base64 of measurement (32 bytes) and nonce (16 bytes)."""
    found: list[Reading] = []
    for how, data in _decoded(text, what):
        if len(data) == 48:
            found.append(Reading(how, data[:32], data[32:]))
            found.append(Reading(_also(how, "nonce and measurement swapped"), data[16:], data[:16]))
            found.append(Reading(_also(how, "a launch digest given as measurement, with the nonce"), data[:32]))
            found.append(Reading(_also(how, "a launch digest after the nonce"), data[16:]))
            found.append(Reading(_also(how, "the launch digest of an SNP guest"), data))
            found.append(Reading(_also(how, "measurement in reverse byte order"), data[31::-1], data[32:]))
        elif len(data) == 32:
            found.append(Reading(_also(how, "a launch digest given as measurement"), data))
    if not found:
        raise InputError(what, "48 bytes, or a digest of 32", "another size")
    return sorted(found, key=lambda reading: reading.text != "")


def _decoded(text: str, what: str) -> list[tuple[str, bytes]]:
    """(what is odd about it, bytes) of a value in base64 or hex."""
    text = "".join(text.split())
    found: list[tuple[str, bytes]] = []
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if len(digits) % 2 == 0 and re.fullmatch(r"[0-9a-fA-F]+", digits):
        found.append(("", bytes.fromhex(digits)))
    if re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text):
        try:
            data = a2b_base64(text)
            found.append(("", data))
            inner = data.decode("ascii").strip()
            inner = inner.removeprefix("0x")
            if len(inner) % 2 == 0 and re.fullmatch(r"[0-9a-fA-F]+", inner):
                found.append(("base64 of hex text, not of the bytes", bytes.fromhex(inner)))
        except (Error, UnicodeDecodeError):
            pass
    if not found:
        raise InputError(what, "hex or base64", f"{len(text)} characters that are neither")
    return found


def _also(how: str, more: str) -> str:
    return f"{how}, {more}" if how else more


# ---------------------------------------------------------------------------------------------- the owner's side


class Owner(NamedTuple):
    """What makes a launch measurement of a digest: TIK, API version and build of the SEV firmware, policy.

    TIK, and TEK for the case that they were swapped, have 16 bytes each."""

    tik: bytes
    api: tuple[int, int]
    build: int
    policy: int
    tek: bytes | None = None

    def __repr__(self) -> str:
        return f"Owner(api={self.api}, build={self.build}, policy=0x{self.policy:X})"

    def prefix(self) -> bytes:
        """What the measurement authenticates before digest and nonce."""
        from sevref.measurement import measure_input

        packed = measure_input(self.api, self.build, self.policy, bytes(32), bytes(16)).pack()
        return packed[: len(packed) - 48]


class OwnerChange(NamedTuple):
    """One mistake about what the owner knows, in words, and the ``Owner`` who makes it."""

    axis: str
    text: str
    common: bool
    owner: Owner


def owner_changes(owner: Owner) -> Iterator[OwnerChange]:
    """Every mistake about what the measurement authenticates besides digest and nonce."""
    if owner.tek is not None:
        yield OwnerChange("TIK", "TIK and TEK swapped", True, owner._replace(tik=owner.tek))
    yield OwnerChange("TIK", "TIK of zeros: a launch without a session", True, owner._replace(tik=bytes(16)))
    policy = owner.policy
    seen = {policy}
    flips = [(bit, policy ^ 1 << bit) for bit in range(32)]
    others = [*range(64), policy & 0xFFFF, int.from_bytes(policy.to_bytes(4, "little"), "big")]
    for bit, value in [*flips, *((None, value | (policy & ~0x3F if value < 64 else 0)) for value in others)]:
        if value not in seen:
            seen.add(value)
            words = "" if bit is None else f" (bit {bit} {'set' if value >> bit & 1 else 'clear'})"
            yield OwnerChange(
                "policy", f"policy: 0x{value:X}{words}", value ^ policy < 64, owner._replace(policy=value)
            )
    if owner.api >= (0, 17):
        words = "API version: before 0.17, neither version nor build are authenticated"
        yield OwnerChange("API version", words, True, owner._replace(api=(0, 16)))
    for major in range(3):
        for minor in range(256):
            api = major, minor
            if api >= (0, 17) and api != owner.api:
                common = api < (0, 25) or (major == 1 and 30 <= minor < 64)
                yield OwnerChange("API version", f"API version: {major}.{minor}", common, owner._replace(api=api))
    for build in range(256):
        if build != owner.build and owner.api >= (0, 17):
            yield OwnerChange("build", f"build: {build}", True, owner._replace(build=build))
