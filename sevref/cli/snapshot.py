"""``sevref snapshot``: a guest in a file, from one process to the next."""

from __future__ import annotations

import argparse
import hashlib

from sevref.cli.common import emit, json_option, read_file, subcommands
from sevref.cli.guests import Bar, guest_options, host_options, launch, message, powered
from sevref.measurement import AttestationReport
from sevref.policy import Policy
from sevref.roles.snapshot import restore, save
from sevref.roles.stream import Kind, read_stream
from sevref.status import Status

EXAMPLE = """\
The file opens on the chip that wrote it, in any later process, as long as the chip's PDH is the same: `sevref sp DIR
pdh-gen` ends that. It may be restored any number of times, also when it is old: nothing counts.

example (the chip: sevref sp a new):
  sevref snapshot create a guest.snapshot --message "still here"
  sevref snapshot restore a guest.snapshot
  sevref sp a pdh-gen
  sevref snapshot restore a guest.snapshot      # exit code 1: BAD_MEASUREMENT"""


def configure(parser: argparse.ArgumentParser) -> None:
    commands = subcommands(parser)
    parser.epilog = EXAMPLE
    create = commands.add_parser("create", help="launch a guest and save it", epilog=EXAMPLE)
    host_options(create)
    create.add_argument("file", metavar="FILE", help="the snapshot; appears when it is complete")
    guest_options(create)
    create.set_defaults(run=run_create)
    again = commands.add_parser("restore", help="bring the guest of a snapshot back to life", epilog=EXAMPLE)
    host_options(again)
    again.add_argument("file", metavar="FILE", help="the snapshot")
    again.set_defaults(run=run_restore)
    show = commands.add_parser("show", help="what a snapshot holds; needs no chip", epilog=EXAMPLE)
    show.add_argument("file", metavar="FILE", help="the snapshot")
    json_option(show)
    show.set_defaults(run=run_show)


def run_create(args: argparse.Namespace) -> int:
    """Launch, run, SEND_*, SEND_CANCEL: the guest would run on, if the process did not end."""
    with powered(args, "snapshot create") as here:
        vm = launch(here, args)
        digest = _digest(here.host.platform.attestation(vm.handle, bytes(16)))
        head = save(vm, here.chain, args.file, progress=Bar("save"))
    policy = Policy(head.policy)
    document = {"status": Status.SUCCESS.name, "file": args.file, "policy": int(policy), "launch_digest": digest}
    emit(args, document, f"{args.file}: guest with policy {policy}, launch digest {digest[:16]}...")
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """RECEIVE_*, and what the guest finds in its memory."""
    with powered(args, "snapshot restore") as here:
        vm = restore(here.host, args.file, progress=Bar("restore"))
        info = here.host.platform.guest_status(vm.handle)
        digest = _digest(here.host.platform.attestation(vm.handle, bytes(16)))
        document = {
            "status": Status.SUCCESS.name,
            "policy": int(info.policy),
            "state": info.state.name,
            "launch_digest": digest,
            "message": message(vm),
        }
    emit(args, document, f'{document["state"]}, policy {info.policy}; the guest reads: "{document["message"]}"')
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Head and records."""
    head, parts = read_stream(read_file(args.file, "snapshot"), args.file)
    records = [
        {
            "kind": Kind(record.kind).name,
            "length": record.length,
            "address": record.address,
            "iv": None if header is None else header.iv.hex(),
            "mac": None if header is None else header.mac.hex(),
        }
        for record, header, _ in parts
    ]
    pdh = hashlib.sha256(head.sender_pdh.pack()).hexdigest()
    shape = {name: getattr(head, name) for name in ("ram_size", "image_size", "vmsas")}
    nonce = head.session.nonce.hex()
    document = {"policy": int(head.policy), **shape, "sender_pdh_sha256": pdh, "nonce": nonce, "records": records}
    lines = [f"policy      {Policy(head.policy)}", *(f"{name:<11} {value}" for name, value in shape.items())]
    lines += [f"sender PDH  sha256 {pdh}", f"NONCE       {nonce}", ""]
    lines += [f"{r['kind']:<7} 0x{r['address']:09X} {r['length']:>6}  MAC {r['mac'] or '-'}" for r in records]
    emit(args, document, "\n".join(lines))
    return 0


def _digest(report: AttestationReport) -> str:
    return bytes(report.launch_digest).hex()
