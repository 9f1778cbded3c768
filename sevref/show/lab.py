"""The attack lab to look at: attacks run one by one, with who noticed, and a panel to choose them.

Every answer is that of the attack, which runs in a process of its own (``sevref.attacks``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sevref.attacks.catalogue import ATTACKS, Attack
from sevref.attacks.grid import COLUMNS, Matrix
from sevref.attacks.keylab import KEY_ATTACKS, KeyOutcome
from sevref.attacks.lab import Outcome, run
from sevref.attacks.victim import PROTECTIONS
from sevref.show import widgets
from sevref.show.html import Html, Showable, Stack, element, escape, statement
from sevref.show.table import Table, table, verdict_cell
from sevref.show.widgets import Panel, panel
from sevref.status import InputError

NOBODY = "nobody"
DEFENCES = {"alias_check": "boot firmware looks for aliases", "register_protection": "registers masked"}


def noticed_by(outcome: Outcome) -> str:
    """The party that refused: processor, AMD-SP, guest owner; "nobody" where the attack worked or saw noise."""
    if outcome.works or not outcome.refused:
        return NOBODY
    if ":" in outcome.refused or outcome.refused == "guest owner":
        return outcome.refused.split(":")[0]
    return "AMD-SP" if outcome.refused.isupper() else "processor"


@dataclass(frozen=True)
class Entry:
    """One attempt of a run: what, against what, and what came out."""

    what: str
    against: str
    outcome: Outcome
    harmless: bool = False


class Lab(Showable):
    """Runs attacks and remembers them; shows as the table "What an attacker tried"."""

    title = "What an attacker tried"

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def run(self, attack: str, generation: str = "milan", protection: str = "SEV", **how: Any) -> Showable:
        """Run one attack of the catalogue; what it is, and what came of it."""
        return self.compare(attack, (generation, protection), **how)

    def compare(self, attack: str, *where: tuple[str, str], **how: Any) -> Showable:
        """Run one attack against several (generation, protection), ``how`` as in ``attacks.run``: what it is, and what
        came of it each time."""
        rows = []
        for generation, protection in where:
            outcome = run(attack, generation, protection, **how)
            engine = how.get("engine")
            name = f" ({engine})" if isinstance(engine, str) else ""
            checked = "".join(f", {words}" for defence, words in DEFENCES.items() if how.get(defence))
            against = f"{generation.capitalize()}{name}, {protection}{checked}"
            what = f"{outcome.attack}: {ATTACKS[attack].title}"
            self.entries.append(Entry(what, against, outcome, ATTACKS[attack].harmless))
            rows.append({"against": against, "what came of it": _verdict(outcome, ATTACKS[attack])})
        return Stack(attack_card(ATTACKS[attack]), table(rows))

    def note(self, found: list[KeyOutcome]) -> Table:
        """Remember cases of the key-management attacks; their table."""
        for one in found:
            attack = KEY_ATTACKS[one.case.attack]
            what, against = f"{attack.id}: {attack.title}", f"the verifier requires {one.case.requires}"
            self.entries.append(Entry(what, against, one.outcome))
        return table([one.line() for one in found], "Key management")

    @property
    def last(self) -> Outcome:
        """The newest outcome."""
        return self.entries[-1].outcome

    def table(self) -> Table:
        """One row for each attempt."""
        rows = [
            {
                "attempt": _wide(entry.what, 26),
                "against": _wide(entry.against, 16),
                "noticed by": verdict_cell(not entry.outcome.works or entry.harmless, noticed_by(entry.outcome)),
                "what came of it": _wide(_result(entry), 18),
            }
            for entry in self.entries
        ]
        return table(rows, self.title)

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


def _wide(words: str, least: int) -> Html:
    return Html(element("div", escape(words), f"min-width:{least}ch;max-width:44ch"), words)


def _result(entry: Entry) -> str:
    outcome = entry.outcome
    if outcome.works:
        return "as expected, no harm" if entry.harmless else "it works"
    return outcome.refused or "noise, or nothing to use"


def matrix_table(found: Matrix) -> Table:
    """The matrix attack by protection; a cell lists processors where they differ."""
    rows = []
    for line in found.lines():
        cells: dict[str, Any] = {"attack": _wide(line["attack"], 20)}
        for protection in PROTECTIONS:
            mark = line[protection]
            cells[protection] = (
                verdict_cell(mark == "✓", "stopped" if mark == "✓" else "works")
                if len(mark) == 1
                else _wide(mark.replace("–", "works").replace("✓", "stopped"), 16)
            )
        rows.append(cells)
    return table(rows, "Attack by protection, computed")


def attack_panel() -> Panel:
    """Choose an attack, a processor and a protection, and run it: the attacker in a process of its own.

    Controls: ``attack`` (function name), ``processor`` (name of a column of the matrix), ``protection``."""
    controls = {
        "attack": widgets.choice("attack", [(f"{a.id}: {a.title}", name) for name, a in ATTACKS.items()], "replay"),
        "processor": widgets.choice("processor", [column.name for column in COLUMNS], "Rome, Milan"),
        "protection": widgets.choice("protection", list(PROTECTIONS), "SEV"),
    }
    return panel(controls, _attack, "The attack lab", "Each choice makes a machine with a victim, and attacks it.")


def _attack(values: dict[str, Any]) -> Showable:
    column = next(column for column in COLUMNS if column.name == values["processor"])
    if values["protection"].startswith("SNP") and not column.snp:
        raise InputError("protection", f"one that {column.name} has: SEV or SEV-ES", values["protection"])
    return Lab().run(values["attack"], column.generation, values["protection"], engine=column.engine)


def attack_card(attack: Attack) -> Showable:
    """What an attack is: who makes it, what stops it, where it was published, and what of it is model."""
    lines = [f"Attacker: {attack.attacker}.", f"Stopped by: {attack.stops}.", f"Published: {attack.published}."]
    return statement(None, f"{attack.id}: {attack.title}", [*lines, f"Here: {attack.label}."])


def _verdict(outcome: Outcome, attack: Attack) -> Html:
    if outcome.works:
        return verdict_cell(attack.harmless, "as expected" if attack.harmless else "it works: nobody stops it")
    return verdict_cell(
        not attack.harmless, f"stopped: {outcome.refused}" if outcome.refused else "noise, or nothing to use"
    )
