"""Who stops what: the computed matrix against the sheet's table, row by row."""

import pytest

from sevref.attacks.grid import COLUMNS, ROWS, matrix

WORKS, STOPPED = "–", "✓"
BY_CONSTANTS = "Naples (7251) –; Naples (7401P) –; Rome, Milan ✓; Genoa, Turin ✓"
#: literal: SEV, SEV-ES, SNP, SNP + ciphertext hiding + page moves refused by policy
TABLE = {
    "E3 plain reads": (STOPPED, STOPPED, STOPPED, STOPPED),
    "E4 corruption by host writes": (WORKS, WORKS, STOPPED, STOPPED),
    "E4 of saved registers": (WORKS, STOPPED, STOPPED, STOPPED),
    "E5 to E9 tweak attacks": (BY_CONSTANTS, BY_CONSTANTS, STOPPED, STOPPED),
    "E12 replay": (WORKS, WORKS, STOPPED, STOPPED),
    "E12 of saved registers": (WORKS, STOPPED, STOPPED, STOPPED),
    "E13 remapping": (WORKS, WORKS, STOPPED, STOPPED),
    "E15 ciphertext side channel": (WORKS, WORKS, WORKS, STOPPED),
    "E15 of saved registers": (WORKS, WORKS, WORKS, STOPPED),
    "E15 of saved registers, protected": (WORKS, WORKS, STOPPED, STOPPED),
    "E16 firmware oracle": (WORKS, WORKS, WORKS, STOPPED),
    "E17 static alias": (WORKS, WORKS, WORKS, WORKS),
    "E17 static alias, boot check": (STOPPED, STOPPED, STOPPED, STOPPED),
    "E17 switched alias, bus reader": (WORKS, WORKS, WORKS, WORKS),
    "E18 wrong ASID": (WORKS, WORKS, STOPPED, STOPPED),
    "E20 launch permutation": (WORKS, WORKS, STOPPED, STOPPED),
}


def test_the_table_has_every_row() -> None:
    assert list(TABLE) == list(ROWS)
    assert [column.snp for column in COLUMNS] == [False, False, True, True]


@pytest.mark.parametrize("row", TABLE)
def test_row(row: str) -> None:
    line = matrix([row]).line(row)
    assert tuple(line[name] for name in ("SEV", "SEV-ES", "SNP", "SNP + hiding")) == TABLE[row]


def test_processors_without_snp_have_no_cell() -> None:
    found = matrix(["E18 wrong ASID"])
    assert found.works("E18 wrong ASID", "Naples (7251)", "SNP") is None
    assert found.works("E18 wrong ASID", "Rome, Milan", "SNP") is False
