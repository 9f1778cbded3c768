"""Run all notebooks with the recorder and store what their cells exercise, for the reading site.

    .venv/bin/python tests/notebooks/record.py

Needed after every change of a code cell; ``test_coverage.py`` says so. Writes ``data/site/coverage.json``.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sevref.show.coverage import Seen, as_json, record_cells

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "data" / "site" / "coverage.json"


def recorded() -> dict[str, list[Seen]]:
    """What each cell of each notebook exercises; every notebook is run in a process of its own."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=fresh, max_tasks_per_child=1) as pool:
        return dict(zip((path.stem for path in paths), pool.map(record_cells, paths), strict=True))


if __name__ == "__main__":
    FILE.write_text(as_json(recorded()), encoding="utf-8")
