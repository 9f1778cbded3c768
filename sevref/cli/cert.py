"""``sevref cert show``: decode one certificate."""

from __future__ import annotations

import argparse
import hashlib

from sevref.certs import AmdCertificate, Usage
from sevref.certs.files import decoded, parse_certificate
from sevref.cli import common

EXAMPLE = """example:
  sevref cert show pek.cert
  sevref cert show --json ark.cert

FILE holds one AMD certificate (ARK, ASK: 832 or 1600 bytes) or one SEV certificate (CEK, OCA, PEK, PDH, GODH:
2084 bytes), or the base64 text of one; the format is detected."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand ``show``."""
    show = common.subcommands(parser).add_parser(
        "show", help="decode an AMD or SEV certificate", description="Decode an AMD or SEV certificate.", epilog=EXAMPLE
    )
    show.add_argument("file", metavar="FILE", help="the certificate")
    common.json_option(show)
    show.set_defaults(run=run)
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Print every field of the certificate with offset and size in bytes."""
    where = f"certificate {args.file}"
    data = decoded(common.read_file(args.file, "certificate"), where)
    cert = parse_certificate(data, where)
    rows = cert.describe()
    amd = isinstance(cert, AmdCertificate)
    number = cert.key_usage if isinstance(cert, AmdCertificate) else cert.pubkey_usage
    known = number in Usage._value2member_map_
    usage = Usage(number).name if known else f"0x{number:X}"
    digest = hashlib.sha256(data).hexdigest()
    document: dict[str, object] = {
        "kind": "amd" if amd else "sev",
        "usage": usage,
        "sha256": digest,
        "fields": [
            {"name": row.name, "offset": row.offset, "size": row.size, "value": row.text, "meaning": row.meaning}
            for row in rows
        ],
    }
    notes = []
    if cert.pack() != data:
        document["completed"] = True
        notes = ["the signature is missing in the file; AMD's known one is shown"]
    elif not known:
        notes = [f"usage 0x{number:X} is not that of any key"]
    title = f"{'AMD' if amd else 'SEV'} certificate: {usage if known else f'usage {usage}'}, {len(data)} bytes"
    lines = [title, f"sha256 {digest}", *notes, "", f"{'offset':>6}  {'size':>4}  field"]
    for row in rows:
        value = row.text if len(row.text) <= 64 else f"{row.text[:60]}..."
        lines.append(f"0x{row.offset:04X}  {row.size:>4}  {row.name} = {value}")
        lines.append(f"{'':14}{row.meaning}")
    common.emit(args, document, "\n".join(lines))
    return 0
