"""``sevref conform``: replay recorded firmware commands and compare every answer."""

from __future__ import annotations

import argparse
from pathlib import Path

from sevref.cli.common import emit, json_option
from sevref.conform import Report, replay
from sevref.status import InputError
from sevref.traces import load_trace

SHOWN = 40


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replay recorded traces through the mailbox, under the profile and machine that they name, and compare status, "
        "command buffer, memory, randomness and states after every command. Exit code 1 if anything differs or a "
        "command is not built."
    )
    parser.epilog = "example: sevref conform data/traces/*.json.gz"
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, JSON or JSON.gz, or a folder of traces")
    json_option(parser)
    parser.set_defaults(run=run)


def _files(names: list[str]) -> list[Path]:
    found = []
    for name in names:
        path = Path(name)
        inside = [*path.glob("*.json"), *path.glob("*.json.gz")] if path.is_dir() else [path]
        if not inside:
            raise InputError(name, "a folder with traces (*.json, *.json.gz)", "none in it")
        found += sorted(inside)
    return found


def run(args: argparse.Namespace) -> int:
    total, lines = Report(), []
    for path in _files(args.traces):
        report = replay(load_trace(path))
        total.add(report)
        lines.append(f"{path.name}: {report.agree} of {report.steps} commands agree")
    for difference in total.differ[:SHOWN]:
        lines.append(
            f"  {difference.trace} step {difference.step} {difference.command}: {difference.field}: "
            f"expected {difference.expected}, found {difference.found}"
        )
    if len(total.differ) > SHOWN:
        lines.append(f"  ... and {len(total.differ) - SHOWN} more differences")
    lines.append(
        f"{total.agree} of {total.steps} commands agree, {total.replaced} of them internal errors of the recorded "
        f"firmware answered with a documented status; {total.unsupported} not built"
    )
    emit(args, total.as_dict(), "\n".join(lines))
    return 0 if total.conforms else 1
