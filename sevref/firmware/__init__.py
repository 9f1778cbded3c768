"""The AMD-SP: dispatcher, platform, guests, one function per command."""

from sevref.firmware import activation as activation
from sevref.firmware import debug as debug
from sevref.firmware import launch as launch
from sevref.firmware import migrate as migrate
from sevref.firmware import platform as platform
from sevref.firmware.commands import BODIES, BY_NAME, COMMANDS, Access, Command, NotBuiltError
from sevref.firmware.processor import SecureProcessor
from sevref.firmware.profile import GENOA_1_55_25, SPEC_0_24, ApiVersion, Profile
from sevref.firmware.state import GuestState, PlatformState

__all__ = [
    "BODIES",
    "BY_NAME",
    "COMMANDS",
    "GENOA_1_55_25",
    "SPEC_0_24",
    "Access",
    "ApiVersion",
    "Command",
    "GuestState",
    "NotBuiltError",
    "PlatformState",
    "Profile",
    "SecureProcessor",
]
