"""The attacker's process has two pipe ends and nothing else. Probes run where attacks run."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sevref
from sevref.attacks import ATTACKS
from sevref.attacks.lab import Attacker, serve

PACKAGE = str(Path(sevref.__file__).parent.parent)
PROBES = str(Path(__file__).parent)

CHILD = """
import sys
sys.path[:0] = [{package!r}, {probes!r}]
sys.argv[1:] = ["fence_probes", {name!r}]
from sevref.attacks.hostile.main import main
main()
"""


def probe(name: str) -> subprocess.CompletedProcess[str]:
    """Run one probe in the place of an attack, given an empty brief."""
    code = CHILD.format(package=PACKAGE, probes=PROBES, name=name)
    return subprocess.run(
        [sys.executable, "-I", "-c", code], input="{}\n", capture_output=True, text=True, env={}, timeout=60
    )


def test_the_engine_is_not_loaded_and_cannot_be() -> None:
    found = probe("modules")
    assert found.returncode == 0, found.stderr
    assert '"engine": [], "machine": [], "firmware": []' in found.stdout
    assert '"import": "PermissionError"' in found.stdout


@pytest.mark.parametrize("name", ["open_file", "memory_of_parent", "socket", "start_process", "ctypes", "new_pipe"])
def test_there_is_no_other_way_out(name: str) -> None:
    found = probe(name)
    assert found.returncode == 0, found.stderr
    assert '"got": false' in found.stdout, found.stdout
    assert "PermissionError" in found.stdout or "OSError" in found.stdout or "ImportError" in found.stdout


def test_the_kernel_refuses_even_without_the_hook() -> None:
    """The file-descriptor limit does not depend on Python's cooperation."""
    found = probe("without_hook")
    assert found.returncode == 0, found.stderr
    assert '"errno": 24' in found.stdout  # EMFILE


def test_only_the_pipe_is_open_and_the_environment_is_empty() -> None:
    found = probe("surroundings")
    assert '"descriptors": [0, 1, 2], "environment": []' in found.stdout, found.stdout


def test_no_object_of_the_machine_is_in_the_process() -> None:
    assert '"objects": []' in probe("objects").stdout


def test_an_attacker_that_has_loaded_the_engine_does_not_start() -> None:
    found = probe("too_late")
    assert found.returncode == 0, found.stderr
    early = subprocess.run(
        [sys.executable, "-I", "-c", "import sevref.memory\n" + CHILD.format(package=PACKAGE, probes=PROBES, name="modules")],
        input="{}\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert early.returncode != 0 and "sevref.memory" in early.stderr


def test_a_process_that_dies_is_an_error() -> None:
    broken = replace(ATTACKS["replay"], function="no_such_attack")
    with pytest.raises(RuntimeError, match="died"), Attacker(broken) as attacker:
        attacker.run(serve(ATTACKS["replay"]))


@pytest.mark.parametrize("name", ["memory", "keys"])
def test_no_hostile_module_names_the_engine(name: str) -> None:
    path = Path(sevref.__file__).parent / "attacks" / "hostile" / f"{name}.py"
    text = path.read_text()
    for module in ("sevref.memory", "sevref.tweaks", "sevref.machine", "sevref.attacks.lab", "sevref.attacks.victim"):
        assert module not in text
