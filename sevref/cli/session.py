"""``sevref session create``: the guest owner's side of LAUNCH_START, with the file names of ``sevctl session``."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from pathlib import Path

from sevref.certs import Usage, load_chain
from sevref.cli import common
from sevref.cli.chain import find_roots, roots_option
from sevref.crypto import random_source
from sevref.policy import Policy
from sevref.roles.guest_owner import GuestOwner
from sevref.status import InputError, SevError
from sevref.transport import Opened, Session

EXAMPLE = """\
Written are NAME_godh.b64 and NAME_session.b64, which go to the hypervisor (QEMU: dh-cert-file and
session-file), and the keys NAME_tik.bin and NAME_tek.bin, which stay with you. A platform whose chain does
not verify gets no session, nor does a policy without NODBG (bit 0).

example (policy 1: NODBG):
  sevref session create --chain platform/ --policy 0x1 --name vm --out keys/
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``create``."""
    commands = common.subcommands(parser)
    create = commands.add_parser(
        "create", help="verify a platform and make session, GODH, TIK and TEK for it", epilog=EXAMPLE
    )
    platform = create.add_mutually_exclusive_group(required=True)
    platform.add_argument(
        "--chain", nargs="+", metavar="PATH", help="the platform's certificates: files, folders, concatenations"
    )
    platform.add_argument("--pdh", metavar="FILE", help="the PDH alone, unverified: only with --insecure")
    create.add_argument(
        "--insecure", action="store_true", help="do not verify: the keys may go to an impostor's platform"
    )
    roots_option(create)
    create.add_argument(
        "--policy", type=common.integer_of(32), required=True, metavar="N", help="the guest's policy, 32 bits"
    )
    create.add_argument("--name", default="vm", help="first part of the file names (default vm)")
    create.add_argument("--out", default=".", metavar="DIR", help="folder to write to (default: this one)")
    create.add_argument(
        "--seed", type=common.seed_bytes, metavar="HEX", help="deterministic keys, for tests: they are no secret"
    )
    create.add_argument(
        "--allow-debug", action="store_true", help="accept a policy that lets the hypervisor read the guest"
    )
    create.add_argument(
        "--min-api",
        type=common.api_version,
        metavar="M.N",
        help="oldest API version that the PEK may name (default: the policy's)",
    )
    common.json_option(create)
    create.set_defaults(run=run_create)


def run_create(args: argparse.Namespace) -> int:
    """Write the four files, or say why this platform or policy gets no session."""
    if (args.pdh is not None) != args.insecure:
        found = "--pdh alone" if args.pdh is not None else "--chain with --insecure"
        raise InputError("platform", "--chain, or --pdh with --insecure", found)
    if args.insecure and args.min_api is not None:
        raise InputError("--min-api", "--chain: the version stands in the PEK", "--pdh")
    if not args.name or "/" in args.name or "\0" in args.name:
        raise InputError("--name", "a file name without folder", repr(args.name))
    policy = Policy(args.policy)
    owner = GuestOwner(minimum_api=args.min_api or policy.api, seed=args.seed, allow_debug=args.allow_debug)
    try:
        opened = _unverified(args, owner, policy) if args.insecure else _verified(args, owner, policy)
    except SevError as error:
        result = owner.chain_result
        document = {
            "files": [],
            "policy": int(policy),
            "chain_valid": result is not None and result.valid,
            "status": error.status.name,
            "rule": error.rule,
        }
        if args.json:
            common.emit(args, document, "")
        print(f"sevref: no session: {error}", file=sys.stderr)
        return 1
    files = {
        "godh.b64": (base64.b64encode(opened.godh.pack()), 0o644),
        "session.b64": (base64.b64encode(opened.session.pack()), 0o644),
        "tik.bin": (opened.tik, 0o600),
        "tek.bin": (opened.tek, 0o600),
    }
    paths = [os.path.join(args.out, f"{args.name}_{end}") for end in files]
    Path(args.out).mkdir(parents=True, exist_ok=True)
    common.write_files(dict(zip(paths, files.values(), strict=True)))
    valid = not args.insecure
    lines = [f"policy {policy}", "chain verified" if valid else "chain NOT verified (--insecure)", *paths]
    common.emit(args, {"files": paths, "policy": int(policy), "chain_valid": valid}, "\n".join(lines))
    return 0


def _verified(args: argparse.Namespace, owner: GuestOwner, policy: Policy) -> Opened:
    chain = load_chain(args.chain)
    owner.roots = find_roots(args.roots, chain)
    return owner.open_session(chain, policy)


def _unverified(args: argparse.Namespace, owner: GuestOwner, policy: Policy) -> Opened:
    pdh = load_chain(args.pdh).pdh
    if pdh is None or pdh.pubkey_usage != Usage.PDH:
        raise InputError(f"PDH {args.pdh}", "a PDH certificate (usage 0x1003)", "another certificate")
    owner.check_policy(policy)
    return Session.create(pdh, policy, rng=random_source(args.seed, "guest owner"))
