"""Snapshots: a guest sent to its own platform, by way of a file (SEV API 55766 knows no command of its own for it).

The file is the stream of a migration (``sevref.roles.stream``). It opens on the platform for whose PDH it was made as
long as that PDH exists: a power cycle does no harm, PDH_GEN, a new owner or a reset end it. Nothing counts how often it
is restored, nor how old it is.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sevref.certs import Chain
from sevref.roles.channel import FileChannel, over
from sevref.roles.hypervisor import GuestVm, Hypervisor
from sevref.roles.migration import PACKET_SIZE, Arrival, Progress, begin, packets
from sevref.roles.stream import Conversation, Reader, StreamHead
from sevref.status import InputError


def save(
    vm: GuestVm,
    chain: Chain,
    path: str | os.PathLike[str],
    *,
    stop: bool = False,
    packet_size: int = PACKET_SIZE,
    progress: Progress | None = None,
) -> StreamHead:
    """Write a running guest to the file ``path``, for the platform of ``chain``: the guest's own, or another one.

    The guest runs on afterwards (SEND_CANCEL), or with ``stop`` it ends here (SEND_FINISH, DEACTIVATE, DECOMMISSION).
    The file appears when it is complete; after a failure there is none, an older one of that name is untouched, and the
    guest runs. ``SevError`` as SEND_START and SEND_UPDATE_* answer, ``OSError`` from the file.
    """
    platform, handle = vm.host.platform, vm.handle
    head = begin(vm, chain)
    try:
        with _replacing(Path(path)) as file:
            file.write(head.pack())
            for part in packets(vm, packet_size=packet_size, progress=progress):
                file.write(part)
    except BaseException:
        platform.send_cancel(handle)
        raise
    if stop:
        platform.send_finish(handle)
        vm.stop()
    else:
        platform.send_cancel(handle)
    return head


def restore(host: Hypervisor, path: str | os.PathLike[str], *, progress: Progress | None = None) -> GuestVm:
    """The guest in the file ``path``, running on ``host`` under a new handle and a new memory key.

    ``SevError`` as RECEIVE_START and RECEIVE_UPDATE_* answer: BAD_MEASUREMENT if the platform's PDH is no longer that
    of the snapshot, or any byte of a packet was changed. ``InputError`` naming offset and field for a file that is not
    a complete stream. In each case nothing of the guest is left on the host.
    """
    arrived: list[GuestVm] = []
    with open(path, "rb") as file:
        over(_read(host, Reader(os.fspath(path)), arrived, progress), FileChannel(file))
    return arrived[0]


def _read(host: Hypervisor, reader: Reader, arrived: list[GuestVm], progress: Progress | None) -> Conversation:
    head = yield from reader.head((yield from reader.take(8, "MAGIC")))
    arrival = Arrival(host, head)
    try:
        yield from arrival.fill(reader, progress)
        if (yield 1):
            raise InputError(reader.where("end"), "the end of the file", "more bytes")
    except BaseException:
        arrival.discard()
        raise
    arrived.append(arrival.finish())


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name ``path`` when the block ends well, and vanishes otherwise."""
    name = path.with_name(f".sevref-{secrets.token_hex(8)}.new")
    try:
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            name.unlink()
        raise
