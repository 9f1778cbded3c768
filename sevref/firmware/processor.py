"""The AMD Secure Processor: mailbox, dispatcher, volatile state.

The firmware does no I/O beyond its machine's DRAM, flash and random source, and calls nobody. One command at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from sevref.crypto import PrivateKey
from sevref.firmware.address import check_range
from sevref.firmware.asids import AsidTable
from sevref.firmware.commands import BODIES, COMMANDS, Access, Command, NotBuiltError
from sevref.firmware.guest import MAX_GUESTS, Guest, VmsaPool
from sevref.firmware.identity import Identity, Issuer, derive_cek
from sevref.firmware.profile import SPEC_0_24, ApiVersion, Profile
from sevref.firmware.state import PlatformState
from sevref.firmware.store import MEDIUM_SIZE, Flash, Store
from sevref.machine import Machine
from sevref.status import SevError, Status


def require(condition: bool, status: Status, rule: str) -> None:
    """One check of a command: ``SevError`` with ``status`` and the rule in words unless ``condition`` holds."""
    if not condition:
        raise SevError(status, rule)


class SecureProcessor:
    """The firmware on one machine. ``command`` is the mailbox: command id and buffer address in, status out.

    ``refusal`` is the last command's ``SevError`` (None after SUCCESS): a model's window into why, which no real
    firmware has. It holds words, never secrets.
    """

    def __init__(self, machine: Machine, profile: Profile = SPEC_0_24, version: ApiVersion | None = None) -> None:
        self.machine, self.profile = machine, profile
        self.version = version or profile.api_version
        self._boot_version = self.version
        #: verifies images for DOWNLOAD_FIRMWARE (None: every image of the right size is accepted)
        self.image_verifier: Callable[[bytes], bool] | None = None
        self.refusal: SevError | None = None
        self._row: Command = COMMANDS[0x0E]
        self.power_up()
        machine.on_power_up(self.power_up)

    def __repr__(self) -> str:
        v = self.version
        return f"SecureProcessor(API {v.major}.{v.minor} build {v.build}, {self.state.name}, {len(self.guests)} guests)"

    # -- volatile state

    def power_up(self) -> None:
        """Everything volatile as after a reset."""
        self.asids = AsidTable(self.machine)
        self.version = self._boot_version
        self.clear()

    def clear(self) -> None:
        """Wipe the volatile platform context: back to UNINIT, guests and identity gone. Flush bookkeeping stays."""
        self.state = PlatformState.UNINIT
        self.store = Store(Flash(self.machine.flash), self.machine.fused_store_secret())
        self.es = False
        self.identity: Identity | None = None
        self.cek: PrivateKey | None = None
        self.guests: dict[int, Guest] = {}
        self.tmr: tuple[int, int] | None = None  # first and last address, from INIT on
        self.pool: VmsaPool | None = None  # exists once DF_FLUSH has enabled the TMR

    @property
    def issuer(self) -> Issuer:
        """Maker of keys and certificates, with the random source and API version of now."""
        return Issuer(self.machine.rng, self.version.api, self.profile.ecdsa_nonce_drawn)

    def require_identity(self) -> Identity:
        """The identity, which every initialised platform has."""
        assert self.identity is not None
        return self.identity

    def require_cek(self) -> PrivateKey:
        """The CEK, derived at INIT."""
        assert self.cek is not None
        return self.cek

    def derive_cek(self) -> PrivateKey:
        """The chip endorsement key, from the fuses."""
        return derive_cek(self.machine.fused_chip_key())

    # -- dispatch

    def command(self, command_id: int, address: int = 0) -> Status:
        """Run one command whose buffer lies at the system physical ``address``; returns its status.

        Nothing is raised for a refusal (``refusal`` has the reason); an unknown id is INVALID_COMMAND.
        ``NotBuiltError`` for a command that exists in the interface but not yet in sevref.
        """
        row = COMMANDS.get(command_id)
        self.refusal = None
        if row is None:
            self.refusal = SevError(Status.INVALID_COMMAND, f"no command has the id 0x{command_id:X}")
            return Status.INVALID_COMMAND
        if row.id not in BODIES:
            raise NotBuiltError("command", "one that this version of sevref builds", row.name)
        self._row = row
        try:
            self._run(row, address)
        except SevError as error:
            self.refusal = SevError(error.status, error.rule, row.name)
            return error.status
        return Status.SUCCESS

    def _run(self, row: Command, address: int) -> None:
        body = BODIES[row.id]
        if row.buffer is None:
            body(self, None)
            return
        size = row.padded if self.profile.padded_command_buffers else row.size
        data = bytes(size) if row.access is Access.OUT else self.read(address, size, "command buffer")
        buffer, padding = row.buffer.parse(data[: row.size]), data[row.size :]
        try:
            body(self, buffer)
        except SevError as error:
            if row.access is Access.IN_OUT_LEN and error.status is Status.INVALID_LENGTH:
                self._write_back_length(address, buffer.pack() + padding)
            raise
        if row.access is not Access.IN:
            self.write(address, buffer.pack() + padding, "command buffer")

    def _write_back_length(self, address: int, data: bytes) -> None:
        try:
            self.write(address, data, "command buffer")
        except SevError:
            # The command's own INVALID_LENGTH stands; a failing write-back on this path is ignored.
            return

    # -- checks that the table owns

    def require_platform_state(self) -> None:
        """``SevError`` INVALID_PLATFORM_STATE unless the running command's row allows the platform's state."""
        allowed = self._row.platform
        names = " or ".join(state.name for state in sorted(allowed))
        require(
            self.state in allowed,
            Status.INVALID_PLATFORM_STATE,
            f"{self._row.name} needs platform state {names}, it is {self.state.name}",
        )

    def guest(self, handle: int) -> Guest:
        """The guest of a handle; ``SevError`` INVALID_GUEST outside 1..1024 and for a free slot."""
        require(handle in self.guests, Status.INVALID_GUEST, f"HANDLE {handle} names no guest")
        return self.guests[handle]

    def require_guest_state(self, guest: Guest) -> None:
        """``SevError`` INVALID_GUEST_STATE unless the running command's row allows the guest's state."""
        allowed = self._row.guest or frozenset()
        names = " or ".join(state.name for state in sorted(allowed))
        require(
            guest.state in allowed,
            Status.INVALID_GUEST_STATE,
            f"{self._row.name} needs guest state {names}, it is {guest.state.name}",
        )

    def require_bound(self, guest: Guest) -> None:
        """``SevError`` INACTIVE unless the guest has an ASID, pending or active."""
        require(guest.asid != 0, Status.INACTIVE, f"guest {guest.handle} is not bound to an ASID")

    def free_handle(self) -> int:
        """The lowest free handle; ``SevError`` RESOURCE_LIMIT when all 1024 are taken."""
        handle = next((h for h in range(1, MAX_GUESTS + 1) if h not in self.guests), 0)
        require(handle != 0, Status.RESOURCE_LIMIT, f"all {MAX_GUESTS} guest slots are taken")
        return handle

    # -- memory: each access is checked when it is made

    def _key_id(self, address: int) -> int:
        return self.machine.host_key_id(address)

    def plain(self, address: int) -> int:
        """The address without its C-bit."""
        return address & ~self.machine.map.c_mask

    def check(self, address: int, size: int, what: str, *, copies: bool = True) -> None:
        """The address check alone; ``copies`` as in ``check_range``."""
        check_range(self, address, size, what, copies=copies)

    def read(self, address: int, size: int, what: str, *, copies: bool = True) -> bytes:
        """Check, then read from host memory (through the host key if the C-bit is set)."""
        self.check(address, size, what, copies=copies)
        return self.machine.umc.read(self._key_id(address), self.plain(address), size)

    def write(self, address: int, data: bytes, what: str, *, copies: bool = True) -> None:
        """Check, then write to host memory."""
        self.check(address, len(data), what, copies=copies)
        self.machine.umc.write(self._key_id(address), self.plain(address), data)

    def guest_read(self, guest: Guest, address: int, size: int) -> bytes:
        """Read guest memory with the guest's key; the C-bit of the address is ignored. The range was checked."""
        return self.machine.umc.read(guest.asid, self.plain(address), size)

    def guest_write(self, guest: Guest, address: int, data: bytes) -> None:
        """Write guest memory with the guest's key. The range was checked."""
        self.machine.umc.write(guest.asid, self.plain(address), data)

    def host_key_id(self, address: int) -> int:
        """Key id that a host access at ``address`` uses."""
        return self._key_id(address)


class HostBuffer:
    """The 32 KiB of host memory that INIT_EX names as persistent store; every write fills all of it."""

    def __init__(self, sp: SecureProcessor, paddr: int) -> None:
        self._sp, self._paddr = sp, paddr

    def read(self) -> bytes:
        """The 32768 bytes."""
        sp = self._sp
        return sp.machine.umc.read(sp.host_key_id(self._paddr), sp.plain(self._paddr), MEDIUM_SIZE)

    def write(self, record: bytes) -> None:
        """Put ``record`` at the start and FF behind it."""
        sp, data = self._sp, record.ljust(MEDIUM_SIZE, b"\xff")
        sp.machine.umc.write(sp.host_key_id(self._paddr), sp.plain(self._paddr), data)

    def erase(self) -> None:
        """Fill the buffer with FF."""
        self.write(b"")
