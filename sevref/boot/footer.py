"""The table of GUIDs at the end of a guest firmware image (EDK II, OvmfPkg/ResetVector).

The image is mapped so that its last byte is guest physical address 4 GiB - 1. Its last 32 bytes are the reset
vector; the table ends right before them and is read backwards. Each entry is data, then a ``FooterTrailer``;
the first trailer that a reader meets is the table's own, whose length is that of the whole table.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sevref.boot.image import Image, as_image
from sevref.layout import Layout, raw, u16, u32
from sevref.status import InputError

RESET_CODE_SIZE = 32  #: bytes behind the table, to the end of the image

TABLE_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SECRET_AREA = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
HASHES_AREA = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SNP_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SVSM_INFO = UUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")
TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

#: GUID -> what people call the entry; other GUIDs are kept and not interpreted
NAMES: dict[UUID, str] = {
    TABLE_FOOTER: "table footer",
    RESET_BLOCK: "SEV-ES reset block",
    SECRET_AREA: "launch secret area",
    HASHES_AREA: "kernel hashes area",
    SNP_METADATA: "SNP metadata locator",
    SVSM_INFO: "SVSM info",
    TDX_METADATA: "TDX metadata locator",
}


class FooterTrailer(Layout, size=0x12):
    """What stands behind the data of an entry of the firmware table, 18 bytes."""

    length = u16(0x00, "bytes of data, plus 18")
    guid = raw(0x02, 16, "which entry this is, in EFI byte order: first three groups little-endian")


class ResetBlock(Layout, size=4):
    """Data of the SEV-ES reset block, 4 bytes: where an application processor starts."""

    address = u32(0x00, "low 16 bits: IP; high 16 bits: CS base")


class GuestArea(Layout, size=8):
    """Data of the secret area and of the kernel hashes area, 8 bytes: a range of guest-physical addresses."""

    base = u32(0x00, "guest physical address")
    size = u32(0x04, "bytes; 0: the firmware has no such area")


class MetadataLocator(Layout, size=4):
    """Data of the SNP metadata locator, 4 bytes."""

    distance = u32(0x00, "bytes from the start of the SNP metadata to the end of the image")


class SvsmInfo(Layout, size=4):
    """Data of the SVSM info entry (Coconut SVSM), 4 bytes."""

    entry = u32(0x00, "entry point: bytes from the start of the SVSM image")


class FooterEntry(NamedTuple):
    """One entry of the firmware table; ``offset`` in bytes of its data from the start of the image."""

    guid: UUID
    offset: int
    data: bytes

    @property
    def name(self) -> str:
        """What the entry is for, in words; "unknown" for a GUID that sevref does not know."""
        return NAMES.get(self.guid, "unknown")


class Footer(NamedTuple):
    """The entries of a firmware table in the order in which they are read: nearest the image's end first.

    Of two entries with one GUID ``find`` takes the one nearer to the end, as QEMU does, or with ``farthest`` the other
    one, as sev-snp-measure does.
    """

    entries: tuple[FooterEntry, ...] = ()
    farthest: bool = False

    def find(self, guid: UUID) -> FooterEntry | None:
        """The entry of that GUID, or None."""
        entries = reversed(self.entries) if self.farthest else self.entries
        return next((entry for entry in entries if entry.guid == guid), None)

    def reset_address(self) -> int:
        """Where application processors start. ``InputError`` if the block is absent, misshapen or zero."""
        entry = self.find(RESET_BLOCK)
        address = ResetBlock.parse(entry.data, where=_where(entry)).address if entry else 0
        if address == 0:
            raise InputError("firmware table", "an SEV-ES reset block", "address 0" if entry else "none")
        return address

    def secret_area(self) -> GuestArea:
        """Where a launch secret goes. ``InputError`` if the firmware has no such area."""
        return self._area(SECRET_AREA)

    def hashes_area(self) -> GuestArea:
        """Where the hashes of kernel, initrd and command line go. ``InputError`` if there is no such area."""
        return self._area(HASHES_AREA)

    def _area(self, guid: UUID) -> GuestArea:
        entry = self.find(guid)
        area = GuestArea.parse(entry.data, where=_where(entry)) if entry else GuestArea()
        if area.base == 0 or area.size == 0:
            found = f"base 0x{area.base:X}, size 0x{area.size:X}" if entry else "none"
            raise InputError("firmware table", f"a {NAMES[guid]}", found)
        return area


def _where(entry: FooterEntry) -> str:
    return f"firmware table: {entry.name} at file offset 0x{entry.offset:X}"


def parse_footer(source: Image | bytes, *, farthest: bool = False) -> Footer:
    """The firmware table of an image, or an empty one if the image has none. Only the end of a file is read.

    ``InputError`` names the piece that is malformed: an image too short for a table, a table length below 18
    or reaching before the image, an entry length below 18 or above what is left of the table.
    """
    if not isinstance(source, Image) and not source:
        raise InputError("firmware image", f"at least {RESET_CODE_SIZE + FooterTrailer.SIZE} bytes", "0 bytes")
    image = as_image(source)
    end = image.size - RESET_CODE_SIZE
    if end < FooterTrailer.SIZE:
        expected = f"at least {RESET_CODE_SIZE + FooterTrailer.SIZE} bytes"
        raise InputError("firmware image", expected, f"{image.size} bytes")
    footer = FooterTrailer.parse(image.read_at(end - FooterTrailer.SIZE, FooterTrailer.SIZE))
    if UUID(bytes_le=footer.guid) != TABLE_FOOTER:
        return Footer(farthest=farthest)
    if not FooterTrailer.SIZE <= footer.length <= end:
        expected = f"{FooterTrailer.SIZE} to {end} bytes"
        raise InputError("firmware table: total length", expected, f"{footer.length} bytes")
    start = end - footer.length
    table = image.read_at(start, footer.length - FooterTrailer.SIZE)
    end = len(table)  # from here on offsets are those in the table
    entries = []
    while end >= FooterTrailer.SIZE:
        trailer = _trailer(table, end)
        guid = UUID(bytes_le=trailer.guid)
        if not FooterTrailer.SIZE <= trailer.length <= end:
            where = f"firmware table: length of entry {guid} at file offset 0x{start + end - FooterTrailer.SIZE:X}"
            raise InputError(where, f"{FooterTrailer.SIZE} to {end} bytes", f"{trailer.length} bytes")
        offset = end - trailer.length
        entries.append(FooterEntry(guid, start + offset, table[offset : end - FooterTrailer.SIZE]))
        end = offset
    return Footer(tuple(entries), farthest)


def _trailer(image: bytes, end: int) -> FooterTrailer:
    return FooterTrailer.parse(image[end - FooterTrailer.SIZE : end])
