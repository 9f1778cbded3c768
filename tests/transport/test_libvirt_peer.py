"""libvirt's ``virt-qemu-sev-validate`` and we agree on a real guest firmware: it accepts our measurement and refuses
every other, and what it packages for LAUNCH_SECRET opens with ours."""

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sevref.certs import Chain, simulated_roots
from sevref.crypto import PrivateKey, SeededRandom
from sevref.measurement import MeasurementBlob, launch_digest, launch_measurement
from sevref.roles.guest_owner import GuestOwner
from sevref.status import SevError, Status
from sevref.transport import PacketHeader, open_packet, parse_secret_table
from support import SYSTEM_PYTHON, peer

pytestmark = pytest.mark.peer

KEYS = SeededRandom(b"test_libvirt_peer", "keys")
TEK, TIK, NONCE = (KEYS.draw(16) for _ in range(3))
API, BUILD, POLICY = (1, 51), 3, 0x18000001
DISK = "736869e5-84f0-4973-92ec-06879ce3da0b"
IMAGES = ["OVMF_CODE.fd", "OVMF_CODE_4M.fd", "OVMF.fd"]


@pytest.fixture(scope="module")
def validator() -> list[str]:
    return [SYSTEM_PYTHON, str(peer("virt-qemu-sev-validate"))]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The owner's file: TEK, then TIK."""
    path = tmp_path / "tk.bin"
    path.write_bytes(TEK + TIK)
    return path


def measurement(firmware: Path, **changes: object) -> str:
    with firmware.open("rb") as file:
        digest = launch_digest(file)
    inputs = {"api": API, "build": BUILD, "policy": POLICY, "digest": digest, "nonce": NONCE, **changes}
    blob = MeasurementBlob(measure=launch_measurement(TIK, **inputs), mnonce=NONCE)
    return base64.b64encode(blob.pack()).decode()


def validate(
    validator: list[str], found: str, firmware: Path, keys: Path, *more: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    options = {"api-major": "1", "api-minor": "51", "build-id": "3", "policy": str(POLICY)}
    options.update({name.replace("_", "-"): value for name, value in changes.items()})
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = [*validator, "--measurement", found, "--firmware", str(firmware), "--tk", str(keys), *words, *more]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=clean())


def clean() -> dict[str, str]:
    """The system's Python does not look into this one's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.parametrize("image", IMAGES)
def test_it_accepts_our_measurement(validator: list[str], keys: Path, image: str) -> None:
    done = validate(validator, measurement(peer(image)), peer(image), keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "OK: Looks good to me\n"


def test_it_accepts_what_the_command_line_builds(validator: list[str], keys: Path, cli: Callable[..., object]) -> None:
    tik, firmware = keys.with_name("tik.bin"), peer("OVMF_CODE.fd")
    tik.write_bytes(TIK)
    launch = ["--api-major", 1, "--api-minor", 51, "--build-id", 3, "--policy", POLICY, "--firmware", firmware]
    built = cli("measurement", "build", *launch, "--tik", tik, "--nonce", NONCE.hex())
    assert built.code == 0
    assert validate(validator, built.out.strip(), firmware, keys).returncode == 0
    assert cli("measurement", "verify", "--measurement", built.out.strip(), *launch, "--tk", keys).code == 0


@pytest.mark.parametrize(
    "change",
    ["measurement byte", "nonce byte", "firmware", "TIK", "API major", "API minor", "build", "policy", "old form"],
)
def test_it_refuses_any_other(validator: list[str], keys: Path, tmp_path: Path, change: str) -> None:
    firmware = peer("OVMF_CODE.fd")
    blob = bytearray(base64.b64decode(measurement(firmware)))
    changes = {"API major": {"api_major": "0"}, "API minor": {"api_minor": "52"}, "build": {"build_id": "4"},
               "policy": {"policy": str(POLICY | 2)}}.get(change, {})  # fmt: skip
    match change:
        case "measurement byte":
            blob[31] ^= 1
        case "nonce byte":
            blob[32] ^= 1
        case "firmware":
            data = bytearray(firmware.read_bytes())
            data[-1] ^= 1
            firmware = tmp_path / "firmware.fd"
            firmware.write_bytes(data)
        case "TIK":
            keys.write_bytes(TEK + bytes(16))
        case "old form":  # before API 0.17, which libvirt does not know
            blob = bytearray(base64.b64decode(measurement(firmware, api=(0, 16))))
            changes = {"api_major": "0", "api_minor": "16"}
    done = validate(validator, base64.b64encode(blob).decode(), firmware, keys, **changes)
    assert done.returncode == 1
    assert "Measurement does not match" in done.stderr


@pytest.mark.parametrize("size", [1, 18, 24])  # with 24 bytes the table is aligned: libvirt then pads 16 more
def test_the_secret_that_it_packages_opens(validator: list[str], keys: Path, tmp_path: Path, size: int) -> None:
    firmware, secret = peer("OVMF_CODE.fd"), bytes(range(1, size + 1))
    (tmp_path / "secret").write_bytes(secret)
    header_file, payload_file = tmp_path / "header", tmp_path / "payload"
    found = measurement(firmware)
    inject = ["--inject-secret", f"luks-key:{tmp_path / 'secret'}"]
    outputs = ["--secret-header", str(header_file), "--secret-payload", str(payload_file)]
    done = validate(validator, found, firmware, keys, *inject, *outputs)
    assert done.returncode == 0, done.stderr

    header = PacketHeader.parse(base64.b64decode(header_file.read_bytes()))
    payload = base64.b64decode(payload_file.read_bytes())
    measure = base64.b64decode(found)[:32]
    table = open_packet(TEK, TIK, 1, header, payload, trailer=measure)
    assert [(str(guid), data) for guid, data in parse_secret_table(table)] == [(DISK, secret)]
    with pytest.raises(SevError) as caught:
        open_packet(TEK, TIK, 1, header, payload, trailer=bytes(32))
    assert caught.value.status == Status.BAD_MEASUREMENT


def test_the_guest_owner_agrees_with_it(validator: list[str], keys: Path, chain: Chain, pdh_key: PrivateKey) -> None:
    """What our owner accepts, libvirt accepts under the keys of our owner's session."""
    owner, firmware = GuestOwner(roots=simulated_roots("milan"), seed=b"peer"), peer("OVMF_CODE.fd")
    opened = owner.open_session(chain, POLICY)
    channel = opened.session.open(pdh_key, opened.godh, POLICY)
    digest = launch_digest(firmware.read_bytes())
    measure = launch_measurement(channel.tik, API, BUILD, policy=POLICY, digest=digest, nonce=NONCE)
    blob = MeasurementBlob(measure=measure, mnonce=NONCE)
    owner.check_measurement(blob, digest, api=API, build=BUILD)
    keys.write_bytes(opened.tek + opened.tik)
    assert validate(validator, base64.b64encode(blob.pack()).decode(), firmware, keys).returncode == 0
