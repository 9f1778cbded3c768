"""The steps of a launch digest as tables, and the panel in which a reader changes a guest.

Which steps move is stated here from the sheet's recipes: what stands before the changed piece keeps its digest.
"""

import pytest

from sevref.boot import Guest, Image, build_firmware, predict
from sevref.boot.explain import explain, read_digest
from sevref.show.boot import LINE, digest_explorer, explanation_table, steps_table
from show.page import read

SNP = ["firmware", "section SEC_MEM", "section SEC_MEM", "section SECRETS", "section CPUID", "section CAA",
       "section KERNEL_HASHES", "section SEC_MEM", "vmsa 0", "vmsa 1", "vmsa 2", "vmsa 3"]  # fmt: skip


@pytest.fixture(scope="module")
def explorer():
    return digest_explorer()


def moved(panel, **values):
    """(steps that another thing enters, steps whose digest is another one), by their number."""
    panel.reset()
    for name, value in values.items():
        panel.set(name, value)
    lines = panel.value_text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("-----")) + 1
    rows = lines[start:]
    other = [i for i, row in enumerate(rows) if "✗ other" in row]
    differs = [i for i, row in enumerate(rows) if "✗ differs" in row]
    assert panel.value_text.startswith("✓ the predicted guest" if not differs else "✗ another guest")
    assert "".join(rows).count("differs from here on") == bool(differs)
    return other, differs


def test_nothing_moves_by_default(explorer):
    assert moved(explorer) == ([], [])
    text = explorer.value_text
    assert [name for name in dict.fromkeys(SNP) if f"\n{name} " in text] == list(dict.fromkeys(SNP))
    assert "SEV-SNP; vCPUs: 4" in explorer.static().text()


@pytest.mark.parametrize(
    "values, other, first",
    [
        ({"firmware": True}, [0], 0),
        ({"hashes": False}, [6], 6),
        ({"line": LINE + " "}, [6], 6),
        ({"line": LINE + "\n"}, [6], 6),
        ({"line": ""}, [6], 6),
        ({"cpu": "EPYC-Genoa"}, [8, 9, 10, 11], 8),
        ({"fpu": "legacy"}, [8, 9, 10, 11], 8),
        ({"features": 0x21}, [8, 9, 10, 11], 8),
        ({"vmm": "gce"}, [1, 2, 7, 8, 9, 10, 11], 1),  # memory to validate is UNMEASURED there
    ],
)
def test_what_moves(explorer, values, other, first):
    assert moved(explorer, **values) == (other, list(range(first, 12)))


def test_vcpus_and_modes(explorer):
    """Fewer vCPUs move nothing that is left, but the digest is another one; more add steps."""
    explorer.reset()
    explorer.set("vcpus", 2)
    assert explorer.value_text.startswith("✗ another guest")
    assert "✗" not in explorer.value_text.split("\n", 1)[1]
    assert moved(explorer, vcpus=5) == ([11], [11])  # rows of equal vCPUs are not repeated: 0, 1, 2 and 4
    explorer.reset()
    explorer.set("mode", "sev")
    assert "vmsa" not in explorer.value_text and "firmware " in explorer.value_text
    explorer.set("mode", "seves")
    explorer.set("vmm", "gce")  # counts under SEV-SNP only
    assert "vmsa 0" in explorer.value_text


def test_it_is_a_page(explorer):
    explorer.reset()
    page = read(explorer.value_html)
    assert "the predicted guest" in page.text()


def test_runs_of_vcpus_are_shortened():
    guest = Guest(Image(build_firmware()), mode="seves", vcpus=300)
    assert [row["step"] for row in steps_table(guest).rows] == ["firmware", "vmsa 0", "vmsa 1", "vmsa 2", "vmsa 299"]
    assert "302 steps" not in steps_table(guest).title and "301 steps" in steps_table(guest).title


def test_explanations():
    guest = Guest(Image(build_firmware()), mode="seves", vcpus=3)
    digest = predict(guest).digest
    assert "✓ the value is the predicted one" in explanation_table(explain(guest, read_digest(digest.hex(), 32))).text()
    other = predict(guest._replace(vcpus=9)).digest
    text = explanation_table(explain(guest, read_digest(other.hex(), 32))).text()
    assert "1 of them gives the observed value" in text and "vCPUs: 9" in text and "step 4: vmsa 3 only there" in text
    nothing = explanation_table(explain(guest, read_digest("00" * 32, 32))).text()
    assert nothing.startswith("✗") and "none of them gives" in nothing
