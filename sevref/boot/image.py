"""A guest firmware image, read piece by piece: neither a large file nor a wrong one is ever read whole.

The image is mapped so that its last byte is guest physical address 4 GiB - 1.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from sevref.status import InputError

PAGE = 4096
FOUR_GIB = 1 << 32
FILE_LIMIT = FOUR_GIB  #: nothing that is loaded below 4 GiB of guest memory is larger, in bytes
BLOCK = 64 * PAGE  # bytes read at a time: they stay in the processor's cache until hashed


@contextmanager
def opened(path: str | os.PathLike[str], what: str) -> Iterator[BinaryIO]:
    """The file opened for reading. ``InputError`` that says ``what`` it should be if it cannot be read."""
    where = f"{what} {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(where, "a readable file", (error.strerror or str(error)).lower()) from None


def file_blocks(path: str | os.PathLike[str], what: str) -> Iterator[bytes]:
    """The file's content, ``BLOCK`` bytes at a time. ``InputError`` if it cannot be read or is above 4 GiB."""
    size = 0
    with opened(path, what) as file:
        while block := file.read(BLOCK):
            size += len(block)
            if size > FILE_LIMIT:
                raise InputError(f"{what} {os.fspath(path)}", f"at most {FILE_LIMIT} bytes", "more")
            yield block


class Image:
    """A firmware image: bytes, or the path of a regular file that is opened whenever a piece is wanted.

    ``name`` says in messages which image it is, ``size`` is in bytes. ``InputError`` for what is not a regular file,
    is empty or does not fit below 4 GiB. Two images are equal only if they are the same object.
    """

    def __init__(self, source: bytes | bytearray | memoryview | str | os.PathLike[str], name: str = "firmware") -> None:
        self._data: bytes | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            self._data, self.name, self.size = bytes(source), name, len(source)
        else:
            self._path, self.name = source, f"{name} {os.fspath(source)}"
            with self._open() as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode):
                    raise InputError(self.name, "a regular file", "a device, a pipe or a folder")
                self.size = state.st_size
        if not 0 < self.size < FOUR_GIB:
            found = f"{self.size} bytes" if self.size else "an empty file"
            raise InputError(self.name, "a firmware image below 4 GiB", found)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self._data is not None:
            yield BytesIO(self._data)
            return
        try:
            with open(self._path, "rb") as file:
                yield file
        except OSError as error:
            raise InputError(self.name, "a readable file", (error.strerror or str(error)).lower()) from None

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes at file offset ``offset``. ``InputError`` if the image has fewer."""
        data = b""
        if offset >= 0:
            with self._open() as file:
                file.seek(offset)
                data = file.read(size)
        if len(data) != size:
            raise InputError(f"{self.name}: offset 0x{max(offset, 0):X}", f"{size} bytes", f"{len(data)} bytes")
        return data

    def blocks(self) -> Iterator[bytes]:
        """The whole content, in pieces of ``BLOCK`` bytes and a rest."""
        size = 0
        with self._open() as file:
            while block := file.read(BLOCK):
                size += len(block)
                yield block
        if size != self.size:
            raise InputError(self.name, f"{self.size} bytes, as when it was opened", f"{size} bytes")

    def page_digests(self) -> Iterator[bytes]:
        """SHA-384 of each page of 4096 bytes. ``InputError`` if the size is not a multiple of it."""
        if self.size % PAGE:
            raise InputError(f"{self.name}: size", f"a multiple of {PAGE} bytes", f"{self.size} bytes")
        sha384 = hashlib.sha384
        for block in self.blocks():
            view = memoryview(block)
            for start in range(0, len(block), PAGE):
                yield sha384(view[start : start + PAGE]).digest()

    def __repr__(self) -> str:
        return f"Image({self.name}, {self.size} bytes)"


def as_image(source: Image | bytes | bytearray | memoryview | str | os.PathLike[str], name: str = "firmware") -> Image:
    """``source`` itself, or the image of these bytes or of this file."""
    return source if isinstance(source, Image) else Image(source, name)
