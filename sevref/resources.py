"""Where the data files and the notebooks are: in a checkout, an editable install and a wheel.

A wheel carries both folders inside the package, as ``sevref/_share/data`` and ``sevref/_share/notebooks``.
A checkout has them beside the package; an editable install points into a checkout.
"""

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    shared = _PACKAGE / "_share"
    if shared.is_dir():
        folder = shared / name
    elif (_PACKAGE.parent / "pyproject.toml").is_file():  # not just any `data` in site-packages
        folder = _PACKAGE.parent / name
    else:
        raise FileNotFoundError(
            f"sevref's {name!r} folder: neither {shared} (wheel) nor {_PACKAGE.parent / 'pyproject.toml'} "
            f"(checkout) exists"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"sevref's {name!r} folder: {folder} does not exist")
    return folder


def data_path(*parts: str) -> Path:
    """The path of a file or folder under ``data/``; FileNotFoundError if there is none."""
    path = _folder("data").joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(f"sevref's data {'/'.join(parts)!r}: {path} does not exist")
    return path


def notebooks_path() -> Path:
    """The folder with the walkthrough's notebooks; FileNotFoundError if there is none."""
    return _folder("notebooks")


def read_json(name: str) -> Any:
    """The content of the JSON file ``data/NAME``; FileNotFoundError if there is none."""
    return json.loads(data_path(name).read_text(encoding="utf-8"))
