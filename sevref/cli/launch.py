"""The options that say what was launched as an SEV or SEV-ES guest, and the guest and owner that they describe."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from sevref.boot.digest import MAX_VCPUS, Guest
from sevref.boot.hashes import KernelHashes, cmdline_bytes
from sevref.boot.image import PAGE, Image
from sevref.boot.vmsa import cpu_signature, signature_of
from sevref.cli import common
from sevref.policy import Policy
from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.boot.explain import Owner

VERSION = ("api_major", "api_minor", "build_id", "policy")


class Launch(NamedTuple):
    """A guest, and what else its launch measurement depends on."""

    guest: Guest
    api: tuple[int, int]
    build: int
    policy: int
    kernel: str | None
    initrd: str | None
    cmdline: str | None
    measurement: str | None = None

    def owner(self, tik: bytes, tek: bytes | None = None) -> Owner:
        """The same with the owner's keys."""
        from sevref.boot.explain import Owner

        return Owner(tik, self.api, self.build, self.policy, tek)


def version_options(parser: argparse.ArgumentParser, *, default: bool = True) -> None:
    """Add the running SEV firmware's version, by ``default`` 0.24 build 15."""
    for name, value in ("api-major", 0), ("api-minor", 24), ("build-id", 15):
        parser.add_argument(
            f"--{name}",
            type=common.integer_of(8),
            default=value if default else None,
            metavar="N",
            help="of the running SEV firmware" + (f" (default {value})" if default else ""),
        )


def options(parser: argparse.ArgumentParser) -> None:
    """Add what enters a launch measurement besides TIK and nonce."""
    version_options(parser, default=False)
    parser.add_argument("--policy", type=common.integer_of(32), metavar="N", help="the guest's policy, 32 bits")
    parser.add_argument("--firmware", metavar="FILE", help="guest firmware image")
    parser.add_argument("--kernel", metavar="FILE", help="kernel, if its hashes are measured (kernel-hashes=on)")
    parser.add_argument("--initrd", metavar="FILE", help="initial RAM disk (with --kernel)")
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (with --kernel)")
    es = parser.add_argument_group("SEV-ES guests (policy bit 2)")
    es.add_argument("--num-cpus", type=common.integer_of(16), metavar="N", help="number of vCPUs")
    es.add_argument("--vmsa-cpu0", metavar="FILE", help="register page of the boot processor, 4096 bytes")
    es.add_argument("--vmsa-cpu1", metavar="FILE", help="register page of every other processor")


def processor_options(parser: argparse.ArgumentParser) -> None:
    """Add what register pages are built from when they are not given."""
    group = parser.add_argument_group("register pages of SEV-ES guests that are not given")
    for name in "family", "model", "stepping":
        group.add_argument(f"--cpu-{name}", type=common.integer_of(16), metavar="N", help=f"{name} of the host's CPU")
    group.add_argument(
        "--vmsa-fpu",
        choices=["legacy", "init2"],
        default="legacy",
        help="legacy: as a stock QEMU starts the guest (the default); init2: through KVM_SEV_INIT2",
    )
    host = parser.add_argument_group("what the host says about the guest; options of the same meaning come first")
    host.add_argument("--domain-xml", metavar="FILE", help="libvirt's domain XML")
    host.add_argument(
        "--qmp",
        action="append",
        default=[],
        metavar="FILE",
        help="QEMU's JSON answer to query-sev or query-sev-launch-measure; may be given several times",
    )


def launch_of(args: argparse.Namespace) -> Launch:
    """The launch that the options, and the files of the host that they name, describe.

    ``InputError`` names the option that is missing or does not fit.
    """
    measurement = _from_host(args)
    for name in (*VERSION, "firmware"):
        if getattr(args, name) is None:
            raise InputError(f"--{name.replace('_', '-')}", "a value", "none")
    if args.kernel is None:
        for name in "initrd", "cmdline":
            if getattr(args, name) is not None:
                raise InputError(f"--{name}", "--kernel with it", "none")
    firmware = Image(args.firmware)
    kernel = None
    if args.kernel is not None:
        cmdline_bytes(args.cmdline)  # before large files are read
        kernel = KernelHashes.of(args.kernel, args.initrd, args.cmdline)
    guest = Guest(firmware, mode="sev", kernel=kernel)
    if Policy(args.policy).es:
        guest = _with_processors(args, guest._replace(mode="seves"))
    elif args.vmsa_cpu0 is not None or args.vmsa_cpu1 is not None:
        print("sevref: note: the policy has no ES bit, register pages are not measured", file=sys.stderr)
    api = args.api_major, args.api_minor
    return Launch(guest, api, args.build_id, args.policy, args.kernel, args.initrd, args.cmdline, measurement)


def _from_host(args: argparse.Namespace) -> str | None:
    """Fill in what the host says and no option does; the measurement that it reports."""
    measurement = None
    if getattr(args, "qmp", None):
        from sevref.cli.domain import read_answers

        answers = read_answers(args.qmp)
        measurement = answers.measurement
        _fill(args, {name: getattr(answers, name) for name in VERSION})
    if getattr(args, "domain_xml", None) is not None:
        from sevref.cli.domain import read_domain

        domain = read_domain(args.domain_xml)
        firmware = domain.firmware
        if firmware is not None and args.firmware_dir is not None:
            firmware = os.path.join(args.firmware_dir, os.path.basename(firmware))
        _fill(args, {"firmware": firmware, "policy": domain.policy, "num_cpus": domain.vcpus})
        if args.kernel is None:
            boot = {name: getattr(domain, name) for name in ("kernel", "initrd", "cmdline")}
            if domain.kernel_hashes:
                _fill(args, boot)
            else:  # not measured, says the host; the search may find that they were
                args.unmeasured_cmdline = domain.cmdline
                args.also = [*args.also, *(path for path in (domain.kernel, domain.initrd) if _is_file(path))]
        args.cpu = domain.cpu
    return measurement


def _is_file(path: str | None) -> bool:
    return path is not None and os.path.isfile(path)


def _fill(args: argparse.Namespace, values: dict[str, object]) -> None:
    for name, value in values.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _with_processors(args: argparse.Namespace, guest: Guest) -> Guest:
    if args.num_cpus is None:
        raise InputError("--num-cpus", "a number: the policy asks for SEV-ES", "none")
    if not 1 <= args.num_cpus <= MAX_VCPUS:
        raise InputError("--num-cpus", f"1 to {MAX_VCPUS}", args.num_cpus)
    guest = guest._replace(vcpus=args.num_cpus, fpu=getattr(args, "vmsa_fpu", "legacy"))
    parts = [getattr(args, f"cpu_{name}", None) for name in ("family", "model", "stepping")]
    if args.vmsa_cpu0 is not None or args.vmsa_cpu1 is not None:
        if any(part is not None for part in parts):
            raise InputError("register pages", "--vmsa-cpu0 and --vmsa-cpu1, or --cpu-family and so on", "both")
        if args.vmsa_cpu0 is None:
            raise InputError("--vmsa-cpu0", "a file beside --vmsa-cpu1", "none")
        if args.vmsa_cpu1 is None and args.num_cpus > 1:
            raise InputError("--vmsa-cpu1", f"a file for {args.num_cpus} vCPUs", "none")
        boot = common.exact_file(args.vmsa_cpu0, "register page", PAGE)
        other = boot if args.vmsa_cpu1 is None else common.exact_file(args.vmsa_cpu1, "register page", PAGE)
        return guest._replace(vmsas=(boot, other))
    if any(part is not None for part in parts):
        family, model, stepping = parts
        if family is None or model is None or stepping is None:
            raise InputError("--cpu-family, --cpu-model, --cpu-stepping", "all three", "one or two")
        return guest._replace(vcpu_sig=cpu_signature(family, model, stepping))
    cpu = getattr(args, "cpu", None)
    if cpu is not None:
        return guest._replace(vcpu_sig=signature_of(cpu))
    built = ", or --cpu-family and so on" if hasattr(args, "cpu_family") else ""
    raise InputError("--vmsa-cpu0", f"a file{built}: the policy asks for SEV-ES", "none")
