"""``sevref serve``: the oracle as a line protocol for programs in other languages."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType

from sevref.cli.common import write_files
from sevref.serve import Server, serve
from sevref.status import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Answer JSON requests, one a line on standard input, with one JSON object a line on standard output: create "
        "platforms, read and write memory, issue mailbox commands, WBINVD, power cycle. The protocol is described in "
        "data/protocol/README.md. With --record the session is written as a trace when the input ends; "
        "'sevref conform FILE' replays it."
    )
    parser.epilog = (
        "example:\n"
        "  sevref serve --stdio --record session.json < requests.jsonl\n\n"
        """A line of requests.jsonl: {"op": "create"}, then {"op": "cmd", "cmd": "PLATFORM_STATUS"}."""
    )
    parser.add_argument("--stdio", action="store_true", required=True, help="talk over standard input and output")
    parser.add_argument("--record", metavar="FILE", help="write the session as a trace when the input ends")
    parser.set_defaults(run=run)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> int:
    if args.record is not None and not Path(args.record).absolute().parent.is_dir():
        raise InputError(f"record {args.record}", "a folder that exists", "none")
    server = Server(Path(args.record).stem if args.record else "session")
    signal.signal(signal.SIGTERM, _stop)

    def write(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    try:
        serve(sys.stdin.buffer, write, server)
    finally:  # what was recorded must survive an interrupt
        if args.record is not None:
            write_files({args.record: (json.dumps(server.trace(), indent=1).encode() + b"\n", 0o644)})
    return 0
