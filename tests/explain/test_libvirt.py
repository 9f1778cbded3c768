"""libvirt's validator accepts the measurements that we build for generated SEV and SEV-ES guests, and where it differs
from the sheet: FPU fields, one processor, padding of secrets (the last in tests/transport)."""

import base64
import os
import random
import subprocess

import pytest

from sevref.boot import Guest, Image, KernelHashes, initial_vmsas, predict
from sevref.measurement import launch_measurement
from support import SYSTEM_PYTHON, peer, vectors

pytestmark = [pytest.mark.peer, pytest.mark.vectors]
TIK, TEK, NONCE = (bytes([i]) * 16 for i in range(3))
LINES = [
    "",
    "console=ttyS0",
    " spaces  inside and around ",
    "tab\tnewline\n",
    "ä € 日本 🙂",
    "'single' \"double\" $x \\",
    "a" * 3000,
]
SIGNATURES = {
    (23, 1, 2): 0x800F12,
    (23, 49, 0): 0x830F10,
    (25, 1, 1): 0xA00F11,
    (25, 17, 0): 0xA10F10,
    (14, 1, 2): 0xE12,
}


@pytest.fixture
def validate(tmp_path):
    (tmp_path / "tk").write_bytes(TEK + TIK)
    tool = str(peer("virt-qemu-sev-validate"))

    def run(guest, image, policy, **options):
        measure = launch_measurement(TIK, (1, 49), 6, policy=policy, digest=predict(guest).digest, nonce=NONCE)
        given = {
            "measurement": base64.b64encode(measure + NONCE).decode(), "api-major": 1, "api-minor": 49, "build-id": 6,
            "policy": policy, "firmware": image, "tk": "tk", **{key.replace("_", "-"): value for key, value in options.items()},
        }  # fmt: skip
        command = [SYSTEM_PYTHON, tool, *(f"--{key}={value}" for key, value in given.items() if value is not None)]
        clean = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=clean, stdin=subprocess.DEVNULL
        )

    return run


@pytest.mark.parametrize("number", range(16))
def test_it_accepts_generated_guests(validate, tmp_path, number):
    rng = random.Random(number)
    image = vectors("ovmf", rng.choice(["ovmf_AmdSev_suffix.bin", "ovmf_el9_amdsev_suffix.bin"]))
    if number % 5 == 4:
        image = peer(rng.choice(["OVMF_CODE.fd", "OVMF_CODE_4M.fd"]))
    options, kernel = {}, None
    if number % 5 != 4:  # Debian's images have no place for kernel hashes
        line = LINES[number % len(LINES)]
        for name in "kernel", "initrd":
            (tmp_path / name).write_bytes(rng.randbytes(rng.choice([1, 4096, 9999])))
        initrd = tmp_path / "initrd" if rng.random() < 0.8 else None
        kernel = KernelHashes.of(tmp_path / "kernel", initrd, line)
        options = {"kernel": "kernel", "initrd": "initrd" if initrd else None, "cmdline": line}
    guest = Guest(Image(image), mode="sev", kernel=kernel)
    policy = 1
    if number % 2:
        cpu, vcpus, policy = rng.choice(list(SIGNATURES)), rng.choice([2, 3, 8, 64]), 5
        guest = guest._replace(mode="seves", vcpus=vcpus, vcpu_sig=SIGNATURES[cpu], fpu="legacy")
        options |= {"num_cpus": vcpus}
        if rng.random() < 0.5:
            pages = initial_vmsas(Image(image), 2, vcpu_sig=SIGNATURES[cpu], fpu="legacy")
            for i, page in enumerate(pages):
                (tmp_path / f"vmsa{i}").write_bytes(page)
            options |= {"vmsa_cpu0": "vmsa0", "vmsa_cpu1": "vmsa1"}
        else:
            options |= {"cpu_family": cpu[0], "cpu_model": cpu[1], "cpu_stepping": cpu[2]}
    done = validate(guest, image, policy, **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "OK: Looks good to me\n", "")
    assert validate(guest, image, policy, **options, build_id=7).returncode != 0
    if kernel:
        assert validate(guest._replace(kernel=None), image, policy, **options).returncode != 0


def test_it_knows_the_older_fpu_fields_only(validate):
    """A guest of KVM_SEV_INIT2 has other pages; sevref builds both, the tool the older ones."""
    image = vectors("ovmf", "ovmf_AmdSev_suffix.bin")
    guest = Guest(Image(image), mode="seves", vcpus=2, vcpu_sig=0xA00F11, fpu="legacy")
    options = {"num_cpus": 2, "cpu_family": 25, "cpu_model": 1, "cpu_stepping": 1}
    assert validate(guest, image, 5, **options).returncode == 0
    done = validate(guest._replace(fpu="init2"), image, 5, **options)
    assert done.returncode != 0 and "Measurement does not match" in done.stderr


def test_one_processor_with_one_page(validate, tmp_path):
    """The tool stops with an internal error where the page of other processors is not needed; sevref does not need it
    (tests/cli/test_measurement_guest.py)."""
    image = vectors("ovmf", "ovmf_AmdSev_suffix.bin")
    (page,) = initial_vmsas(Image(image), 1, vcpu_sig=0xA00F11, fpu="legacy")
    (tmp_path / "vmsa0").write_bytes(page)
    guest = Guest(Image(image), mode="seves", vcpus=1, vcpu_sig=0xA00F11, fpu="legacy")
    assert validate(guest, image, 5, num_cpus=1, vmsa_cpu0="vmsa0", vmsa_cpu1="vmsa0").returncode == 0
    done = validate(guest, image, 5, num_cpus=1, vmsa_cpu0="vmsa0")
    assert done.returncode != 0 and "unsupported operand" in done.stderr
