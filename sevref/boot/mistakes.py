"""The mistakes that people make between configuring a guest and predicting its launch digest.

Each is a ``Change`` of a ``Guest``: what has to be different from the prediction's inputs, in words, and how to make it
so. ``changes`` lists all of them for one guest, likeliest kind first within what is cheap to try.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from sevref.boot.digest import MODES, Guest
from sevref.boot.hashes import EMPTY, KernelHashes, of_cmdline
from sevref.boot.image import Image, file_blocks
from sevref.boot.vmsa import CPU_MODELS, FEATURES_OF_HOSTS, FPU, SEV_FEATURES, VMMS, signature_of

VCPUS = range(1, 513)  #: numbers of vCPUs that are tried
PACK_LIMIT = 1 << 24  #: files up to this size in bytes are also tried in compressed form
UNPACK_LIMIT = 1 << 30  #: where unpacking a compressed file stops, in bytes
Path = str | os.PathLike[str]


class Change(NamedTuple):
    """One mistake: ``axis`` is what it is about (two of one axis exclude each other), ``text`` what is different.

    ``common`` ones are tried in pairs too. ``apply`` returns None where the change has no meaning. ``dear``: it reads a
    whole file, and is left out when something cheaper has explained the difference.
    """

    axis: str
    text: str
    common: bool
    apply: Callable[[Guest], Guest | None]
    dear: bool = False


class Files(NamedTuple):
    """What the hashes of a guest were made of, and other files that may have been used instead."""

    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: bytes | None = None
    firmwares: Sequence[Image] = ()
    others: Sequence[Path] = ()


def changes(guest: Guest, files: Files, modes: Sequence[str]) -> Iterator[Change]:
    """Every mistake that can be looked for; ``modes`` are those whose digest has the observed one's size."""
    if guest.kernel is not None:
        yield from _cmdlines(files.cmdline)
        yield from _boot(guest.kernel)
    for image in files.firmwares:
        name = image.name.removeprefix("firmware ")
        yield Change("firmware", f"firmware: {name}", True, _set(firmware=image, ovmf_hash=None))
    if guest.ovmf_hash is not None:
        yield Change("firmware", "firmware: its pages, not the given hash", True, _set(ovmf_hash=None))
    if any(mode not in ("sev", "snp:ovmf-hash") for mode in modes):
        yield from _processors(guest)
    for mode in modes:
        if mode != guest.mode and (mode != "snp:svsm" or guest.svsm is not None):
            yield Change("mode", f"kind of guest: {mode}", True, _set(mode=mode))
    if guest.snp:
        for name, vmm in VMMS.items():
            note = f" ({vmm.note})" if vmm.note else ""
            yield Change("VMM", f"virtual machine manager: {name}{note}", True, _set(vmm=name))
        yield Change("VMSA address", "address of the VMSAs: 52 bits wide", True, _set(vmsa_gpa=0xFFFFFFFFFF000))
    for size in (0x20000, 0x84000) if guest.svsm else ():
        yield Change("VARS size", f"VARS image: {size} bytes", True, _set(vars_size=size))
    yield Change("tool", "as sev-snp-measure 0.0.13 has it", False, _set(peer=True))
    if guest.kernel is not None or files.others:
        yield from _other_files(guest, files)


def _set(**values: object) -> Callable[[Guest], Guest | None]:
    return lambda guest: guest._replace(**values)  # type: ignore[arg-type]


def _set_hashes(**hashes: bytes) -> Callable[[Guest], Guest | None]:
    return lambda guest: guest.kernel and guest._replace(kernel=guest.kernel._replace(**hashes))


# ---------------------------------------------------------------------------------------------- command line


def _cmdlines(line: bytes | None) -> Iterator[Change]:
    """The command line as it may have been hashed instead; each is given with the bytes that end it."""
    line = line or b""
    forms: list[tuple[str, bytes]] = [
        ("without the final zero byte", line),
        ("with two final zero bytes", line + b"\0\0"),
        ("with a newline at its end", line + b"\n\0"),
        ("with a newline instead of the zero byte", line + b"\n"),
        ("with a newline of Windows at its end", line + b"\r\n\0"),
        ("with a space at its end", line + b" \0"),
        ("with a space at its beginning", b" " + line + b"\0"),
        ("without white space at its end", line.rstrip() + b"\0"),
        ("without white space at its beginning", line.lstrip() + b"\0"),
        ("without white space around it (as virtee/sev and snpguest have it)", line.strip() + b"\0"),
        ("without white space at its end, nor the zero byte", line.rstrip()),
        ("without a newline at its end", line.removesuffix(b"\n").removesuffix(b"\r") + b"\0"),
        ("with single spaces only", re.sub(rb" {2,}", b" ", line) + b"\0"),
        ("with single spaces only, none around it", b" ".join(line.split()) + b"\0"),
        ("with tabs as spaces", line.replace(b"\t", b" ") + b"\0"),
        ("in double quotes", b'"' + line + b'"\0'),
        ("in single quotes", b"'" + line + b"'\0"),
        ("without its quotes", (line[1:-1] if line[:1] in (b'"', b"'") and line[:1] == line[-1:] else line) + b"\0"),
        ("with backslashes taken away", line.replace(b"\\", b"") + b"\0"),
        ("empty", b"\0"),
        ("empty, without the zero byte", b""),
    ]
    try:
        text = line.decode()
        forms.append(("in Latin-1", text.encode("latin-1") + b"\0"))
        forms.append(("in UTF-16", text.encode("utf-16-le") + b"\0\0"))
    except UnicodeError:
        pass
    for words, data in forms:
        hashed = hashlib.sha256(data).digest()
        yield Change("command line", f"command line {words}", True, _set_hashes(cmdline=hashed))


# ---------------------------------------------------------------------------------------------- kernel and initrd


def _boot(given: KernelHashes) -> Iterator[Change]:
    yield Change("kernel hashes", "kernel hashes are off: nothing of the kernel is measured", True, _set(kernel=None))
    swapped = _set_hashes(kernel=given.initrd, initrd=given.kernel)
    yield Change("kernel and initrd", "kernel and initrd swapped", True, swapped)
    yield Change("initrd", "no initrd", True, _set_hashes(initrd=EMPTY))
    yield Change("kernel", "the kernel file was empty", True, _set_hashes(kernel=EMPTY))
    yield Change("initrd", "the kernel given as initrd too", True, _set_hashes(initrd=given.kernel))
    yield Change("kernel", "the initrd given as kernel too", True, _set_hashes(kernel=given.initrd))


def _other_files(guest: Guest, files: Files) -> Iterator[Change]:
    """Forms of the files that cost a hash of all their bytes each; they are made when they are tried."""
    if guest.kernel is None:
        yield from _other_boots(files)
        return
    for path in files.others:
        name = os.path.basename(os.fspath(path))
        yield Change("kernel", f"kernel: {name}", True, _hashed("kernel", _file(path)), True)
        yield Change("initrd", f"initrd: {name}", True, _hashed("initrd", _file(path)), True)
    for part in "kernel", "initrd":
        given: Path | None = getattr(files, part)
        if given is None:
            continue
        yield Change(part, f"{part} not compressed", True, _hashed(part, _unpacked(given)), True)
        for level in 9, 6, 1:
            words = f"{part} compressed with gzip -{level} (zlib's, no name, no time)"
            yield Change(part, words, False, _hashed(part, _packed(given, level)), True)
    if files.kernel is not None:
        for words, patch in _SETUP.items():
            make = _patched(files.kernel, patch)
            yield Change("kernel", f"kernel with {words}", False, _hashed("kernel", make), True)


def _other_boots(files: Files) -> Iterator[Change]:
    """No kernel was given, or the host says that none is measured: any of the other files may have been, with another
    one as initrd or with none."""
    hashes = {path: cache(_file(path)) for path in files.others}

    def boot(kernel: Path, initrd: Path | None) -> Callable[[Guest], Guest | None]:
        def apply(guest: Guest) -> Guest | None:
            disk = EMPTY if initrd is None else hashes[initrd]()
            return guest._replace(kernel=KernelHashes(hashes[kernel](), disk, of_cmdline(files.cmdline)))

        return apply

    for kernel in files.others:
        name = f"kernel: {os.path.basename(os.fspath(kernel))}"
        yield Change("kernel", name, True, boot(kernel, None), True)
        for initrd in files.others:
            words = f"{name} and initrd: {os.path.basename(os.fspath(initrd))}"
            yield Change("kernel", words, True, boot(kernel, initrd), True)


def _hashed(part: str, make: Callable[[], bytes | None]) -> Callable[[Guest], Guest | None]:
    """Apply the hash that ``make`` computes, once, when it is first wanted; None if there is none."""
    known = cache(make)

    def apply(guest: Guest) -> Guest | None:
        hashed = known()
        return guest._replace(kernel=guest.kernel._replace(**{part: hashed})) if guest.kernel and hashed else None

    return apply


def _file(path: Path) -> Callable[[], bytes]:
    def make() -> bytes:
        digest = hashlib.sha256()
        for block in file_blocks(path, "file"):
            digest.update(block)
        return digest.digest()

    return make


def _unpacked(path: Path) -> Callable[[], bytes | None]:
    """SHA-256 of what a gzip, bzip2 or xz file holds; None for another file or a broken one."""

    def make() -> bytes | None:
        import bz2
        import gzip
        import lzma
        import zlib

        start = next(iter(file_blocks(path, "file")), b"")[:6]
        openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
        opener = openers.get(start[:2])
        if opener is None:
            return None
        digest, size = hashlib.sha256(), 0
        try:
            with opener(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    size += len(block)
                    if size > UNPACK_LIMIT:
                        return None
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            return None
        return digest.digest()

    return make


def _packed(path: Path, level: int) -> Callable[[], bytes | None]:
    def make() -> bytes | None:
        import gzip

        data, size = [], 0
        for block in file_blocks(path, "file"):
            data.append(block)
            size += len(block)
            if size > PACK_LIMIT:
                return None
        return hashlib.sha256(gzip.compress(b"".join(data), level, mtime=0)).digest()

    return make


#: fields of a Linux kernel's setup header that a boot loader fills in: name -> (offset, size) in bytes
_FIELDS = {
    "video mode": (0x1FA, 2),
    "loader id": (0x210, 1),
    "initrd address and size": (0x218, 8),
    "heap end": (0x224, 2),
    "command-line pointer": (0x228, 4),
    "setup_data link": (0x250, 8),
}
#: what the kernel that was measured has in its setup header -> [(offset, bytes)]
_SETUP: dict[str, list[tuple[int, bytes]]] = {
    **{f"the {name} zero": [(offset, bytes(size))] for name, (offset, size) in _FIELDS.items()},
    "every field zero that a boot loader fills in": [(offset, bytes(size)) for offset, size in _FIELDS.values()],
    **{f"loader id 0x{kind:X}0": [(0x210, bytes([kind << 4]))] for kind in range(1, 16)},
}


def _patched(path: Path, patch: list[tuple[int, bytes]]) -> Callable[[], bytes | None]:
    """SHA-256 of a Linux kernel with changed bytes in its setup header; None for another file."""

    def make() -> bytes | None:
        digest = hashlib.sha256()
        for i, block in enumerate(file_blocks(path, "kernel")):
            if i == 0:
                if block[0x202:0x206] != b"HdrS":
                    return None
                changed = bytearray(block)
                for offset, data in patch:
                    changed[offset : offset + len(data)] = data
                block = bytes(changed)
            digest.update(block)
        return digest.digest()

    return make


# ---------------------------------------------------------------------------------------------- processors


def _processors(guest: Guest) -> Iterator[Change]:
    for name in FPU:
        yield Change("FPU", f"FPU fields of the register pages: {name}", True, _set(fpu=name, vmsas=None))
    signatures: dict[int, list[str]] = {}
    for model in CPU_MODELS:
        signatures.setdefault(signature_of(model), []).append(model)
    for value, models in signatures.items():
        yield Change("CPU", f"CPU: {' or '.join(models)}", True, _set(vcpu_sig=value, vmsas=None))
    yield Change("CPU", "CPU: RDX is 0", True, _set(vcpu_sig=0, vmsas=None))
    features = guest.features if guest.features is not None else int(guest.snp)
    base = 0 if guest.mode == "seves" else 1
    for value, hosts in ((0, "none"), *FEATURES_OF_HOSTS.items()):
        value = value & ~1 | base if value else 0
        words = f"guest features: 0x{value:X} ({hosts})"
        yield Change("guest features", words, True, _set(features=value, vmsas=None))
    for bit in range(64):
        name = SEV_FEATURES.get(bit, "reserved")
        words = f"guest features: bit {bit} ({name}) {'clear' if features >> bit & 1 else 'set'}"
        yield Change("guest features", words, bit <= 16, _set(features=features ^ 1 << bit, vmsas=None))
    if guest.vmsas is not None:
        boot, other = guest.vmsas
        yield Change("register pages", "register pages: the two files swapped", True, _set(vmsas=(other, boot)))
        yield Change("register pages", "register pages: the boot processor's for all", True, _set(vmsas=(boot, boot)))
        yield Change(
            "register pages", "register pages: the other processors' for all", True, _set(vmsas=(other, other))
        )
        yield Change("register pages", "register pages: built, not the given files", True, _set(vmsas=None))


def modes_of(size: int) -> list[str]:
    """The modes whose digest has ``size`` bytes."""
    return [mode for mode in MODES if (48 if mode.startswith("snp") else 32) == size and mode != "snp:ovmf-hash"]
