"""Launch digest, launch measurement and attestation report (SEV and SEV-ES).

The *launch digest* is a plain SHA-256 over what was loaded. The *launch measurement* is an HMAC under the
guest owner's TIK over the firmware's version, the policy, that digest and a nonce. Whoever knows the TIK can
therefore tell which firmware loaded what; the digest alone proves nothing (SEV API 55766, "LAUNCH_MEASURE").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from sevref.crypto import PublicLike, as_point, ecdsa_verify, hmac_sha256
from sevref.layout import Layout, integer, raw, reserved, u8, u32
from sevref.status import InputError, SevError, Status

#: The first API version whose launch measurement and secret MACs have their present form.
FIRST_API_WITH_CONTEXT = (0, 17)
VMSA_SIZE = 4096
_BLOCK = 1 << 18  # bytes read from a file at a time: they stay in the processor's cache until hashed

ApiVersion = tuple[int, int]


class BinaryFile(Protocol):
    """Anything opened for reading bytes."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end."""


Bytes = bytes | bytearray | memoryview
Chunk = Bytes | BinaryFile


class MeasureInput(Layout, size=56):
    """What LAUNCH_MEASURE authenticates under the TIK, API 0.17 and later, 56 bytes.

    The version is the running firmware's: a firmware update between two launches changes the measurement (SEV API
    55766, "LAUNCH_MEASURE"). Integers are little-endian. Offset, size in bytes, field:

        0x00  1  context    4: tells a measurement from the three kinds of packet
        0x01  1  api_major  API version of the running firmware, major
        0x02  1  api_minor  API version of the running firmware, minor
        0x03  1  build      build of the running firmware, as PLATFORM_STATUS reports it
        0x04  4  policy     the guest's policy
        0x08 32  digest     launch digest: SHA-256 of everything loaded
        0x28 16  mnonce     drawn by the firmware for each measurement
    """

    context = u8(0x00, "4: tells a measurement from the three kinds of packet", default=4)
    api_major = u8(0x01, "API version of the running firmware, major")
    api_minor = u8(0x02, "API version of the running firmware, minor")
    build = u8(0x03, "build of the running firmware, as PLATFORM_STATUS reports it")
    policy = u32(0x04, "the guest's policy")
    digest = raw(0x08, 32, "launch digest: SHA-256 of everything loaded")
    mnonce = raw(0x28, 16, "drawn by the firmware for each measurement")


class MeasureInput016(Layout, size=52):
    """What LAUNCH_MEASURE authenticates before API 0.17, 52 bytes: neither context byte nor firmware version."""

    policy = u32(0x00, "the guest's policy")
    digest = raw(0x04, 32, "launch digest: SHA-256 of everything loaded")
    mnonce = raw(0x24, 16, "drawn by the firmware for each measurement")


class MeasurementBlob(Layout, size=0x30):
    """Output buffer of LAUNCH_MEASURE, 48 bytes; its base64 is what libvirt calls ``sev-measurement``.

    SEV API 55766, "LAUNCH_MEASURE". Offset, size in bytes, field:

        0x00 32  measure  launch measurement: HMAC-SHA-256 under the TIK
        0x20 16  mnonce   nonce that went into it
    """

    measure = raw(0x00, 32, "launch measurement: HMAC-SHA-256 under the TIK")
    mnonce = raw(0x20, 16, "nonce that went into it")


class AttestationBody(Layout, size=0x34):
    """The part of an attestation report that the PEK signs: its first 52 bytes."""

    mnonce = raw(0x00, 16, "nonce of whoever asked for the report")
    launch_digest = raw(0x10, 32, "launch digest; zero for a guest that was received")
    policy = u32(0x30, "the guest's policy")


class AttestationReport(AttestationBody, size=0xD0):
    """Report of ATTESTATION, 208 bytes, of which only the first 52 are signed.

    SEV API 55766, "ATTESTATION". Integers are little-endian. Offset, size in bytes, field:

        0x00 16  mnonce         nonce of whoever asked for the report
        0x10 32  launch_digest  launch digest; zero for a guest that was received
        0x30  4  policy         the guest's policy
        0x34  4  sig_usage      usage of the signing key: PEK = 0x1002; not signed
        0x38  4  sig_algo       2 = ECDSA with SHA-256, 0x102 = ECDSA with SHA-384; not signed
        0x3C  4  reserved       reserved, zero
        0x40 72  r              signature's r, zero-extended
        0x88 72  s              signature's s, zero-extended
    """

    sig_usage = u32(0x34, "usage of the signing key: PEK = 0x1002; not signed", default=0x1002)
    sig_algo = u32(0x38, "2 = ECDSA with SHA-256, 0x102 = ECDSA with SHA-384; not signed", default=0x2)
    reserved = reserved(0x3C, 4)
    r = integer(0x40, 72, "signature's r, zero-extended")
    s = integer(0x88, 72, "signature's s, zero-extended")

    def signed_bytes(self) -> bytes:
        """The 52 bytes under the signature."""
        fields = {field.name: self._values[field.name] for field in AttestationBody.fields}
        return AttestationBody(**fields).pack()


_REPORT_HASHES = {0x002: "sha256", 0x102: "sha384"}


def launch_digest(chunks: Chunk | Iterable[Chunk], vmsas: Iterable[Bytes] = ()) -> bytes:
    """Launch digest, 32 bytes: one SHA-256 over the plaintext of every LAUNCH_UPDATE_DATA, then of every VMSA.

    ``chunks`` are bytes, views or binary files (read piece by piece), one or many. Where one ends and the next begins
    does not matter, nor do guest addresses: nothing but the bytes and their order enters. ``vmsas`` are whole save
    areas of 4096 bytes as the hypervisor leaves them before LAUNCH_UPDATE_VMSA; ``InputError`` for another size. VMSAs
    among ``chunks`` give the digest of any other order. SEV API 55766, "LAUNCH_UPDATE_DATA".

        >>> from sevref import launch_digest
        >>> launch_digest([b"firm", b"ware"]) == launch_digest(b"firmware")
        True
    """
    digest = hashlib.sha256()
    for chunk in _chunks(chunks):
        digest.update(chunk)
    for i, vmsa in enumerate(vmsas):
        size = memoryview(vmsa).nbytes
        if size != VMSA_SIZE:
            raise InputError(f"launch digest: VMSA {i}", f"{VMSA_SIZE} bytes", f"{size} bytes")
        digest.update(vmsa)
    return digest.digest()


def _chunks(chunks: Chunk | Iterable[Chunk]) -> Iterator[Bytes]:
    if isinstance(chunks, bytes | bytearray | memoryview):
        yield chunks
    elif hasattr(chunks, "read"):
        while block := chunks.read(_BLOCK):
            yield block
    elif isinstance(chunks, Iterable) and not isinstance(chunks, str):
        for chunk in chunks:
            yield from _chunks(chunk)
    else:
        found = type(chunks).__name__
        raise InputError("launch digest: chunk", "bytes or a file opened for reading bytes", found)


def measure_input(
    api: ApiVersion, build: int, policy: int, digest: bytes, nonce: bytes
) -> MeasureInput | MeasureInput016:
    """What the launch measurement authenticates, in the form of firmware of API version ``api`` (major, minor).

    56 bytes when packed, 52 before API 0.17.
    """
    if tuple(api) < FIRST_API_WITH_CONTEXT:
        return MeasureInput016(policy=policy, digest=digest, mnonce=nonce)
    major, minor = api
    return MeasureInput(api_major=major, api_minor=minor, build=build, policy=policy, digest=digest, mnonce=nonce)


def launch_measurement(
    tik: bytes,
    api: ApiVersion = (0, 24),
    build: int = 15,
    *,
    policy: int,
    digest: bytes,
    nonce: bytes,
) -> bytes:
    """Launch measurement, 32 bytes: HMAC-SHA-256 under the 16-byte ``tik`` of ``MeasureInput``.

    ``api`` (major, minor) and ``build`` are the running firmware's; before API 0.17 neither they nor a context byte
    enter (``MeasureInput016``). ``digest`` is 32 bytes, ``nonce`` (MNONCE) 16, each number fits its field: else
    ``InputError``. A launch without a session has a TIK of 16 zero bytes. SEV API 55766, "LAUNCH_MEASURE".

        >>> from sevref import launch_digest, launch_measurement
        >>> digest = launch_digest(b"guest firmware")
        >>> launch_measurement(bytes(16), policy=1, digest=digest, nonce=bytes(16)).hex()[:16]
        '6dca7a0307c66b23'
    """
    if len(tik) != 16:
        raise InputError("TIK", "16 bytes", f"{len(tik)} bytes")
    return hmac_sha256(tik, measure_input(api, build, policy, digest, nonce).pack())


def verify_attestation(report: AttestationReport | bytes, pek: PublicLike | object) -> AttestationReport:
    """Check the signature of an ATTESTATION report with the PEK: a certificate, a point or the library's key.

    Returns the report. ``SevError`` INVALID_CERTIFICATE if the certificate is not a PEK's or its point is not on the
    curve, BAD_SIGNATURE if the report names another kind of key, an unknown algorithm, or does not verify;
    ``InputError`` for bytes that are not 208. Digest, policy and nonce are the caller's to compare, the PEK's chain is
    the caller's to verify. SEV API 55766, "ATTESTATION".
    """
    if not isinstance(report, AttestationReport):
        report = AttestationReport.parse(report)
    usage = getattr(pek, "pubkey_usage", 0x1002)
    algo = getattr(pek, "pubkey_algo", report.sig_algo)
    if usage != 0x1002:
        raise SevError(Status.INVALID_CERTIFICATE, f"a PEK signs attestation reports, not usage 0x{usage:X}")
    point = as_point(pek)
    if not point.valid:
        raise SevError(Status.INVALID_CERTIFICATE, "the PEK's public key is not a point of P-384")
    if report.sig_usage != usage:
        raise SevError(Status.BAD_SIGNATURE, f"SIG_USAGE is 0x{report.sig_usage:X}, a PEK's is 0x1002")
    if report.sig_algo != algo or algo not in _REPORT_HASHES:
        raise SevError(Status.BAD_SIGNATURE, f"SIG_ALGO is 0x{report.sig_algo:X}, the key's is 0x{algo:X}")
    if not ecdsa_verify(point, report.signed_bytes(), report.r, report.s, _REPORT_HASHES[algo]):
        raise SevError(Status.BAD_SIGNATURE, "the report's signature does not verify under this PEK")
    return report
