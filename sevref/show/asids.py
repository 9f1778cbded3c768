"""What an ASID may be used for, found out as a hypervisor can: by asking, and by trying to run.

The firmware keeps four states for each ASID on each core complex and tells nobody. Here they are computed from
statuses: the same run is repeated on a fresh machine up to a moment, and there a question is put that may well disturb
what comes after. ``life`` is the run of the notebook about running guests; ``life_panel`` steps through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sevref.driver import Platform
from sevref.firmware import GuestState, PlatformState
from sevref.machine import Machine, VmrunFailed
from sevref.policy import Policy
from sevref.show import palette, widgets
from sevref.show.html import MONO, Html, Showable, Stack, element, escape, statement
from sevref.show.lifecycle import guest_diagram, platform_diagram
from sevref.show.matrix import Reply, ask
from sevref.show.table import Table, code, table
from sevref.show.widgets import Panel, panel
from sevref.status import SevError, Status

SEED = b"sevref.show.asids"
CCXS, CORES_PER_CCX = 2, 2
ASIDS = (200, 201)

#: what a question to the firmware, or an attempt to run, can find out about an ASID on one core complex
USES = {
    "dirty": "a WBINVD on this core complex is needed, then DF_FLUSH",
    "flushable": "WBINVD has been executed everywhere, DF_FLUSH is needed",
    "clean": "free for any guest",
    "held": "nobody runs with it here, but it belongs to a guest elsewhere",
    "pending": "belongs to a guest that cannot run yet",
    "active": "a guest can run with it here",
}
_COLOURS = {"dirty": palette.BAD, "flushable": palette.BAD, "pending": palette.PENDING, "active": palette.OK}


class Bench:
    """A machine with two core complexes of two cores, its platform, and its guests by name."""

    def __init__(self) -> None:
        self.machine: Machine = _machine()
        self.machine.flash[:] = _flash()
        self.platform: Platform = Platform(self.machine)
        self.guests: dict[str, int] = {}

    def cores(self, ccx: int) -> list[int]:
        """The cores of a core complex."""
        return list(range(ccx * CORES_PER_CCX, (ccx + 1) * CORES_PER_CCX))

    def runs(self, asid: int, ccx: int) -> bool:
        """Whether a VMRUN with the ASID works on the core complex."""
        try:
            self.machine.vcpu(asid, core=self.cores(ccx)[0])
        except VmrunFailed:
            return False
        return True

    def start(self, name: str) -> None:
        """LAUNCH_START of a guest without SEV-ES."""
        self.guests[name] = self.platform.launch_start(Policy.make("NODBG"))

    def finish(self, handle: int) -> None:
        """LAUNCH_MEASURE and LAUNCH_FINISH."""
        self.platform.launch_measure(handle)
        self.platform.launch_finish(handle)

    def takes(self, asid: int) -> Status:
        """The answer to ACTIVATE of a guest made for this question."""
        return ask(lambda: self.platform.activate(self.platform.launch_start(0), asid)).status

    def flush(self, *ccxs: int) -> None:
        """WBINVD on core complexes, then DF_FLUSH."""
        for ccx in ccxs:
            self.machine.wbinvd(self.cores(ccx))
        self.platform.df_flush()


@dataclass(frozen=True)
class Step:
    """One step of the run: what is done, its answer (None: no command), and what everybody may then know."""

    label: str
    answer: Reply | None
    platform: PlatformState
    guests: dict[str, GuestState]
    uses: dict[tuple[int, int], str]  #: (ASID, core complex) -> one of ``USES``


Action = Callable[[Bench], Any]
#: (label, action, whether it is a command)
LIFE: tuple[tuple[str, Action, bool], ...] = (
    ("INIT", lambda b: b.platform.init(), True),
    ("DF_FLUSH", lambda b: b.platform.df_flush(), True),
    ("WBINVD on CCX 0; DF_FLUSH", lambda b: b.flush(0), True),
    ("WBINVD on CCX 1; DF_FLUSH", lambda b: b.flush(1), True),
    ("LAUNCH_START of guest A", lambda b: b.start("A"), True),
    ("ACTIVATE A with ASID 200", lambda b: b.platform.activate(b.guests["A"], 200), True),
    ("LAUNCH_MEASURE of A", lambda b: b.platform.launch_measure(b.guests["A"]), True),
    ("LAUNCH_FINISH of A", lambda b: b.platform.launch_finish(b.guests["A"]), True),
    ("LAUNCH_START of guest B", lambda b: b.start("B"), True),
    ("ACTIVATE_EX B with ASID 201, on core 2", lambda b: b.platform.activate_ex(b.guests["B"], 201, [2]), True),
    ("DEACTIVATE B", lambda b: b.platform.deactivate(b.guests["B"]), True),
    ("DEACTIVATE A", lambda b: b.platform.deactivate(b.guests["A"]), True),
    ("ACTIVATE B with ASID 200", lambda b: b.platform.activate(b.guests["B"], 200), True),
    ("ACTIVATE B with ASID 201", lambda b: b.platform.activate(b.guests["B"], 201), True),
    ("WBINVD on CCX 0 and 1", lambda b: b.machine.wbinvd(), False),
    ("DF_FLUSH", lambda b: b.platform.df_flush(), True),
    ("ACTIVATE A with ASID 200", lambda b: b.platform.activate(b.guests["A"], 200), True),
)


def _at(moment: int) -> tuple[Bench, Reply | None]:
    """A fresh machine after that many steps, and the last step's answer."""
    bench, reply = Bench(), None
    for _, action, command in LIFE[:moment]:
        reply = ask(lambda action=action: action(bench))  # type: ignore[misc]
        reply = reply if command else None
    return bench, reply


def use_of(moment: int, asid: int, ccx: int) -> str:
    """One of ``USES``: what the ASID is good for on the core complex, after that many steps.

    A dirty complex is told from a clean one by doing all that is needed on the *others*. Where WBINVD has been executed
    and no DF_FLUSH has followed, the answer is for the ASID as a whole: no status tells the complexes apart."""
    if _at(moment)[0].runs(asid, ccx):
        return "active"
    first = _at(moment)[0].takes(asid)
    if first is Status.ASID_OWNED:
        return _owned(moment, asid, ccx)
    if first is not Status.DFFLUSH_REQUIRED:
        return "clean"
    if _after_flush(moment, asid) is Status.SUCCESS:
        return "flushable"
    others = [other for other in range(CCXS) if other != ccx]
    return "dirty" if _after_flush(moment, asid, *others) is Status.DFFLUSH_REQUIRED else "clean"


def _after_flush(moment: int, asid: int, *ccxs: int) -> Status:
    bench = _at(moment)[0]
    ask(lambda: bench.flush(*ccxs))  # WBINVD_REQUIRED too does its work on the complexes that are ready
    return bench.takes(asid)


def _owned(moment: int, asid: int, ccx: int) -> str:
    """Let the guest that has the ASID finish its launch: does it run here then?"""
    bench = _at(moment)[0]
    owner = next(handle for handle in bench.guests.values() if bench.platform.guest_status(handle).asid == asid)
    try:
        bench.finish(owner)
    except SevError:  # it is past its measurement, or runs already
        ask(lambda: bench.platform.launch_finish(owner))
    return "pending" if bench.runs(asid, ccx) else "held"


@lru_cache
def life() -> tuple[Step, ...]:
    """The run, with everything that can be found out after each step."""
    steps = []
    for moment in range(1, len(LIFE) + 1):
        bench, reply = _at(moment)
        state = PlatformState(bench.platform.platform_status().state)
        guests = {name: bench.platform.guest_status(handle).state for name, handle in bench.guests.items()}
        uses = {(asid, ccx): use_of(moment, asid, ccx) for asid in ASIDS for ccx in range(CCXS)}
        steps.append(Step(LIFE[moment - 1][0], reply, state, guests, uses))
    return tuple(steps)


@lru_cache
def _flash() -> bytes:
    machine = _machine()
    Platform(machine).init()
    return bytes(machine.flash)


def _machine() -> Machine:
    return Machine("milan", seed=SEED, dram_size=4 << 20, ccxs=CCXS, cores_per_ccx=CORES_PER_CCX)


# ---------------------------------------------------------------------------- to look at


def use_cell(use: str, changed: bool = False) -> Html:
    """A use in its colour, bold where it has just changed; hovering says what it means."""
    style = f"{MONO};font-size:12px;padding:1px 6px;border-radius:3px;white-space:nowrap"
    style += f";background:{palette.tint(_COLOURS.get(use, palette.NEUTRAL))}" + (";font-weight:700" if changed else "")
    return Html(element("span", escape(use), style, title=USES[use]), f"{use}{' *' if changed else ''}")


def life_table(steps: Sequence[Step] | None = None) -> Table:
    """Each step with its answer, and the use of each ASID on each core complex after it; what changed is bold."""
    rows, before = [], dict[tuple[int, int], str]()
    for number, step in enumerate(steps or life(), 1):
        answer = "" if step.answer is None else step.answer.status
        row: dict[str, Any] = {"": number, "step": step.label, "answer": answer}
        for (asid, ccx), use in step.uses.items():
            row[f"ASID {asid}, CCX {ccx}"] = use_cell(use, use != before.get((asid, ccx), use))
        rows.append(row)
        before = step.uses
    return table(rows, "What each ASID is good for, computed from answers (changes are bold)")


def uses_table() -> Table:
    """The words of ``life_table``."""
    return table([{"use": use_cell(use), "meaning": meaning} for use, meaning in USES.items()], "Uses of an ASID")


def life_panel() -> Panel:
    """Step through ``life``: the answer, the ASIDs, and both state diagrams. Controls: ``step`` and ``guest``."""
    steps = life()

    def compute(values: dict[str, Any]) -> Showable:
        number, name = values["step"], values["guest"]
        step, before = steps[number - 1], steps[max(0, number - 2)]
        reply = step.answer
        words = f"{step.label}: {reply.status.name}" if reply else step.label
        ok = None if reply is None else reply.status is Status.SUCCESS
        said = statement(ok, words, [reply.rule] if reply and reply.rule else [], f"step {number} of {len(steps)}")
        cells = [
            {"": f"CCX {ccx}"}
            | {
                code(f"ASID {asid}").text(): use_cell(
                    step.uses[asid, ccx], step.uses[asid, ccx] != before.uses[asid, ccx]
                )
                for asid in ASIDS
            }
            for ccx in range(CCXS)
        ]
        guest = step.guests.get(name, GuestState.UNINIT)
        return Stack(said, table(cells), platform_diagram(step.platform), guest_diagram(guest))

    controls = {
        "step": widgets.slider("step", 8, 1, len(steps)),
        "guest": widgets.choice("guest shown", ["A", "B"]),
    }
    return panel(controls, compute, "A life with two ASIDs", "What changed with the step is bold.")
