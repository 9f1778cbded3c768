"""Orders of checks: every rung of a command's table alone, and with every later rung broken too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firmware.kit import Rig, refused, u32, u64
from sevref import Status as S

Rung = tuple[dict[str, Any], S]
FAR = 1 << 60  # address bits above the physical maximum: INVALID_ADDRESS in both profiles
OUTSIDE = 0x4000_0000  # no DRAM: INVALID_ADDRESS, or INVALID_CONFIG under Genoa
ASEG = 0xA0000


def outside(profile: str) -> S:
    return S.INVALID_CONFIG if profile == "genoa" else S.INVALID_ADDRESS


def climb(rig: Rig, command: int, build: Callable[..., bytes], good: dict[str, Any], rungs: Sequence[Rung]) -> bytes:
    """Each rung's status, whatever is wrong below it; nothing changes and nothing is drawn. Then the good buffer
    succeeds; its answer."""
    for index, (change, status) in enumerate(rungs):
        refused(rig, command, build(**{**good, **change}), status)
        everything = dict(good)
        for later, _ in reversed(rungs[index + 1 :]):
            everything |= later
        refused(rig, command, build(**{**everything, **change}), status)
    return rig.ok(command, build(**good))


def send_start_buf(
    handle: int,
    *,
    pdh: int = 0x8000,
    pdh_len: int = 2084,
    plat: int = 0,
    plat_len: int = 0,
    amd: int = 0,
    amd_len: int = 0,
    session: int = 0x9000,
    session_len: int = 0x80,
    policy: int = 0,
    junk: int = 0,
) -> bytes:
    """Sheet 30, 5.2."""
    return (
        u32(handle) + u32(policy) + u64(pdh) + u32(pdh_len) + u32(junk) + u64(plat) + u32(plat_len) + u32(junk)
        + u64(amd) + u32(amd_len) + u32(junk) + u64(session) + u32(session_len)
    )  # fmt: skip


def receive_start_buf(
    *, handle: int = 0, policy: int = 0, pdh: int = 0x8000, pdh_len: int = 2084, session: int = 0x9000,
    session_len: int = 0x80, junk: int = 0,
) -> bytes:  # fmt: skip
    """Sheet 30, 5.6."""
    return u32(handle) + u32(policy) + u64(pdh) + u32(pdh_len) + u32(junk) + u64(session) + u32(session_len)


def packet_buf(
    *, handle: int = 1, hdr: int = 0x20000, hdr_len: int = 52, guest: int = 0x10000, guest_len: int = 4096,
    trans: int = 0x21000, trans_len: int = 4096, junk: int = 0,
) -> bytes:  # fmt: skip
    """Sheet 30, 5.3."""
    return (
        u32(handle) + u32(junk) + u64(hdr) + u32(hdr_len) + u32(junk) + u64(guest) + u32(guest_len) + u32(junk)
        + u64(trans) + u32(trans_len)
    )  # fmt: skip
