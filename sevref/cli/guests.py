"""What ``sevref migrate`` and ``sevref snapshot`` share: a chip's folder, a small guest with a message, progress.

A guest lives as long as the process that launched it, so these commands bring their own: launched by a guest owner who
verifies the platform down to the simulated AMD, measured, running, with a text in its private memory that only the
guest can read back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sevref.boot import build_firmware, cpu_signature, initial_vmsas
from sevref.certs import Chain, Roots
from sevref.cli import chip as chips
from sevref.cli.common import integer_of, json_option, seed_bytes
from sevref.crypto import OsRandom
from sevref.measurement import launch_digest
from sevref.policy import Policy
from sevref.roles import GuestOwner, GuestVm, Hypervisor, SimulatedAmd
from sevref.status import InputError

DEFAULT_POLICY = Policy.make("NODBG", "SEV", api=(0, 24))
MESSAGE_AT, MESSAGE_LIMIT = 0x1000, 4000
VCPUS = 2


def host_options(parser: argparse.ArgumentParser) -> None:
    """DIR, ``--es``, ``--seed``, ``--json``."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder of the chip (sevref sp DIR new)")
    parser.add_argument("--es", action="store_true", help="initialise the platform for SEV-ES guests too")
    parser.add_argument("--seed", type=seed_bytes, metavar="HEX", help="deterministic draws in this call, for tests")
    json_option(parser)


def guest_options(parser: argparse.ArgumentParser) -> None:
    """``--message``, ``--policy``, ``--ram``."""
    parser.add_argument(
        "--message", default="nobody but the guest can read this", metavar="TEXT", help="what the guest has in memory"
    )
    parser.add_argument(
        "--policy",
        type=integer_of(32),
        default=DEFAULT_POLICY,
        metavar="N",
        help=f"the guest's policy (default: 0x{DEFAULT_POLICY:08X}, {DEFAULT_POLICY}); bit 2 needs --es",
    )
    parser.add_argument("--ram", type=integer_of(32), default=0x40000, metavar="N", help="bytes (default: %(default)s)")


@dataclass
class Powered:
    """A chip that is powered on and initialised, with its hypervisor and its complete chain."""

    host: Hypervisor
    chain: Chain
    roots: Roots
    generation: str


@contextmanager
def powered(args: argparse.Namespace, stream: str) -> Iterator[Powered]:
    """The chip of ``args.dir``, initialised; its flash is stored as it changes. ``SevError`` as INIT answers."""
    with chips.powered_on(args.dir, args.seed, stream) as (chip, platform):
        host = Hypervisor(platform)
        host.boot(args.es)
        amd = SimulatedAmd(chip.generation, seed=OsRandom().draw(32) if args.seed is None else args.seed)
        amd.enrol(chip.machine())
        yield Powered(host, host.certificates(amd), amd.roots, chip.generation)


def launch(powered: Powered, args: argparse.Namespace) -> GuestVm:
    """A running guest with the message. ``SevError`` POLICY_FAILURE for a policy that the guest owner refuses."""
    text, policy = args.message.encode(), Policy(args.policy)
    if len(text) > MESSAGE_LIMIT:
        raise InputError("--message", f"at most {MESSAGE_LIMIT} bytes", f"{len(text)} bytes")
    if args.ram < 0x2000 or args.ram % 4096:
        raise InputError("--ram", "a multiple of 4096 from 8192", args.ram)
    image = build_firmware(label=b"guest of sevref migrate and sevref snapshot")
    signature = cpu_signature(25, 1, 1)
    vmsas = initial_vmsas(image, VCPUS, vcpu_sig=signature, fpu="legacy") if policy.es else []
    owner = GuestOwner(roots=powered.roots, seed=args.seed)
    opened = owner.open_session(powered.chain, policy)
    vm = powered.host.launch(image, policy, opened.godh, opened.session, vmsas=vmsas, ram_size=args.ram)
    owner.check_measurement(vm.measure(), launch_digest([image], vmsas))
    vm.finish()
    vm.vcpu().write(0, bytes(args.ram))  # a guest clears its memory: what was there decrypts to noise
    vm.vcpu().write(MESSAGE_AT, len(text).to_bytes(4, "little") + text)
    return vm


def message(vm: GuestVm) -> str:
    """What the guest finds in its memory."""
    vcpu = vm.vcpu()
    size = int.from_bytes(vcpu.read(MESSAGE_AT, 4), "little")
    return vcpu.read(MESSAGE_AT + 4, min(size, MESSAGE_LIMIT)).decode(errors="backslashreplace")


class Bar:
    """Progress on standard error: a bar in a terminal, a line for every quarter elsewhere."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, 0

    def __call__(self, done: int, total: int) -> None:
        terminal = sys.stderr.isatty()
        steps = 40 if terminal else 4
        step = steps * done // total
        if step == self._last:
            return
        self._last = step
        share = f"{100 * done // total:3} % of {total} bytes"
        if terminal:
            end = "\n" if done == total else ""
            print(f"\r{self._what} [{'#' * step}{'.' * (steps - step)}] {share}", end=end, file=sys.stderr, flush=True)
        else:
            print(f"{self._what}: {share}", file=sys.stderr, flush=True)
