"""``sevref chain verify``: a platform's certificates, checked down to the PDH."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from sevref.certs import Chain, ChainResult, Roots, load_chain, load_roots, verify_chain
from sevref.certs.files import PLACES
from sevref.cli import common
from sevref.status import InputError

EXAMPLE = """example:
  sevref chain verify certs/
  sevref chain verify sev.chain --ark ark.cert --ask ask.cert
  sevref chain verify --json cert_chain.cert pdh.cert --cek cek.cert

Files hold single certificates, concatenations of them (sevctl export, PDH_CERT_EXPORT buffers, ASK and ARK
bundles) or the base64 text of either. In a folder the names ark.cert, ask.cert, cek.cert, oca.cert, pek.cert and
pdh.cert win; without them certificates are taken by content. A missing ARK or ASK is completed from the built-in
roots. Exit code 0: every check passed, 1: one did not, 2: the input cannot be used."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand ``verify``."""
    verify = common.subcommands(parser).add_parser(
        "verify",
        help="verify a SEV certificate chain down to the PDH",
        description="Verify a SEV certificate chain down to the PDH.",
        epilog=EXAMPLE,
    )
    verify.add_argument("paths", nargs="*", metavar="FILE or DIR", help="certificates")
    for place in PLACES:
        verify.add_argument(f"--{place}", metavar="F", help=f"file with the {place.upper()} certificate")
    roots_option(verify)
    verify.add_argument("--strict", action="store_true", help="also refuse what the firmware never looks at")
    common.json_option(verify)
    verify.set_defaults(run=run)
    parser.epilog = EXAMPLE


def roots_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--roots``; ``find_roots`` resolves its value."""
    parser.add_argument(
        "--roots",
        default="amd",
        metavar="amd|FILE",
        help="whom to trust: AMD (default), or the ASK and ARK in FILE (a bundle or a folder)",
    )


def find_roots(value: str, chain: Chain) -> str | Roots:
    """What ``--roots`` names, for ``verify_chain``."""
    return value if value == "amd" else load_roots(value, chain)


def run(args: argparse.Namespace) -> int:
    """Print every check; 0 if all passed."""
    named = {place: getattr(args, place) for place in PLACES}
    if not args.paths and not any(named.values()):
        raise InputError("chain verify", "files, a folder or an option such as --pek", "nothing")
    chain = load_chain(args.paths, **named)
    result = verify_chain(chain, find_roots(args.roots, chain), strict=args.strict)
    common.emit(args, document(result), text(result))
    return 0 if result.valid else 1


def document(result: ChainResult) -> dict[str, object]:
    """The JSON form of a result."""
    return {
        "valid": result.valid,
        "generation": result.generation,
        "root": result.root,
        "checks": [{**check._asdict(), "status": check.status.name} for check in result.checks],
        "warnings": result.warnings,
        "ignored": result.ignored,
    }


def text(result: ChainResult) -> str:
    """The form for people: a line for each check, then what else deserves saying."""
    lines = []
    for check in result.checks:
        subject = f"{check.subject} by {check.issuer}" if check.issuer else check.subject
        verdict = "ok  " if check.ok else "FAIL"
        status = "" if check.ok else f"{check.status.name} (0x{check.status:02X}): "
        lines.append(f"{verdict}  {subject:<11}  {check.check:<16}  {status}{check.detail}")
    lines += _list("warnings", result.warnings) + _list("ignored", result.ignored)
    found = f"root {result.root}, generation {result.generation or 'unknown'}"
    bad = len(result.failures)
    lines += ["", f"valid: {found}" if result.valid else f"NOT valid: {bad} checks failed; {found}"]
    return "\n".join(lines)


def _list(title: str, entries: Iterable[str]) -> list[str]:
    lines = [f"  {entry}" for entry in entries]
    return ["", f"{title}:", *lines] if lines else []
