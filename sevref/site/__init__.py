"""The reading site: everything that people read, as static pages.

    python -m sevref.site [FOLDER]

builds it (default ``build/site``) from the executed notebooks as they are stored, the README, the parsers of the
command line, the tables of layouts, commands and statuses, the rules of every command, the words in ``data/site`` and
the docstrings. Needs the ``site`` extra. Pages load nothing from the network. Every status, command, layout and key has
an address: ``statuses.html#status-invalid-length``, ``commands/launch_start.html``, ``layouts.html#layout-session``,
``keys.html#key-pek``. The same sources give the same bytes, whatever the day, the machine and the folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from sevref import resources
from sevref.site import api, command_line, firmware, notebooks, words
from sevref.site.markdown import Pages
from sevref.status import InputError

#: where a folder's pages come from, to be sure that nothing else is overwritten
MARK = ".sevref-site"
#: what the ``site`` extra brings
MODULES = ("sphinx", "myst_nb", "furo")


def stage(folder: Path) -> None:
    """Write the sources of all pages, the configuration included, into the empty ``folder``."""
    pages = Pages()
    words.add(pages)
    firmware.add(pages)
    command_line.add(pages)
    api.add(pages)
    for name, text in pages.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    site = resources.data_path("site")
    shutil.copy(site / "conf.py", folder)
    shutil.copytree(site / "static", folder / "_static")
    (folder / "notebooks").mkdir()
    for path in sorted(resources.notebooks_path().glob("*.ipynb")):
        (folder / "notebooks" / path.name).write_text(notebooks.for_the_site(path), encoding="utf-8")


def build(folder: Path) -> None:
    """Build the site into ``folder``, replacing an older one.

    ``InputError`` without the ``site`` extra, for a folder that holds something else, and for any warning: an
    unresolved link, a page that no other names, markup that is not right.
    """
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError("Sphinx", "the site extra (pip install 'sevref[site]')", f"no module {', '.join(missing)}")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise InputError(f"folder {folder}", "a new or empty folder, or an older site", "something else")
    with tempfile.TemporaryDirectory(prefix="sevref-site-") as scratch:
        source, made = Path(scratch, "source"), Path(scratch, "site")
        source.mkdir()
        stage(source)
        _sphinx(source, made, Path(scratch, "doctrees"))
        shutil.rmtree(made / "_sources", ignore_errors=True)
        (made / ".buildinfo").unlink(missing_ok=True)
        (made / MARK).write_text("built by python -m sevref.site\n")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(made, folder)


def _sphinx(source: Path, made: Path, doctrees: Path) -> None:
    from sphinx.application import Sphinx
    from sphinx.util import console
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    console.nocolor()
    warnings = io.StringIO()
    with (
        patch.dict(os.environ, SOURCE_DATE_EPOCH="0"),  # no page carries the day of its making
        patch_docutils(str(source)),
        docutils_namespace(),
        contextlib.redirect_stderr(warnings),
    ):
        app = Sphinx(
            source,
            source,
            made,
            doctrees,
            "html",
            status=None,
            warning=warnings,
            warningiserror=True,
            freshenv=True,
            parallel=min(4, len(os.sched_getaffinity(0))),
        )
        app.build(force_all=True)
    if app.statuscode or warnings.getvalue():
        text = warnings.getvalue().replace(str(source), "").strip()
        raise InputError("pages", "no warning", f"\n{text}")
