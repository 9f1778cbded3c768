"""The form in which notebooks are stored: executed once from top to bottom, small, the same everywhere."""

import json
import re

import nbformat
import pytest

from support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT = 200_000  # bytes of one output
LINES = 25  # of one cell


def test_there_are_notebooks():
    assert NOTEBOOKS and all(re.fullmatch(r"\d\d-[a-z-]+\.ipynb", path.name) for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [cell["id"] for cell in notebook.cells] == [f"cell-{i:02d}" for i in range(1, len(notebook.cells) + 1)]
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)
    for cell in code:
        assert cell.source.count("\n") < LINES, cell["id"]
        assert "interact" not in cell.source and "Output(" not in cell.source
        assert "import random" not in cell.source and "time.time" not in cell.source
        for output in cell.outputs:
            assert output.output_type != "error"
            assert len(json.dumps(output)) <= LIMIT, cell["id"]
            html = output.get("data", {}).get("text/html", "")
            assert "<script" not in html and "<style" not in html
    assert "model_id" not in text and "0x7f" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_ignored_output_has_a_reason_beside_it(path):
    notebook = nbformat.read(path, as_version=4)
    for i, cell in enumerate(notebook.cells):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            around = cell.source + notebook.cells[i - 1].source
            assert re.search(r"id|random", around), cell["id"]
