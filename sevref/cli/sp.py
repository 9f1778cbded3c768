"""``sevref sp``: a software AMD-SP whose chip and flash live in a folder, with the files of sevctl and sev-tool."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sevref.certs import Chain, SevCertificate
from sevref.certs.files import PLACES
from sevref.certs.sev import CERT_SIZE
from sevref.cli import chip as chips
from sevref.cli import common
from sevref.crypto import OsRandom, PrivateKey, as_private, draw_private, random_source
from sevref.firmware import PlatformState
from sevref.generations import GENERATIONS
from sevref.roles import PlatformOwner, SimulatedAmd
from sevref.status import InputError, SevError, Status

EXAMPLE = """\
Each call powers the machine on, initialises it as the Linux driver does on loading (INIT, once more after
SECURE_DATA_INVALID; WBINVD, DF_FLUSH), runs one command and stores the flash. Guests do not outlive a call.
DIR holds chip.json (what is fused, the chip's secret among it) and flash.bin. AMD is simulated: its keys are
TEST keys, which everybody can read.

example (a machine of one's own: the chip, its owner, its chain):
  sevref sp a new
  sevref sp a pek-csr --out files
  sevref sp a sign-csr files/pek_csr.cert --generate --oca files/owner.cert --key files/owner.key --out files
  sevref sp a pek-cert-import files/pek_csr.signed.cert files/owner.cert
  sevref sp a export --full --out files
  sevref chain verify files --roots files/ask_ark.cert"""

TEST_AMD = "the simulated AMD, with a TEST key"
SEED_HELP = "deterministic draws in this call, for tests: the keys are no secret, and the same again"


@dataclass
class Answer:
    """What a command has done: its part of the JSON document, the lines for people, the files to write."""

    document: dict[str, Any]
    lines: list[str]
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)  #: path -> content, mode


Work = Callable[[argparse.Namespace, chips.Chip, chips.StoredPlatform], Answer]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add DIR and the commands."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder of the chip")
    commands = common.subcommands(parser)
    parser.epilog = EXAMPLE

    def add(name: str, work: Work, text: str, *, out: bool = False) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example:\n  sevref sp a {name}"
        )
        if out:
            command.add_argument("--out", default=".", metavar="FOLDER", help="where files go (default: this folder)")
        command.add_argument("--seed", type=common.seed_bytes, metavar="HEX", help=SEED_HELP)
        common.json_option(command)
        command.set_defaults(run=run, work=work)
        return command

    new = add("new", status, "make a chip in DIR and initialise it for the first time")
    new.add_argument("--generation", choices=GENERATIONS, default="milan", help="product line (default: %(default)s)")
    new.add_argument(
        "--name", default="platform A", help='with --seed: tells the chips of one seed apart (default: "%(default)s")'
    )
    new.set_defaults(run=run_new)

    add("status", status, "PLATFORM_STATUS: version, state, owner")
    add("reset", reset, "SHUTDOWN and PLATFORM_RESET: erase the flash; the next call makes a new identity")

    export = add("export", export_chain, "PDH_CERT_EXPORT, with the CEK that the simulated AMD signs", out=True)
    export.add_argument(
        "file", nargs="?", metavar="FILE", help="write one file, as sevctl export does: PDH, PEK, OCA, CEK"
    )
    export.add_argument("--full", action="store_true", help="also AMD's certificates: ASK, ARK (test keys)")
    export.epilog = (
        "Without FILE the files of sev-tool are written: pdh.cert, pek.cert, oca.cert, cek.cert, and cert_chain.cert\n"
        "(PEK, OCA and CEK as the firmware exports them, the CEK unsigned); --full adds ask.cert, ark.cert and\n"
        "ask_ark.cert.\n\nexample:\n  sevref sp a export --full sev.chain"
    )

    csr = add("pek-csr", pek_csr, "PEK_CSR: write pek_csr.cert, for the owner to sign", out=True)
    csr.add_argument("file", nargs="?", metavar="FILE", help="write this file instead of FOLDER/pek_csr.cert")

    sign = add("sign-csr", status, "the owner's part: sign a CSR; needs no chip, DIR is not touched", out=True)
    sign.add_argument("csr", metavar="CSR", help="the CSR (pek_csr.cert)")
    sign.add_argument("--oca", required=True, metavar="F", help="the owner's OCA certificate")
    sign.add_argument("--key", required=True, metavar="F", help="its private key: P-384, DER or PEM, SEC1 or PKCS#8")
    sign.add_argument(
        "--generate", action="store_true", help="make both files first, as sevctl generate does; they must not exist"
    )
    sign.set_defaults(run=run_sign)
    sign.epilog = (
        "Writes pek_csr.signed.cert.\n\nexample:\n"
        "  sevref sp a sign-csr pek_csr.cert --generate --oca owner.cert --key owner.key"
    )

    take = add("pek-cert-import", pek_cert_import, "PEK_CERT_IMPORT: the owner takes the platform over")
    take.add_argument("pek", metavar="PEK", help="the signed CSR (pek_csr.signed.cert)")
    take.add_argument("oca", metavar="OCA", help="the owner's OCA certificate")
    take.epilog = "example:\n  sevref sp a pek-cert-import pek_csr.signed.cert owner.cert"

    add("pek-gen", pek_gen, "PEK_GEN: a new OCA, PEK and PDH; the owner is gone")
    add("pdh-gen", pdh_gen, "PDH_GEN: a new PDH; sessions made for the old one fail")
    add("get-id", get_id, "GET_ID: the chip's id")
    add("certify", certify, "ask the simulated AMD's certificate service for this chip's CEK", out=True)


# ---------------------------------------------------------------------------------------------- one call


def run(args: argparse.Namespace) -> int:
    """Power on, load the driver, run the command: 0, or 1 with the status that the firmware answered."""
    platform: chips.StoredPlatform | None = None
    try:
        with chips.powered_on(args.dir, args.seed, _stream(args)) as (chip, platform):
            try:
                platform.load_driver()
            finally:
                _say_init(platform)
            answer = args.work(args, chip, platform)
    except SevError as error:
        if platform is None:
            raise
        document = {"status": error.status.name, "rule": error.rule, "command": error.command, **_init(platform)}
        if args.json:
            common.emit(args, document, "")
        print(f"sevref: {error}", file=sys.stderr)
        return 1
    paths = _write(args, answer.files)
    document = {"status": Status.SUCCESS.name, **answer.document, **({"files": paths} if paths else {})}
    common.emit(args, {**document, **_init(platform)}, "\n".join([*answer.lines, *paths]))
    return 0


def run_new(args: argparse.Namespace) -> int:
    """Make the chip, then the first call on it."""
    if not args.name:
        raise InputError("--name", "a name", "nothing")
    chips.create(args.dir, args.generation, args.name, args.seed)
    return run(args)


def _stream(args: argparse.Namespace) -> str:
    """The first identity is that of a ``Machine`` with the same seed and name; later calls draw something else."""
    return "" if args.subcommand == "new" else str(args.subcommand)


def _init(platform: chips.StoredPlatform) -> dict[str, list[str]]:
    return {"init": [status.name for status in platform.init_statuses]}


def _say_init(platform: chips.StoredPlatform) -> None:
    if Status.SECURE_DATA_INVALID in platform.init_statuses:
        text = "the flash did not authenticate and was erased; INIT was repeated, the platform has a new identity"
        print(f"sevref: INIT: SECURE_DATA_INVALID: {text}", file=sys.stderr)


def _write(args: argparse.Namespace, files: Mapping[str, tuple[bytes, int]]) -> list[str]:
    """Write the files, after making the folder ``--out``; their paths."""
    if files:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        common.write_files({Path(path): content for path, content in files.items()})
    return list(files)


def _public(args: argparse.Namespace, files: Mapping[str, bytes]) -> dict[str, tuple[bytes, int]]:
    """Files that everybody may read, by their names in ``--out``."""
    return {os.path.join(args.out, name): (data, 0o644) for name, data in files.items()}


# ---------------------------------------------------------------------------------------------- commands


def status(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PLATFORM_STATUS, and what the chip is."""
    found, chip_id = platform.platform_status(), platform.get_id()
    owner = "external" if found.owner & 1 else "self"
    document = {
        "generation": chip.generation,
        "name": chip.name,
        "id": chip_id,
        "api_major": found.api_major,
        "api_minor": found.api_minor,
        "build": found.build,
        "state": PlatformState(found.state).name,
        "owner": owner,
        "es": bool(found.config & 1),
        "guest_count": found.guest_count,
    }
    line = f"{chip.name}, {chip.generation}, chip {chip_id.hex()[:16]}..., API "
    line += f"{found.api_major}.{found.api_minor} build {found.build}, {document['state']}"
    return Answer(document, [line, "owned by itself" if owner == "self" else "externally owned"])


def reset(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """SHUTDOWN, PLATFORM_RESET."""
    platform.shutdown()
    platform.platform_reset()
    return Answer({}, ["flash erased; the next call makes a new identity, owned by itself"])


def export_chain(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PDH_CERT_EXPORT and GET_ID, the signed CEK, and the files."""
    exported, chip_id = platform.pdh_cert_export(), platform.get_id()
    amd, cek = _certified(args, chip, chip_id, exported)
    chain = exported.replace(cek=cek, ask=amd.roots.ask, ark=amd.roots.ark)
    certs = {place: getattr(chain, place).pack() for place in PLACES}
    unsigned = certs["pek"] + certs["oca"] + _packed(exported.cek)
    document, lines = {"id": chip_id, "cek": TEST_AMD}, [f"CEK signed by {TEST_AMD}"]
    if args.file is not None:
        order = ("pdh", "pek", "oca", "cek", *(("ask", "ark") if args.full else ()))
        return Answer(document, lines, {args.file: (b"".join(certs[place] for place in order), 0o644)})
    files = {f"{place}.cert": certs[place] for place in ("pdh", "pek", "oca", "cek")} | {"cert_chain.cert": unsigned}
    if args.full:
        files |= _amd_files(amd)
    return Answer(document, lines, _public(args, files))


def pek_csr(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PEK_CSR."""
    csr = platform.pek_csr().pack()
    return Answer({}, [], _public(args, {"pek_csr.cert": csr}) if args.file is None else {args.file: (csr, 0o644)})


def pek_cert_import(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PEK_CERT_IMPORT."""
    pek, oca = _certificate(args.pek, "signed PEK"), _certificate(args.oca, "OCA certificate")
    platform.pek_cert_import(pek, oca)
    return Answer({"owner": "external"}, ["externally owned; the PDH is new"])


def pek_gen(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PEK_GEN."""
    platform.pek_gen()
    return Answer({"owner": "self"}, ["new OCA, PEK and PDH; owned by itself"])


def pdh_gen(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """PDH_GEN."""
    platform.pdh_gen()
    return Answer({}, ["new PDH"])


def get_id(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """GET_ID."""
    chip_id = platform.get_id()
    return Answer({"id": chip_id}, [chip_id.hex()])


def certify(args: argparse.Namespace, chip: chips.Chip, platform: chips.StoredPlatform) -> Answer:
    """GET_ID, and what AMD's service answers to the id: the signed CEK. AMD's own certificates come with it."""
    chip_id = platform.get_id()
    amd, cek = _certified(args, chip, chip_id, platform.pdh_cert_export())
    files = {"cek.cert": cek.pack()} | _amd_files(amd)
    return Answer({"id": chip_id, "issuer": TEST_AMD}, [f"CEK signed by {TEST_AMD}"], _public(args, files))


# ---------------------------------------------------------------------------------------------- AMD


def _certified(
    args: argparse.Namespace, chip: chips.Chip, chip_id: bytes, exported: Chain
) -> tuple[SimulatedAmd, SevCertificate]:
    """The simulated AMD, which made this chip and so knows its id and key, and the CEK that it signs."""
    salts = OsRandom().draw(32) if args.seed is None else args.seed
    amd = SimulatedAmd(chip.generation, seed=salts)
    amd.enrol(chip.machine())
    return amd, amd.certify(chip_id, exported.cek)


def _amd_files(amd: SimulatedAmd) -> dict[str, bytes]:
    ask, ark = amd.roots.ask.pack(), amd.roots.ark.pack()
    return {"ask.cert": ask, "ark.cert": ark, "ask_ark.cert": ask + ark}


# ---------------------------------------------------------------------------------------------- the owner


def run_sign(args: argparse.Namespace) -> int:
    """Sign a CSR with an owner's key, which ``--generate`` makes."""
    csr = _certificate(args.csr, "CSR")
    files: dict[str, tuple[bytes, int]] = {}
    if args.generate:
        for path in (args.oca, args.key):
            if os.path.lexists(path):
                raise InputError(f"--generate: {path}", "a file that does not exist", "one that does")
        key = draw_private(random_source(args.seed, "platform owner"), "OCA key")
        owner = PlatformOwner(key=key)
        files |= {args.oca: (owner.oca.pack(), 0o644), args.key: (_der(key), 0o600)}
    else:
        owner = PlatformOwner(key=_private_key(args.key), oca=_certificate(args.oca, "OCA certificate"))
    files |= _public(args, {"pek_csr.signed.cert": owner.sign_csr(csr).pack()})
    paths = _write(args, files)
    common.emit(args, {"status": Status.SUCCESS.name, "files": paths}, "\n".join(paths))
    return 0


def _der(key: PrivateKey) -> bytes:
    """SEC1 DER, as sevctl writes owners' keys."""
    return ec.derive_private_key(key.d, ec.SECP384R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _private_key(path: str) -> PrivateKey:
    data, where = common.read_file(path, "OCA key", limit=1 << 16), f"OCA key {path}"
    load = serialization.load_pem_private_key if data.startswith(b"-----") else serialization.load_der_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError):  # the library's text may quote the key
        raise InputError(where, "an EC private key without password, DER or PEM", "something else") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(where, "a P-384 key", "a key of another kind")
    return as_private(key)


# ---------------------------------------------------------------------------------------------- certificates


def _certificate(path: str, what: str) -> SevCertificate:
    return SevCertificate.parse(common.exact_file(path, what, CERT_SIZE))


def _packed(cert: SevCertificate | None) -> bytes:
    assert cert is not None  # PDH_CERT_EXPORT gives all four
    return cert.pack()
