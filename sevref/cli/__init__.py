"""The ``sevref`` command: one module per group of commands, imported when the command is used.

A module of ``COMMANDS`` has ``configure(parser)``, which adds its options and an epilog that ends in an
example, and says what to call by ``parser.set_defaults(run=...)``. ``run(args)`` returns the exit code:

- 0: done, or verified;
- 1: the check was made and says no (a ``SevError`` that a command lets through counts);
- 2: the input cannot be used: ``InputError``, an unreadable file, text that is not base64, an unknown option.

With ``--json`` standard output holds one JSON document, and nothing with exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from sevref import __version__
from sevref.cli import common
from sevref.status import InputError, SevError

#: command -> (module, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "lab": ("sevref.cli.lab", "copy the notebooks into a folder and open them in JupyterLab"),
    "demo": ("sevref.cli.demo", "from AMD's root key to a secret inside a measured guest, in a terminal"),
    "cert": ("sevref.cli.cert", "decode AMD and SEV certificates"),
    "chain": ("sevref.cli.chain", "verify a platform's certificate chain"),
    "session": ("sevref.cli.session", "the guest owner's launch session and keys"),
    "digest": ("sevref.cli.digest", "predict the launch digest of a guest"),
    "measurement": ("sevref.cli.measurement", "compute and verify launch measurements"),
    "secret": ("sevref.cli.secret", "package secrets for a measured guest"),
    "sp": ("sevref.cli.sp", "a software AMD-SP that lives in a folder: own, export, rotate and reset it"),
    "migrate": ("sevref.cli.migrate", "move a guest between two chips, each in its own process, over loopback TCP"),
    "snapshot": ("sevref.cli.snapshot", "save a guest to a file, restore it, look into the file"),
    "why": ("sevref.cli.why", "the rules of a firmware command, in order"),
    "conform": ("sevref.cli.conform", "replay recorded firmware commands and compare every answer"),
    "serve": ("sevref.cli.serve", "the oracle for programs in other languages, over standard input and output"),
}

NO_READER = 128 + 13  # what a shell reports of a program that SIGPIPE ended
INTERRUPTED = 128 + 2


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose options come from ``module``, which is imported when the command is used."""

    def __init__(self, *args: Any, module: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._module is not None:
            importlib.import_module(self._module).configure(self)
        return super().parse_known_args(args, namespace)


def build_parser(names: Iterable[str] | None = None) -> CommandParser:
    """The parser of the command line, without the options of any command. Only the commands ``names`` if given: making
    a parser costs more than some commands do."""
    parser = CommandParser(
        prog="sevref",
        description="AMD SEV key management as a specification that runs.",
        epilog="exit codes: 0 done or verified, 1 checked and refused, 2 input that cannot be used\n\n"
        "example:\n  sevref demo --seed 00",
    )
    parser.add_argument("--version", action="version", version=f"sevref {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS if names is None else names:
        module, text = COMMANDS[name]
        commands.add_parser(name, module=module, help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_stdout()
        return NO_READER
    except OSError as error:  # of the flush: the disk behind standard output is full
        _drop_stdout()
        return _refuse(f"standard output: {error.strerror or error}")


def _run(argv: list[str] | None) -> int:
    args = argparse.Namespace()
    words = sys.argv[1:] if argv is None else argv
    try:
        build_parser(words[:1] if words[:1] and words[0] in COMMANDS else None).parse_args(words, args)
        return int(args.run(args))
    except SystemExit as stop:  # argparse: --help, --version or an error that it has printed
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except SevError as error:
        if getattr(args, "json", False):
            status = error.status.name
            common.emit(args, {"ok": False, "status": status, "rule": error.rule, "command": error.command}, "")
        print(f"sevref: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return _refuse(f"{name}{error.strerror or error}")
    except UnicodeError as error:
        return _refuse(f"text: expected UTF-8, found {error}")
    except InputError as error:
        return _refuse(str(error))
    except Exception as error:
        if os.environ.get("SEVREF_TRACEBACK"):
            raise
        return _refuse(f"internal error: {type(error).__name__}: {error} (SEVREF_TRACEBACK=1 shows where)")


def _refuse(message: str) -> int:
    """Say in one line on standard error why the input cannot be used; the exit code."""
    print("sevref: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _drop_stdout() -> None:
    """Keep the interpreter from flushing once more, and complaining, when it ends."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # a standard output without a descriptor has nothing to complain about
        pass
