"""Experiments without an attacker in the middle: why hosts must flush caches (E19), and what migration does (E21).

The caches are a model; that a line is encrypted with the key in its slot when it is written back, and that lines carry
the ASID, was reported by Li et al.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sevref.driver import Platform
from sevref.machine import Machine
from sevref.status import SevError

AT, ASID, LINE = 0x100000, 200, 64
SECRET = b"the first guest's plaintext line".ljust(LINE, b".")


def _running(platform: Platform, asid: int) -> int:
    handle = platform.launch_start(1)
    platform.activate(handle, asid)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    return handle


@dataclass(frozen=True)
class Reuse:
    """What a second guest under a used ASID gets to read.

    ``refusal``: ACTIVATE's answer without any flush. ``hit`` and ``evicted``: what the second guest reads from the
    cache, and from memory after the line was written back; ``flushed``: the same with the flush before the new key."""

    refusal: str
    hit: bytes
    evicted: bytes
    flushed: bytes

    @property
    def leaks(self) -> bool:
        """Whether the missing flush gives the first guest's plaintext to the second."""
        return self.hit == self.evicted == SECRET != self.flushed


def asid_reuse(*, engine: str | None = None, coherent_domains: bool = False, seed: bytes = b"attack lab") -> Reuse:
    """E19: a guest leaves a dirty line behind; another one gets its ASID, with and without WBINVD and DF_FLUSH.

    Without the flush the firmware's bookkeeping is deceived (all WBINVD flags set by hand): it would refuse."""
    seen, refusal = {}, ""
    for flush in (False, True):
        machine = Machine(
            "milan", seed=seed, dram_size=8 << 20, engine=engine, caches=True, coherent_domains=coherent_domains
        )
        platform = Platform(machine)
        platform.init()
        machine.wbinvd()
        platform.df_flush()
        first = _running(platform, ASID)
        machine.vcpu(ASID).write(AT, SECRET)
        platform.deactivate(first)
        platform.decommission(first)
        second = platform.launch_start(1)
        if flush:
            machine.wbinvd()
        else:
            try:
                platform.activate(second, ASID)
            except SevError as error:
                refusal = error.status.name
            machine.wbinvd_done[:] = [True] * len(machine.wbinvd_done)
        platform.df_flush()
        platform.activate(second, ASID)
        platform.launch_measure(second)
        platform.launch_finish(second)
        vcpu = machine.vcpu(ASID)
        hit = vcpu.read(AT, LINE)
        machine.clflush((ASID,), AT, LINE)
        seen[flush] = hit, vcpu.read(AT, LINE)
    return Reuse(refusal, *seen[False], seen[True][1])


def dirty_line_over_launch(*, sp_evicts: bool, seed: bytes = b"attack lab") -> bool:
    """E19, second part: the host leaves a dirty line over a page and has it launched.

    Whether the guest's page is still there after the line was written back. ``sp_evicts``: the firmware writes back the
    host's lines first, as Genoa's does; where it does not, the host must (KVM does)."""
    machine = Machine("milan", seed=seed, dram_size=8 << 20, caches=True, sp_evicts=sp_evicts)
    platform = Platform(machine)
    platform.init()
    machine.wbinvd()
    platform.df_flush()
    machine.dram.write(AT, SECRET)
    machine.host_write(AT, SECRET)  # stays in the cache, dirty
    handle = platform.launch_start(1)
    platform.activate(handle, ASID)
    platform.launch_update_data(handle, AT, LINE)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    machine.wbinvd()
    return machine.vcpu(ASID).read(AT, LINE) == SECRET


@dataclass(frozen=True)
class Migrated:
    """``ciphertexts``: with the sender, on the way, with the receiver. ``same``: the plaintext arrived."""

    ciphertexts: tuple[bytes, bytes, bytes]
    same: bool

    @property
    def unrelated(self) -> bool:
        """No 16-byte block of one is a block of another."""
        sets = [{data[i : i + 16] for i in range(0, len(data), 16)} for data in self.ciphertexts]
        return not (sets[0] & sets[1] or sets[1] & sets[2] or sets[0] & sets[2])


def migration(*, generation: str = "milan", seed: bytes = b"attack lab") -> Migrated:
    """E21: SEND on one platform, RECEIVE on another at another address: three ciphertexts, two memory keys."""
    platforms: list[Any] = []
    for name in ("platform A", "platform B"):
        machine = Machine(generation, seed=seed, name=name, dram_size=8 << 20)
        platform = Platform(machine)
        platform.init()
        machine.wbinvd()
        platform.df_flush()
        platforms.append(platform)
    a, b = platforms
    handle, data, target = _running(a, ASID), SECRET * 16, AT + 0x5000
    a.machine.vcpu(ASID).write(AT, data)
    policy, session = a.send_start(handle, b.pdh_cert_export())
    header, packet = a.send_update_data(handle, AT, len(data))
    received = b.receive_start(policy, a.pdh_cert_export().pdh, session)
    b.activate(received, ASID)
    b.receive_update_data(received, header, packet, target)
    b.receive_finish(received)
    same = b.machine.vcpu(ASID).read(target, len(data)) == data
    return Migrated((a.machine.dram.read(AT, len(data)), packet, b.machine.dram.read(target, len(data))), same)
