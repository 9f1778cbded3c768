"""What a virtual machine manager puts into a guest before it runs: firmware image and register pages."""

from sevref.boot.firmware import build_firmware
from sevref.boot.footer import Footer, FooterEntry, GuestArea, ResetBlock, parse_footer
from sevref.boot.vmsa import RESET_VECTOR, Vmsa, build_vmsa, cpu_signature, initial_vmsas

__all__ = [
    "RESET_VECTOR",
    "Footer",
    "FooterEntry",
    "GuestArea",
    "ResetBlock",
    "Vmsa",
    "build_firmware",
    "build_vmsa",
    "cpu_signature",
    "initial_vmsas",
    "parse_footer",
]
