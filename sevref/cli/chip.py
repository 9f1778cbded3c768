"""A chip and its flash in a folder, and the platform that is powered on from it.

``chip.json`` stands for the fuses (product line, name, chip unique secret; written once, by ``create``), ``flash.bin``
for the 32 KiB of SPI flash. Both have mode 0600: who can read the secret can be the chip.

Whoever has the folder open holds a lock (``flock`` on the folder itself), so calls on one chip run one after the
other. A firmware command that changes the flash is answered only when the change is on the disk: temporary file,
fsync, rename, fsync of the folder. A process that is killed in between leaves the old content or the new.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sevref.cli import common
from sevref.crypto import RandomSource, random_source
from sevref.driver import Platform
from sevref.firmware.identity import chip_id
from sevref.generations import GENERATIONS
from sevref.machine import FLASH_SIZE, Machine
from sevref.status import InputError, SevError, Status

FORMAT = "sevref chip 1"
CHIP, FLASH = "chip.json", "flash.bin"
ERASED = b"\xff" * FLASH_SIZE


def write_durably(folder: int, name: str, data: bytes) -> None:
    """Replace the file ``name`` in the open ``folder``, mode 0600: on the disk when this returns, and at any moment
    the old content or the new. Only the holder of the folder's lock may call it: the temporary name is fixed."""
    temporary = f"{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        try:
            os.fchmod(file, 0o600)  # a temporary of a killed call may have been tampered with
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The open folder ``path``, held alone until the end. Waits for whoever has it. ``InputError`` without one."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"chip folder {path}", "a folder", (error.strerror or str(error)).lower()) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


@dataclass(frozen=True, repr=False)
class Chip:
    """What is fused: product line, name, and the 32-byte secret from which chip id, CEK and flash keys derive."""

    path: Path
    generation: str
    name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Chip({self.name!r}, {self.generation}, in {os.fspath(self.path)!r})"

    @property
    def id(self) -> bytes:
        """The chip id, 64 bytes."""
        return chip_id(self.secret)

    def machine(self, seed: bytes | None = None, stream: str = "") -> Machine:
        """The machine with this chip. With ``seed`` its firmware draws from the stream "NAME, ``stream``" of it."""
        label = f"{self.name}, {stream}" if stream else self.name
        rng: RandomSource | None = None if seed is None else random_source(seed, label)
        return Machine(self.generation, name=self.name, chip_key=self.secret, rng=rng)


def create(path: Path, generation: str, name: str, seed: bytes | None) -> Chip:
    """A new chip with erased flash in the folder ``path``, which is made if it does not exist.

    The secret is the one of ``Machine(generation, seed=seed, name=name)``. ``InputError`` if a chip is there already,
    or a flash that is not erased."""
    path.mkdir(parents=True, exist_ok=True)
    with locked(path) as folder:
        if (path / CHIP).exists():
            raise InputError(f"chip folder {path}", "a folder without a chip", CHIP)
        flash = path / FLASH
        if flash.exists() and flash.read_bytes() != ERASED:  # erased: of a call that was killed before it ended
            raise InputError(f"chip folder {path}", "a folder without a chip", f"{FLASH} with content")
        secret = Machine(generation, seed=seed, name=name).fused_chip_key()
        chip = Chip(path, generation, name, secret)
        document = {"format": FORMAT, "generation": generation, "name": name, "chip_key": secret.hex()}
        write_durably(folder, FLASH, ERASED)
        write_durably(folder, CHIP, json.dumps(document, indent=2).encode() + b"\n")  # last: now the chip exists
    return chip


def load(path: Path) -> Chip:
    """The chip in the folder. ``InputError`` if there is none, or none that makes sense; never with the secret."""
    where = f"chip {path / CHIP}"
    data = common.read_file(path / CHIP, "chip", limit=1 << 16)
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise InputError(f"{where}: format", repr(FORMAT), repr(document["format"])[:40])
        generation, name = document["generation"], document["name"]
        secret = bytes.fromhex(document["chip_key"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(where, "a chip as `sevref sp DIR new` writes it", "something else") from None
    if generation not in GENERATIONS:
        raise InputError(f"{where}: generation", ", ".join(GENERATIONS), repr(generation)[:40])
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: name", "text", repr(name)[:40])
    if len(secret) != 32:
        raise InputError(f"{where}: chip_key", "64 hex digits", f"{2 * len(secret)}")
    chip = Chip(path, generation, name, secret)
    assert chip.id  # a secret without a chip id is refused here
    return chip


class StoredPlatform(Platform):
    """A platform whose flash is a file: each command that changes the flash is answered when the file has changed."""

    def __init__(self, machine: Machine, folder: int, flash: bytes) -> None:
        machine.flash[:] = flash
        self._folder, self._stored = folder, flash
        #: what each INIT of ``load_driver`` answered
        self.init_statuses: list[Status] = []
        super().__init__(machine)

    def mailbox(self, command_id: int, address: int = 0) -> Status:
        """As ``Platform.mailbox``; ``OSError`` if the flash cannot be written, the file is then as it was."""
        status = super().mailbox(command_id, address)
        if self.machine.flash != self._stored:
            flash = bytes(self.machine.flash)
            write_durably(self._folder, FLASH, flash)
            self._stored = flash
        return status

    def load_driver(self) -> None:
        """What the Linux driver does on loading: INIT, once more after SECURE_DATA_INVALID (which erased the flash),
        then WBINVD on all cores and DF_FLUSH. ``SevError`` as the firmware answers."""
        try:
            self._init()
        except SevError as error:
            if error.status is not Status.SECURE_DATA_INVALID:
                raise
            self._init()
        self.machine.wbinvd()
        self.df_flush()

    def _init(self) -> None:
        try:
            self.init()
        finally:
            self.init_statuses.append(self.log[-1].status or Status.SUCCESS)


@contextmanager
def powered_on(path: Path, seed: bytes | None, stream: str) -> Iterator[tuple[Chip, StoredPlatform]]:
    """The chip in the folder ``path``, powered on: state UNINIT. Nobody else has the folder meanwhile.

    ``InputError`` if the folder holds no chip or no flash of 32 KiB."""
    with locked(path) as folder:
        chip = load(path)
        flash = common.exact_file(path / FLASH, "flash", FLASH_SIZE)
        yield chip, StoredPlatform(chip.machine(seed, stream), folder, flash)
