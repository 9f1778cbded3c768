"""What comes from outside the repository, and how to do without it.

Vectors and peers (other implementations that ours is compared with) may be missing: the check is then
skipped, and the end of the run says so in one line. With SEVREF_REQUIRE_PEERS=1 in the environment, as in
CI, a missing one is a failure.
"""

import functools
import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "outside data: "  # how the reason of each skip of this kind starts
SYSTEM_PYTHON = "/usr/bin/python3"  # runs Debian's virt-qemu-sev-validate, which needs Debian's modules
PEERS = {  # name: (places to look, Debian packages)
    "virt-qemu-sev-validate": (
        ["/usr/bin/virt-qemu-sev-validate"],
        "libvirt-clients-qemu python3-libvirt python3-lxml python3-cryptography",
    ),
    "chromium": (["/usr/bin/chromium"], "chromium"),
    "strace": (["/usr/bin/strace"], "strace"),
    "OVMF_CODE.fd": (["/usr/share/OVMF/OVMF_CODE.fd"], "ovmf"),
    "OVMF_CODE_4M.fd": (["/usr/share/OVMF/OVMF_CODE_4M.fd"], "ovmf"),
    "OVMF.fd": (["/usr/share/ovmf/OVMF.fd", "/usr/share/qemu/OVMF.fd"], "ovmf"),
}


def _missing(what: str, remedy: str) -> NoReturn:
    if os.environ.get("SEVREF_REQUIRE_PEERS") == "1":
        pytest.fail(f"{OUTSIDE}{what} is missing and SEVREF_REQUIRE_PEERS=1; {remedy}", pytrace=False)
    pytest.skip(f"{OUTSIDE}{what} is missing; {remedy}", allow_module_level=True)


def vectors(*parts: str) -> Path:
    """The path of a file or folder of the vectors; skips the test (or module) when it is not there."""
    folder = Path(os.environ.get("SEVREF_VECTORS") or ROOT.parent / "shared" / "vectors")
    path = folder.joinpath(*parts)
    if not path.exists():
        _missing("/".join(("vectors", *parts)), "SEVREF_VECTORS names the folder that has them")
    return path


def peer(name: str) -> Path:
    """The path of another implementation or of an image; skips the test (or module) when it is not there.

    Run "virt-qemu-sev-validate" as ``[SYSTEM_PYTHON, peer("virt-qemu-sev-validate"), ...]``.
    """
    places, packages = PEERS[name]
    for place in map(Path, places):
        if place.is_file() and (name != "virt-qemu-sev-validate" or _system_python_is_ready()):
            return place
    _missing(name, f"Debian's packages: {packages}")


@functools.cache
def _system_python_is_ready() -> bool:
    if not Path(SYSTEM_PYTHON).exists():
        return False
    modules = [SYSTEM_PYTHON, "-c", "import cryptography, libvirt, lxml"]
    return subprocess.run(modules, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
