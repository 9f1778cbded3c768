"""The launch digest that a guest will have, predicted from its boot components, step by step.

SEV and SEV-ES: one SHA-256 over everything loaded, in order (SEV API 55766, "LAUNCH_UPDATE_DATA"). SEV-SNP: a chain,
in which every page replaces the digest by SHA-384 of ``PageInfo`` (SEV-SNP ABI 56860, "Page Info Structure").

``pieces`` says what enters and where, ``Chain`` hashes it. They are apart so that a search over many configurations
hashes what they have in common once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from sevref.boot.footer import SVSM_INFO, SvsmInfo, parse_footer
from sevref.boot.hashes import HashTable, KernelHashes
from sevref.boot.image import FOUR_GIB, PAGE, Image
from sevref.boot.metadata import SectionType, parse_metadata
from sevref.boot.vmsa import RESET_VECTOR, VMMS, Vmsa, build_svsm_vmsa, build_vmsa
from sevref.layout import Layout, raw, reserved, u8, u16, u64
from sevref.status import InputError

MODES = "sev", "seves", "snp", "snp:ovmf-hash", "snp:svsm"
VMSA_GPA = 0xFFFFFFFFF000  #: where KVM says a VMSA is: the highest page of 48 address bits, for every vCPU
MAX_VCPUS = 65536  #: no machine has more; a bound for the work, not a rule of SEV


class PageType(IntEnum):
    """PAGE_TYPE of SNP_LAUNCH_UPDATE; the names of the two that SEV and SEV-ES have too serve them as well."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class PageInfo(Layout, size=0x70):
    """PAGE_INFO, 112 bytes: its SHA-384 is the launch digest of an SNP guest after a page.

    SEV-SNP ABI 56860, "Page Info Structure". Integers are little-endian. Offset, size in bytes, field:

        0x00 48  digest_cur   launch digest so far; zeros at the start
        0x30 48  contents     SHA-384 of the page's 4096 bytes; zeros unless its type is NORMAL or VMSA
        0x60  2  length       bytes of this structure
        0x62  1  page_type    type of the page
        0x63  1  imi_page     bit 0: page of an initial migration image
        0x64  1  reserved     reserved, zero
        0x65  1  vmpl1_perms  permissions of VMPL1
        0x66  1  vmpl2_perms  permissions of VMPL2
        0x67  1  vmpl3_perms  permissions of VMPL3
        0x68  8  gpa          guest physical address of the page
    """

    digest_cur = raw(0x00, 48, "launch digest so far; zeros at the start")
    contents = raw(0x30, 48, "SHA-384 of the page's 4096 bytes; zeros unless its type is NORMAL or VMSA")
    length = u16(0x60, "bytes of this structure", default=0x70)
    page_type = u8(0x62, "type of the page", names=PageType)
    imi_page = u8(0x63, "bit 0: page of an initial migration image")
    reserved = reserved(0x64, 1)
    vmpl1_perms = u8(0x65, "permissions of VMPL1")
    vmpl2_perms = u8(0x66, "permissions of VMPL2")
    vmpl3_perms = u8(0x67, "permissions of VMPL3")
    gpa = u64(0x68, "guest physical address of the page")


class Guest(NamedTuple):
    """A guest's boot components and settings: everything that its launch digest depends on.

    ``mode`` is "sev", "seves", "snp", "snp:ovmf-hash" or "snp:svsm". ``vcpu_sig`` is the processor's signature (CPUID
    Fn0000_0001 EAX, see ``cpu_signature``), ``vmm`` one of ``VMMS``, ``fpu`` a name of ``FPU``. ``features`` is
    SEV_FEATURES of the register pages; None: 1 in SNP modes, else 0. ``kernel`` None: no measured direct boot.
    ``vmsas`` are the boot processor's and the others' page (4096 bytes each) if they are not to be built. ``ovmf_hash``
    (48 bytes) stands for the measured firmware pages. ``peer`` reproduces sev-snp-measure 0.0.13 where it is wrong: x87
    control word of SVSM pages, features ignored in SEV-ES mode, EC2 and GCE in SEV-ES mode, the farther one of two
    table entries with one GUID.
    """

    firmware: Image
    mode: str = "snp"
    vcpus: int = 1
    vcpu_sig: int = 0
    vmm: str = "QEMU"
    features: int | None = None
    fpu: str = "init2"
    kernel: KernelHashes | None = None
    vmsas: tuple[bytes, bytes] | None = None
    ovmf_hash: bytes | None = None
    svsm: Image | None = None
    vars_size: int = 0
    vmsa_gpa: int = VMSA_GPA
    peer: bool = False

    @property
    def snp(self) -> bool:
        """Whether ``mode`` is one of SEV-SNP."""
        return self.mode.startswith("snp")


class Piece(NamedTuple):
    """Something that enters the digest: ``pages`` pages from ``gpa`` on, with ``content`` or without."""

    what: str
    page_type: PageType
    gpa: int
    pages: int
    content: Image | bytes | None


class Step(NamedTuple):
    """A piece that has entered: ``size`` in bytes, the digest after it (32 or 48 bytes)."""

    what: str
    page_type: str
    gpa: int | None
    pages: int
    size: int
    digest_after: bytes


class Prediction(NamedTuple):
    """The digest (32 or 48 bytes) and how it came about."""

    digest: bytes
    steps: tuple[Step, ...]


# a search plans thousands of guests that have a few images and pages in common
_footer = lru_cache(maxsize=64)(lambda image, farthest: parse_footer(image, farthest=farthest))
_metadata = lru_cache(maxsize=64)(parse_metadata)
_page = lru_cache(maxsize=1024)(build_vmsa)
_page_digest = lru_cache(maxsize=1024)(lambda page: hashlib.sha384(page).digest())


# ---------------------------------------------------------------------------------------------- what enters


def predict(guest: Guest) -> Prediction:
    """Launch digest of ``guest`` with every step. ``InputError`` if the components do not fit together.

    32 bytes for SEV and SEV-ES (SEV API 55766, "LAUNCH_UPDATE_DATA"), 48 for SEV-SNP (SEV-SNP ABI 56860, "Page Info
    Structure").

        >>> from sevref import launch_digest
        >>> from sevref.boot import Guest, Image, build_firmware, predict
        >>> image = build_firmware()
        >>> predict(Guest(Image(image), mode="sev")).digest == launch_digest(image)
        True
    """
    chain = SnpChain() if guest.snp else ShaChain()
    start, parts = pieces(guest)
    state, steps = chain.start(start), []
    if start is not None:
        size = guest.firmware.size
        steps.append(Step("firmware, by its given hash", "NORMAL", FOUR_GIB - size, size // PAGE, size, start))
    for piece in parts:
        state = chain.enter(state, piece)
        size = _size(piece)
        gpa = None if piece.page_type is PageType.VMSA and not guest.snp else piece.gpa
        steps.append(Step(piece.what, piece.page_type.name, gpa, piece.pages, size, chain.digest(state)))
    return Prediction(chain.digest(state), tuple(steps))


def _size(piece: Piece) -> int:
    if isinstance(piece.content, Image):
        return piece.content.size
    return len(piece.content) if piece.content is not None else piece.pages * PAGE


def pieces(guest: Guest) -> tuple[bytes | None, list[Piece]]:
    """The given hash of the firmware, or None, and everything that enters after it, in order."""
    start, parts, cpus = plan(guest)
    return start, parts + ([vmsa_piece(guest, cpus, i) for i in range(guest.vcpus)] if cpus else [])


def vmsa_piece(guest: Guest, cpus: tuple[bytes, bytes], i: int) -> Piece:
    """The register page of vCPU ``i``."""
    return Piece(f"vmsa {i}", PageType.VMSA, guest.vmsa_gpa, 1, cpus[min(i, 1)])


def plan(guest: Guest) -> tuple[bytes | None, list[Piece], tuple[bytes, bytes] | None]:
    """What enters the digest of ``guest``, in order, with the register pages apart.

    The given hash of the firmware, or None; what enters before the vCPUs; the register page of the boot processor and
    that of every other one, or None. ``InputError`` if the components do not fit together.
    """
    if guest.mode not in MODES:
        raise InputError("mode", "one of " + ", ".join(MODES), guest.mode)
    if guest.vmm not in VMMS:
        raise InputError("virtual machine manager", "one of " + ", ".join(VMMS), guest.vmm)
    if guest.ovmf_hash is not None:
        if guest.mode != "snp":
            raise InputError("hash of the firmware", "mode snp, the only one that it fits", guest.mode)
        if len(guest.ovmf_hash) != 48:
            raise InputError("hash of the firmware", "48 bytes", f"{len(guest.ovmf_hash)} bytes")
    if not 1 <= guest.vcpus <= MAX_VCPUS:
        raise InputError("number of vCPUs", f"1 to {MAX_VCPUS}", guest.vcpus)
    parts: list[Piece] = [] if guest.ovmf_hash else [_image_piece("firmware", guest.firmware)]
    if guest.mode == "snp:ovmf-hash":
        return None, parts, None
    if guest.mode == "snp:svsm":
        return (None, *_svsm(guest, parts))
    if guest.mode == "snp":
        parts += _sections(guest)
    elif guest.kernel is not None:
        area = _footer(guest.firmware, guest.peer).hashes_area()
        _require_room(area.size)
        parts.append(Piece("kernel hashes", PageType.NORMAL, area.base, 1, guest.kernel.table()))
    return guest.ovmf_hash, parts, None if guest.mode == "sev" else _vmsas(guest)


def _image_piece(what: str, image: Image, end: int = FOUR_GIB) -> Piece:
    return Piece(what, PageType.NORMAL, end - image.size, -(-image.size // PAGE), image)


def _require_room(size: int) -> None:
    if size < HashTable.SIZE:
        raise InputError("firmware table: kernel hashes area", f"at least {HashTable.SIZE} bytes", f"{size} bytes")


def _sections(guest: Guest) -> Iterator[Piece]:
    vmm = VMMS[guest.vmm]
    sections = _metadata(guest.firmware)
    if guest.kernel is not None and all(section.type != SectionType.KERNEL_HASHES for section in sections):
        found = "none: this firmware does not check what it starts"
        raise InputError(f"{guest.firmware.name}: SNP metadata", "a section of kernel hashes (type 0x10)", found)
    late = []
    for section in sections:
        kind, page = _SECTION_PAGES[SectionType(section.type)], None
        if section.type == SectionType.SEC_MEM and vmm.sec_mem_unmeasured:
            kind = PageType.UNMEASURED
        if section.type == SectionType.KERNEL_HASHES and guest.kernel is not None:
            if section.size != PAGE:
                raise InputError("SNP metadata: section of kernel hashes", f"{PAGE} bytes", f"{section.size} bytes")
            area = _footer(guest.firmware, guest.peer).hashes_area()
            _require_room(area.size)
            kind, page = PageType.NORMAL, guest.kernel.page(area.base)
        name = SectionType(section.type).name
        piece = Piece(f"section {name}", kind, section.gpa, section.size // PAGE, page)
        if section.type == SectionType.CPUID and vmm.postpones_cpuid:
            late.append(piece._replace(what=f"section {name}, postponed"))
        else:
            yield piece
    yield from late


#: page type of each section under QEMU; kernel hashes: without a kernel
_SECTION_PAGES = {
    SectionType.SEC_MEM: PageType.ZERO,
    SectionType.SECRETS: PageType.SECRETS,
    SectionType.CPUID: PageType.CPUID,
    SectionType.CAA: PageType.ZERO,
    SectionType.KERNEL_HASHES: PageType.ZERO,
}


def _vmsas(guest: Guest) -> tuple[bytes, bytes]:
    if guest.vmsas is not None:
        for page in guest.vmsas:
            if len(page) != PAGE:
                raise InputError("VMSA", f"{PAGE} bytes", f"{len(page)} bytes")
        return (_as_measured(guest.vmsas[0]), _as_measured(guest.vmsas[1])) if guest.snp else guest.vmsas
    if guest.mode == "seves" and guest.vmm not in ("QEMU", "krun-sevctl") and not guest.peer:
        raise InputError("virtual machine manager", "QEMU: no other is known to start SEV-ES guests so", guest.vmm)
    features = guest.features
    if features is None or (guest.peer and guest.mode == "seves"):
        features = int(guest.snp)
    reset = _footer(guest.firmware, guest.peer).reset_address()
    how: dict[str, Any] = {"vcpu_sig": guest.vcpu_sig, "sev_features": features, "fpu": guest.fpu, "vmm": guest.vmm}
    # an application processor that starts at the reset vector looks like the boot processor to sev-snp-measure
    ap = None if guest.peer else True
    return _page(RESET_VECTOR, application=False, **how), _page(reset, application=ap, **how)


def _as_measured(page: bytes) -> bytes:
    """A register page as SNP hashes it: the two TSC fields count as zero."""
    return Vmsa.parse(page).replace(tsc_scale=0, tsc_offset=0).pack()


def _svsm(guest: Guest, parts: list[Piece]) -> tuple[list[Piece], tuple[bytes, bytes]]:
    svsm = guest.svsm
    if svsm is None:
        raise InputError("mode snp:svsm", "an SVSM image", "none")
    if guest.vmm != "QEMU":
        raise InputError("virtual machine manager in mode snp:svsm", "QEMU", guest.vmm)
    if guest.kernel is not None:
        raise InputError("kernel in mode snp:svsm", "none: kernel hashes are not measured", "one")
    if guest.vars_size <= 0 or guest.vars_size % PAGE:
        raise InputError("size of the VARS image", f"a multiple of {PAGE} bytes", guest.vars_size)
    end = FOUR_GIB - guest.firmware.size - guest.vars_size
    if svsm.size > end:
        raise InputError(f"{svsm.name}: size", f"at most {end} bytes below the firmware", f"{svsm.size} bytes")
    entry = _footer(svsm, guest.peer).find(SVSM_INFO)
    if entry is None:
        raise InputError(f"{svsm.name}: firmware table", "an SVSM info entry", "none")
    offset = SvsmInfo.parse(entry.data, where=f"{svsm.name}: SVSM info").entry
    if offset >= svsm.size:
        raise InputError(f"{svsm.name}: SVSM info", f"an entry point below {svsm.size}", offset)
    parts.append(_image_piece("svsm", svsm, end))
    for section in _metadata(svsm):
        kind = SectionType(section.type)
        parts.append(Piece(f"section {kind.name}", _SECTION_PAGES[kind], section.gpa, section.size // PAGE, None))
    fpu = "peer-svsm" if guest.peer else guest.fpu
    page = build_svsm_vmsa(end - svsm.size + offset, vcpu_sig=guest.vcpu_sig, fpu=fpu)
    return parts, (page, page)


# ---------------------------------------------------------------------------------------------- how it enters


class ShaChain:
    """SEV and SEV-ES: a running SHA-256, in which neither addresses nor boundaries matter."""

    def start(self, digest: bytes | None = None) -> Any:
        """The state before anything has entered."""
        return hashlib.sha256()

    def enter(self, state: Any, piece: Piece) -> Any:
        """The state after ``piece``; the one before it stays usable."""
        state = state.copy()
        if isinstance(piece.content, Image):
            for block in piece.content.blocks():
                state.update(block)
        elif piece.content is not None:
            state.update(piece.content)
        return state

    def digest(self, state: Any) -> bytes:
        """The launch digest, 32 bytes."""
        return bytes(state.digest())


class SnpChain:
    """SEV-SNP: every page replaces the digest by SHA-384 of its ``PageInfo``."""

    def start(self, digest: bytes | None = None) -> bytes:
        """The state before anything has entered: ``digest`` if the firmware's is given, else 48 zero bytes."""
        return digest if digest is not None else bytes(48)

    def enter(self, state: bytes, piece: Piece) -> bytes:
        """The state after ``piece``."""
        sha384, gpa = hashlib.sha384, piece.gpa
        middle = _middle(piece.page_type)
        for contents in self._contents(piece):
            state = sha384(state + contents + middle + gpa.to_bytes(8, "little")).digest()
            gpa += PAGE
        return state

    def _contents(self, piece: Piece) -> Iterable[bytes]:
        if isinstance(piece.content, Image):
            return piece.content.page_digests()
        if piece.content is None:
            zero = bytes(48)
            return (zero for _ in range(piece.pages))
        return (_page_digest(piece.content),)

    def digest(self, state: bytes) -> bytes:
        """The launch digest, 48 bytes."""
        return state


@lru_cache
def _middle(page_type: PageType) -> bytes:
    """The bytes of ``PageInfo`` between the page's contents and its address."""
    return PageInfo(page_type=page_type).pack()[0x60:0x68]


# ---------------------------------------------------------------------------------------------- two records


def first_difference(ours: Iterable[dict[str, Any]], theirs: Iterable[dict[str, Any]]) -> str | None:
    """The first step in which two records (``steps`` of ``sevref digest --json``) differ, in words; None if equal."""
    mine, other = list(ours), list(theirs)
    for i, (a, b) in enumerate(zip(mine, other, strict=False)):
        place = f"step {i} ({a['what']})"
        if a["what"] != b["what"]:
            return f"step {i}: {a['what']} here, {b['what']} there"
        for field in "page_type", "gpa", "pages", "digest_after":
            if a[field] != b[field]:
                words = "what entered has other bytes"
                if field != "digest_after":
                    words = f"{a[field]} here, {b[field]} there"
                return f"{place}: {field}: {words}"
    if len(mine) != len(other):
        longer, where = (mine, "here") if len(mine) > len(other) else (other, "there")
        i = min(len(mine), len(other))
        return f"step {i}: {longer[i]['what']} only {where}"
    return None
