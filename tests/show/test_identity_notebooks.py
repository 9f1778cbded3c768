"""Where the notebooks' links lead, and what a reader of the first ones may change."""

import json
import re
from pathlib import Path

import pytest

import sevref
from sevref import show
from support import ROOT, vectors

NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def cells(name: str, kind: str) -> list[str]:
    document = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_notebooks_and_modules_that_exist(name: str):
    text = "\n".join(cells(name, "markdown"))
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert linked
    for target, _, heading in (link.partition("#") for link in linked):
        target = target or name
        assert (NOTEBOOKS / target).is_file(), target
        assert not heading or f"## {heading}" in "\n".join(cells(target, "markdown")).splitlines(), heading
    modules = set(re.findall(r"`((?:sevref|data)/[a-z_/]+(?:\.[a-z]+)?)`", text))
    assert modules and all((ROOT / path).exists() for path in modules)


def test_the_map_names_every_notebook():
    found = {path.name for path in NOTEBOOKS.glob("*.ipynb")} - {NAMES[0]}
    assert found <= set(re.findall(r"\]\(([^)]+)\)", "\n".join(cells(NAMES[0], "markdown"))))


def bring(path: str) -> tuple[show.Showable, dict[str, object]]:
    """What the cell "bring your own chain" of notebook 01 shows for ``path``."""
    (source,) = [cell for cell in cells(NAMES[1], "code") if cell.startswith("MY_CHAIN = None")]
    names: dict[str, object] = {"sevref": sevref, "show": show, "chain": None, "amd": None}
    exec(source.replace("MY_CHAIN = None", f"MY_CHAIN = {path!r}", 1), names)
    shown = names["shown"]
    assert isinstance(shown, show.Showable)
    return shown, names


@pytest.mark.parametrize("full", [True, False], ids=["export --full", "export"])
def test_bring_your_own_chain_takes_a_real_export(tmp_path: Path, full: bool):
    folder = vectors("certs", "naples")
    parts = ["pdh", "pek", "oca", "cek", *(["ask", "ark"] if full else [])]
    data = b"".join((folder / f"{part}.cert").read_bytes() for part in parts)
    assert len(data) == (10000 if full else 8336)
    file = tmp_path / "chain.cert"
    file.write_bytes(data)
    shown, names = bring(str(file))
    assert names["mine"].valid and (names["mine"].root, names["mine"].generation) == ("amd", "naples")  # type: ignore[attr-defined]
    assert "✓ valid · root amd · naples" in str(shown)
    file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    shown, names = bring(str(file))
    assert not names["mine"].valid and "PDH" in {f.subject for f in names["mine"].failures}  # type: ignore[attr-defined]


def test_bring_your_own_chain_says_what_is_wrong_with_a_file(tmp_path: Path):
    file = tmp_path / "letter.txt"
    file.write_bytes(b"\x00" * 77)
    shown, names = bring(str(file))
    assert "mine" not in names and "77 bytes" in str(shown) and "letter.txt" in str(shown)
    shown, _ = bring(str(tmp_path / "nothing"))
    assert "no such file" in str(shown)
