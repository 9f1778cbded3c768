"""The parties around the firmware: AMD, platform owner, hypervisor and guest owner.

A role sees what the real party would see (buffers, statuses, ciphertext) and never the firmware's state. Migration and
snapshots are in ``sevref.roles.migration`` and ``sevref.roles.snapshot``.
"""

from sevref.roles.amd import SimulatedAmd
from sevref.roles.guest_owner import GuestOwner
from sevref.roles.hypervisor import GuestVm, Hypervisor
from sevref.roles.platform_owner import PlatformOwner

__all__ = ["GuestOwner", "GuestVm", "Hypervisor", "PlatformOwner", "SimulatedAmd"]
