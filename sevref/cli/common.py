"""What commands share: reading files and values, printing a result, writing files all or nothing.

Every refusal is an ``InputError`` that names the file or option, what was expected and what was found; the
content of a key or secret is never in it.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sevref.status import InputError

if TYPE_CHECKING:
    from pathlib import Path

#: No file that a command reads is larger, in bytes; the largest are firmware images and kernels.
FILE_LIMIT = 1 << 30


class OptionError(InputError, argparse.ArgumentTypeError):
    """``InputError`` of an option's value; argparse prints its text behind the option's name."""


# ---------------------------------------------------------------------------------------------- reading


def read_file(path: str | os.PathLike[str], what: str, *, limit: int = FILE_LIMIT) -> bytes:
    """The content of the file ``path``, which should be ``what`` ("launch measurement", say).

    ``InputError`` if it cannot be read or has more than ``limit`` bytes.
    """
    where = f"{what} {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(where, "a readable file", (error.strerror or str(error)).lower()) from None
    if len(data) > limit:
        raise InputError(where, f"at most {limit} bytes", "more")
    return data


def exact_file(path: str | os.PathLike[str], what: str, size: int) -> bytes:
    """The content of a file of exactly ``size`` bytes. ``InputError`` otherwise."""
    data = read_file(path, what)
    if len(data) != size:
        raise InputError(f"{what} {os.fspath(path)}", f"{size} bytes", f"{len(data)} bytes")
    return data


def base64_text(text: str | bytes, what: str, size: int | None = None) -> bytes:
    """Bytes of base64 text; white space does not matter. ``InputError`` for other text or another size."""
    raw = b"".join((text.encode("ascii", "replace") if isinstance(text, str) else text).split())
    if len(raw) % 4 or not re.fullmatch(rb"[A-Za-z0-9+/]*={0,2}", raw):
        raise InputError(what, "base64 text", f"{len(raw)} characters that are not")
    data = a2b_base64(raw)
    if size is not None and len(data) != size:
        raise InputError(what, f"base64 of {size} bytes", f"base64 of {len(data)} bytes")
    return data


def to_base64(data: bytes) -> str:
    """``data`` as base64 text in one line."""
    return b2a_base64(data, newline=False).decode()


def base64_file(path: str | os.PathLike[str], what: str, size: int | None = None) -> bytes:
    """Bytes of a file that holds base64 text. ``InputError`` as ``read_file`` and ``base64_text``."""
    return base64_text(read_file(path, what), f"{what} {os.fspath(path)}", size)


# ---------------------------------------------------------------------------------------------- options


def integer(text: str, *, bits: int = 64, what: str = "value") -> int:
    """Decimal or 0x number of at most ``bits`` bits, for ``type=`` of an option; else ``OptionError``."""
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,64}|[0-9]{1,64}", text):
        raise OptionError(what, "a decimal or 0x number", repr(text[:40]))
    number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if number >> bits:
        raise OptionError(what, f"a number of at most {bits} bits", text)
    return number


def integer_of(bits: int) -> Callable[[str], int]:
    """``integer`` with another size, for ``type=`` of an option."""
    return lambda text: integer(text, bits=bits)


def hex_bytes(text: str, size: int | None = None, *, what: str = "value") -> bytes:
    """Bytes of hex digits, for ``type=`` of an option. ``OptionError`` without the text: it may be a key."""
    if len(text) % 2 or not re.fullmatch(r"[0-9a-fA-F]*", text):
        raise OptionError(what, "pairs of hex digits", f"{len(text)} characters that are not")
    if size is not None and len(text) != 2 * size:
        raise OptionError(what, f"{2 * size} hex digits ({size} bytes)", f"{len(text)} hex digits")
    return bytes.fromhex(text)


def hex_bytes_of(size: int) -> Callable[[str], bytes]:
    """``hex_bytes`` of ``size`` bytes, for ``type=`` of an option."""
    return lambda text: hex_bytes(text, size)


def seed_bytes(text: str) -> bytes:
    """Value of ``--seed``: hex of any length but zero. ``OptionError`` otherwise."""
    if not text:
        raise OptionError("seed", "pairs of hex digits", "nothing")
    return hex_bytes(text, what="seed")


def api_version(text: str) -> tuple[int, int]:
    """API version as MAJOR.MINOR, two decimal numbers of one byte, for ``type=`` of an option."""
    parts = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", text)
    numbers = tuple(map(int, parts.groups())) if parts else ()
    if len(numbers) != 2 or max(numbers) > 255:
        raise OptionError("API version", "MAJOR.MINOR, such as 0.24", repr(text[:40]))
    return numbers[0], numbers[1]


def subcommands(parser: argparse.ArgumentParser) -> Any:
    """Where a two-level command adds its second words; one of them must be given."""
    parser.epilog = f"example:\n  {parser.prog} COMMAND --help"
    return parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


# ---------------------------------------------------------------------------------------------- writing


def emit(args: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """Print the result: with ``--json`` the document (bytes as hex), otherwise the text."""
    if getattr(args, "json", False):
        import json

        text = json.dumps(document, indent=2, default=_jsonable)
    print(text)


def _jsonable(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"no JSON form of {type(value).__name__}")


def write_files(files: Mapping[str | os.PathLike[str], tuple[bytes, int]]) -> None:
    """Write path -> (content, mode) all or nothing; the process's umask applies to the modes.

    Each content goes to a temporary name in the same folder and is on the disk before the first name changes.
    After a failure every name is what it was and no temporary is left. ``InputError`` for a folder that does
    not exist and a name that is not a regular file's; ``OSError`` from the system.
    """
    targets = [(_target(path), *content) for path, content in files.items()]
    if len({path for path, _, _ in targets}) != len(targets):
        raise InputError("output files", "different names", ", ".join(str(path) for path, _, _ in targets))
    temporary: list[tuple[Path, Path]] = []  # (temporary name, final name)
    replaced: list[tuple[Path, Path]] = []  # (kept old file, final name)
    named: list[Path] = []
    try:
        for path, data, mode in targets:
            name = _beside(path, "new")
            temporary.append((name, path))
            _write_new(name, data, mode)
        for name, path in temporary:
            if path.exists():
                old = _beside(path, "old")
                replaced.append((old, path))
                os.rename(path, old)
            named.append(path)
            os.rename(name, path)
    except BaseException:
        for path in named:
            with suppress(OSError):
                path.unlink()
        for old, path in replaced:
            with suppress(OSError):
                os.replace(old, path)
        for name, _ in temporary:
            with suppress(OSError):
                name.unlink(missing_ok=True)
        raise
    for old, _ in replaced:
        old.unlink()


def _target(path: str | os.PathLike[str]) -> Path:
    """The final name behind symbolic links. A device of that name would be lost by renaming over it."""
    where = f"output file {os.fspath(path)}"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(where, "a name that can be written", reason) from None
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a special file"
        raise InputError(where, "a new name or a regular file", found)
    from pathlib import Path

    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise InputError(where, f"an existing folder {final.parent}", "none")
    return final


def _beside(path: Path, kind: str) -> Path:
    """A name in the same folder that nobody else uses, short enough wherever ``path`` itself is."""
    import secrets

    return path.with_name(f".sevref-{secrets.token_hex(8)}.{kind}")


def _write_new(name: Path, data: bytes, mode: int) -> None:
    with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
