"""``sevref digest``: the launch digest that a guest will have, with the options of ``sev-snp-measure``.

Only what a digest needs is imported: the whole command takes no longer than that tool.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sevref.boot.digest import MAX_VCPUS, MODES, VMSA_GPA, Guest, Prediction, pieces, predict
from sevref.boot.footer import parse_footer
from sevref.boot.hashes import KernelHashes, cmdline_bytes
from sevref.boot.image import PAGE, Image
from sevref.boot.vmsa import CPU_MODELS, FPU, VMMS, cpu_signature, signature_of
from sevref.cli import common, explaining
from sevref.status import InputError

EXAMPLE = """\
Printed is the digest that SNP reports as MEASUREMENT, or that LAUNCH_MEASURE authenticates for SEV and SEV-ES.
A stock QEMU starts SEV-ES guests through KVM's older interface: their register pages need --vmsa-fpu legacy.
With --explain the digest that was observed is compared; if it is another one, the mistakes that people make are
tried, and exit code 1 says that it is another.

example:
  sevref digest --mode snp --vcpus 4 --vcpu-type EPYC-v4 --ovmf OVMF.fd \\
      --kernel vmlinuz --initrd initrd.img --append "console=ttyS0"
"""

#: how sev-snp-measure -v calls the modes
_PEER_NAMES = {"sev": "SEV", "seves": "SEV_ES", "snp": "SEV_SNP", "snp:svsm": "SEV_SNP_SVSM"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of sev-snp-measure, and then ours."""
    parser.epilog = EXAMPLE
    number = common.integer_of(64)
    parser.add_argument("-v", "--verbose", action="store_true", help="say what the digest is, and every step")
    parser.add_argument("--mode", choices=MODES, required=True, help="kind of guest")
    parser.add_argument("--vcpus", type=number, metavar="N", help="number of vCPUs (not in mode sev)")
    parser.add_argument(
        "--vcpu-type", metavar="TYPE", help=f"CPU model of QEMU: {', '.join(CPU_MODELS)}, also with -vN"
    )
    parser.add_argument("--vcpu-sig", type=number, metavar="N", help="signature of the CPU: CPUID Fn0000_0001 EAX")
    for name in "family", "model", "stepping":
        parser.add_argument(f"--vcpu-{name}", type=common.integer_of(16), metavar="N", help=f"{name} of the CPU")
    parser.add_argument("--vmm-type", choices=list(VMMS), default="QEMU", metavar="VMM", help=", ".join(VMMS))
    parser.add_argument("--ovmf", required=True, metavar="FILE", help="guest firmware image (the code part)")
    parser.add_argument("--kernel", metavar="FILE", help="kernel, if its hashes are measured (kernel-hashes=on)")
    parser.add_argument("--initrd", metavar="FILE", help="initial RAM disk (with --kernel)")
    parser.add_argument("--append", metavar="CMDLINE", help="kernel command line (with --kernel)")
    parser.add_argument(
        "--guest-features", type=number, metavar="N", help="SEV_FEATURES of the register pages (SNP: 1, SEV-ES: 0)"
    )
    parser.add_argument("--snp-ovmf-hash", metavar="HEX", help="hash of the firmware's pages, from mode snp:ovmf-hash")
    parser.add_argument("--output-format", choices=["hex", "base64"], default="hex")
    parser.add_argument("--dump-vmsa", action="store_true", help="write the register pages to vmsa<N>.bin")
    parser.add_argument("--svsm", metavar="FILE", help="SVSM image (mode snp:svsm)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--vars-size", type=number, metavar="N", help="bytes of the firmware's VARS image (snp:svsm)")
    size.add_argument("--vars-file", metavar="FILE", help="that image")

    ours = parser.add_argument_group("beyond sev-snp-measure")
    ours.add_argument(
        "--vmsa-fpu",
        choices=list(FPU),
        default="init2",
        help="MXCSR and x87 control word: of KVM_SEV_INIT2 (the default), or legacy: of KVM_SEV_ES_INIT",
    )
    ours.add_argument(
        "--vmsa-gpa", type=number, default=VMSA_GPA, metavar="N", help=f"address of SNP's VMSAs (0x{VMSA_GPA:X})"
    )
    ours.add_argument(
        "--as-peer",
        action="store_true",
        help="reproduce sev-snp-measure 0.0.13 where it is wrong: see sevref.boot.Guest",
    )
    ours.add_argument("--explain", metavar="OBSERVED", help="the observed digest: say what would have produced it")
    explaining.options(ours)
    ours.add_argument("--compare", metavar="JSON", help="output of another digest --json: name the first other step")
    common.json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the digest."""
    guest = guest_of(args)
    parse_footer(guest.firmware)  # a broken table is an error, needed or not
    found = predict(guest)
    digest = found.digest.hex() if args.output_format == "hex" else common.to_base64(found.digest)
    document: dict[str, Any] = {"digest": digest, "mode": args.mode, "steps": step_records(found)}
    lines = [digest]
    if args.verbose and args.mode in _PEER_NAMES:
        lines = [f"Calculated {_PEER_NAMES[args.mode]} guest measurement: {digest}"]
        print(steps_text(found), file=sys.stderr)
    code = 0
    if args.compare is not None:
        code = compare(args.compare, found, document, lines)
    if args.explain is not None:
        code = max(code, explain(args, guest, found, document, lines))
    if args.dump_vmsa:
        dump(guest)
    common.emit(args, document, "\n".join(lines))
    return code


def guest_of(args: argparse.Namespace) -> Guest:
    """The guest that the options describe. ``InputError`` if they do not describe one."""
    mode = args.mode
    if args.kernel is None:
        for name in "initrd", "append":
            if getattr(args, name) is not None:
                raise InputError(f"--{name}", "--kernel with it", "none")
    vcpus, signature = 1, 0
    if mode not in ("sev", "snp:ovmf-hash"):
        if args.vcpus is None:
            raise InputError("--vcpus", f"a number in mode {mode}", "none")
        vcpus = args.vcpus
        if not 1 <= vcpus <= MAX_VCPUS:
            raise InputError("--vcpus", f"1 to {MAX_VCPUS}", vcpus)
        signature = _signature(args)
    kernel = None
    if args.kernel is not None and mode in ("sev", "seves", "snp"):
        cmdline_bytes(args.append)  # before large files are read
        kernel = KernelHashes.of(args.kernel, args.initrd, args.append)
    elif args.kernel is not None:
        print(f"sevref: note: mode {mode} measures no kernel, initrd or command line", file=sys.stderr)
    seed = None
    if args.snp_ovmf_hash:
        seed = common.hex_bytes(args.snp_ovmf_hash, 48, what="--snp-ovmf-hash")
    svsm = None
    if mode == "snp:svsm":
        if args.svsm is None:
            raise InputError("--svsm", "an SVSM image in mode snp:svsm", "none")
        svsm = Image(args.svsm, "SVSM")
    return Guest(
        Image(args.ovmf),
        mode=mode,
        vcpus=vcpus,
        vcpu_sig=signature,
        vmm=args.vmm_type,
        features=args.guest_features,
        fpu=args.vmsa_fpu,
        kernel=kernel,
        ovmf_hash=seed,
        svsm=svsm,
        vars_size=_vars_size(args) if svsm else 0,
        vmsa_gpa=args.vmsa_gpa,
        peer=args.as_peer,
    )


def _signature(args: argparse.Namespace) -> int:
    parts = {name: getattr(args, f"vcpu_{name}") for name in ("family", "model", "stepping")}
    if any(value is not None for value in parts.values()):
        missing = [name for name, value in parts.items() if value is None]
        if missing:
            raise InputError(
                "--vcpu-family, --vcpu-model, --vcpu-stepping", "all three", f"no {' and no '.join(missing)}"
            )
        return cpu_signature(parts["family"], parts["model"], parts["stepping"])
    if args.vcpu_sig is not None:
        return int(args.vcpu_sig)
    if args.vcpu_type is not None:
        return signature_of(args.vcpu_type)
    if VMMS[args.vmm_type].rdx is None:
        raise InputError("CPU", f"--vcpu-type, --vcpu-sig or --vcpu-family in mode {args.mode}", "none")
    return 0


def _vars_size(args: argparse.Namespace) -> int:
    if args.vars_file is not None:
        return Image(args.vars_file, "VARS").size
    if args.vars_size is None:
        raise InputError("--vars-size or --vars-file", "one of them in mode snp:svsm", "neither")
    return int(args.vars_size)


def step_records(found: Prediction) -> list[dict[str, Any]]:
    """The steps as JSON has them; addresses and sizes are numbers."""
    return [{**step._asdict(), "digest_after": step.digest_after.hex()} for step in found.steps]


def steps_text(found: Prediction) -> str:
    """The steps for people, a line each."""
    return "\n".join(
        f"{step.digest_after.hex()}  {'' if step.gpa is None else f'0x{step.gpa:X}':>14} {step.pages:6} x "
        f"{step.page_type:<10} {step.what}"
        for step in found.steps
    )


def compare(path: str, found: Prediction, document: dict[str, Any], lines: list[str]) -> int:
    """Name the first step that differs from those of another run; the exit code."""
    import json

    from sevref.boot.digest import first_difference

    where = f"record of steps {path}"
    try:
        other = json.loads(common.read_file(path, "record of steps", limit=1 << 28))["steps"]
        difference = first_difference(step_records(found), other)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(where, "the output of digest --json", "something else") from None
    document["first_difference"] = difference
    lines.append(f"first difference to {path}: {difference}" if difference else f"every step is that of {path}")
    return 0 if difference is None else 1


def explain(
    args: argparse.Namespace, guest: Guest, found: Prediction, document: dict[str, Any], lines: list[str]
) -> int:
    """Say what would have produced the observed digest; the exit code."""
    from sevref.boot.explain import read_digest

    if args.mode == "snp:ovmf-hash":
        raise InputError("--explain", "a mode of guests", args.mode)
    readings = read_digest(args.explain, len(found.digest))
    boot = {"kernel": args.kernel, "initrd": args.initrd, "cmdline": args.append}
    result = explaining.search(args, guest, readings, None, **boot)
    document["match"] = result.as_configured
    explaining.report(result, document, lines)
    return 0 if result.as_configured else 1


def dump(guest: Guest) -> None:
    """Write the register pages into the current folder."""
    pages = [piece.content for piece in pieces(guest)[1] if piece.what.startswith("vmsa ")]
    assert all(isinstance(page, bytes) and len(page) == PAGE for page in pages)
    common.write_files({f"vmsa{i}.bin": (page, 0o644) for i, page in enumerate(pages) if isinstance(page, bytes)})
