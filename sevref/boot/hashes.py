"""Measured direct boot: the table of hashes of kernel, initrd and command line (QEMU, ``kernel-hashes=on``).

Kernel and initrd come from the untrusted host. Only their hashes are measured with the firmware; the firmware then
refuses to start anything that does not hash to them (EDK II, OvmfPkg/AmdSev/BlobVerifierLibSevHashes).
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple, Self
from uuid import UUID

from sevref.boot.image import PAGE, file_blocks
from sevref.layout import Layout, nested, raw, reserved, u16
from sevref.status import InputError

TABLE = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
CMDLINE = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
INITRD = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
KERNEL = UUID("4de79437-abd2-427f-b835-d5b172d2045b")

EMPTY = hashlib.sha256(b"").digest()  #: hash of an initrd that is not there


class HashEntry(Layout, size=0x32):
    """One entry of the table of hashes, 50 bytes; unlike in the firmware table the GUID stands before the length."""

    guid = raw(0x00, 16, "which hash this is, in EFI byte order: first three groups little-endian")
    length = u16(0x10, "bytes of this entry", default=0x32)
    sha256 = raw(0x12, 32, "SHA-256")


class HashTable(Layout, size=0xB0):
    """The table of hashes as it stands in guest memory, 176 bytes: 168 and 8 of padding, which is measured too."""

    guid = raw(0x00, 16, "this is a table of hashes", default=TABLE.bytes_le)
    length = u16(0x10, "bytes of the table without padding", default=0xA8)
    cmdline = nested(0x12, HashEntry, "kernel command line and one zero byte")
    initrd = nested(0x44, HashEntry, "initial RAM disk; of nothing if there is none")
    kernel = nested(0x76, HashEntry, "kernel: the whole file, its setup header unpatched")
    padding = reserved(0xA8, 8, "to a multiple of 16 bytes, zero")


class KernelHashes(NamedTuple):
    """The three hashes, SHA-256 of 32 bytes each."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, kernel: Source, initrd: Source | None = None, cmdline: str | bytes | None = None) -> Self:
        """Hashes of kernel, initrd (bytes, or the path of a file that is read piece by piece) and command line.

        No initrd counts as an empty one, no command line as "". ``InputError`` for unreadable files.
        """
        return cls(
            _sha256(kernel, "kernel"), EMPTY if initrd is None else _sha256(initrd, "initrd"), of_cmdline(cmdline)
        )

    def table(self) -> bytes:
        """The 176 bytes that enter the launch digest."""
        entries = {
            name: HashEntry(guid=guid.bytes_le, sha256=value)
            for name, guid, value in (
                ("cmdline", CMDLINE, self.cmdline),
                ("initrd", INITRD, self.initrd),
                ("kernel", KERNEL, self.kernel),
            )
        }
        return HashTable(**entries).pack()

    def page(self, base: int) -> bytes:
        """The page that SNP measures: zeros but for the table at offset ``base`` mod 4096.

        ``base`` is a guest-physical address. ``InputError`` if the table would reach beyond the page.
        """
        offset = base % PAGE
        if offset + HashTable.SIZE > PAGE:
            raise InputError("kernel hashes area: offset in its page", f"at most {PAGE - HashTable.SIZE}", offset)
        return (bytes(offset) + self.table()).ljust(PAGE, b"\0")


Source = bytes | bytearray | memoryview | str | os.PathLike[str]


def of_cmdline(cmdline: str | bytes | None) -> bytes:
    """SHA-256 of the command line as it is (text: in UTF-8) and one zero byte.

    ``InputError`` for text that is not Unicode: the shell handed over bytes that are not UTF-8.
    """
    return hashlib.sha256(cmdline_bytes(cmdline) + b"\0").digest()


def cmdline_bytes(cmdline: str | bytes | None) -> bytes:
    """The command line's bytes without the final zero; ``InputError`` for text that is not Unicode."""
    if isinstance(cmdline, str):
        try:
            return cmdline.encode()
        except UnicodeEncodeError as error:
            found = f"another character at position {error.start}"
            raise InputError("kernel command line", "text in UTF-8", found) from None
    return cmdline or b""


def _sha256(source: Source, what: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).digest()
    digest = hashlib.sha256()
    for block in file_blocks(source, what):
        digest.update(block)
    return digest.digest()
