"""Command buffers: what the hypervisor puts at the address it gives to the mailbox.

Offsets and sizes are AMD's packed ones (SEV API 55766, one table per command); integers are little-endian. Lengths are
in bytes, PADDR fields are system physical addresses. Reserved fields are checked by INIT and INIT_EX alone.
"""

from __future__ import annotations

from sevref.firmware.state import GuestState, PlatformState
from sevref.layout import Layout, integer, raw, reserved, u8, u16, u32, u64

HANDLE = "guest handle, 1 to 1024"
ES_OPTION = {0: ("ES", "SEV-ES is enabled")}


class InitBuffer(Layout, size=0x14):
    """Command buffer of INIT (0x01), 20 bytes; never written back.

    Offset, size in bytes, field:

        0x00 4  options      bit 0: enable SEV-ES; bits 31:1 must be 0
        0x04 4  reserved_04  must be 0
        0x08 8  tmr_paddr    with ES: 1 MiB of memory that the firmware takes for itself
        0x10 4  tmr_length   with ES: 0x100000
    """

    options = u32(0x00, "bit 0: enable SEV-ES; bits 31:1 must be 0", bits=ES_OPTION)
    reserved_04 = reserved(0x04, 4, "must be 0")
    tmr_paddr = u64(0x08, "with ES: 1 MiB of memory that the firmware takes for itself")
    tmr_length = u32(0x10, "with ES: 0x100000")


class InitExBuffer(Layout, size=0x24):
    """Command buffer of INIT_EX (0x0D), 36 bytes; never written back.

    Offset, size in bytes, field:

        0x00 4  length       must be 0x24
        0x04 4  options      bit 0: enable SEV-ES; bits 31:1 must be 0
        0x08 8  tmr_paddr    with ES: 1 MiB of memory that the firmware takes for itself
        0x10 4  tmr_length   with ES: 0x100000
        0x14 4  reserved_14  must be 0
        0x18 8  nv_paddr     0: use flash like INIT; else the host's copy of the persistent store, 4096-byte aligned
        0x20 4  nv_length    0x8000 if NV_PADDR is not 0
    """

    length = u32(0x00, "must be 0x24")
    options = u32(0x04, "bit 0: enable SEV-ES; bits 31:1 must be 0", bits=ES_OPTION)
    tmr_paddr = u64(0x08, "with ES: 1 MiB of memory that the firmware takes for itself")
    tmr_length = u32(0x10, "with ES: 0x100000")
    reserved_14 = reserved(0x14, 4, "must be 0")
    nv_paddr = u64(0x18, "0: use flash like INIT; else the host's copy of the persistent store, 4096-byte aligned")
    nv_length = u32(0x20, "0x8000 if NV_PADDR is not 0")


class PlatformStatusBuffer(Layout, size=0x0C):
    """Command buffer of PLATFORM_STATUS (0x04), 12 bytes; output only.

    Offset, size in bytes, field:

        0x00 1  api_major    API version, major
        0x01 1  api_minor    API version, minor
        0x02 1  state        platform state
        0x03 1  owner        bit 0: externally owned
        0x04 2  config       bit 0: initialised with SEV-ES
        0x06 1  reserved_06  reserved, zero
        0x07 1  build        firmware build id
        0x08 4  guest_count  guest contexts that exist
    """

    api_major = u8(0x00, "API version, major")
    api_minor = u8(0x01, "API version, minor")
    state = u8(0x02, "platform state", names=PlatformState)
    owner = u8(0x03, "bit 0: externally owned", bits={0: ("EXTERNAL", "externally owned")})
    config = u16(0x04, "bit 0: initialised with SEV-ES", bits=ES_OPTION)
    reserved_06 = reserved(0x06, 1)
    build = u8(0x07, "firmware build id")
    guest_count = u32(0x08, "guest contexts that exist")


class PekCsrBuffer(Layout, size=0x0C):
    """Command buffer of PEK_CSR (0x06), 12 bytes; written back on SUCCESS and on INVALID_LENGTH."""

    csr_paddr = u64(0x00, "where the certificate signing request is written")
    csr_len = u32(0x08, "in: room; out: 2084")


class PekCertImportBuffer(Layout, size=0x1C):
    """Command buffer of PEK_CERT_IMPORT (0x07), 28 bytes; never written back."""

    pek_cert_paddr = u64(0x00, "PEK certificate signed by the owner")
    pek_cert_len = u32(0x08, "2084 exactly")
    reserved_0c = reserved(0x0C, 4)
    oca_cert_paddr = u64(0x10, "the owner's OCA certificate")
    oca_cert_len = u32(0x18, "2084 exactly")


class PdhCertExportBuffer(Layout, size=0x1C):
    """Command buffer of PDH_CERT_EXPORT (0x08), 28 bytes; written back on SUCCESS and on INVALID_LENGTH."""

    pdh_cert_paddr = u64(0x00, "where the PDH certificate is written")
    pdh_cert_len = u32(0x08, "in: room; out: 2084")
    reserved_0c = reserved(0x0C, 4)
    certs_paddr = u64(0x10, "where PEK || OCA || CEK are written")
    certs_len = u32(0x18, "in: room; out: 6252")


class DownloadFirmwareBuffer(Layout, size=0x0C):
    """Command buffer of DOWNLOAD_FIRMWARE (0x0B), 12 bytes; never written back."""

    fw_paddr = u64(0x00, "firmware image, 32-byte aligned")
    fw_len = u32(0x08, "its size")


class GetIdBuffer(Layout, size=0x0C):
    """Command buffer of GET_ID (0x0C), 12 bytes; written back on SUCCESS and on INVALID_LENGTH."""

    id_paddr = u64(0x00, "where the chip id is written, 64 bytes per socket")
    id_len = u32(0x08, "in: room; out: bytes written")


class RingBufferBuffer(Layout, size=0x28):
    """Command buffer of RING_BUFFER (0x0F), 40 bytes; never written back."""

    low_command_paddr = u64(0x00, "low-priority command queue, 4096-byte aligned")
    low_status_paddr = u64(0x08, "low-priority status queue")
    high_command_paddr = u64(0x10, "high-priority command queue")
    high_status_paddr = u64(0x18, "high-priority status queue")
    low_size = u8(0x20, "low-priority queue size in pages of 4096 bytes: 1")
    high_size = u8(0x21, "high-priority queue size in pages: 0 or 1")
    low_threshold = u16(0x22, "low-priority threshold")
    high_threshold = u16(0x24, "high-priority threshold")
    flags = u16(0x26, "bit 0: interrupt when both queues are empty")


class HandleBuffer(Layout, size=0x04):
    """Command buffer of commands whose only argument is a guest, 4 bytes; never written back.

    DECOMMISSION (0x20), DEACTIVATE (0x22), LAUNCH_FINISH (0x35), SEND_FINISH (0x43), SEND_CANCEL (0x44), RECEIVE_FINISH
    (0x53).
    """

    handle = u32(0x00, HANDLE)


class ActivateBuffer(Layout, size=0x08):
    """Command buffer of ACTIVATE (0x21), 8 bytes; never written back."""

    handle = u32(0x00, HANDLE)
    asid = u32(0x04, "ASID to bind the guest to")


class ActivateExBuffer(Layout, size=0x18):
    """Command buffer of ACTIVATE_EX (0x25), 24 bytes; never written back."""

    length = u32(0x00, "0x18")
    handle = u32(0x04, HANDLE)
    asid = u32(0x08, "ASID to bind the guest to")
    numids = u32(0x0C, "number of APIC ids, 1 to 1024")
    ids_paddr = u64(0x10, "the APIC ids, 4 bytes each")


class GuestStatusBuffer(Layout, size=0x0D):
    """Command buffer of GUEST_STATUS (0x23), 13 bytes; written back on SUCCESS.

    Offset, size in bytes, field:

        0x00 4  handle  guest handle, 1 to 1024
        0x04 4  policy  out: guest policy
        0x08 4  asid    out: ASID, 0 if not bound
        0x0C 1  state   out: guest state
    """

    handle = u32(0x00, HANDLE)
    policy = u32(0x04, "out: guest policy")
    asid = u32(0x08, "out: ASID, 0 if not bound")
    state = u8(0x0C, "out: guest state", names=GuestState)


class CopyBuffer(Layout, size=0x18):
    """Command buffer of COPY (0x24), 24 bytes; never written back."""

    handle = u32(0x00, HANDLE)
    length = u32(0x04, "bytes, a multiple of 4096")
    src_paddr = u64(0x08, "guest memory to copy from")
    dst_paddr = u64(0x10, "guest memory to copy to")


class LaunchStartBuffer(Layout, size=0x24):
    """Command buffer of LAUNCH_START (0x30), 36 bytes; written back on SUCCESS.

    Offset, size in bytes, field:

        0x00 4  handle         in: 0, or the guest whose key is shared; out: the new guest
        0x04 4  policy         guest policy
        0x08 8  dh_cert_paddr  guest owner's GODH certificate; 0: no session
        0x10 4  dh_cert_len    2084 exactly
        0x14 4  reserved_14    reserved, zero
        0x18 8  session_paddr  session data
        0x20 4  session_len    128 exactly
    """

    handle = u32(0x00, "in: 0, or the guest whose key is shared; out: the new guest")
    policy = u32(0x04, "guest policy")
    dh_cert_paddr = u64(0x08, "guest owner's GODH certificate; 0: no session")
    dh_cert_len = u32(0x10, "2084 exactly")
    reserved_14 = reserved(0x14, 4)
    session_paddr = u64(0x18, "session data")
    session_len = u32(0x20, "128 exactly")


class LaunchUpdateBuffer(Layout, size=0x14):
    """Command buffer of LAUNCH_UPDATE_DATA (0x31) and LAUNCH_UPDATE_VMSA (0x32), 20 bytes; never written back."""

    handle = u32(0x00, HANDLE)
    reserved_04 = reserved(0x04, 4)
    paddr = u64(0x08, "memory to measure and to encrypt in place, 16-byte aligned")
    length = u32(0x10, "bytes, a multiple of 16; VMSA: 4096")


class LaunchMeasureBuffer(Layout, size=0x14):
    """Command buffer of LAUNCH_MEASURE (0x33), 20 bytes; written back on SUCCESS and on INVALID_LENGTH.

    Offset, size in bytes, field:

        0x00 4  handle         guest handle, 1 to 1024
        0x04 4  reserved_04    reserved, zero
        0x08 8  measure_paddr  where measurement and nonce are written, 48 bytes
        0x10 4  measure_len    in: room; out, when too small: 48
    """

    handle = u32(0x00, HANDLE)
    reserved_04 = reserved(0x04, 4)
    measure_paddr = u64(0x08, "where measurement and nonce are written, 48 bytes")
    measure_len = u32(0x10, "in: room; out, when too small: 48")


class PacketBuffer(Layout, size=0x34):
    """Command buffer of the five commands with packets, 52 bytes.

    LAUNCH_SECRET (0x34), RECEIVE_UPDATE_DATA (0x51) and RECEIVE_UPDATE_VMSA (0x52): never written back;
    SEND_UPDATE_DATA (0x41) and SEND_UPDATE_VMSA (0x42): on SUCCESS and on INVALID_LENGTH. HDR_LEN is exactly 52 for
    LAUNCH_SECRET, at least 52 for the others; TRANS_LEN equals GUEST_LEN, for SEND_UPDATE_* it is at least that.
    Offset, size in bytes, field:

        0x00 4  handle       guest handle, 1 to 1024
        0x04 4  reserved_04  reserved, zero
        0x08 8  hdr_paddr    packet header
        0x10 4  hdr_len      52
        0x14 4  reserved_14  reserved, zero
        0x18 8  guest_paddr  guest memory, 16-byte aligned
        0x20 4  guest_len    bytes of guest memory, a multiple of 16
        0x24 4  reserved_24  reserved, zero
        0x28 8  trans_paddr  transport data
        0x30 4  trans_len    its size
    """

    handle = u32(0x00, HANDLE)
    reserved_04 = reserved(0x04, 4)
    hdr_paddr = u64(0x08, "packet header")
    hdr_len = u32(0x10, "52")
    reserved_14 = reserved(0x14, 4)
    guest_paddr = u64(0x18, "guest memory, 16-byte aligned")
    guest_len = u32(0x20, "bytes of guest memory, a multiple of 16")
    reserved_24 = reserved(0x24, 4)
    trans_paddr = u64(0x28, "transport data")
    trans_len = u32(0x30, "its size")


class AttestationBuffer(Layout, size=0x24):
    """Command buffer of ATTESTATION (0x36), 36 bytes; written back on SUCCESS and on INVALID_LENGTH.

    Offset, size in bytes, field:

        0x00  4  handle       guest handle, 1 to 1024
        0x04  4  reserved_04  reserved, zero
        0x08  8  paddr        where the report is written, 208 bytes
        0x10 16  mnonce       nonce chosen by the caller
        0x20  4  length       in: room; out: 208
    """

    handle = u32(0x00, HANDLE)
    reserved_04 = reserved(0x04, 4)
    paddr = u64(0x08, "where the report is written, 208 bytes")
    mnonce = raw(0x10, 16, "nonce chosen by the caller")
    length = u32(0x20, "in: room; out: 208")


class SendStartBuffer(Layout, size=0x44):
    """Command buffer of SEND_START (0x40), 68 bytes; written back on SUCCESS and on INVALID_LENGTH.

    Offset, size in bytes, field:

        0x00 4  handle            guest handle, 1 to 1024
        0x04 4  policy            out: the guest's policy
        0x08 8  pdh_cert_paddr    the receiver's PDH certificate
        0x10 4  pdh_cert_len      2084
        0x14 4  reserved_14       reserved, zero
        0x18 8  plat_certs_paddr  the receiver's PEK || OCA || CEK
        0x20 4  plat_certs_len    6252
        0x24 4  reserved_24       reserved, zero
        0x28 8  amd_certs_paddr   ASK || ARK
        0x30 4  amd_certs_len     3200 or 1664
        0x34 4  reserved_34       reserved, zero
        0x38 8  session_paddr     where the session is written
        0x40 4  session_len       in: 128; out, when wrong: 128
    """

    handle = u32(0x00, HANDLE)
    policy = u32(0x04, "out: the guest's policy")
    pdh_cert_paddr = u64(0x08, "the receiver's PDH certificate")
    pdh_cert_len = u32(0x10, "2084")
    reserved_14 = reserved(0x14, 4)
    plat_certs_paddr = u64(0x18, "the receiver's PEK || OCA || CEK")
    plat_certs_len = u32(0x20, "6252")
    reserved_24 = reserved(0x24, 4)
    amd_certs_paddr = u64(0x28, "ASK || ARK")
    amd_certs_len = u32(0x30, "3200 or 1664")
    reserved_34 = reserved(0x34, 4)
    session_paddr = u64(0x38, "where the session is written")
    session_len = u32(0x40, "in: 128; out, when wrong: 128")


class ReceiveStartBuffer(Layout, size=0x24):
    """Command buffer of RECEIVE_START (0x50), 36 bytes; written back on SUCCESS.

    Offset, size in bytes, field:

        0x00 4  handle          in: 0, or the guest whose key is shared; out: the new guest
        0x04 4  policy          guest policy, as SEND_START returned it
        0x08 8  pdh_cert_paddr  the sender's PDH certificate
        0x10 4  pdh_cert_len    2084
        0x14 4  reserved_14     reserved, zero
        0x18 8  session_paddr   the session that SEND_START made
        0x20 4  session_len     128
    """

    handle = u32(0x00, "in: 0, or the guest whose key is shared; out: the new guest")
    policy = u32(0x04, "guest policy, as SEND_START returned it")
    pdh_cert_paddr = u64(0x08, "the sender's PDH certificate")
    pdh_cert_len = u32(0x10, "2084")
    reserved_14 = reserved(0x14, 4)
    session_paddr = u64(0x18, "the session that SEND_START made")
    session_len = u32(0x20, "128")


class DebugBuffer(Layout, size=0x1C):
    """Command buffer of DBG_DECRYPT (0x60) and DBG_ENCRYPT (0x61), 28 bytes; never written back."""

    handle = u32(0x00, HANDLE)
    reserved_04 = reserved(0x04, 4)
    src_paddr = u64(0x08, "memory to read, 16-byte aligned")
    dst_paddr = u64(0x10, "memory to write, 16-byte aligned")
    length = u32(0x18, "bytes, a multiple of 16")


class SwapOutBuffer(Layout, size=0x28):
    """Command buffer of SWAP_OUT (0x70), 40 bytes; written back on SUCCESS and on INVALID_LENGTH."""

    handle = u32(0x00, HANDLE)
    flags = u32(0x04, "bit 0: 2 MiB page; bits 2:1: page type (0 data, 2 VMSA)")
    src_paddr = u64(0x08, "guest page")
    dst_paddr = u64(0x10, "where the encrypted page is written")
    mdata_paddr = u64(0x18, "where the metadata entry is written, 64 bytes")
    software_data = integer(0x20, 8, "free for the hypervisor")


class SwapInBuffer(Layout, size=0x20):
    """Command buffer of SWAP_IN (0x71), 32 bytes; never written back."""

    handle = u32(0x00, HANDLE)
    flags = u32(0x04, "as SWAP_OUT; bit 3: in place")
    src_paddr = u64(0x08, "the encrypted page")
    dst_paddr = u64(0x10, "guest page")
    mdata_paddr = u64(0x18, "its metadata entry")
