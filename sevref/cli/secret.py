"""``sevref secret build``: package secrets for LAUNCH_SECRET, with the options of ``sevctl secret build``."""

from __future__ import annotations

import argparse

from sevref.cli import common
from sevref.cli.measurement import key_options, read_blob, read_keys, version_options
from sevref.crypto import OsRandom
from sevref.measurement import MeasurementBlob
from sevref.status import InputError
from sevref.transport import (
    DISK_KEY_GUID,
    SECRET_LIMIT,
    Context,
    PacketHeader,
    TransportKeys,
    build_secret_table,
    make_packet,
    secret_trailer,
)

EXAMPLE = f"""\
Each secret becomes an entry of the table that guest firmware and Linux look for; the table is padded with
zeros to a multiple of 16 bytes, encrypted under TEK and authenticated under TIK together with the guest's
launch measurement. Verify that measurement first: see "sevref measurement verify".

HEADER gets 52 bytes and PAYLOAD the ciphertext, both raw, as sevctl writes them. QEMU and libvirt take
base64 of each: base64 -w0 HEADER.

example (the GUID is that of a disk passphrase):
  sevref secret build --tik vm_tik.bin --tek vm_tek.bin --launch-measure-blob "$MEASUREMENT" \\
      --secret {DISK_KEY_GUID}:passphrase.txt header.bin payload.bin
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``build``."""
    commands = common.subcommands(parser)
    build = commands.add_parser("build", help="make header and payload for LAUNCH_SECRET", epilog=EXAMPLE)
    key_options(build)
    version_options(build)
    build.add_argument(
        "--launch-measure-blob",
        required=True,
        metavar="BASE64",
        help="output of LAUNCH_MEASURE, 48 bytes: the packet opens in this launch only (API 0.17 and later)",
    )
    build.add_argument(
        "--secret",
        action="append",
        required=True,
        metavar="GUID:FILE",
        help="what the secret is for, and the file that holds it; may be given several times",
    )
    build.add_argument("header", metavar="HEADER", help="file to write the packet header to")
    build.add_argument("payload", metavar="PAYLOAD", help="file to write the encrypted table to")
    common.json_option(build)
    build.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> int:
    """Write header and payload."""
    if args.header == args.payload:
        raise InputError("output files", "different names", args.header)
    blob = read_blob(args.launch_measure_blob, "--launch-measure-blob")
    keys = read_keys(args, need_tek=True)
    entries, header, payload = package(args.secret, "--secret", keys, blob, (args.api_major, args.api_minor))
    common.write_files({args.header: (header.pack(), 0o644), args.payload: (payload, 0o644)})
    document = {
        "entries": [{"guid": guid, "bytes": len(data)} for guid, data in entries],
        "header_bytes": header.SIZE,
        "payload_bytes": len(payload),
    }
    lines = [f"{guid}: {len(data)} bytes" for guid, data in entries]
    lines.append(f"wrote {args.header} ({header.SIZE} bytes) and {args.payload} ({len(payload)} bytes)")
    common.emit(args, document, "\n".join(lines))
    return 0


def package(
    secrets: list[str], option: str, keys: TransportKeys, blob: MeasurementBlob, api: tuple[int, int]
) -> tuple[list[tuple[str, bytes]], PacketHeader, bytes]:
    """Entries, packet header and encrypted table of ``secrets`` (GUID:FILE each, values of ``option``) for the launch
    whose measurement ``blob`` is. ``InputError`` for unusable ones."""
    entries = [_entry(text, option) for text in secrets]
    table = build_secret_table(entries)
    if len(table) > SECRET_LIMIT:
        raise InputError("secrets", f"a table of at most {SECRET_LIMIT} bytes", f"{len(table)} bytes")
    header, payload = make_packet(
        keys.tek,
        keys.tik,
        Context.SECRET,
        table,
        iv=OsRandom().draw(16, "IV"),
        trailer=secret_trailer(blob.measure, api),
    )
    return entries, header, payload


def _entry(text: str, option: str) -> tuple[str, bytes]:
    guid, colon, path = text.partition(":")
    if not (guid and colon and path):
        raise InputError(option, "GUID:FILE", repr(text[:80]))
    data = common.read_file(path, "secret", limit=SECRET_LIMIT)
    if not data:
        raise InputError(f"secret {path}", "1 byte or more", "an empty file")
    return guid.lower(), data
