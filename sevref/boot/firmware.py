"""A small, valid, deterministic guest firmware image, so that nothing needs a file from outside.

It does what the model needs of a firmware: it is measured, it names its areas in the table at its end, and
its reset vector holds code that a processor could run (it stops at once).
"""

from __future__ import annotations

from collections.abc import Sequence

from sevref.boot.footer import (
    HASHES_AREA,
    RESET_BLOCK,
    RESET_CODE_SIZE,
    SECRET_AREA,
    SNP_METADATA,
    SVSM_INFO,
    TABLE_FOOTER,
    FooterTrailer,
    GuestArea,
    MetadataLocator,
    ResetBlock,
    SvsmInfo,
)
from sevref.boot.metadata import MetadataHeader, MetadataSection, SectionType
from sevref.layout import Layout, raw
from sevref.status import InputError

PAGE = 4096
ERASED = b"\xff"  #: what a flash chip reads where nothing was written

#: sections of an SNP firmware that go with the default areas of ``build_firmware``
SNP_SECTIONS: tuple[tuple[int, int, int], ...] = (
    (0x0000, 0x9000, SectionType.SEC_MEM),
    (0xA000, 0x3000, SectionType.SEC_MEM),
    (0xD000, 0x1000, SectionType.SECRETS),
    (0xE000, 0x1000, SectionType.CPUID),
    (0xF000, 0x1000, SectionType.CAA),
    (0x10000, 0x1000, SectionType.KERNEL_HASHES),
    (0x11000, 0xF000, SectionType.SEC_MEM),
)


class ResetCode(Layout, size=RESET_CODE_SIZE):
    """The last 32 bytes of a firmware image; a processor starts at the last 16."""

    stop = raw(0x00, 16, "cli; hlt; jmp back to the hlt", default=bytes.fromhex("faf4ebfd").ljust(16, b"\x90"))
    vector = raw(0x10, 16, "first instruction: jmp to `stop`", default=bytes.fromhex("e9edff").ljust(16, b"\x90"))


def build_firmware(
    size: int = 0x10000,
    *,
    label: bytes = b"sevref guest firmware",
    reset_vector: bytes | None = None,
    reset_address: int | None = 0xB004,
    secret_area: tuple[int, int] | None = (0x10000, 0xC00),
    hashes_area: tuple[int, int] | None = (0x10C00, 0x400),
    sections: Sequence[tuple[int, int, int]] | None = None,
    svsm_entry: int | None = None,
) -> bytes:
    """An image of ``size`` bytes (a multiple of 4096); the same arguments give the same bytes.

    ``label`` stands at the start: images with different labels have different launch digests. ``reset_vector`` is code
    for the last 16 bytes, ``reset_address`` where application processors start, the areas are (guest physical address,
    bytes); None leaves an entry out of the table. The defaults are laid out as in the AmdSev build of OVMF
    (edk2-stable202405), but 8 MiB lower, where a guest with 1 MiB of RAM has them. ``sections`` makes it an SNP
    firmware: (guest physical address, bytes, type) of each section of the metadata, ``SNP_SECTIONS`` for example;
    ``svsm_entry`` makes it an SVSM that starts at this offset. ``InputError`` if something does not fit.
    """
    if size <= 0 or size % PAGE:
        raise InputError("firmware size", f"a multiple of {PAGE} bytes", f"{size} bytes")
    metadata = table = b""
    if svsm_entry is not None:
        table += _entry(SVSM_INFO.bytes_le, SvsmInfo(entry=svsm_entry).pack())
    for guid, area in (HASHES_AREA, hashes_area), (SECRET_AREA, secret_area):
        if area is not None:
            table += _entry(guid.bytes_le, GuestArea(base=area[0], size=area[1]).pack())
    if reset_address is not None:
        table += _entry(RESET_BLOCK.bytes_le, ResetBlock(address=reset_address).pack())
    total = len(table) + FooterTrailer.SIZE
    if sections is not None:
        for gpa, length, kind in sections:
            metadata += MetadataSection(gpa=gpa, size=length, type=kind).pack()
        head = MetadataHeader(length=MetadataHeader.SIZE + len(metadata), count=len(sections))
        metadata = head.pack() + metadata
        locator = MetadataLocator.SIZE + FooterTrailer.SIZE
        total += locator
        distance = len(metadata) + total + ResetCode.SIZE
        table = _entry(SNP_METADATA.bytes_le, MetadataLocator(distance=distance).pack()) + table
    table += FooterTrailer(length=total, guid=TABLE_FOOTER.bytes_le).pack()
    code = ResetCode()
    if reset_vector is not None:
        if len(reset_vector) > 16:
            raise InputError("reset vector", "at most 16 bytes", f"{len(reset_vector)} bytes")
        code.vector = reset_vector.ljust(16, b"\x90")
    table = metadata + table
    room = size - len(table) - ResetCode.SIZE
    if len(label) > room:
        raise InputError("firmware label", f"at most {room} bytes", f"{len(label)} bytes")
    return label + ERASED * (room - len(label)) + table + code.pack()


def _entry(guid: bytes, data: bytes) -> bytes:
    return data + FooterTrailer(length=len(data) + FooterTrailer.SIZE, guid=guid).pack()
