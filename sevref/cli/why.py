"""``sevref why``: the rules of a command, in the order in which the firmware checks them."""

from __future__ import annotations

import argparse
import json

from sevref.cli.common import json_option
from sevref.firmware import NotBuiltError
from sevref.firmware.rules import rules
from sevref.status import InputError, Status


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Every rule of a firmware command in the order in which it is checked, with the status that answers when it is "
        "broken and the section and row of the fact sheet. Taken from the command's own source."
    )
    parser.epilog = "examples:\n  sevref why LAUNCH_START\n  sevref why LAUNCH_START BAD_MEASUREMENT"
    parser.add_argument("name", metavar="COMMAND", help="a command of the firmware, such as LAUNCH_START")
    parser.add_argument("status", nargs="?", metavar="STATUS", help="only rules with this status: a name or a number")
    json_option(parser)
    parser.set_defaults(run=run)


def _status(text: str) -> Status:
    try:
        return Status[text.upper()] if text.upper() in Status.__members__ else Status(int(text, 0))
    except ValueError:
        raise InputError("status", "a name such as INVALID_LENGTH, or a number", repr(text)) from None


def run(args: argparse.Namespace) -> int:
    wanted = None if args.status is None else _status(args.status)
    try:
        found = [rule for rule in rules(args.name) if wanted is None or rule.status is wanted]
    except NotBuiltError as error:
        raise InputError(error.field, error.expected, error.found) from None
    if args.json:
        entries = [{"order": r.order, "status": r.status.name, "rule": r.rule, "sheet": r.sheet} for r in found]
        print(json.dumps(entries, indent=2))
    elif not found:
        print(f"{args.name.upper()} never answers {wanted.name if wanted is not None else 'with an error'}")
    for rule in [] if args.json else found:
        print(f"{rule.order:3}  {rule.status.name:23} {rule.rule}  [{rule.sheet}]")
    return 0
