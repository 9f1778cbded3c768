"""Sphinx extension: the menu of all pages, which stands beside each of them, is made from titles alone.

Sphinx copies every heading and every name of the API before it drops all but the titles, once for each page; that took
a quarter of the build. The menu is the same.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


class Menu:
    """Handler of ``html-page-context``; keeps the titles of one build."""

    def __init__(self) -> None:
        self.titles: dict[str, nodes.bullet_list] = {}

    def __call__(self, app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
        """Wrap the theme's function ``toctree``: where it is asked for titles, it is given nothing else."""
        whole, env = context["toctree"], app.env
        self.titles = self.titles or {name: _titles(contents) for name, contents in env.tocs.items()}

        def toctree(**options: Any) -> str:
            if not options.get("titles_only"):
                return str(whole(**options))
            headings, env.tocs = env.tocs, self.titles
            try:
                return str(whole(**options))
            finally:
                env.tocs = headings

        context["toctree"] = toctree


def _titles(contents: nodes.bullet_list) -> nodes.bullet_list:
    """A page's table of contents without what is below its title; lists of other pages stay."""
    copy = contents.deepcopy()
    for entry in copy.children:
        if isinstance(entry, nodes.list_item) and len(entry) > 1:
            if lists := list(entry.findall(addnodes.toctree)):
                entry[1][:] = lists
            else:
                entry.pop(1)
    return copy


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("html-page-context", Menu(), priority=400)  # before the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
