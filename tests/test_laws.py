"""The house's laws: imports only go down, presentation stays upstairs, one way to pack bytes, no branches on names."""

import ast
import re

import pytest

from support import ROOT

PACKAGE = ROOT / "sevref"

#: floor of each room; a room may import rooms of lower floors, and its own
FLOORS = {
    "status": 0,
    "layout": 0,
    "policy": 0,
    "resources": 0,
    "generations": 0,
    "crypto": 1,
    "certs": 2,
    "transport": 2,
    "measurement": 2,
    "memory": 2,
    "tweaks": 2,
    "presets": 2,
    "dram": 2,
    "caches": 2,
    "rmp": 2,
    "boot": 2,
    "machine": 3,
    "firmware": 4,
    "snp": 4,
    "driver": 5,
    "roles": 6,
    "show": 7,
    "attacks": 7,
    "traces": 7,
    "conform": 7,
    "serve": 7,
    "explain": 7,
    "cli": 8,
    "site": 8,
}
#: rooms of one floor that may use each other, and in which direction
BESIDE = {
    ("layout", "status"),
    ("policy", "status"),
    ("policy", "layout"),
    ("generations", "status"),
    ("transport", "certs"),
    ("transport", "measurement"),
    ("boot", "measurement"),
    ("boot", "transport"),
    ("memory", "tweaks"),
    ("memory", "presets"),
    ("presets", "tweaks"),
    ("conform", "traces"),
    ("serve", "traces"),
    ("serve", "conform"),
    ("show", "attacks"),
    ("site", "cli"),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_share" not in path.parts)


def room_of(path):
    """The room of a module: its folder or its file name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree, *, typing_too=True):
    """Every module that a tree imports, with line."""
    skipped = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return  # the package's face names everything
    assert room in FLOORS, f"{room} is a new room: which floor?"
    for module, line in imports(ast.parse(path.read_text()), typing_too=False):
        parts = module.split(".")
        if parts[0] != "sevref" or len(parts) == 1 or parts[1] == room:
            continue
        other = parts[1]
        assert FLOORS[other] < FLOORS[room] or (room, other) in BESIDE, f"{path}:{line}: {room} imports {other}"


def test_the_check_of_imports_can_fail():
    tree = ast.parse("from sevref.show import byte_map\nimport sevref.cli.demo")
    assert [module for module, _ in imports(tree)] == ["sevref.show", "sevref.cli.demo"]
    assert FLOORS["show"] > FLOORS["firmware"] and ("firmware", "show") not in BESIDE


LAB = {"pandas", "matplotlib", "IPython", "ipywidgets", "nbformat", "jupyterlab"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_presentation_stays_upstairs_and_bytes_are_packed_in_one_place(path):
    tree, room = ast.parse(path.read_text()), room_of(path)
    found = {module.split(".")[0] for module, _ in imports(tree)}
    if FLOORS.get(room, 9) < 7:
        assert not found & LAB
    assert "struct" not in found or room == "layout"
    assert "random" not in found  # randomness is injected
    assert "secrets" not in found or room in ("cli", "roles")  # names of temporary files are not part of a run
    if "time" in found or "datetime" in found:
        assert room in ("cli", "roles", "attacks", "show"), f"{path} reads the clock"


def test_a_role_never_reaches_into_the_firmware():
    for path in (PACKAGE / "roles").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"\._firmware|\.guests\b|SecureProcessor|\.fused_store_secret|sp\.identity\b", text), path


def test_the_firmware_calls_no_role():
    for path in (PACKAGE / "firmware").rglob("*.py"):
        assert "sevref.roles" not in path.read_text()


def test_no_branch_asks_which_profile_or_generation_it_is():
    pattern = re.compile(r"profile\s*(is|==|!=)\s|profile\.name\s*==|generation(\.name)?\s*==\s*[\"']")
    for path in MODULES:
        if room_of(path) in ("status", "cli", "show"):
            continue
        assert not pattern.search(path.read_text()), path


def test_no_path_of_a_build_machine():
    names = [*PACKAGE.rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "data").rglob("*.json")]
    for path in [*names, ROOT / "README.md", ROOT / "pyproject.toml"]:
        assert not re.search(r"(?<![\w.])/(?:work|root|home|farm)/\w", path.read_text()), path
