"""The command table: what exists, in which states it is allowed, where it leads.

One row per SEV command. Rules that hold for every row:

- An id without a row is INVALID_COMMAND; nothing else is looked at, not even the address.
- The command buffer is read (classes IN, IN_OUT, IN_OUT_LEN) before the command's own checks, so a bad buffer address
  comes before a wrong platform state.
- A command in a platform state that it does not accept is INVALID_PLATFORM_STATE, in a guest state that it does not
  accept INVALID_GUEST_STATE; a command that needs an ASID (``bound``) without one is INACTIVE. *Where* among its checks
  a command makes these three stands in its body, which reads the sets from here.
- A command that fails changes no state.

A comment ``row N`` beside a check is its row in the table of checks of the command's fact sheet (``rules.SHEETS``).
The bodies are in the modules beside this one; ``@command(id)`` ties a body to its row. A row without a body is a
command that this version of sevref does not build yet: the mailbox raises ``NotBuiltError``, it invents no status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from sevref.firmware import buffers as b
from sevref.firmware.state import GuestState, PlatformState
from sevref.layout import Layout
from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.firmware.processor import SecureProcessor


class Access(Enum):
    """What happens to the command buffer."""

    NONE = "address ignored"
    IN = "read, never written back"
    OUT = "written on SUCCESS"
    IN_OUT = "read; written back on SUCCESS"
    IN_OUT_LEN = "read; written back on SUCCESS and on INVALID_LENGTH"


class NotBuiltError(InputError):
    """A command that exists but that this version of sevref does not implement."""


@dataclass(frozen=True)
class Command:
    """One row. Sizes in bytes: ``size`` as documented, ``padded`` as Genoa 1.55.25 transfers it."""

    id: int
    name: str
    access: Access
    platform: frozenset[PlatformState]
    buffer: type[Layout] | None = None
    padded: int = 0
    guest: frozenset[GuestState] | None = None  #: None: the command takes no existing guest
    bound: bool = False  #: the guest needs an ASID
    next_guest: GuestState | None = None  #: None: unchanged
    next_platform: PlatformState | None = None
    since: tuple[int, int] | None = None  #: API version that introduced it, where a source names one; no gate
    linux: str = ""  #: Linux's name where it differs

    @property
    def size(self) -> int:
        """Bytes of the command buffer as documented; 0 without one."""
        return self.buffer.SIZE if self.buffer else 0


U, I, W = PlatformState.UNINIT, PlatformState.INIT, PlatformState.WORKING
LUPDATE, LSECRET, RUNNING = GuestState.LUPDATE, GuestState.LSECRET, GuestState.RUNNING
SUPDATE, RUPDATE, SENT = GuestState.SUPDATE, GuestState.RUPDATE, GuestState.SENT
ANY = (LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE, SENT)


def _p(*states: PlatformState) -> frozenset[PlatformState]:
    return frozenset(states)


def _g(*states: GuestState) -> frozenset[GuestState]:
    return frozenset(states)


_NONE, _IN, _OUT, _IO, _IOL = Access.NONE, Access.IN, Access.OUT, Access.IN_OUT, Access.IN_OUT_LEN

# fmt: off
COMMANDS: dict[int, Command] = {row.id: row for row in (
    # -- platform
    Command(0x01, "INIT", _IN, _p(U), b.InitBuffer, 24, next_platform=I),
    Command(0x02, "SHUTDOWN", _NONE, _p(U, I, W), next_platform=U),
    Command(0x03, "PLATFORM_RESET", _NONE, _p(U), linux="FACTORY_RESET"),
    Command(0x04, "PLATFORM_STATUS", _OUT, _p(U, I, W), b.PlatformStatusBuffer, 12),
    Command(0x05, "PEK_GEN", _NONE, _p(I)),
    Command(0x06, "PEK_CSR", _IOL, _p(I, W), b.PekCsrBuffer, 16),
    Command(0x07, "PEK_CERT_IMPORT", _IN, _p(I), b.PekCertImportBuffer, 32),
    Command(0x08, "PDH_CERT_EXPORT", _IOL, _p(I, W), b.PdhCertExportBuffer, 32),
    Command(0x09, "PDH_GEN", _NONE, _p(I, W)),
    Command(0x0A, "DF_FLUSH", _NONE, _p(I, W)),
    Command(0x0B, "DOWNLOAD_FIRMWARE", _IN, _p(U), b.DownloadFirmwareBuffer, 16, since=(0, 15)),
    Command(0x0C, "GET_ID", _IOL, _p(U, I, W), b.GetIdBuffer, 16, since=(0, 16)),
    Command(0x0D, "INIT_EX", _IN, _p(U), b.InitExBuffer, 40, next_platform=I),
    Command(0x0E, "NOP", _NONE, _p(U, I, W)),
    Command(0x0F, "RING_BUFFER", _IN, _p(I, W), b.RingBufferBuffer, 40),
    # -- guests
    Command(0x20, "DECOMMISSION", _IN, _p(W), b.HandleBuffer, 4, _g(*ANY), next_guest=GuestState.UNINIT),
    Command(0x21, "ACTIVATE", _IN, _p(W), b.ActivateBuffer, 8, _g(LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE)),
    Command(0x22, "DEACTIVATE", _IN, _p(W), b.HandleBuffer, 4, _g(*ANY), bound=True),
    Command(0x23, "GUEST_STATUS", _IO, _p(I, W), b.GuestStatusBuffer, 16, _g(*ANY)),
    Command(0x24, "COPY", _IN, _p(W), b.CopyBuffer, 24, _g(*ANY), bound=True, since=(0, 17)),
    Command(0x25, "ACTIVATE_EX", _IN, _p(W), b.ActivateExBuffer, 24,
            _g(LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE), since=(0, 17)),
    # -- launch
    Command(0x30, "LAUNCH_START", _IO, _p(I, W), b.LaunchStartBuffer, 40, next_guest=LUPDATE, next_platform=W),
    Command(0x31, "LAUNCH_UPDATE_DATA", _IN, _p(W), b.LaunchUpdateBuffer, 24, _g(LUPDATE), bound=True),
    Command(0x32, "LAUNCH_UPDATE_VMSA", _IN, _p(W), b.LaunchUpdateBuffer, 24, _g(LUPDATE), bound=True),
    Command(0x33, "LAUNCH_MEASURE", _IOL, _p(W), b.LaunchMeasureBuffer, 24, _g(LUPDATE), next_guest=LSECRET),
    Command(0x34, "LAUNCH_SECRET", _IN, _p(W), b.PacketBuffer, 56, _g(LSECRET), bound=True,
            linux="LAUNCH_UPDATE_SECRET"),
    Command(0x35, "LAUNCH_FINISH", _IN, _p(W), b.HandleBuffer, 4, _g(LSECRET), next_guest=RUNNING),
    Command(0x36, "ATTESTATION", _IOL, _p(W), b.AttestationBuffer, 40, _g(LSECRET, RUNNING, SUPDATE, SENT),
            since=(0, 23)),
    # -- migration
    Command(0x40, "SEND_START", _IOL, _p(W), b.SendStartBuffer, 72, _g(RUNNING), next_guest=SUPDATE),
    Command(0x41, "SEND_UPDATE_DATA", _IOL, _p(W), b.PacketBuffer, 56, _g(SUPDATE), bound=True),
    Command(0x42, "SEND_UPDATE_VMSA", _IOL, _p(W), b.PacketBuffer, 56, _g(SUPDATE), bound=True),
    Command(0x43, "SEND_FINISH", _IN, _p(W), b.HandleBuffer, 4, _g(SUPDATE), next_guest=SENT),
    Command(0x44, "SEND_CANCEL", _IN, _p(W), b.HandleBuffer, 4, _g(SUPDATE), next_guest=RUNNING),
    Command(0x50, "RECEIVE_START", _IO, _p(I, W), b.ReceiveStartBuffer, 40, next_guest=RUPDATE, next_platform=W),
    Command(0x51, "RECEIVE_UPDATE_DATA", _IN, _p(W), b.PacketBuffer, 56, _g(RUPDATE), bound=True),
    Command(0x52, "RECEIVE_UPDATE_VMSA", _IN, _p(W), b.PacketBuffer, 56, _g(RUPDATE), bound=True),
    Command(0x53, "RECEIVE_FINISH", _IN, _p(W), b.HandleBuffer, 4, _g(RUPDATE), next_guest=RUNNING),
    # -- debugging, swapping
    Command(0x60, "DBG_DECRYPT", _IN, _p(W), b.DebugBuffer, 32, _g(*ANY), bound=True),
    Command(0x61, "DBG_ENCRYPT", _IN, _p(W), b.DebugBuffer, 32, _g(*ANY), bound=True),
    Command(0x70, "SWAP_OUT", _IOL, _p(W), b.SwapOutBuffer, 40, _g(*ANY), bound=True, since=(0, 24)),
    Command(0x71, "SWAP_IN", _IN, _p(W), b.SwapInBuffer, 32, _g(*ANY), bound=True, since=(0, 24)),
)}
# fmt: on

BY_NAME: dict[str, Command] = {row.name: row for row in COMMANDS.values()}

Body = Callable[["SecureProcessor", Any], None]
BODIES: dict[int, Body] = {}
B = TypeVar("B", bound=Callable[..., None])


def command(command_id: int) -> Callable[[B], B]:
    """Tie a command's body to its row of the table."""

    def register(body: B) -> B:
        row = COMMANDS[command_id]
        if body.__name__ != row.name.lower() or command_id in BODIES:
            raise TypeError(f"0x{command_id:02X} is {row.name}, body {body.__name__}; one body per row")
        BODIES[command_id] = body
        return body

    return register
