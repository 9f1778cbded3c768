"""The README's examples are run: its Python blocks in order in one namespace, its commands in a folder that has the files
that they name."""

import re
import runpy
import shlex
import subprocess
import sys

import pytest

import sevref
from sevref.boot import build_firmware
from sevref.driver import Platform
from sevref.roles import Hypervisor, SimulatedAmd
from support import ROOT

TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_quick_start_has_two_commands_of_one_line():
    quick = TEXT.split("## Quick start")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```$", quick, re.MULTILINE | re.DOTALL)
    assert len(found) == 2 and quick.count("```") == 4
    assert all(block.count("\n") == 1 for block in found)
    assert found[0].rstrip().endswith("sevref lab") and "pytest" in found[1]
    assert all(block.startswith("python3 -m venv .venv") for block in found)


def test_the_picture_is_that_of_a_run():
    module = runpy.run_path(str(ROOT / "tests" / "notebooks" / "overview.py"))
    assert "data/overview.svg" in TEXT
    assert module["FILE"].read_text() == module["overview"]()


def test_python_examples_run():
    code = blocks("python")
    assert len(code) == 4
    namespace = {}
    for block in code:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["result"].valid


def test_every_name_of_the_package_in_the_examples_exists():
    used = {name for block in blocks("python") for name in re.findall(r"\bsevref\.(\w+)", block)}
    assert len(used) > 15
    assert all(hasattr(sevref, name) for name in used)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the shell examples name: a platform's certificates, the roots of the simulated AMD, a firmware image."""
    path = tmp_path_factory.mktemp("readme")
    machine = sevref.Machine("milan", seed=b"readme", dram_size=4 << 20)
    amd = SimulatedAmd("milan")
    amd.enrol(machine)
    hypervisor = Hypervisor(Platform(machine))
    hypervisor.boot()
    (path / "platform").mkdir()
    for place, cert in hypervisor.certificates(amd).items():
        (path / "platform" / f"{place}.cert").write_bytes(cert.pack())
    (path / "roots.cert").write_bytes(amd.roots.ask.pack() + amd.roots.ark.pack())
    (path / "OVMF.fd").write_bytes(build_firmware())
    return path


def test_shell_examples_run(folder):
    lines = blocks("sh")[2].splitlines()
    assert len(lines) == 9
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "sevref"
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stdout and not done.stderr
