"""``sevref lab``: the notebooks, copied to where they may be changed, in JupyterLab."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from sevref import resources
from sevref.cli.common import OptionError, integer, write_files
from sevref.status import InputError

#: In the folder of the copies: name -> SHA-256 of what was copied, to tell changed files from old ones.
MANIFEST = ".sevref-copied.json"
#: What the ``lab`` extra brings and the notebooks need.
MODULES = ("jupyterlab", "nbformat", "ipywidgets", "pandas", "matplotlib")

NEW, SAME, UPDATED, KEPT = "new", "up to date", "updated", "kept"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        default="sevref-notebooks",
        help="where the copies go (default: %(default)s)",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="port of the JupyterLab server (default: its own)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser, print the address")
    parser.description = (
        "Copy the notebooks into DIR, mark the copies trusted and open JupyterLab on them.\n"
        "A copy that you changed is never overwritten. Needs the `lab` extra."
    )
    parser.epilog = "example:\n  sevref lab ~/sev --port 9000 --no-browser"
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replaces this process by JupyterLab's. ``InputError`` without the ``lab`` extra or a usable folder."""
    source = resources.notebooks_path()
    _require_jupyter(source)
    folder = Path(args.folder).absolute()
    outcome = copy_notebooks(source, folder)
    print(_summary(outcome, folder, source))
    trust([folder / name for name, what in outcome.items() if what != KEPT and name.endswith(".ipynb")])
    sys.stdout.flush()
    os.environ["JUPYTER_CONFIG_PATH"] = _config_path()
    os.execv(sys.executable, _jupyter_command(folder, sorted(outcome), args))


def _jupyter_command(folder: Path, names: list[str], args: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    first = next((name for name in names if name.endswith(".ipynb")), None)
    if first is not None:
        command.append(f"--LabApp.default_url=/lab/tree/{quote(first)}")
    if args.port is not None:
        command += [f"--ServerApp.port={args.port}", "--ServerApp.port_retries=0"]
    if args.no_browser:
        command.append("--no-browser")
    if os.geteuid() == 0:  # Jupyter refuses root without it, and containers run as root
        command.append("--allow-root")
    return command


def _config_path() -> str:
    """Jupyter's search path with sevref's defaults at its end: nothing is fetched from the network, and no window asks
    whether to. A reader's own settings win."""
    given = os.environ.get("JUPYTER_CONFIG_PATH", "")
    return os.pathsep.join([*filter(None, [given]), str(resources.data_path("lab"))])


def copy_notebooks(source: Path, folder: Path) -> dict[str, str]:
    """Copy the files of ``source`` into ``folder``, all or nothing; name -> what was done.

    A file that differs from what an earlier call copied is its owner's and is kept as it is.
    """
    names = [
        path.relative_to(source).as_posix()
        for path in sorted(source.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"folder {folder}", "a folder or a new name", "a file")
    if folder.exists() and folder.samefile(source):
        return dict.fromkeys(names, SAME)
    copied = _read_manifest(folder)
    outcome: dict[str, str] = {}
    files: dict[str | os.PathLike[str], tuple[bytes, int]] = {}
    for name in names:
        data, target = (source / name).read_bytes(), folder / name
        digest = hashlib.sha256(data).hexdigest()
        found = hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else None
        if found is None:
            outcome[name] = NEW
        elif found == digest:
            outcome[name] = SAME
        elif found == copied.get(name):
            outcome[name] = UPDATED
        else:
            outcome[name] = KEPT
            continue
        copied[name] = digest
        if found != digest:
            files[target] = (data, 0o644)
    for path in {folder, *(Path(target).parent for target in files)}:
        path.mkdir(parents=True, exist_ok=True)
    write_files({**files, folder / MANIFEST: (json.dumps(copied, indent=1).encode(), 0o644)})
    return outcome


def _read_manifest(folder: Path) -> dict[str, str]:
    """What earlier calls copied; without a readable manifest nothing, so that every differing file is kept."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _summary(outcome: dict[str, str], folder: Path, source: Path) -> str:
    counts = ", ".join(
        f"{n} {what}" for what in (NEW, UPDATED, SAME, KEPT) if (n := list(outcome.values()).count(what))
    )
    lines = [f"{folder}: {counts or 'no notebooks'}"]
    lines += [
        f"kept {name}: it is not what was copied, so it is left alone; the present version is {source / name}"
        for name, what in outcome.items()
        if what == KEPT
    ]
    return "\n".join(lines)


def trust(paths: list[Path]) -> None:
    """Mark notebooks trusted, as ``jupyter trust`` does, so that JupyterLab shows their HTML outputs at once."""
    import nbformat
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    for path in paths:
        notary.sign(nbformat.read(path, as_version=4))
    notary.store.close()


def _require_jupyter(source: Path) -> None:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        checkout = (source.parent / "pyproject.toml").is_file()
        what = f'-e "{source.parent}[lab]"' if checkout else '"sevref[lab]"'
        raise InputError(
            "JupyterLab", f"the lab extra ({sys.executable} -m pip install {what})", f"no module {', '.join(missing)}"
        )


def _port(text: str) -> int:
    port = integer(text, bits=16, what="port")
    if port == 0:
        raise OptionError("port", "1 to 65535", text)
    return port
