"""Who stops what: the attacks of the catalogue against engines and protections, computed run by run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sevref.attacks.lab import Attacker, Outcome, serve
from sevref.attacks.victim import PROTECTIONS


@dataclass(frozen=True)
class Column:
    """Processors with one memory engine. ``snp``: whether they have SEV-SNP."""

    name: str
    generation: str
    engine: str
    snp: bool


#: Rome and Milan, Genoa and Turin share an engine (MODEL), so one of each is run
COLUMNS = (
    Column("Naples (7251)", "naples", "xe-zen1", False),
    Column("Naples (7401P)", "naples", "xex-zen1", False),
    Column("Rome, Milan", "milan", "xex-boot-random", True),
    Column("Genoa, Turin", "genoa", "xts-boot-random", True),
)
#: rows of the matrix: attacks that make them up. A row is stopped if none of them works.
ROWS: dict[str, tuple[str, ...]] = {
    "E3 plain reads": ("plain_reads",),
    "E4 corruption by host writes": ("fault",),
    "E4 of saved registers": ("registers",),
    "E5 to E9 tweak attacks": ("recover_constants", "move_blocks", "markers", "known_text"),
    "E12 replay": ("replay",),
    "E12 of saved registers": ("registers_replay",),
    "E13 remapping": ("remap",),
    "E15 ciphertext side channel": ("side_channel",),
    "E15 of saved registers": ("registers_dictionary",),
    "E15 of saved registers, protected": ("registers_dictionary",),
    "E16 firmware oracle": ("firmware_oracle",),
    "E17 static alias": ("alias",),
    "E17 static alias, boot check": ("alias",),
    "E17 switched alias, bus reader": ("interposer",),
    "E18 wrong ASID": ("crossline",),
    "E20 launch permutation": ("permute",),
}
#: rows that are run with a defence that is off otherwise
DEFENCES: dict[str, dict[str, bool]] = {
    "E15 of saved registers, protected": {"register_protection": True},
    "E17 static alias, boot check": {"alias_check": True},
}
Cell = tuple[str, str, str]  # row, column, protection


class Matrix:
    """``outcomes``: (row, column, protection) -> one outcome per attack of the row."""

    def __init__(self, outcomes: dict[Cell, list[Outcome]]) -> None:
        self.outcomes = outcomes

    def works(self, row: str, column: str, protection: str) -> bool | None:
        """Whether any attack of the row works there; None where the processor lacks the protection."""
        found = self.outcomes.get((row, column, protection))
        return None if found is None else any(outcome.works for outcome in found)

    def line(self, row: str) -> dict[str, str]:
        """One row for a table: for each protection a mark, or where the processors differ a mark for each."""
        cells = {"attack": row}
        for protection in PROTECTIONS:
            marks = {c.name: self.works(row, c.name, protection) for c in COLUMNS}
            known = {name: works for name, works in marks.items() if works is not None}
            if len(set(known.values())) == 1:
                cells[protection] = mark(next(iter(known.values())))
            else:
                cells[protection] = "; ".join(f"{name} {mark(works)}" for name, works in known.items())
        return cells

    def lines(self) -> list[dict[str, str]]:
        """The whole table."""
        return [self.line(row) for row in dict.fromkeys(row for row, _, _ in self.outcomes)]


def mark(works: bool) -> str:
    """The attack works: "–", nobody stops it. Otherwise "✓"."""
    return "–" if works else "✓"


def matrix(
    rows: Iterable[str] = tuple(ROWS),
    *,
    seed: bytes = b"attack lab",
    progress: Callable[[str], object] | None = None,
) -> Matrix:
    """Run every attack of ``rows`` in every column under every protection that the processors have.

    One process for each attack of each row; a machine of its own for each cell."""
    outcomes: dict[Cell, list[Outcome]] = {}
    for row in rows:
        if progress:
            progress(row)
        for name in ROWS[row]:
            with Attacker(name) as attacker:
                for column in COLUMNS:
                    for protection in PROTECTIONS if column.snp else PROTECTIONS[:2]:
                        defences = DEFENCES.get(row, {})
                        server = serve(attacker.attack, column.generation, protection, column.engine, seed, **defences)
                        outcomes.setdefault((row, column.name, protection), []).append(attacker.run(server))
    return Matrix(outcomes)
