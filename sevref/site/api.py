"""Pages of the API: a page per module with its docstrings, and one that lists the names of the package."""

from __future__ import annotations

import importlib
import pkgutil

import sevref
from sevref.site.markdown import Pages, code, table, text, toctree

#: modules that a reader of the API does not call
LEFT_OUT = ("sevref.__main__", "sevref.cli", "sevref.site")


def modules() -> list[str]:
    """Every module of the package that has a page."""
    found = [info.name for info in pkgutil.walk_packages(sevref.__path__, "sevref.")]
    return [name for name in sorted(found) if not name.startswith(LEFT_OUT)]


def rooms() -> dict[str, list[str]]:
    """Modules by room (``sevref.certs``: its page), each room's own module first."""
    found: dict[str, list[str]] = {}
    for name in modules():
        found.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return found


def page(module: str) -> str:
    """The page that has a module, from the root of the site."""
    return f"api/{'.'.join(module.split('.')[:2])}.md"


def module_link(module: str) -> str:
    """Link to a module's documentation."""
    return f"{{py:mod}}`{module}`"


def add(pages: Pages) -> None:
    """A page per room."""
    rows = []
    for room, names in rooms().items():
        parts = [f"# {room}\n"]
        for name in names:
            module = importlib.import_module(name)
            words = text((module.__doc__ or "").strip().splitlines()[0].rstrip("."))
            rows.append((module_link(name), words))
            if len(names) > 1:
                parts.append(f"## {name}\n")
            parts += [
                "```{eval-rst}",
                f".. automodule:: {name}",
                "   :members:",
                "   :ignore-module-all:",
                "   :member-order: bysource",
                "```",
                "",
            ]
        pages[page(room)] = "\n".join(parts)
    public = [(code(f"sevref.{name}"), _home(name)) for name in sorted(sevref.__all__)]
    pages["api/index.md"] = "\n".join(
        [
            "# Python API\n",
            "`import sevref` gives the names of the first table. Sizes are in bytes, byte order is said, and every "
            "docstring names the status that each failure raises.\n",
            "## Names of the package\n",
            table(("name", "defined in"), public),
            "## Modules\n",
            table(("module", "what it holds"), rows),
            toctree(rooms(), hidden=True),
        ]
    )


def _home(name: str) -> str:
    value = getattr(sevref, name)
    home = getattr(value, "__module__", None) or ""
    return module_link(home) if home in modules() else text(value if isinstance(value, str) else type(value).__name__)
