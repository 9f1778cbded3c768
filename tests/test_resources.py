"""The resolver in a checkout, an editable install and a wheel; and what `import sevref` costs."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support import ROOT

# The dependencies without the sevref that these tests run in: a plain sys.path entry reads no .pth file.
DEPENDENCIES = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))

PROBE = """
import json, pathlib
import sevref
from sevref import resources
data, notebooks = resources.data_path(), resources.notebooks_path()
try:
    resources.data_path("no", "such.json")
    error = ""
except FileNotFoundError as e:
    error = str(e)
print(json.dumps({
    "package": sevref.__file__,
    "data": str(data),
    "notebooks": str(notebooks),
    "marker": str(resources.data_path("tests", "marker.json")),
    "read": resources.read_json("tests/marker.json"),
    "files": sorted(
        f"{d.name}/{p.relative_to(d)}" for d in (data, notebooks) for p in d.rglob("*")
        if p.is_file() and p.parent.name != "__pycache__"  # pip compiles the example client
    ),
    "error": error,
}))
"""


def run(code, cwd, *, sites=(), path=()):
    """Runs code in a fresh Python that sees the given site folders or PYTHONPATH, and the dependencies."""
    setup = f"import site, sys\nfor s in {list(map(str, sites))!r}: sys.path.append(s); site.addsitedir(s)\n"
    setup += f"sys.path += {DEPENDENCIES!r}\n"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    if path:
        env["PYTHONPATH"] = os.pathsep.join(map(str, path))
    command = [sys.executable, "-S", "-c", setup + code]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what is packaged: what is found must be this copy's."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    junk = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("sevref", "data", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=junk)
    (copy / "data" / "tests").mkdir()
    (copy / "data" / "tests" / "marker.json").write_text(json.dumps({"copy": str(copy)}))
    return copy


def packaged(checkout):
    files = [p for d in ("data", "notebooks") for p in (checkout / d).rglob("*") if p.is_file()]
    return sorted(str(p.relative_to(checkout)) for p in files)


def check(found, checkout, package, folder):
    assert Path(found["package"]) == package / "__init__.py"
    assert Path(found["data"]) == folder / "data"
    assert Path(found["notebooks"]) == folder / "notebooks"
    assert Path(found["marker"]) == folder / "data" / "tests" / "marker.json"
    assert found["read"] == {"copy": str(checkout)}
    assert found["files"] == packaged(checkout)
    assert "data/amd_roots.json" in found["files"]
    assert "no/such.json" in found["error"]
    assert str(folder / "data") in found["error"]


def test_checkout(checkout, tmp_path):
    check(run(PROBE, tmp_path, path=[checkout]), checkout, checkout / "sevref", checkout)


def test_editable_install(checkout, tmp_path, monkeypatch):
    from hatchling.build import build_editable

    monkeypatch.chdir(checkout)
    with contextlib.redirect_stdout(io.StringIO()):
        wheel = build_editable(str(tmp_path))
    site = tmp_path / "site"
    zipfile.ZipFile(tmp_path / wheel).extractall(site)
    check(run(PROBE, tmp_path, sites=[site]), checkout, checkout / "sevref", checkout)


def test_wheel(checkout, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout]
    subprocess.run([*pip, *build], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("sevref-*.whl")
    site = tmp_path / "site"
    install = ["install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([*pip, *install], check=True, stdin=subprocess.DEVNULL)
    (site / "data").mkdir()  # of some other package: must not be taken for ours
    check(run(PROBE, tmp_path, sites=[site]), checkout, site / "sevref", site / "sevref" / "_share")
    assert (site / "sevref" / "py.typed").is_file()
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "data/", "notebooks/"))]


def test_without_its_folders(checkout, tmp_path):
    shutil.copytree(checkout / "sevref", tmp_path / "sevref")
    code = """
import json
from sevref import resources
try:
    resources.notebooks_path()
except FileNotFoundError as e:
    print(json.dumps(str(e)))
"""
    error = run(code, tmp_path, path=[tmp_path])
    assert "'notebooks'" in error
    assert str(tmp_path / "sevref" / "_share") in error
    assert str(tmp_path / "pyproject.toml") in error


def test_import_needs_cryptography_only(tmp_path):
    code = "import json, sevref; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(run(code, tmp_path, path=[ROOT]))
    assert "sevref" in loaded
    allowed = {"sevref", "cryptography", "cffi", "_cffi_backend"}
    assert loaded - {*sys.stdlib_module_names, "__main__"} <= allowed
