"""ASIDs on two core complexes, as a hypervisor can find them out: against the sheet's table, written out by hand."""

from sevref.firmware import GuestState as G
from sevref.firmware import PlatformState as P
from sevref.show import asids

# sheet 10, section 6.2: after each step (answer; ASID 200 on CCX 0 and 1; ASID 201 on CCX 0 and 1)
EXPECTED = [
    ("INIT", "SUCCESS", "dirty dirty dirty dirty"),
    ("DF_FLUSH", "WBINVD_REQUIRED", "dirty dirty dirty dirty"),
    ("WBINVD on CCX 0; DF_FLUSH", "WBINVD_REQUIRED", "clean dirty clean dirty"),
    ("WBINVD on CCX 1; DF_FLUSH", "SUCCESS", "clean clean clean clean"),
    ("LAUNCH_START of guest A", "SUCCESS", "clean clean clean clean"),
    ("ACTIVATE A with ASID 200", "SUCCESS", "pending pending clean clean"),
    ("LAUNCH_MEASURE of A", "SUCCESS", "pending pending clean clean"),
    ("LAUNCH_FINISH of A", "SUCCESS", "active active clean clean"),
    ("LAUNCH_START of guest B", "SUCCESS", "active active clean clean"),
    ("ACTIVATE_EX B with ASID 201, on core 2", "SUCCESS", "active active held pending"),
    ("DEACTIVATE B", "SUCCESS", "active active clean clean"),
    ("DEACTIVATE A", "SUCCESS", "dirty dirty clean clean"),
    ("ACTIVATE B with ASID 200", "DFFLUSH_REQUIRED", "dirty dirty clean clean"),
    ("ACTIVATE B with ASID 201", "SUCCESS", "dirty dirty pending pending"),
    ("WBINVD on CCX 0 and 1", None, "flushable flushable pending pending"),
    ("DF_FLUSH", "SUCCESS", "clean clean pending pending"),
    ("ACTIVATE A with ASID 200", "SUCCESS", "active active pending pending"),
]


def test_the_life_of_two_asids() -> None:
    order = [(asid, ccx) for asid in (200, 201) for ccx in (0, 1)]
    found = [
        (step.label, step.answer and step.answer.status.name, " ".join(step.uses[key] for key in order))
        for step in asids.life()
    ]
    assert found == EXPECTED


def test_states_along_the_way() -> None:
    life = asids.life()
    assert [step.platform for step in life] == [P.INIT] * 4 + [P.WORKING] * 13
    assert [step.guests.get("A") for step in life] == (
        [None] * 4 + [G.LUPDATE] * 2 + [G.LSECRET] + [G.RUNNING] * 10
    )  # fmt: skip
    assert {step.guests.get("B") for step in life} == {None, G.LUPDATE}


def test_the_table_marks_what_changed() -> None:
    text = asids.life_table().text().splitlines()
    assert [line.count("*") for line in text[3:]] == [0, 0, 2, 2, 0, 2, 0, 2, 0, 2, 2, 2, 0, 2, 2, 2, 2]
    assert "font-weight:700" in asids.life_table().html()


def test_the_panel_steps_through_the_run() -> None:
    panel = asids.life_panel()
    assert "LAUNCH_FINISH of A: SUCCESS" in panel.value_text
    assert "(now: WORKING)" in panel.value_text and "(now: RUNNING)" in panel.value_text
    panel.set("guest", "B")
    assert "(now: UNINIT)" in panel.value_text
    panel.set("step", 13)
    assert "DFFLUSH_REQUIRED" in panel.value_text and "(now: LUPDATE)" in panel.value_text
    panel.set("step", 1)
    assert "INIT: SUCCESS" in panel.value_text and "(now: INIT)" in panel.value_text
