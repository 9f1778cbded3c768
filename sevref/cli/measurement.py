"""``sevref measurement``: the launch measurement that a guest should have, and whether it has it.

``build`` takes the options of ``sevctl measurement build``, ``verify`` those of libvirt's
``virt-qemu-sev-validate``.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterator
from typing import BinaryIO

from sevref.cli import common
from sevref.measurement import MeasurementBlob, launch_digest, launch_measurement
from sevref.status import InputError
from sevref.transport import TransportKeys

BUILD_EXAMPLE = """\
The launch digest is SHA-256 of the firmware image as it is. Printed is base64 of the measurement
(32 bytes) and the nonce (16 bytes), as LAUNCH_MEASURE puts them out.

example:
  sevref measurement build --api-major 0 --api-minor 24 --build-id 15 --policy 1 \\
      --tik vm_tik.bin --nonce 000102030405060708090a0b0c0d0e0f --firmware OVMF.fd
"""

VERIFY_EXAMPLE = """\
MEASUREMENT is base64 of the 48 bytes that LAUNCH_MEASURE puts out: libvirt's sev-measurement, QEMU's
query-sev-launch-measure. Exit code 0: the guest is the expected one; 1: it is not.

example:
  sevref measurement verify --measurement "$MEASUREMENT" --api-major 0 --api-minor 24 --build-id 15 \\
      --policy 1 --tk vm_tk.bin --firmware OVMF.fd
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``build`` and ``verify``."""
    commands = common.subcommands(parser)
    build = commands.add_parser("build", help="compute the expected measurement", epilog=BUILD_EXAMPLE)
    launch_options(build)
    build.add_argument("--tik", required=True, metavar="FILE", help="file of the 16-byte TIK")
    nonce = build.add_mutually_exclusive_group(required=True)
    nonce.add_argument(
        "--launch-measure-blob", metavar="BASE64", help="output of LAUNCH_MEASURE: the nonce is taken from it"
    )
    nonce.add_argument("--nonce", type=common.hex_bytes_of(16), metavar="HEX", help="the nonce, 16 bytes")
    common.json_option(build)
    build.set_defaults(run=run_build)

    verify = commands.add_parser(
        "verify", help="check a measurement against what should be running", epilog=VERIFY_EXAMPLE
    )
    verify.add_argument("--measurement", required=True, metavar="BASE64", help="measurement, nonce: 48 bytes")
    launch_options(verify)
    key_options(verify)
    common.json_option(verify)
    verify.set_defaults(run=run_verify)


def launch_options(parser: argparse.ArgumentParser) -> None:
    """Add what enters a launch measurement besides TIK and nonce."""
    version_options(parser, required=True)
    parser.add_argument(
        "--policy", type=common.integer_of(32), required=True, metavar="N", help="the guest's policy, 32 bits"
    )
    parser.add_argument("--firmware", required=True, metavar="FILE", help="guest firmware image")


def version_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the running SEV firmware's version; without ``required`` 0.24 build 15."""
    for name, default in ("api-major", 0), ("api-minor", 24), ("build-id", 15):
        parser.add_argument(
            f"--{name}",
            type=common.integer_of(8),
            required=required,
            default=None if required else default,
            metavar="N",
            help="of the running SEV firmware" + ("" if required else f" (default {default})"),
        )


def key_options(parser: argparse.ArgumentParser) -> None:
    """Add the key files that guest owners keep: TIK and TEK, or both in one."""
    parser.add_argument("--tik", metavar="FILE", help="file of the 16-byte TIK")
    parser.add_argument("--tek", metavar="FILE", help="file of the 16-byte TEK")
    parser.add_argument("--tk", metavar="FILE", help="file of both: TEK, then TIK, 32 bytes")


def read_keys(args: argparse.Namespace, *, need_tek: bool) -> TransportKeys:
    """The keys that ``key_options`` names; a TEK that is neither given nor needed is zero."""
    if args.tk is not None:
        if args.tik is not None or args.tek is not None:
            raise InputError("key files", "--tk alone, or --tik and --tek", "both")
        return TransportKeys.parse(common.exact_file(args.tk, "TEK and TIK", TransportKeys.SIZE))
    if args.tik is None or (need_tek and args.tek is None):
        wanted = "--tik and --tek" if need_tek else "--tik"
        missing = "neither" if args.tik is None and args.tek is None else "one of them"
        raise InputError("key files", f"{wanted}, or --tk", missing if need_tek else "neither")
    tek = bytes(16) if args.tek is None else common.exact_file(args.tek, "TEK", 16)
    return TransportKeys(tek=tek, tik=common.exact_file(args.tik, "TIK", 16))


def read_blob(text: str, option: str) -> MeasurementBlob:
    """LAUNCH_MEASURE's output from its base64 text."""
    return MeasurementBlob.parse(common.base64_text(text, option, MeasurementBlob.SIZE))


def firmware_digest(path: str) -> bytes:
    """Launch digest of a firmware image, which is read piece by piece."""
    where = f"firmware {path}"
    try:
        with open(path, "rb") as file:
            return launch_digest(_blocks(file, where))
    except OSError as error:
        raise InputError(where, "a readable file", (error.strerror or str(error)).lower()) from None


def _blocks(file: BinaryIO, where: str) -> Iterator[bytes]:
    size = 0
    while block := file.read(1 << 18):
        size += len(block)
        if size > common.FILE_LIMIT:
            raise InputError(where, f"at most {common.FILE_LIMIT} bytes", "more")
        yield block
    if not size:
        raise InputError(where, "a firmware image", "an empty file")


def _expected(args: argparse.Namespace, tik: bytes, nonce: bytes) -> tuple[bytes, MeasurementBlob]:
    """Digest of the firmware, and the measurement that it should give."""
    digest = firmware_digest(args.firmware)
    api = (args.api_major, args.api_minor)
    measure = launch_measurement(tik, api, args.build_id, policy=args.policy, digest=digest, nonce=nonce)
    return digest, MeasurementBlob(measure=measure, mnonce=nonce)


def run_build(args: argparse.Namespace) -> int:
    """Print the measurement that a guest with this firmware has."""
    nonce = args.nonce
    if nonce is None:
        nonce = read_blob(args.launch_measure_blob, "--launch-measure-blob").mnonce
    tik = common.exact_file(args.tik, "TIK", 16)
    digest, blob = _expected(args, tik, nonce)
    text = _base64(blob)
    common.emit(args, {"measurement": text, "digest": digest.hex()}, text)
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Compare the guest's measurement with the one that it should have."""
    found = read_blob(args.measurement, "--measurement")
    digest, expected = _expected(args, read_keys(args, need_tek=False).tik, found.mnonce)
    match = expected == found
    document = {
        "match": match,
        "expected": _base64(expected),
        "found": _base64(found),
        "digest": digest.hex(),
    }
    if match:
        text = "the launch measurement matches: the guest was started as expected"
    else:
        text = (
            "the launch measurement does NOT match: do not trust this guest\n"
            f"expected {document['expected']}\nfound    {document['found']}\n"
            f"One of these differs: firmware image (SHA-256 {digest.hex()}), policy, API version, build, TIK."
        )
    common.emit(args, document, text)
    return 0 if match else 1


def _base64(blob: MeasurementBlob) -> str:
    return base64.b64encode(blob.pack()).decode()
