"""What ``digest`` and ``measurement verify`` share: the options of ``--explain``, and its progress bar."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from sevref.boot.image import Image
from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.boot.digest import Guest
    from sevref.boot.explain import Explanation, Owner, Reading

_FOLDER_LIMIT = 256  # files of a folder of firmware images that are looked at


def options(parser: argparse._ActionsContainer) -> None:
    """Add what ``--explain`` may search besides the options of the guest."""
    parser.add_argument(
        "--firmware-dir", metavar="DIR", help="folder of firmware images: each may have been used instead"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="FILE",
        help="with --explain: a file that may have been the kernel or the initrd; may be given several times",
    )


def search(
    args: argparse.Namespace,
    guest: Guest,
    readings: list[Reading],
    owner: Owner | None,
    *,
    kernel: str | None,
    initrd: str | None,
    cmdline: str | None,
) -> Explanation:
    """Run the search, with a bar on a terminal."""
    from sevref.boot.explain import explain
    from sevref.boot.hashes import cmdline_bytes
    from sevref.boot.mistakes import Files

    for path in args.also:
        if not os.path.isfile(path):
            raise InputError(f"--also {path}", "a readable file", "none")
    files = Files(kernel, initrd, cmdline_bytes(cmdline), firmwares(args.firmware_dir), args.also)
    bar = Bar()
    try:
        return explain(guest, readings, owner, files=files, progress=bar if bar.wanted else None)
    finally:
        bar.clear()


def firmwares(folder: str | None) -> list[Image]:
    """The firmware images of a folder: its regular files whose size is a multiple of 4096 bytes, by name."""
    if folder is None:
        return []
    try:
        paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError as error:
        raise InputError(f"--firmware-dir {folder}", "a folder", (error.strerror or str(error)).lower()) from None
    found = []
    for path in paths:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        if size and size % 4096 == 0 and size < 1 << 30:
            found.append(Image(path))
    if len(found) > _FOLDER_LIMIT:
        raise InputError(f"--firmware-dir {folder}", f"at most {_FOLDER_LIMIT} images", len(found))
    return found


def report(found: Explanation, document: dict[str, Any], lines: list[str]) -> None:
    """Add the outcome to a command's result."""
    document["hypotheses"] = found.records()
    document["explanation"] = found.matches
    if found.difference:
        document["first_difference"] = found.difference
    lines.append(found.text())


class Bar:
    """A progress bar on standard error; nothing unless that is a terminal."""

    width = 40

    def __init__(self) -> None:
        self.wanted = sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""

    def __call__(self, done: int, total: int) -> None:
        part = min(done / max(total, 1), 1)
        full = int(part * self.width)
        shown = f"\rsearching [{'#' * full}{'.' * (self.width - full)}] {part:4.0%}"
        if shown != self._shown:
            self._shown = shown
            print(shown, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            print("\r" + " " * (len(self._shown) - 1) + "\r", end="", file=sys.stderr, flush=True)
