"""Certificates in files: single ones, concatenations, their base64 text, folders.

Concatenations have no header and no padding: PDH_CERT_EXPORT's chain buffer (PEK, OCA, CEK: 6252 bytes),
sevctl's export (PDH before it: 8336 bytes, with ASK and ARK behind it 10000 or 11536), AMD's bundles (ASK,
ARK: 1664 or 3200, Naples as published 1408). Text that is base64 of any of these is taken as well: QEMU and
libvirt keep certificates that way.

AMD published its Naples ARK without the signature. Where those 576 bytes end a file, or 256 zero bytes stand
for the signature, the known genuine one is put in its place; it is a signature of that ARK and of no other.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

from sevref.certs.amd import AMD_SIZES, AmdCertificate, stated_size, stated_sizes
from sevref.certs.roots import Roots, amd_roots
from sevref.certs.sev import CERT_SIZE, SevCertificate, Usage, usage_name
from sevref.generations import GENERATIONS, Generation
from sevref.status import InputError

Certificate = AmdCertificate | SevCertificate
PathArg = str | PathLike[str]

PLACES = ("ark", "ask", "cek", "oca", "pek", "pdh")  #: of a chain, from the root down
EXACT_NAMES = {f"{place}.cert": place for place in PLACES}  #: file names of sev-tool and sevctl
_USAGE_PLACE = {int(Usage[place.upper()]): place for place in PLACES}
_AMD_LENGTHS = (832, 1600, 1344, 1088)  # one AMD certificate: 2048, 4096, mixed
_UNSIGNED = 576  # Naples ARK as AMD published it
_SEV_PARTS = {8336: ("pdh", "pek", "oca", "cek"), 6252: ("pek", "oca", "cek"), 0: ()}
_BUNDLES = (1664, 1408, 3200, 2688, 2176)  # ASK, ARK
_LIMIT = 1 << 16  # bytes; the largest known file is 15384 characters of base64
_KINDS = "2084 bytes (SEV certificate), 832 or 1600 bytes (AMD certificate) or a concatenation of them"


# ---------------------------------------------------------------------------- one certificate


def parse_certificate(data: bytes, where: str = "certificate") -> Certificate:
    """One certificate: any 2084 bytes are a SEV certificate, 832 or 1600 bytes (mixed sizes 1088, 1344) an AMD one.

    ``pack()`` gives the same bytes, except for the Naples ARK without signature, which is completed. ``InputError``
    names the length, or the size field of an AMD certificate, that does not fit; ``where`` starts its message. No
    signature is checked.

        >>> from sevref import amd_roots, parse_certificate
        >>> ark = amd_roots("milan").ark.pack()
        >>> len(ark), parse_certificate(ark).pack() == ark
        (1600, True)
    """
    if len(data) == CERT_SIZE:
        return SevCertificate.parse(data)
    return _amd_certificate(bytes(data), where)


def _amd_certificate(data: bytes, where: str) -> AmdCertificate:
    if len(data) not in (*_AMD_LENGTHS, _UNSIGNED):
        raise InputError(where, _KINDS, f"{len(data)} bytes")
    for name, offset, bits in zip(("PUBEXP_SIZE", "MODULUS_SIZE"), (0x38, 0x3C), stated_sizes(data), strict=True):
        if bits not in AMD_SIZES:
            raise InputError(f"{where}: {name} at offset 0x{offset:X}", "2048 or 4096 bits", f"{bits} bits")
    if _signature_is_missing(data):
        return AmdCertificate.parse(data[:_UNSIGNED] + _naples_signature())
    if stated_size(data) != len(data):
        raise InputError(where, f"{stated_size(data)} bytes by its size fields", f"{len(data)} bytes")
    return AmdCertificate.parse(data)


def _signature_is_missing(data: bytes) -> bool:
    """Whether this is the Naples ARK without signature: its 64 fixed bytes, an exponent, a modulus and then nothing, or
    zeros. Any other short certificate is not."""
    return data[:64] == amd_roots("naples").ark.signed_bytes()[:64] and data[_UNSIGNED:] in (b"", bytes(256))


def _naples_signature() -> bytes:
    return amd_roots("naples").ark.pack()[_UNSIGNED:]


def _for_place(place: str, data: bytes, where: str) -> Certificate:
    """The one certificate in ``data`` for a place that was named: what it says of its own usage is left to the checks,
    and so are AMD size fields of impossible values, which the firmware finds."""
    if place not in ("ark", "ask"):
        if len(data) != CERT_SIZE:
            raise InputError(f"{where}: {place.upper()}", "2084 bytes (one SEV certificate)", f"{len(data)} bytes")
        return SevCertificate.parse(data)
    if len(data) in _AMD_LENGTHS and not set(stated_sizes(data)) <= set(AMD_SIZES):
        return AmdCertificate.parse_prefix(data, where)
    if len(data) not in (*_AMD_LENGTHS, _UNSIGNED):
        expected = "832 or 1600 bytes (one AMD certificate)"
        raise InputError(f"{where}: {place.upper()}", expected, f"{len(data)} bytes")
    return _amd_certificate(data, where)


# ---------------------------------------------------------------------------- concatenations


def _place_of(cert: Certificate) -> str | None:
    """The place that a certificate claims by its usage; None if the usage does not exist in its format."""
    usage = cert.key_usage if isinstance(cert, AmdCertificate) else cert.pubkey_usage
    place = _USAGE_PLACE.get(usage)
    return place if (place in ("ark", "ask")) == isinstance(cert, AmdCertificate) else None


def _sequence(data: bytes) -> list[Certificate] | None:
    """The certificates that stand behind each other in ``data``, told apart by AMD's size fields; None if the last one
    is incomplete."""
    found: list[Certificate] = []
    while data:
        size = CERT_SIZE
        if len(data) >= 64 and set(stated_sizes(data)) <= set(AMD_SIZES):
            size = _UNSIGNED if len(data) == _UNSIGNED and _signature_is_missing(data) else stated_size(data)
        if len(data) < size:
            return None
        found.append(parse_certificate(data[:size]))
        data = data[size:]
    return found


def _by_position(data: bytes, where: str) -> list[tuple[str, Certificate]] | None:
    """The certificates of a concatenation of one of the known sizes, each in the place of its position."""
    for size, places in _SEV_PARTS.items():
        rest = data[size:]
        if not data or len(data) < size or len(rest) not in (0, *_BUNDLES):
            continue
        found: list[tuple[str, Certificate]] = [
            (place, SevCertificate.parse(data[i * CERT_SIZE : (i + 1) * CERT_SIZE])) for i, place in enumerate(places)
        ]
        if rest:
            ask = AmdCertificate.parse_prefix(rest, where)
            tail = rest[stated_size(rest) :]
            whole = _amd_certificate if _signature_is_missing(tail) else AmdCertificate.parse_prefix
            found += [("ask", ask), ("ark", whole(tail, where))]
        return found
    return None


def split(data: bytes, where: str) -> list[tuple[str, Certificate]]:
    """Every certificate in the concatenation ``data`` with its place: "ark", "ask", "cek", "oca", "pek" or "pdh".

    By what each says of itself; if two claim one place, or one says nothing sensible, by position where the size is a
    known one. ``InputError`` if neither works.
    """
    certs = _sequence(data)
    if certs:
        claimed = [(place, cert) for cert in certs if (place := _place_of(cert))]
        if len({place for place, _ in claimed}) == len(certs):
            return claimed
    if positions := _by_position(data, where):
        return positions
    if not certs:
        if len(data) in _AMD_LENGTHS:
            _amd_certificate(data, where)  # says which size field does not fit
        raise InputError(where, _KINDS, f"{len(data)} bytes")
    places = [_place_of(cert) for cert in certs]
    for place, cert in zip(places, certs, strict=True):
        if place is None:
            usage = cert.key_usage if isinstance(cert, AmdCertificate) else cert.pubkey_usage
            offset = 0x24 if isinstance(cert, AmdCertificate) else 0x08
            raise InputError(f"{where}: usage at 0x{offset:02X}", "that of a chain's certificate", usage_name(usage))
    raise InputError(where, "one certificate for each place", ", ".join(str(place).upper() for place in places))


def decoded(data: bytes, where: str) -> bytes:
    """``data``, or the bytes that its base64 text stands for. ``InputError`` for any other text."""
    text = b"".join(data.split())
    if not text or not re.fullmatch(rb"[\x21-\x7e]+", text):
        return data
    if text.startswith(b"-----BEGIN"):
        raise InputError(where, "a SEV or AMD format certificate", "PEM (X.509 certificates belong to SEV-SNP)")
    if len(text) % 4 or not re.fullmatch(rb"[A-Za-z0-9+/]+={0,2}", text):
        raise InputError(where, "certificate bytes or their base64 text", "text that is not base64")
    return base64.b64decode(text)


# ---------------------------------------------------------------------------- chains


@dataclass
class Chain:
    """The certificates of one platform, each of them possibly absent.

    ARK, ASK: AMD format; CEK, OCA, PEK, PDH: SEV format, 2084 bytes. ``exported_cek`` is the unsigned CEK that the
    firmware exported, where ``cek`` is the signed one that replaced it: their keys must be equal. ``sources`` says
    where each certificate came from, ``ignored`` which files were not used, ``notes`` what else deserves saying.
    Nothing is verified: see ``verify_chain``.
    """

    ark: AmdCertificate | None = None
    ask: AmdCertificate | None = None
    cek: SevCertificate | None = None
    oca: SevCertificate | None = None
    pek: SevCertificate | None = None
    pdh: SevCertificate | None = None
    exported_cek: SevCertificate | None = None
    ignored: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def items(self) -> list[tuple[str, Certificate]]:
        """Place and certificate of those that are there, from the root down."""
        return [(place, cert) for place in PLACES if (cert := getattr(self, place)) is not None]

    def replace(self, **changes: Certificate | None) -> Chain:
        """The same chain with some certificates replaced, by place: ``chain.replace(cek=signed)``."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def _add(self, place: str, cert: Certificate, source: str) -> None:
        """``InputError`` if the place is taken."""
        if getattr(self, place) is not None:
            name = place.upper().replace("EXPORTED_", "exported ")
            raise InputError(name, "one candidate", f"{self.sources[place]} and {source}")
        setattr(self, place, cert)
        self.sources[place] = source


def load_chain(
    paths: PathArg | Iterable[PathArg] = (),
    *,
    ark: PathArg | None = None,
    ask: PathArg | None = None,
    cek: PathArg | None = None,
    oca: PathArg | None = None,
    pek: PathArg | None = None,
    pdh: PathArg | None = None,
) -> Chain:
    """The chain in files, folders, or both. The keywords name the file for one place and win over the rest.

    A file called ``ark.cert``, ``ask.cert``, ``cek.cert``, ``oca.cert``, ``pek.cert`` or ``pdh.cert`` is that
    certificate; in a folder that has such files all others are ignored. Any other file is taken by its content: one
    certificate or a concatenation, or the base64 text of one. ``InputError`` for a file that cannot be read or holds no
    certificate, and for two candidates for one place, naming both. An unsigned CEK in a chain buffer gives way to a
    signed one.

        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from sevref import amd_roots, load_chain
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "ark.cert").write_bytes(amd_roots("milan").ark.pack())
        ...     chain = load_chain(folder)
        >>> [place for place, certificate in chain.items()]
        ['ark']
    """
    chain = Chain()
    for path in [paths] if isinstance(paths, str | PathLike) else paths:
        if Path(path).is_dir():
            _add_folder(chain, Path(path))
        else:
            _add_file(chain, Path(path))
    named = zip(PLACES, (ark, ask, cek, oca, pek, pdh), strict=True)
    for place, name in [(place, Path(name)) for place, name in named if name is not None]:
        cert = _for_place(place, _read(name), str(name))
        if getattr(chain, place) is not None:
            chain.ignored.append(f"{place.upper()} of {chain.sources[place]}")
            if place == "cek" and chain.exported_cek is None:
                chain.exported_cek, chain.sources["exported_cek"] = chain.cek, chain.sources["cek"]
            setattr(chain, place, None)
        chain._add(place, cert, str(name))
    if chain.cek is None and chain.exported_cek is not None:
        chain._add("cek", chain.exported_cek, chain.sources.pop("exported_cek"))
        chain.exported_cek = None
    if not chain.items():
        given = f"only {', '.join(chain.ignored)}" if chain.ignored else "none"
        raise InputError("certificate chain", "at least one certificate", given)
    return chain


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise InputError(str(path), "a readable file or folder", (error.strerror or str(error)).lower()) from None
    if len(data) > _LIMIT:
        raise InputError(str(path), _KINDS, f"more than {_LIMIT} bytes")
    return decoded(data, str(path))


def _add_folder(chain: Chain, folder: Path) -> None:
    try:
        files = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    except OSError as error:
        raise InputError(str(folder), "a readable folder", (error.strerror or str(error)).lower()) from None
    exact = {entry for entry in files if entry.name in EXACT_NAMES}
    for entry in files:
        if exact:
            usable = entry in exact
        else:
            usable = entry.is_file() and _is_certificate(chain, entry)
        if usable:
            _add_file(chain, entry)
        else:
            chain.ignored.append(entry.name)


def _is_certificate(chain: Chain, path: Path) -> bool:
    """Whether the file's content is certificates; if its name says so and it is not, that is noted."""
    try:
        split(_read(path), str(path))
    except InputError as error:
        if path.suffix == ".cert":
            chain.notes.append(f"{path.name} is not used: {error}")
        return False
    return True


def _add_file(chain: Chain, path: Path) -> None:
    data = _read(path)
    if path.name in EXACT_NAMES:
        place = EXACT_NAMES[path.name]
        parts = [(place, _for_place(place, data, str(path)))]
    else:
        parts = split(data, str(path))
    for place, cert in parts:
        if len(parts) > 1 and isinstance(cert, SevCertificate) and place == "cek" and cert.unsigned:
            place = "exported_cek"  # a signed one may stand beside it
        chain._add(place, cert, str(path))
        if place == "ark" and cert.pack() not in data and cert == amd_roots("naples").ark:
            chain.notes.append(f"{path}: the ARK comes without its signature; AMD's known one is put in its place")


# ---------------------------------------------------------------------------- roots


def load_roots(path: PathArg, chain: Chain | None = None) -> Roots:
    """A root to pin from a file (ASK and ARK bundle, ``sevctl export --full``, or an ARK alone) or a folder.

    An ARK alone takes its ASK from ``chain``: what makes an ASK trustworthy is the ARK's signature. The
    generation is that of the ARK's KEY_ID; an ARK with an unknown one is a generation of its own.
    ``InputError`` if there is none.
    """
    found = load_chain(path)
    ask = found.ask or (chain.ask if chain else None)
    if found.ark is None or ask is None:
        missing = "ARK" if found.ark is None else "ASK"
        raise InputError(str(path), "an ARK and the ASK below it (bundle ASK, ARK)", f"no {missing}")
    return Roots.pin(found.ark, ask, generation_of(found.ark) or other_generation(found.ark))


def generation_of(ark: AmdCertificate) -> Generation | None:
    """The generation whose built-in root KEY_ID the ARK carries."""
    return next((row for row in GENERATIONS.values() if row.root_key_id == ark.key_id), None)


def other_generation(ark: AmdCertificate) -> Generation:
    """Hash and algorithm follow the modulus: SHA-256 for 2048 bits, SHA-384 for more."""
    like = GENERATIONS["naples" if ark.modulus_size <= 2048 else "milan"]
    return replace(like, name="other", root_key_id=ark.key_id)
