"""States of the platform and of a guest (SEV API 55766, "PLATFORM_STATUS", "GUEST_STATUS").

What may happen in which state, and where it leads, stands in one place: the table in ``sevref.firmware.commands``.
"""

from __future__ import annotations

from enum import IntEnum


class PlatformState(IntEnum):
    """STATE of PLATFORM_STATUS (1 byte): WORKING means that guests exist."""

    UNINIT = 0
    INIT = 1
    WORKING = 2


class GuestState(IntEnum):
    """STATE of GUEST_STATUS (1 byte).

    The Linux KVM documentation swaps 4 and 5; the firmware's numbers are these.
    """

    UNINIT = 0
    LUPDATE = 1
    LSECRET = 2
    RUNNING = 3
    SUPDATE = 4
    RUPDATE = 5
    SENT = 6
