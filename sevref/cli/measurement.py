"""``sevref measurement``: the launch measurement that a guest should have, and whether it has it.

``build`` takes the options of ``sevctl measurement build``, ``verify`` those of libvirt's
``virt-qemu-sev-validate``.
"""

from __future__ import annotations

import argparse
from typing import Any

from sevref.boot.digest import predict
from sevref.cli import common, explaining, launch
from sevref.cli.launch import Launch, version_options
from sevref.measurement import MeasurementBlob, launch_measurement
from sevref.status import InputError
from sevref.transport import TransportKeys

__all__ = ["configure", "key_options", "read_blob", "read_keys", "version_options"]

BUILD_EXAMPLE = """\
The launch digest is SHA-256 of the firmware image as it is, then of the table of hashes if a kernel is given, then
of the register page of every vCPU if the policy asks for SEV-ES. Printed is base64 of the measurement
(32 bytes) and the nonce (16 bytes), as LAUNCH_MEASURE puts them out.

example:
  sevref measurement build --api-major 0 --api-minor 24 --build-id 15 --policy 1 \\
      --tik vm_tik.bin --nonce 000102030405060708090a0b0c0d0e0f --firmware OVMF.fd
"""

VERIFY_EXAMPLE = """\
MEASUREMENT is base64 of the 48 bytes that LAUNCH_MEASURE puts out: libvirt's sev-measurement, QEMU's
query-sev-launch-measure. Exit code 0: the guest is the expected one; 1: it is not. With --explain the mistakes
that people make are tried then. A secret is written only for the expected guest.

example:
  sevref measurement verify --measurement "$MEASUREMENT" --api-major 0 --api-minor 24 --build-id 15 \\
      --policy 5 --tk vm_tk.bin --firmware OVMF.fd --num-cpus 4 --cpu-family 25 --cpu-model 1 --cpu-stepping 1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``build`` and ``verify``."""
    commands = common.subcommands(parser)
    build = commands.add_parser("build", help="compute the expected measurement", epilog=BUILD_EXAMPLE)
    launch.options(build)
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
    verify.add_argument("--measurement", metavar="BASE64", help="measurement, nonce: 48 bytes")
    launch.options(verify)
    key_options(verify)
    launch.processor_options(verify)
    verify.add_argument("--explain", action="store_true", help="if it does not match, say what would")
    explaining.options(verify)
    secret = verify.add_argument_group("a secret for the expected guest")
    secret.add_argument(
        "--inject-secret",
        action="append",
        default=[],
        metavar="NAME:FILE",
        help="GUID or luks-key, and the file that holds the secret; may be given several times",
    )
    secret.add_argument("--secret-header", metavar="FILE", help="write the packet's header there, base64")
    secret.add_argument("--secret-payload", metavar="FILE", help="write the encrypted table there, base64")
    secret.add_argument("--secret-qmp", metavar="FILE", help="write QEMU's command sev-inject-launch-secret there")
    common.json_option(verify)
    verify.set_defaults(run=run_verify)


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


def _expected(found: Launch, tik: bytes, nonce: bytes) -> tuple[bytes, MeasurementBlob]:
    """Digest of the guest, and the measurement that it should give."""
    digest = predict(found.guest).digest
    measure = launch_measurement(tik, found.api, found.build, policy=found.policy, digest=digest, nonce=nonce)
    return digest, MeasurementBlob(measure=measure, mnonce=nonce)


def run_build(args: argparse.Namespace) -> int:
    """Print the measurement that such a guest has."""
    nonce = args.nonce
    if nonce is None:
        nonce = read_blob(args.launch_measure_blob, "--launch-measure-blob").mnonce
    tik = common.exact_file(args.tik, "TIK", 16)
    digest, blob = _expected(launch.launch_of(args), tik, nonce)
    text = common.to_base64(blob.pack())
    common.emit(args, {"measurement": text, "digest": digest.hex()}, text)
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Compare the guest's measurement with the one that it should have."""
    _check_secret_options(args)
    found = launch.launch_of(args)
    text = args.measurement if args.measurement is not None else found.measurement
    if text is None:
        raise InputError("--measurement", "base64 of 48 bytes, or --qmp with an answer that has it", "none")
    keys = read_keys(args, need_tek=bool(args.inject_secret))
    try:
        blob = read_blob(text, "--measurement")
    except InputError:
        if not args.explain:
            raise
        return _explain_oddity(args, found, keys, text)
    digest, expected = _expected(found, keys.tik, blob.mnonce)
    match = expected == blob
    document: dict[str, Any] = {
        "match": match,
        "expected": common.to_base64(expected.pack()),
        "found": common.to_base64(blob.pack()),
        "digest": digest.hex(),
    }
    if match:
        lines = ["the launch measurement matches: the guest was started as expected"]
    else:
        lines = [
            "the launch measurement does NOT match: do not trust this guest",
            f"expected {document['expected']}",
            f"found    {document['found']}",
            f"One of these differs: what was loaded (launch digest {digest.hex()}), policy, API version, build, TIK.",
        ]
    if args.explain:
        _explain(args, found, keys, text, document, lines)
    if match and args.inject_secret:
        document.update(_write_secret(args, found, keys, blob))
        lines.append("wrote " + ", ".join(document["files"]))
    common.emit(args, document, "\n".join(lines))
    return 0 if match else 1


def _explain_oddity(args: argparse.Namespace, found: Launch, keys: TransportKeys, text: str) -> int:
    """A value that is not 48 bytes in base64 cannot match, but it may be explained."""
    document: dict[str, Any] = {"match": False, "expected": None, "found": text}
    lines = ["this is not the base64 form of 48 bytes that LAUNCH_MEASURE puts out"]
    _explain(args, found, keys, text, document, lines)
    common.emit(args, document, "\n".join(lines))
    return 1


def _explain(
    args: argparse.Namespace,
    found: Launch,
    keys: TransportKeys,
    text: str,
    document: dict[str, Any],
    lines: list[str],
) -> None:
    from sevref.boot.explain import read_measurement

    tek = keys.tek if args.tk is not None or args.tek is not None else None
    readings = read_measurement(text, "--measurement")
    cmdline = found.cmdline if found.kernel is not None else getattr(args, "unmeasured_cmdline", None)
    boot = {"kernel": found.kernel, "initrd": found.initrd, "cmdline": cmdline}
    result = explaining.search(args, found.guest, readings, found.owner(keys.tik, tek), **boot)
    explaining.report(result, document, lines)


# ---------------------------------------------------------------------------------------------- secrets


def _check_secret_options(args: argparse.Namespace) -> None:
    outputs = [args.secret_header, args.secret_payload, args.secret_qmp]
    if not args.inject_secret:
        if any(outputs):
            raise InputError("--inject-secret", "a secret for the output files", "none")
        return
    if (args.secret_header is None) != (args.secret_payload is None):
        raise InputError("--secret-header and --secret-payload", "both", "one of them")
    if not any(outputs):
        raise InputError("--inject-secret", "--secret-header and --secret-payload, or --secret-qmp", "neither")


def _write_secret(
    args: argparse.Namespace, found: Launch, keys: TransportKeys, blob: MeasurementBlob
) -> dict[str, Any]:
    """Package the secrets for this guest and write them; what the result says of it."""
    from sevref.boot.footer import parse_footer
    from sevref.cli.domain import inject_command
    from sevref.cli.secret import package

    secrets = [_aliased(text) for text in args.inject_secret]
    entries, header, payload = package(secrets, "--inject-secret", keys, blob, found.api)
    files: dict[Any, tuple[bytes, int]] = {}
    if args.secret_header is not None:
        files[args.secret_header] = (common.to_base64(header.pack()).encode(), 0o644)
        files[args.secret_payload] = (common.to_base64(payload).encode(), 0o644)
    if args.secret_qmp is not None:
        area = parse_footer(found.guest.firmware).secret_area()
        if len(payload) > area.size:
            raise InputError("secrets", f"a table of at most {area.size} bytes, the firmware's area", len(payload))
        files[args.secret_qmp] = (inject_command(header.pack(), payload, area.base), 0o644)
    common.write_files(files)
    return {"entries": [{"guid": guid, "bytes": len(data)} for guid, data in entries], "files": list(files)}


def _aliased(text: str) -> str:
    from sevref.transport import DISK_KEY_GUID

    name, colon, path = text.partition(":")
    return f"{DISK_KEY_GUID}{colon}{path}" if name == "luks-key" else text
