"""Debugging, copying and swapping guest memory (SEV API 55766, "DBG_DECRYPT", "COPY", "SWAP_OUT")."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sevref.firmware import buffers as b
from sevref.firmware.address import WINDOW
from sevref.firmware.commands import command
from sevref.firmware.guest import Guest
from sevref.firmware.launch import VMSA_LEN, chunks
from sevref.firmware.migrate import is_vmsa
from sevref.firmware.processor import SecureProcessor, require
from sevref.layout import Layout, raw, reserved, u32, u64
from sevref.status import SevError, Status

PAGE_4K, PAGE_2M = 0x1000, 0x200000
LARGE, IN_PLACE = 1, 8
TYPE_VMSA = 2
MDATA_LEN = 64


def debuggable_guest(sp: SecureProcessor, buf: b.DebugBuffer) -> Guest:
    """Checks that DBG_DECRYPT and DBG_ENCRYPT share."""
    sp.require_platform_state()  # row 1
    aligned = buf.src_paddr % 16 == 0 and buf.dst_paddr % 16 == 0
    require(aligned, Status.INVALID_ADDRESS, "SRC_PADDR and DST_PADDR must be 16-byte aligned")  # row 2
    require(
        buf.length % 16 == 0, Status.INVALID_LENGTH, f"LENGTH must be a multiple of 16, found {buf.length}"
    )  # row 3
    guest = sp.guest(buf.handle)  # row 4
    require(not guest.policy.nodbg, Status.POLICY_FAILURE, "the guest's policy forbids debugging (NODBG)")  # row 5
    sp.require_bound(guest)  # row 6
    require(buf.length != 0, Status.INVALID_LENGTH, "LENGTH must not be 0")  # row 7
    return guest


@command(0x60)
def dbg_decrypt(sp: SecureProcessor, buf: b.DebugBuffer) -> None:
    """DBG_DECRYPT (0x60): guest memory, decrypted, into host memory."""
    guest = debuggable_guest(sp, buf)
    for offset, size in chunks(sp, 0, buf.length):
        # No real firmware copies more than a chunk at once, so no range here is too long to be copied.
        sp.check(buf.src_paddr + offset, size, "SRC_PADDR", copies=False)  # row 8
        sp.check(buf.dst_paddr + offset, size, "DST_PADDR", copies=False)  # row 8
        plain = sp.guest_read(guest, buf.src_paddr + offset, size)
        sp.write(buf.dst_paddr + offset, plain, "DST_PADDR", copies=False)  # row 8


@command(0x61)
def dbg_encrypt(sp: SecureProcessor, buf: b.DebugBuffer) -> None:
    """DBG_ENCRYPT (0x61): host memory into guest memory, encrypted."""
    guest = debuggable_guest(sp, buf)
    for offset, size in chunks(sp, 0, buf.length):
        sp.check(buf.dst_paddr + offset, size, "DST_PADDR", copies=False)  # row 8
        plain = sp.read(buf.src_paddr + offset, size, "SRC_PADDR", copies=False)  # row 8
        sp.guest_write(guest, buf.dst_paddr + offset, plain)


@command(0x24)
def copy(sp: SecureProcessor, buf: b.CopyBuffer) -> None:
    """COPY (0x24): guest pages, encrypted anew for another address."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_bound(guest)  # row 3
    length = buf.length
    ok = length != 0 and length % PAGE_4K == 0
    require(ok, Status.INVALID_LENGTH, f"LENGTH must be a multiple of 4096 and not 0, found {length}")  # row 4
    aligned = buf.src_paddr % PAGE_4K == 0 and buf.dst_paddr % PAGE_4K == 0
    require(aligned, Status.INVALID_ADDRESS, "SRC_PADDR and DST_PADDR must be 4096-byte aligned")  # row 5
    if sp.plain(buf.src_paddr) == sp.plain(buf.dst_paddr):
        return
    for name, address in ("SRC_PADDR", buf.src_paddr), ("DST_PADDR", buf.dst_paddr):
        start = sp.plain(address)
        crosses = start // WINDOW != (start + length - 1) // WINDOW
        require(
            not crosses, Status.INVALID_PARAM, f"{name} 0x{address:X}: the range crosses a 64 MiB boundary"
        )  # row 7
    sp.check(buf.src_paddr, length, "SRC_PADDR")  # row 8
    sp.check(buf.dst_paddr, length, "DST_PADDR")  # row 8
    sp.guest_write(guest, buf.dst_paddr, sp.guest_read(guest, buf.src_paddr, length))


class SwapMetadata(Layout, size=MDATA_LEN):
    """Metadata entry of a swapped-out page, 64 bytes; with AUTH_TAG zero it is the additional data of the encryption.

    SEV API 55766, "SWAP_OUT". Integers are little-endian. Offset, size in bytes, field:

        0x00  8  software_data  free for the hypervisor
        0x08  8  iv             the guest's counter when the page was swapped out
        0x10 16  auth_tag       AES-256-GCM tag
        0x20 28  reserved_20    reserved, zero
        0x3C  4  flags          bit 0: 2 MiB page; bits 2:1: page type
    """

    software_data = u64(0x00, "free for the hypervisor")
    iv = u64(0x08, "the guest's counter when the page was swapped out")
    auth_tag = raw(0x10, 16, "AES-256-GCM tag")
    reserved_20 = reserved(0x20, 28)
    flags = u32(0x3C, "bit 0: 2 MiB page; bits 2:1: page type")

    @property
    def nonce(self) -> bytes:
        """96-bit nonce of AES-256-GCM: the counter, 8 bytes little-endian, and four zero bytes."""
        return self.iv.to_bytes(8, "little") + bytes(4)

    @property
    def associated_data(self) -> bytes:
        """The 64 bytes with AUTH_TAG zero, which AES-256-GCM authenticates with the page."""
        return self.replace(auth_tag=bytes(16)).pack()


def page_type(flags: int) -> int:
    """Bits 2:1."""
    return flags >> 1 & 3


def require_swap_ranges(sp: SecureProcessor, buf: b.SwapOutBuffer | b.SwapInBuffer, dst_alignment: int) -> int:
    """Rows 1 to 4 of SWAP_OUT and SWAP_IN; the page size in bytes."""
    sp.require_platform_state()  # row 1
    size = PAGE_2M if buf.flags & LARGE else PAGE_4K
    ranges = (
        ("SRC_PADDR", buf.src_paddr, size),
        ("DST_PADDR", buf.dst_paddr, size),
        ("MDATA_PADDR", buf.mdata_paddr, MDATA_LEN),
    )
    for name, address, length in ranges:
        try:
            sp.check(address, length, name)
        except SevError as error:
            raise SevError(Status.INVALID_ADDRESS, error.rule) from None  # row 2: whatever the range's own status
    aligned = buf.src_paddr % size == 0 and buf.dst_paddr % dst_alignment == 0
    require(
        aligned, Status.INVALID_ADDRESS, f"SRC_PADDR and DST_PADDR must be aligned to {size} and {dst_alignment}"
    )  # row 3
    require(buf.mdata_paddr % MDATA_LEN == 0, Status.INVALID_ADDRESS, "MDATA_PADDR must be 64-byte aligned")  # row 3
    entry = sp.plain(buf.mdata_paddr)
    for name, address in ("SRC_PADDR", buf.src_paddr), ("DST_PADDR", buf.dst_paddr):
        start = sp.plain(address)
        apart = entry + MDATA_LEN <= start or start + size <= entry
        require(apart, Status.INVALID_PARAM, f"MDATA_PADDR lies inside the page at {name}")  # row 4
    return size


@command(0x70)
def swap_out(sp: SecureProcessor, buf: b.SwapOutBuffer) -> None:
    """SWAP_OUT (0x70): a guest page under AES-256-GCM with the OEK, and its metadata entry."""
    large = bool(buf.flags & LARGE)
    size = require_swap_ranges(sp, buf, PAGE_2M if large else PAGE_4K)
    kind = page_type(buf.flags)
    require(not (large and kind == TYPE_VMSA), Status.INVALID_PARAM, "a VMSA is not a 2 MiB page")  # row 5
    guest = sp.guest(buf.handle)  # row 6
    sp.require_bound(guest)  # row 7
    require(guest.oek_iv_count < (1 << 64) - 2, Status.AEAD_OFLOW, "the guest's swap counter is used up")  # row 8
    page = sp.guest_read(guest, buf.src_paddr, size)
    found = is_vmsa(sp, guest, page[:VMSA_LEN])
    require(  # row 9
        found == (kind == TYPE_VMSA), Status.INVALID_PARAM, f"the page is {'' if found else 'not '}a VMSA of this guest"
    )
    entry = SwapMetadata(software_data=buf.software_data, iv=guest.oek_iv_count, flags=buf.flags & 7)
    guest.oek_iv_count += 1
    sealed = AESGCM(guest.oek).encrypt(entry.nonce, page, entry.associated_data)
    entry.auth_tag = sealed[-16:]
    sp.write(buf.dst_paddr, sealed[:-16], "DST_PADDR")
    sp.write(buf.mdata_paddr, entry.pack(), "MDATA_PADDR")


@command(0x71)
def swap_in(sp: SecureProcessor, buf: b.SwapInBuffer) -> None:
    """SWAP_IN (0x71): a swapped-out page, if its tag verifies, into guest memory."""
    size = require_swap_ranges(sp, buf, PAGE_4K)
    entry = SwapMetadata.parse(sp.read(buf.mdata_paddr, MDATA_LEN, "MDATA_PADDR"))  # row 4
    same = (buf.flags ^ entry.flags) & 7 == 0
    require(same, Status.INVALID_PARAM, "PAGE_SIZE and PAGE_TYPE must be those of the metadata entry")  # row 5
    if buf.flags & IN_PLACE:
        require(page_type(buf.flags) != TYPE_VMSA, Status.INVALID_PARAM, "a VMSA is not swapped in in place")  # row 5
        require(
            buf.src_paddr == buf.dst_paddr, Status.INVALID_PARAM, "in place: SRC_PADDR must equal DST_PADDR"
        )  # row 5
    guest = sp.guest(buf.handle)  # row 6
    sp.require_bound(guest)  # row 7
    sealed = sp.read(buf.src_paddr, size, "SRC_PADDR") + entry.auth_tag  # row 8
    try:
        page = AESGCM(guest.oek).decrypt(entry.nonce, sealed, entry.associated_data)
    except InvalidTag:
        raise SevError(Status.BAD_MEASUREMENT, "the tag of page and metadata does not verify") from None  # row 8
    sp.guest_write(guest, buf.dst_paddr, page)
