"""How Sphinx builds the documentation: `make docs`."""

import re
from pathlib import Path
from typing import Any

project = "User registry"
copyright = "the contributors; Apache License 2.0"
html_title = project
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_static_path: list[str] = []

extensions = ["myst_parser"]
# The anchors that headings have on GitHub, so that links work there, too.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]
nitpicky = True
# Pygments cannot read JSON that is shortened with an ellipsis.
suppress_warnings = ["misc.highlighting_failure"]

_HERE = Path(__file__).parent
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+\.md)\)")


def setup(app: Any) -> None:
    """Offer Markdown files outside this folder as downloads: MyST takes them for missing pages."""
    app.connect("source-read", _offer)


def _offer(_app: Any, page: str, source: list[str]) -> None:
    folder = (_HERE / page).parent

    def link(found: re.Match[str]) -> str:
        if (folder / found["path"]).resolve().is_relative_to(_HERE):
            return found[0]
        return f"{{download}}`{found['text']} <{found['path']}>`"

    source[0] = _LINK.sub(link, source[0])
