"""``python -m sevref`` is the ``sevref`` command."""

import sys

from sevref.cli import main

if __name__ == "__main__":
    sys.exit(main())
