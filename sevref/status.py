"""Status codes of the SEV firmware, and the two kinds of error that sevref raises.

A status is a 16-bit value (SEV API 55766, table "Status codes"). 0x00-0x18 are the legacy SEV set, 0x19 and up
came with SEV-SNP. ``SevError`` is what a firmware (or a verifier that follows its rules) answers; ``InputError``
is what sevref says of input that cannot be used at all: a file of the wrong size, text that is not base64.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """Every status code of the firmware interface, with AMD's names and numbers.

    16 bits (SEV API 55766, table "Status codes"); 0x00 to 0x18 are SEV's, those from 0x19 on came with SEV-SNP:

        0x00  SUCCESS                    done
        0x01  INVALID_PLATFORM_STATE     the platform's state does not permit the command
        0x02  INVALID_GUEST_STATE        the guest's state does not permit the command
        0x03  INVALID_CONFIG             platform configuration or option bits invalid
        0x04  INVALID_LENGTH             a length field is too small or not the exact size required
        0x05  ALREADY_OWNED              the platform already has an external owner
        0x06  INVALID_CERTIFICATE        certificate malformed, of the wrong usage, or not the expected one
        0x07  POLICY_FAILURE             the guest's policy forbids the operation
        0x08  INACTIVE                   the guest is not bound to an ASID
        0x09  INVALID_ADDRESS            address, alignment or range not acceptable
        0x0A  BAD_SIGNATURE              a signature does not verify
        0x0B  BAD_MEASUREMENT            a MAC, measurement or authentication tag does not verify
        0x0C  ASID_OWNED                 the ASID is already bound to a guest
        0x0D  INVALID_ASID               the ASID is outside the permitted range
        0x0E  WBINVD_REQUIRED            WBINVD must run on all cores first
        0x0F  DFFLUSH_REQUIRED           DF_FLUSH must be invoked first
        0x10  INVALID_GUEST              the guest handle is not valid
        0x11  INVALID_COMMAND            unknown command id
        0x12  ACTIVE                     the guest is bound to an ASID
        0x13  HWERROR_PLATFORM           hardware or platform problem; buffers may be reused
        0x14  HWERROR_UNSAFE             hardware problem; buffers must not be reused
        0x15  UNSUPPORTED                feature not supported
        0x16  INVALID_PARAM              a parameter is invalid
        0x17  RESOURCE_LIMIT             the firmware ran out of a resource
        0x18  SECURE_DATA_INVALID        the persistent store fails its integrity check
        0x19  INVALID_PAGE_SIZE          RMP page size wrong
        0x1A  INVALID_PAGE_STATE         RMP page state wrong
        0x1B  INVALID_MDATA_ENTRY        page metadata entry wrong
        0x1C  INVALID_PAGE_OWNER         RMP page owner wrong
        0x1D  AEAD_OFLOW                 the AEAD counter would overflow
        0x1F  EXIT_RING_BUFFER           a mailbox command arrived in ring-buffer mode; ring mode left
        0x20  RMP_INIT_REQUIRED          the RMP must be initialised again
        0x21  BAD_SVN                    security version below the committed one
        0x22  BAD_VERSION                firmware version below the committed one
        0x23  SHUTDOWN_REQUIRED          SNP_SHUTDOWN needed first
        0x24  UPDATE_FAILED              live update failed
        0x25  RESTORE_REQUIRED           the committed firmware must be installed again
        0x26  RMP_INITIALIZATION_FAILED  RMP initialisation failed
        0x27  INVALID_KEY                key invalid, absent or not permitted
        0x28  SHUTDOWN_INCOMPLETE        SNP shutdown only partly done

    In use:

        >>> from sevref import Status
        >>> Status(0x0B).name
        'BAD_MEASUREMENT'
    """

    SUCCESS = 0x00
    INVALID_PLATFORM_STATE = 0x01
    INVALID_GUEST_STATE = 0x02
    INVALID_CONFIG = 0x03
    INVALID_LENGTH = 0x04
    ALREADY_OWNED = 0x05
    INVALID_CERTIFICATE = 0x06
    POLICY_FAILURE = 0x07
    INACTIVE = 0x08
    INVALID_ADDRESS = 0x09
    BAD_SIGNATURE = 0x0A
    BAD_MEASUREMENT = 0x0B
    ASID_OWNED = 0x0C
    INVALID_ASID = 0x0D
    WBINVD_REQUIRED = 0x0E
    DFFLUSH_REQUIRED = 0x0F
    INVALID_GUEST = 0x10
    INVALID_COMMAND = 0x11
    ACTIVE = 0x12
    HWERROR_PLATFORM = 0x13
    HWERROR_UNSAFE = 0x14
    UNSUPPORTED = 0x15
    INVALID_PARAM = 0x16
    RESOURCE_LIMIT = 0x17
    SECURE_DATA_INVALID = 0x18
    INVALID_PAGE_SIZE = 0x19
    INVALID_PAGE_STATE = 0x1A
    INVALID_MDATA_ENTRY = 0x1B
    INVALID_PAGE_OWNER = 0x1C
    AEAD_OFLOW = 0x1D
    EXIT_RING_BUFFER = 0x1F
    RMP_INIT_REQUIRED = 0x20
    BAD_SVN = 0x21
    BAD_VERSION = 0x22
    SHUTDOWN_REQUIRED = 0x23
    UPDATE_FAILED = 0x24
    RESTORE_REQUIRED = 0x25
    RMP_INITIALIZATION_FAILED = 0x26
    INVALID_KEY = 0x27
    SHUTDOWN_INCOMPLETE = 0x28

    @property
    def meaning(self) -> str:
        """The status in one line of words, for people."""
        return MEANING[self]


MEANING: dict[Status, str] = {
    Status.SUCCESS: "done",
    Status.INVALID_PLATFORM_STATE: "the platform's state does not permit the command",
    Status.INVALID_GUEST_STATE: "the guest's state does not permit the command",
    Status.INVALID_CONFIG: "platform configuration or option bits invalid",
    Status.INVALID_LENGTH: "a length field is too small or not the exact size required",
    Status.ALREADY_OWNED: "the platform already has an external owner",
    Status.INVALID_CERTIFICATE: "certificate malformed, of the wrong usage, or not the expected one",
    Status.POLICY_FAILURE: "the guest's policy forbids the operation",
    Status.INACTIVE: "the guest is not bound to an ASID",
    Status.INVALID_ADDRESS: "address, alignment or range not acceptable",
    Status.BAD_SIGNATURE: "a signature does not verify",
    Status.BAD_MEASUREMENT: "a MAC, measurement or authentication tag does not verify",
    Status.ASID_OWNED: "the ASID is already bound to a guest",
    Status.INVALID_ASID: "the ASID is outside the permitted range",
    Status.WBINVD_REQUIRED: "WBINVD must run on all cores first",
    Status.DFFLUSH_REQUIRED: "DF_FLUSH must be invoked first",
    Status.INVALID_GUEST: "the guest handle is not valid",
    Status.INVALID_COMMAND: "unknown command id",
    Status.ACTIVE: "the guest is bound to an ASID",
    Status.HWERROR_PLATFORM: "hardware or platform problem; buffers may be reused",
    Status.HWERROR_UNSAFE: "hardware problem; buffers must not be reused",
    Status.UNSUPPORTED: "feature not supported",
    Status.INVALID_PARAM: "a parameter is invalid",
    Status.RESOURCE_LIMIT: "the firmware ran out of a resource",
    Status.SECURE_DATA_INVALID: "the persistent store fails its integrity check",
    Status.INVALID_PAGE_SIZE: "RMP page size wrong",
    Status.INVALID_PAGE_STATE: "RMP page state wrong",
    Status.INVALID_MDATA_ENTRY: "page metadata entry wrong",
    Status.INVALID_PAGE_OWNER: "RMP page owner wrong",
    Status.AEAD_OFLOW: "the AEAD counter would overflow",
    Status.EXIT_RING_BUFFER: "a mailbox command arrived in ring-buffer mode; ring mode left",
    Status.RMP_INIT_REQUIRED: "the RMP must be initialised again",
    Status.BAD_SVN: "security version below the committed one",
    Status.BAD_VERSION: "firmware version below the committed one",
    Status.SHUTDOWN_REQUIRED: "SNP_SHUTDOWN needed first",
    Status.UPDATE_FAILED: "live update failed",
    Status.RESTORE_REQUIRED: "the committed firmware must be installed again",
    Status.RMP_INITIALIZATION_FAILED: "RMP initialisation failed",
    Status.INVALID_KEY: "key invalid, absent or not permitted",
    Status.SHUTDOWN_INCOMPLETE: "SNP shutdown only partly done",
}


class SevError(Exception):
    """A refusal with the exact status of the firmware interface.

    ``status`` is the status code, ``rule`` says in words which field broke which rule, ``command`` names the command
    that answered (None when the rule was applied outside a command, e.g. by a verifier).

        >>> from sevref import Machine, Platform, SevError
        >>> try:
        ...     Platform(Machine(seed=b"docs")).pdh_gen()
        ... except SevError as error:
        ...     print(error.status.name, error.command)
        INVALID_PLATFORM_STATE PDH_GEN
    """

    def __init__(self, status: Status, rule: str, command: str | None = None) -> None:
        self.status = Status(status)
        self.rule = rule
        self.command = command
        super().__init__(status, rule, command)

    def __str__(self) -> str:
        where = f"{self.command}: " if self.command else ""
        return f"{where}{self.status.name} (0x{self.status:02X}): {self.rule}"


class InputError(ValueError):
    """Input that cannot be used: which ``field`` (or file), what was ``expected`` and what was ``found``.

    A ``ValueError``: files, arguments and text that no firmware would ever see. What a firmware refuses is a
    ``SevError``.
    """

    def __init__(self, field: str, expected: Any, found: Any) -> None:
        self.field = field
        self.expected = expected
        self.found = found
        super().__init__(field, expected, found)

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, found {self.found}"
