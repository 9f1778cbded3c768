"""Verification of a whole chain as a guest owner does it: every check is made and reported.

PDH <- PEK <- { OCA, CEK }, the OCA signed by itself (the owner's domain), CEK <- ASK <- ARK, the ARK signed
by itself and pinned (AMD's platform). An ARK that comes with the chain is never trusted for that: its root
hash must be the pinned one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sevref.certs.amd import AmdCertificate
from sevref.certs.files import PLACES, Chain, generation_of, other_generation
from sevref.certs.roots import Roots, all_amd_roots
from sevref.certs.sev import SevCertificate, SigningKey, Usage, certificate_problems
from sevref.certs.validate import check_peer, require_root_hash, require_root_id, validate, validate_amd
from sevref.generations import Generation
from sevref.status import InputError, SevError, Status

#: what would have been needed for a certificate that is not there
_NEEDED = {
    "ark": "the ARK of the platform's generation (the built-in one serves if a signed CEK says which)",
    "ask": "the ASK of the platform's generation (the built-in one serves if a signed CEK says which)",
    "cek": "the CEK certificate that AMD's key server issues for the chip id (GET_ID)",
    "oca": "the owner's OCA certificate, part of PDH_CERT_EXPORT's chain buffer",
    "pek": "the PEK certificate, part of PDH_CERT_EXPORT's chain buffer",
    "pdh": "the PDH certificate that PDH_CERT_EXPORT writes",
}
_SIGNERS = {"ask": Usage.ASK, "cek": Usage.CEK, "oca": Usage.OCA, "pek": Usage.PEK}
_SIGNERS_OF = {  # who may sign what; the slots' usages are plain integers
    place: [(signer, int(_SIGNERS[signer])) for signer in signers]
    for place, signers in {"cek": ["ask"], "oca": ["oca"], "pek": ["oca", "cek"], "pdh": ["pek"]}.items()
}
_UNSIGNED_CEK = (
    "the CEK is as the firmware exports it, without AMD's signature; needed: the signed one for this chip id, "
    "https://kdsintf.amd.com/cek/id/ and the 64 bytes of GET_ID in hex"
)


class Check(NamedTuple):
    """One check of ``verify_chain``: of which certificate, against whose key, what, and the answer.

    ``issuer`` is "" where no key plays a part; ``status`` is SUCCESS, or what the firmware's rule answers; ``detail``
    says in words what was found or would have been needed.
    """

    subject: str
    issuer: str
    check: str
    ok: bool
    status: Status
    detail: str


@dataclass(frozen=True)
class ChainResult:
    """Verdict on a chain: every check that was made, in order, and what else was noticed.

    ``generation`` is that of the ARK's KEY_ID, None if unknown; ``root`` is "amd", "custom" or "unknown". ``warnings``
    do not change the verdict; ``ignored`` names files that were not used.
    """

    checks: list[Check]
    generation: str | None
    root: str
    warnings: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The checks that failed, in order."""
        return [check for check in self.checks if not check.ok]


def verify_chain(chain: Chain, roots: str | Roots | Iterable[Roots] = "amd", strict: bool = False) -> ChainResult:
    """Verify a chain down to the PDH against pinned roots: "amd" (all generations), one, or several.

    A missing ARK or ASK is completed from the roots, by the generation whose ASK verifies the CEK. Nothing is raised
    for an invalid chain: each failing check says what failed, with the status that the firmware's rule has, and what
    would have been needed. ``strict`` also refuses what the firmware never looks at: nonzero reserved bytes and unused
    slots, signatures that do not belong there, PSS salts of another length than the hash's. ``InputError`` for roots
    that are none.

        >>> from sevref import Hypervisor, Machine, Platform, SimulatedAmd, verify_chain
        >>> machine, amd = Machine("milan", seed=b"docs"), SimulatedAmd("milan")
        >>> amd.enrol(machine)
        >>> host = Hypervisor(Platform(machine))
        >>> host.boot()
        >>> result = verify_chain(host.certificates(amd), roots=machine.amd)
        >>> result.valid, result.generation, result.root
        (True, 'milan', 'custom')
    """
    return _Verifier(chain, _candidates(roots), strict).run()


def _candidates(roots: str | Roots | Iterable[Roots]) -> tuple[Roots, ...]:
    if isinstance(roots, Roots):
        return (roots,)
    if isinstance(roots, str):
        if roots != "amd":
            raise InputError("roots", '"amd", a Roots or several', repr(roots))
        return all_amd_roots()
    return tuple(roots)


def choose_root(chain: Chain, roots: tuple[Roots, ...]) -> Roots | None:
    """The root that the chain should end in, or None if nothing says which.

    By the ARK's pinned hash or else its KEY_ID; without an ARK by the ASK; without both by the CEK's signature.
    """
    if (ark := chain.ark) is not None:
        same = [root for root in roots if root.ark.key_id == ark.key_id]
        pinned = [root for root in same if ark.root_hash(root.generation) == root.root_hash]
        return next(iter(pinned or same), None)
    if (ask := chain.ask) is not None:
        same = [root for root in roots if root.ark.key_id == ask.certifying_id]
        return next(iter([root for root in same if _signed_ask(root, ask)] or same), None)
    if (cek := chain.cek) is not None:
        return next((root for root in roots if _signed_cek(root, cek)), None)
    return None


def _signed_ask(root: Roots, ask: AmdCertificate) -> bool:
    try:
        validate_amd(ask, root.ark, Usage.ASK, root.generation)
    except SevError:
        return False
    return True


def _signed_cek(root: Roots, cek: SevCertificate) -> bool:
    try:
        validate(cek, root.ask.signing_key(root.generation))
    except SevError:
        return False
    return True


class _Verifier:
    """The checks of one chain. ``certs`` are the chain's certificates, completed from the root."""

    def __init__(self, chain: Chain, roots: tuple[Roots, ...], strict: bool) -> None:
        self.chain, self.strict = chain, strict
        self.root = choose_root(chain, roots)
        self.trusted = ", ".join(f"{root.name} {root.generation.name}" for root in roots) or "none"
        self.certs: dict[str, Any] = {place: getattr(chain, place) for place in PLACES}
        for place in ("ark", "ask"):
            if self.certs[place] is None and self.root is not None:
                self.certs[place] = getattr(self.root, place)
        top: AmdCertificate | None = self.certs["ark"] or self.certs["ask"]
        known = self.root.generation if self.root else (generation_of(top) if top else None)
        self.name = known.name if known else None
        self.generation: Generation | None = known or (other_generation(top) if top else None)
        self.checks: list[Check] = []
        self.keys = {place: key for place in _SIGNERS if (key := self._signing_key(place)) is not None}

    def run(self) -> ChainResult:
        for place in PLACES:
            self._present(place)
        ark_ok = [
            self._check("ark", "ark", "signature", lambda: self._amd("ark", Usage.ARK)),
            self._check("ark", "", "key id", lambda: self._pin(require_root_id)),
            self._check("ark", "", "root hash", lambda: self._pin(require_root_hash)),
        ]
        ask_ok = self._check("ask", "ark", "signature", lambda: self._amd("ask", Usage.ASK))
        self._validate("cek", "ask")
        if self.chain.exported_cek is not None:
            self._check("cek", "", "same as exported", self._same_cek)
        self._validate("oca", "oca")
        self._validate("pek", "oca")
        self._validate("pek", "cek")
        self._validate("pdh", "pek")
        self._check("pdh", "", "peer key", lambda: check_peer(self.certs["pdh"]))
        problems = self._problems()
        warnings = list(self.chain.notes)
        for place, found in problems.items():
            warnings += [f"{place.upper()}: {problem}" for problem in found]
            if self.strict:
                self._check(place, "", "strict form", partial(_refuse, found))
        if self.chain.cek is not None and self.chain.cek.unsigned:
            warnings.append(f"CEK: {_UNSIGNED_CEK}")
        # a completed ARK says nothing of the platform until something of the platform hangs below it
        rooted = self.root is not None and all(ark_ok) and (self.chain.ark is not None or ask_ok)
        name = self.root.name if self.root and rooted else "unknown"
        return ChainResult(self.checks, self.name, name, warnings, list(self.chain.ignored))

    # -- checks

    def _check(self, subject: str, issuer: str, what: str, test: Callable[[], None]) -> bool:
        """Make one check and report it; ``test`` raises what is wrong."""
        missing = [place.upper() for place in (subject, issuer) if place and self.certs[place] is None]
        status, detail = Status.SUCCESS, ""
        if missing:
            status = Status.INVALID_CERTIFICATE
            detail = f"cannot be checked without {' and '.join(dict.fromkeys(missing))}"
            if subject == "cek" and self.certs["cek"] is not None and self.certs["cek"].unsigned:
                detail += f"; {_UNSIGNED_CEK}"
        else:
            try:
                test()
                detail = self._passed(subject, issuer, what)
            except SevError as error:
                status, detail = error.status, f"{error.rule}; {self._needed(subject, issuer, what)}"
            except InputError as error:
                status, detail = Status.INVALID_CERTIFICATE, str(error)
        ok = status is Status.SUCCESS
        self.checks.append(Check(subject.upper(), issuer.upper(), what, ok, status, detail))
        return ok

    def _present(self, place: str) -> None:
        ok = self.certs[place] is not None
        detail = f"missing; needed: {_NEEDED[place]}"
        if getattr(self.chain, place) is not None:
            detail = self.chain.sources.get(place, "given")
        elif ok and self.root is not None:
            detail = f"completed from the root {self.root.name} {self.root.generation.name}"
        status = Status.SUCCESS if ok else Status.INVALID_CERTIFICATE
        self.checks.append(Check(place.upper(), "", "present", ok, status, detail))

    def _amd(self, place: str, usage: Usage) -> None:
        assert self.generation is not None  # an ARK or ASK is there
        validate_amd(self.certs[place], self.certs["ark"], usage, self.generation, strict_salt=self.strict)

    def _validate(self, subject: str, issuer: str) -> None:
        self._check(
            subject,
            issuer,
            "signature",
            lambda: validate(self.certs[subject], self._key(issuer), strict_salt=self.strict),
        )

    def _signing_key(self, place: str) -> SigningKey | None:
        """The key of a certificate that is there; None also for an ASK whose sizes fit no key."""
        cert = self.certs[place]
        if cert is None:
            return None
        try:
            key: SigningKey = cert.signing_key(self.generation) if place == "ask" else cert.signing_key()
        except InputError:
            return None
        return key

    def _key(self, place: str) -> SigningKey:
        if place not in self.keys:
            raise SevError(Status.INVALID_CERTIFICATE, f"the {place.upper()} holds no key that fits 4096 bits")
        return self.keys[place]

    def _pin(self, rule: Callable[[AmdCertificate, Roots], None]) -> None:
        ark: AmdCertificate = self.certs["ark"]
        if self.root is None:
            raise SevError(
                Status.INVALID_CERTIFICATE, f"KEY_ID {ark.key_id.hex()} is that of no trusted root ({self.trusted})"
            )
        rule(ark, self.root)

    def _same_cek(self) -> None:
        """Bytes 0x008 to 0x413, usage, algorithm and key, are the same; the API version may differ."""
        assert self.chain.exported_cek is not None
        if self.certs["cek"].body()[0x008:] != self.chain.exported_cek.body()[0x008:]:
            raise SevError(
                Status.INVALID_CERTIFICATE, "the signed CEK is not that of the chip which exported this chain"
            )

    # -- words

    def _passed(self, subject: str, issuer: str, what: str) -> str:
        cert = self.certs[subject]
        if what == "key id":
            return str(cert.key_id.hex())
        if what == "root hash" and self.root is not None:
            return self.root.root_hash.hex()
        if what != "signature":
            return "as it should be"
        if isinstance(cert, AmdCertificate):
            return f"RSASSA-PSS by key {self.certs[issuer].key_id.hex()}"
        own = "; whose key this is must be known from elsewhere" if subject == "oca" else ""
        return f"signed by {self._key(issuer)}{own}"

    def _needed(self, subject: str, issuer: str, what: str) -> str:
        if what in ("key id", "root hash"):
            return f"needed: the ARK of a trusted root ({self.trusted})"
        if subject == "cek" and what == "signature" and self.certs["cek"].unsigned:
            return _UNSIGNED_CEK
        if what == "signature":
            return f"needed: a valid {subject.upper()} signed by the {issuer.upper()} of this chain"
        needed = {
            "same as exported": "needed: the CEK that AMD's key server issues for this platform's chip id",
            "peer key": "needed: a PDH whose key is a point of P-384 for ECDH_SHA256",
            "strict form": "needed: zeros there and no other signature",
        }
        return needed[what]

    def _problems(self) -> dict[str, list[str]]:
        """What no rule reads and is not as it should be, by certificate."""
        found: dict[str, list[str]] = {}
        for place in PLACES:
            cert = self.certs[place]
            if isinstance(cert, AmdCertificate):
                found[place] = ["reserved bytes at 0x28 are not zero"] if any(cert.reserved) else []
            elif cert is not None:
                found[place] = certificate_problems(
                    cert, {usage: self.keys.get(issuer) for issuer, usage in _SIGNERS_OF[place]}
                )
        return found


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SevError(Status.INVALID_CERTIFICATE, "; ".join(problems))
