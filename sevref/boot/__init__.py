"""What a virtual machine manager puts into a guest before it runs, and the launch digest that it predicts."""

from sevref.boot.digest import Guest, PageInfo, PageType, Prediction, Step, first_difference, predict
from sevref.boot.firmware import SNP_SECTIONS, build_firmware
from sevref.boot.footer import Footer, FooterEntry, GuestArea, ResetBlock, parse_footer
from sevref.boot.hashes import HashTable, KernelHashes
from sevref.boot.image import Image
from sevref.boot.metadata import MetadataSection, SectionType, parse_metadata
from sevref.boot.vmsa import RESET_VECTOR, Vmsa, build_svsm_vmsa, build_vmsa, cpu_signature, initial_vmsas, signature_of

__all__ = [
    "RESET_VECTOR",
    "SNP_SECTIONS",
    "Footer",
    "FooterEntry",
    "Guest",
    "GuestArea",
    "HashTable",
    "Image",
    "KernelHashes",
    "MetadataSection",
    "PageInfo",
    "PageType",
    "Prediction",
    "ResetBlock",
    "SectionType",
    "Step",
    "Vmsa",
    "build_firmware",
    "build_svsm_vmsa",
    "build_vmsa",
    "cpu_signature",
    "first_difference",
    "initial_vmsas",
    "parse_footer",
    "parse_metadata",
    "predict",
    "signature_of",
]
