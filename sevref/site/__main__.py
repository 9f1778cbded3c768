"""``python -m sevref.site [FOLDER]``: build the reading site."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sevref.site import build
from sevref.status import InputError


def main() -> int:
    """0 and the page to open, or 2 if the site cannot be built there."""
    parser = argparse.ArgumentParser(
        prog="python -m sevref.site", description="Build the reading site as static pages."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/site"), help="default: %(default)s")
    target = parser.parse_args().folder
    try:
        build(target)
    except InputError as error:
        print(f"sevref.site: {error}", file=sys.stderr)
        return 2
    print(target / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
