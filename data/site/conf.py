"""Sphinx's configuration of the reading site; ``python -m sevref.site`` copies it beside the pages that it writes."""

from sevref import __version__

project = "sevref"
author = "the sevref contributors"
release = version = __version__
html_title = f"sevref {__version__}"
language = "en"
smartquotes = False  # "--json" is not a dash

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sevref.site.description",
    "sevref.site.docstrings",
    "sevref.site.menu",
    "sevref.site.terms",
]
# Annotations name classes by their bare names, and two classes may be called Guest.
suppress_warnings = ["ref.python"]

# Notebooks are shown as they are stored.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_render_markdown_format = "myst"
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": False}
autodoc_member_order = "bysource"
maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None
html_use_index = True
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "navigation_with_keys": False,  # the arrow keys scroll wide tables
    "top_of_page_buttons": [],
}
autodoc_use_type_comments = False
