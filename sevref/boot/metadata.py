"""What an SNP firmware asks its VMM to prepare: the SNP metadata (EDK II, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).

A header and descriptors of guest memory. Their order in the file is the order in which they are measured.
"""

from __future__ import annotations

from enum import IntEnum

from sevref.boot.footer import SNP_METADATA, MetadataLocator, parse_footer
from sevref.boot.image import FOUR_GIB, PAGE, Image, as_image
from sevref.layout import Layout, raw, u32
from sevref.status import InputError


class SectionType(IntEnum):
    """What a section of guest memory is for."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    CAA = 4
    KERNEL_HASHES = 0x10


class MetadataHeader(Layout, size=0x10):
    """Start of the SNP metadata, 16 bytes; integers are little-endian."""

    signature = raw(0x00, 4, 'ASCII "ASEV"', default=b"ASEV")
    length = u32(0x04, "bytes of header and descriptors: 16 + 12 x count")
    version = u32(0x08, "1", default=1)
    count = u32(0x0C, "number of descriptors")


class MetadataSection(Layout, size=0x0C):
    """One descriptor of the SNP metadata, 12 bytes: a range of guest memory and what it is for."""

    gpa = u32(0x00, "guest physical address, a multiple of 4096")
    size = u32(0x04, "bytes, a multiple of 4096")
    type = u32(
        0x08,
        "memory to validate, secrets page, CPUID page, calling area of an SVSM, page of kernel hashes",
        names=SectionType,
    )


def parse_metadata(source: Image | bytes) -> tuple[MetadataSection, ...]:
    """The sections of an image's SNP metadata, in the order in which they are measured.

    ``InputError`` if there is no metadata, the header is not one, or a section has an unknown type, is not made of
    whole pages, overlaps another one or reaches into the image. Nothing is allocated for a section, however large.
    """
    image = as_image(source)
    where = f"{image.name}: SNP metadata"
    entry = parse_footer(image).find(SNP_METADATA)
    if entry is None:
        raise InputError(where, "a locator in the firmware table", "none: this firmware cannot start as an SNP guest")
    distance = MetadataLocator.parse(entry.data, where=f"{where}: locator").distance
    if not MetadataHeader.SIZE <= distance <= image.size:
        expected = f"{MetadataHeader.SIZE} to {image.size} bytes from the end of the image"
        raise InputError(f"{where}: locator", expected, distance)
    start = image.size - distance
    header = MetadataHeader.parse(image.read_at(start, MetadataHeader.SIZE))
    if header.signature != b"ASEV":
        raise InputError(f"{where} at file offset 0x{start:X}: signature", "ASEV", header.signature.hex())
    if header.version != 1:
        raise InputError(f"{where}: version", 1, header.version)
    expected_length = MetadataHeader.SIZE + MetadataSection.SIZE * header.count
    if header.length != expected_length:
        raise InputError(f"{where}: length for {header.count} sections", expected_length, header.length)
    if header.length > distance:
        raise InputError(f"{where}: length", f"at most {distance} bytes, the end of the image", header.length)
    size = MetadataSection.SIZE
    table = image.read_at(start + MetadataHeader.SIZE, header.length - MetadataHeader.SIZE)
    sections = tuple(MetadataSection.parse(table[i : i + size]) for i in range(0, len(table), size))
    _check(sections, image, where)
    return sections


def _check(sections: tuple[MetadataSection, ...], image: Image, where: str) -> None:
    for i, section in enumerate(sections):
        name = f"{where}: section {i}"
        if section.type not in SectionType._value2member_map_:
            raise InputError(f"{name}: type", "1, 2, 3, 4 or 0x10", f"0x{section.type:X}")
        for field in "gpa", "size":
            if getattr(section, field) % PAGE:
                raise InputError(f"{name}: {field}", f"a multiple of {PAGE}", f"0x{getattr(section, field):X}")
        end, limit = section.gpa + section.size, FOUR_GIB - image.size
        if end > limit:
            raise InputError(f"{name}: end", f"at most 0x{limit:X}, where the image begins", f"0x{end:X}")
    end = 0
    for section in sorted((section for section in sections if section.size), key=lambda section: section.gpa):
        if section.gpa < end:
            raise InputError(f"{where}: sections", "no overlap", f"two sections at 0x{section.gpa:X}")
        end = section.gpa + section.size
