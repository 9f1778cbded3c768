"""``sevref lab``: what is copied, what is kept, what is started, and that the server answers."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from sevref import resources
from sevref.cli import lab
from support import ROOT

STARTED = object()


def notebook(text):
    """A notebook whose output a reader sees only when it is trusted."""
    output = nbformat.v4.new_output("display_data", data={"text/html": f"<b>{text}</b>"})
    cell = nbformat.v4.new_code_cell(f"# {text}", id="one", outputs=[output], execution_count=1)
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


@pytest.fixture(autouse=True)
def own_jupyter(tmp_path, monkeypatch):
    """Jupyter's own folders, signatures included, are the test's."""
    for name in "DATA", "CONFIG", "RUNTIME":
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / "jupyter" / name.lower()))


@pytest.fixture
def source(tmp_path, monkeypatch):
    folder = tmp_path / "source"
    (folder / "pictures").mkdir(parents=True)
    (folder / "00-start-here.ipynb").write_text(notebook("start"))
    (folder / "01 second.ipynb").write_text(notebook("second"))
    (folder / "pictures" / "map.svg").write_text("<svg/>")
    (folder / ".gitkeep").touch()
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "x.ipynb").touch()
    monkeypatch.setattr(resources, "notebooks_path", lambda: folder)
    return folder


@pytest.fixture
def started(monkeypatch):
    """What would replace the process."""
    calls = []
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")  # what is set for the new process does not outlive the test
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    monkeypatch.setattr(lab, "run", lambda args, run=lab.run: run(args) or 0)
    return calls


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."
    }


def trusted(path):
    notary = NotebookNotary()
    try:
        return notary.check_signature(nbformat.read(path, as_version=4))
    finally:
        notary.store.close()


def test_first_copy(cli, source, started, tmp_path):
    folder = tmp_path / "new" / "copies"
    done = cli("lab", folder)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{folder}: 3 new\n"
    assert files(folder) == {
        "00-start-here.ipynb": notebook("start"),
        "01 second.ipynb": notebook("second"),
        "pictures/map.svg": "<svg/>",
    }
    assert trusted(folder / "00-start-here.ipynb")
    assert trusted(folder / "01 second.ipynb")
    (folder / "other.ipynb").write_text(notebook("not ours"))
    assert not trusted(folder / "other.ipynb")


def test_default_folder(cli, source, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("lab").out == f"{tmp_path}/sevref-notebooks: 3 new\n"


def test_second_copy(cli, source, started, tmp_path):
    """A changed copy is kept and not trusted, an old one is updated, a deleted one comes back."""
    folder = tmp_path / "copies"
    cli("lab", folder)
    assert cli("lab", folder).out == f"{folder}: 3 up to date\n"
    (folder / "00-start-here.ipynb").write_text(notebook("mine"))
    (source / "00-start-here.ipynb").write_text(notebook("start, version 2"))
    (source / "01 second.ipynb").write_text(notebook("second, version 2"))
    (source / "02-third.ipynb").write_text(notebook("third"))
    (folder / "pictures" / "map.svg").unlink()
    done = cli("lab", folder)
    assert done.code == 0
    assert done.out == (
        f"{folder}: 2 new, 1 updated, 1 kept\n"
        "kept 00-start-here.ipynb: it is not what was copied, so it is left alone; "
        f"the present version is {source}/00-start-here.ipynb\n"
    )
    assert files(folder) == {
        "00-start-here.ipynb": notebook("mine"),
        "01 second.ipynb": notebook("second, version 2"),
        "02-third.ipynb": notebook("third"),
        "pictures/map.svg": "<svg/>",
    }
    assert not trusted(folder / "00-start-here.ipynb")
    assert trusted(folder / "01 second.ipynb")


def test_a_change_undone_is_no_change(cli, source, started, tmp_path):
    folder = tmp_path / "copies"
    cli("lab", folder)
    (source / "00-start-here.ipynb").write_text(notebook("start, version 2"))
    (folder / "00-start-here.ipynb").write_text(notebook("mine"))
    assert "1 kept" in cli("lab", folder).out
    (folder / "00-start-here.ipynb").write_text(notebook("start"))
    assert cli("lab", folder).out == f"{folder}: 1 updated, 2 up to date\n"
    assert files(folder)["00-start-here.ipynb"] == notebook("start, version 2")


@pytest.mark.parametrize("manifest", [None, "", "not json", "[]", '{"00-start-here.ipynb": 7}', "\xff"])
def test_a_file_that_was_there_before_is_kept(cli, source, started, tmp_path, manifest):
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "00-start-here.ipynb").write_text("my own")
    if manifest is not None:
        (folder / lab.MANIFEST).write_text(manifest, encoding="latin-1")
    assert cli("lab", folder).out.startswith(f"{folder}: 2 new, 1 kept\n")
    assert files(folder)["00-start-here.ipynb"] == "my own"


def test_the_manifest(cli, source, started, tmp_path):
    folder = tmp_path / "copies"
    cli("lab", folder)
    digest = hashlib.sha256(notebook("start").encode()).hexdigest()
    assert json.loads((folder / ".sevref-copied.json").read_text())["00-start-here.ipynb"] == digest


def test_the_notebooks_own_folder_is_left_alone(cli, source, started):
    before = files(source)
    assert cli("lab", source).out == f"{source}: 3 up to date\n"
    assert files(source) == before
    assert not (source / lab.MANIFEST).exists()


# ---------------------------------------------------------------------------------------------- what is started


def test_what_is_started(cli, source, started, tmp_path, monkeypatch):
    folder = tmp_path / "copies"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    plain = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    plain.append("--LabApp.default_url=/lab/tree/00-start-here.ipynb")
    cli("lab", folder)
    assert started.pop() == (sys.executable, plain)
    cli("lab", folder, "--port", "9000", "--no-browser")
    options = ["--ServerApp.port=9000", "--ServerApp.port_retries=0", "--no-browser"]
    assert started.pop() == (sys.executable, plain + options)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    cli("lab", folder)
    assert started.pop() == (sys.executable, [*plain, "--allow-root"])


def test_jupyterlab_is_quiet_unless_its_reader_wants_news(cli, source, started, tmp_path, monkeypatch):
    cli("lab", tmp_path / "copies")
    (folder,) = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    (file,) = Path(folder, "labconfig").iterdir()
    defaults = json.loads(file.read_text())
    assert file.name == "default_setting_overrides.json"  # the name that JupyterLab looks for
    assert defaults == {"@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"}}
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/own")
    cli("lab", tmp_path / "copies")
    assert os.environ["JUPYTER_CONFIG_PATH"] == f"/own{os.pathsep}{folder}"


def test_the_first_notebook_is_opened(cli, source, started, tmp_path):
    (source / "00-start-here.ipynb").unlink()
    cli("lab", tmp_path / "copies")
    assert "--LabApp.default_url=/lab/tree/01%20second.ipynb" in started.pop()[1]


def test_a_relative_folder_is_absolute_for_the_server(cli, source, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("lab", "a b")
    assert f"--ServerApp.root_dir={tmp_path}/a b" in started.pop()[1]


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", ""])
def test_ports(refused, source, started, port):
    assert "argument --port" in refused("lab", "--port", port)
    assert not started


def test_a_folder_that_is_a_file(refused, source, started, tmp_path):
    (tmp_path / "file").write_text("mine")
    reason = refused("lab", tmp_path / "file")
    assert reason == f"sevref: folder {tmp_path}/file: expected a folder or a new name, found a file"
    assert "file/below" in refused("lab", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"
    assert not started


def test_a_folder_in_the_place_of_a_notebook(refused, source, started, tmp_path):
    (tmp_path / "copies" / "00-start-here.ipynb").mkdir(parents=True)
    assert "00-start-here.ipynb: Is a directory" in refused("lab", tmp_path / "copies")
    assert files(tmp_path / "copies") == {}


def test_a_folder_that_cannot_be_made(refused, source, started):
    refused("lab", "/proc/sevref-notebooks")
    assert not started


@pytest.mark.parametrize("module", ["jupyterlab", "matplotlib"])
def test_without_the_extra(refused, source, started, tmp_path, monkeypatch, module):
    find = lab.importlib.util.find_spec
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None if name == module else find(name))
    command = f"{sys.executable} -m pip install"
    reason = refused("lab", tmp_path / "copies")
    assert reason == f'sevref: JupyterLab: expected the lab extra ({command} "sevref[lab]"), found no module {module}'
    (source.parent / "pyproject.toml").touch()
    assert f'{command} -e "{source.parent}[lab]"' in refused("lab", tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
    assert not started


def test_without_notebooks(refused, started, tmp_path, monkeypatch):
    def gone():
        raise FileNotFoundError("sevref's 'notebooks' folder: /x does not exist")

    monkeypatch.setattr(resources, "notebooks_path", gone)
    assert refused("lab", tmp_path / "copies").endswith("sevref's 'notebooks' folder: /x does not exist")


# ---------------------------------------------------------------------------------------------- the real thing


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def serve(command, folder, env):
    """Start the command, wait for its server, return (notebooks it lists, text of the start page)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command, "lab", folder, "--port", str(port), "--no-browser"],
        env=env | {"JUPYTER_TOKEN": "t0"},
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for _ in range(300):
            assert process.poll() is None, process.stdout.read()
            try:
                listing = json.loads(get(f"http://127.0.0.1:{port}/api/contents?token=t0"))
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        else:
            pytest.fail("no answer in a minute")
        page = get(f"http://127.0.0.1:{port}/lab/tree/00-start-here.ipynb?token=t0").decode()
        first = json.loads(get(f"http://127.0.0.1:{port}/api/contents/00-start-here.ipynb?token=t0"))
        return sorted(entry["name"] for entry in listing["content"]), page, first["content"]
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def environment(tmp_path, **more):
    """Without a shell's venv: nothing of it on PATH."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
    return keep | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | more


@pytest.mark.slow
def test_the_server_answers(source, tmp_path):
    code = (
        "import sys; from pathlib import Path; from sevref import resources; from sevref.cli import main\n"
        f"resources.notebooks_path = lambda: Path({str(source)!r})\n"
        "sys.exit(main())"
    )
    folder = tmp_path / "copies"
    names, page, first = serve([sys.executable, "-c", code], folder, environment(tmp_path))
    assert names == ["00-start-here.ipynb", "01 second.ipynb", "pictures"]
    assert "JupyterLab" in page
    assert all(cell["metadata"].get("trusted") for cell in first["cells"])


@pytest.mark.slow
def test_from_a_wheel(tmp_path, monkeypatch):
    """The installed package brings the notebooks along."""
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    wheel = build_wheel(str(tmp_path))
    site = tmp_path / "site"
    zipfile.ZipFile(tmp_path / wheel).extractall(site)
    env = environment(tmp_path, PYTHONPATH=str(site))
    names, page, _ = serve([sys.executable, "-m", "sevref"], tmp_path / "copies", env)
    shipped = sorted(p.name for p in Path(ROOT / "notebooks").iterdir() if p.name[0] != ".")
    assert names == shipped
    assert "00-start-here.ipynb" in names
    assert "JupyterLab" in page
