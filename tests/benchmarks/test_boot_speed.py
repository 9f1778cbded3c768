"""Predicting and explaining launch digests: speed against raw hashing and against sev-snp-measure, and peak memory.

Large files as people have them: a kernel of 16 MiB, an initrd of 64 MiB.
"""

import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sevref.boot import Guest, Image, KernelHashes, predict, signature_of
from sevref.boot.explain import explain, read_digest
from sevref.boot.mistakes import Files
from support import vectors

pytestmark = pytest.mark.vectors
MIB = 1 << 20
OVMF = vectors("ovmf", "ovmf_AmdSev_suffix.bin")
SCRIPTS = Path(sys.executable).parent
SECTION_PAGES, VCPUS = 31, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("boot")
    block = hashlib.shake_256(b"sevref").digest(MIB - 3)
    tail = OVMF.read_bytes()
    found = {}
    for name, size in {"firmware": 4 * MIB, "kernel": 16 * MIB, "initrd": 64 * MIB, "tiny": 1}.items():
        data = (block * (size // len(block) + 1))[:size]
        found[name] = folder / name
        found[name].write_bytes(data[: -len(tail)] + tail if name == "firmware" else data)
    return found


def test_snp_digest_of_a_4_mib_firmware(files: dict[str, Path], ratio: Callable[..., float]) -> None:
    """Raw: one SHA-384 of 4096 bytes for each page with contents, one of 112 bytes for every page."""
    image = files["firmware"].read_bytes()
    guest = Guest(Image(files["firmware"]), vcpus=VCPUS, vcpu_sig=signature_of("EPYC"))
    pages = [image[i : i + 4096] for i in range(0, len(image), 4096)]
    info = bytes(112)

    def raw() -> None:
        sha384 = hashlib.sha384
        for page in pages:
            sha384(page).digest()
        for _ in range(len(pages) + SECTION_PAGES + VCPUS):
            sha384(info).digest()
        for _ in range(VCPUS):
            sha384(pages[0]).digest()

    steps = predict(guest).steps
    assert sum(step.pages for step in steps) == len(pages) + SECTION_PAGES + VCPUS
    ratio("SNP digest of 4 MiB of firmware", lambda: predict(guest), raw, 1.3)


def words(files: dict[str, Path], initrd: str) -> list[str]:
    found = ["--mode", "snp", "--vcpus", "4", "--vcpu-type", "EPYC-v4", "--ovmf", str(files["firmware"])]
    return [*found, "--kernel", str(files["kernel"]), "--initrd", str(files[initrd]), "--append", "console=ttyS0"]


def run(*command: str, cache: str) -> tuple[float, str]:
    """CPU time of a process in seconds, and what it prints. The compiled modules are kept where they may be written."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment | {"PYTHONPYCACHEPREFIX": cache}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.peer
@pytest.mark.parametrize("initrd", ["tiny", "initrd"])
def test_the_command_is_no_slower_than_sev_snp_measure(
    files: dict[str, Path], tmp_path: Path, initrd: str, ratio: Callable[..., float]
) -> None:
    """Whole processes, compiled modules at hand for both."""
    ours = [str(SCRIPTS / "sevref"), "digest", *words(files, initrd)]
    theirs = [str(SCRIPTS / "sev-snp-measure"), *words(files, initrd)]
    cache = str(tmp_path)
    assert run(*ours, cache=cache)[1] == run(*theirs, cache=cache)[1]
    times = [(run(*ours, cache=cache)[0], run(*theirs, cache=cache)[0]) for _ in range(12)]
    mine, other = (min(column) for column in zip(*times, strict=True))
    ratio.record(f"sevref digest, process, initrd {files[initrd].stat().st_size} bytes", mine, other, 1.0)  # type: ignore[attr-defined]


PEAK = """
import sys
from sevref.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:  # not getrusage: a new process inherits the maximum of the one that started it
    print(next(line for line in status if line.startswith("VmHWM:")).split()[1])
sys.exit(code)
"""


def peak(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def test_peak_memory(files: dict[str, Path], tmp_path: Path) -> None:
    large, small = (peak("digest", *words(files, initrd)) for initrd in ("initrd", "tiny"))
    print(f"peak memory: {large / MIB:.1f} MiB with an initrd of 64 MiB, {small / MIB:.1f} MiB with one of 1 byte")
    assert large < 45 * MIB
    assert large < small + 2 * MIB
    (tmp_path / "tik").write_bytes(bytes(16))
    launch = ["--api-major", "0", "--api-minor", "24", "--build-id", "15", "--policy", "1", "--nonce", "00" * 16]
    boot = ["--firmware", str(files["firmware"]), "--kernel", str(files["kernel"]), "--initrd", str(files["initrd"])]
    assert peak("measurement", "build", *launch, "--tik", str(tmp_path / "tik"), *boot) < 45 * MIB


def test_a_search_that_finds_nothing(files: dict[str, Path]) -> None:
    """64 (in fact 512) numbers of vCPUs, 8 CPUs and 16 command lines, in all combinations; goal: 20 s of one core."""
    line = "root=/dev/vda1 console=ttyS0 "
    kernel = KernelHashes.of(files["kernel"], files["initrd"], line)
    searched = Files(None, None, line.encode())
    for mode, size in ("snp", 48), ("seves", 32):
        guest = Guest(Image(files["firmware"]), mode=mode, vcpus=4, vcpu_sig=signature_of("EPYC"), kernel=kernel)
        start = time.process_time()
        found = explain(guest, read_digest("5a" * size, size), files=searched)
        seconds = time.process_time() - start
        print(f"{mode}: {found.tried} hypotheses in {seconds:.1f} s")
        assert found.tried > 64 * 8 * 16 and not found.matches
        assert seconds < 20
