"""Execute notebooks from top to bottom and store them with their outputs, in the one form that the repository keeps.

    .venv/bin/python tests/notebooks/execute.py [NAME...]

Without names all of them: needed after every change of what ``sevref.show`` draws, because nbval compares outputs.
Nothing of the machine is stored: cell ids, execution counts and metadata are the same everywhere, and the random ids of
widgets are dropped (a widget is shown again, as plain HTML, by the cell beside it).
"""

import json
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"
OUTPUT_LIMIT = 200_000


def normalise(notebook):
    """Everything that depends on the run but not on the code, made the same."""
    count = 0
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if output.output_type == "error":
                raise SystemExit(f"cell {number} ends with {output.ename}: {output.evalue}")
            if "execution_count" in output:
                output.execution_count = count
            output.get("data", {}).pop(WIDGET, None)
            size = len(json.dumps(output))
            if size > OUTPUT_LIMIT:
                raise SystemExit(f"cell {number}: an output of {size} bytes, more than {OUTPUT_LIMIT}")
    nbformat.validate(notebook)
    return notebook


def store(notebook, path):
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def main(names):
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names and path.name not in names:
            continue
        start = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            store_widget_state=False,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute()
        store(normalise(notebook), path)
        print(f"{path.name}: {time.monotonic() - start:.1f} s, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
