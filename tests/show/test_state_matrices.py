"""The matrices of commands against states and policies, the run through the states, and the tables of rules."""

from __future__ import annotations

import re

import pytest

from firmware.test_states import ACCEPTED, GUEST_TABLE, guest_answer
from sevref import Policy, SevError
from sevref.firmware import COMMANDS, PlatformState
from sevref.show import policies
from sevref.show.html import LIMIT
from sevref.show.lifecycle import (
    buffer_maps,
    guest_diagram,
    platform_diagram,
    record_run,
    run_panel,
    run_table,
    why_panel,
    why_table,
)
from sevref.show.matrix import Reply, ask, matrix, short
from sevref.show.trials import guest_matrix, platform_matrix, status_tour
from sevref.status import Status as S
from show.page import read

STATES = ("LUPDATE", "LSECRET", "RUNNING", "SUPDATE", "RUPDATE", "SENT")


@pytest.mark.parametrize("bound", [True, False])
def test_guest_matrix_is_the_sheets_table(bound: bool) -> None:
    found = guest_matrix(bound)
    assert found.columns == list(STATES) and len(found.rows) == len(GUEST_TABLE) == 24
    for command, row in GUEST_TABLE.items():
        for state, cell in zip(STATES, row, strict=True):
            want = guest_answer(cell, command, bound)
            # here the packets, the VMSA and the swapped page are genuine
            want = S.SUCCESS if want in (S.BAD_MEASUREMENT, S.INVALID_PARAM) else want
            assert found.status(COMMANDS[command].name, state) == want, (command, state)


def test_platform_matrix_is_the_sheets_table() -> None:
    found = platform_matrix()
    later = {"RING_BUFFER": "UNSUPPORTED", "DECOMMISSION": "ACTIVE", "ACTIVATE": "ACTIVE", "ACTIVATE_EX": "ACTIVE"}
    for command, states in ACCEPTED.items():
        name = COMMANDS[command].name
        for state in PlatformState:
            status = found.status(name, state.name)
            assert (status is S.INVALID_PLATFORM_STATE) == (state not in states), (name, state)
            if state in states and name in later:
                assert status is not None and status.name == later[name]
    assert found.counts()["SUCCESS"] == 8 + 13 + 20


def test_matrix_shows_what_it_was_given() -> None:
    cells = {("<A>", "x"): Reply(S.SUCCESS), ("<A>", "y"): Reply(S.INVALID_GUEST_STATE, 'not "now"')}
    shown = matrix(cells, "T", ["<A>", "B"], ["x", "y"])
    assert shown.text().splitlines() == ["T", "     x     y", "<A>  ✓ ok  ✗ guest state", "B    -     -"]
    assert shown.statuses("<A>") == ["SUCCESS", "INVALID_GUEST_STATE"] and shown.statuses("B") == ["-", "-"]
    assert shown.status("B", "x") is None and shown.counts() == {"SUCCESS": 1, "INVALID_GUEST_STATE": 1}
    page = read(shown._repr_html_())
    cells_shown = page.all("td")
    assert [cell.text() for cell in cells_shown] == ["✓ ok", "✗ guest state", "–", "–"]
    assert cells_shown[1].attributes["title"] == '<A>, y: INVALID_GUEST_STATE: not "now"'
    assert [head.text() for head in page.all("th")] == ["", "x", "y", "<A>", "B"]


def test_matrix_keeps_the_rules_for_pictures() -> None:
    cells = {("a", "x"): Reply(S.SUCCESS), ("a", "y"): Reply(S.ACTIVE), ("a", "z"): Reply(S.POLICY_FAILURE)}
    page = matrix(cells, "T", ["a"], ["x", "y", "z", "w"])._repr_html_()
    assert not re.search(r"<(style|script|link)\b|\son\w+=|class=|\bid=|url\(", page)
    tree = read(page)
    scrolling = [e for e in tree.all() if e.style.get("overflow-x") == "auto"]
    assert len(scrolling) == 1 and scrolling[0].all("table") and scrolling[0].attributes["tabindex"] == "0"
    backgrounds = {e.style["background"] for e in tree.all("td") if "background" in e.style}
    assert len(backgrounds) == 3 and all(re.fullmatch(r"rgba\(\d+,\d+,\d+,0\.[123]\d*\)", b) for b in backgrounds)
    assert matrix(cells, "T").text() in tree.text() or "as text" in tree.text()


def test_reply_of_a_call() -> None:
    def refuse() -> None:
        raise SevError(S.ACTIVE, "bound", "DECOMMISSION")

    assert ask(refuse) == Reply(S.ACTIVE, "bound") and ask(lambda: 5) == Reply(S.SUCCESS)
    assert [short(s) for s in (S.SUCCESS, S.ACTIVE, S.INVALID_GUEST_STATE)] == ["ok", "active", "guest state"]


# Sheet 20, section 2.6 and the tables of checks it points to.
DIFFERS = {
    "NODBG": {"DBG_DECRYPT": "POLICY_FAILURE", "DBG_ENCRYPT": "POLICY_FAILURE"},
    "NOKS": {"LAUNCH_START: shared key": "POLICY_FAILURE"},
    "ES": {
        "LAUNCH_START: no SEV-ES here": "UNSUPPORTED",
        "ACTIVATE: ASID 5": "SUCCESS",
        "ACTIVATE: ASID 105": "ACTIVE",
        "LAUNCH_UPDATE_VMSA": "SUCCESS",
        "RECEIVE_START: no SEV-ES": "UNSUPPORTED",
        "SEND_UPDATE_VMSA": "SUCCESS",
        "RECEIVE_UPDATE_VMSA": "SUCCESS",
    },
    "DOMAIN": {
        "SEND_START: other owner": "POLICY_FAILURE",
        "SEND_START: anybody's key": "BAD_SIGNATURE",
        "RECEIVE_START: other owner": "-",
    },
    "SEV": {"SEND_START: anybody's key": "BAD_SIGNATURE"},
    "API 0.24": {"RECEIVE_START: API 0.17": "POLICY_FAILURE"},
    "SEV, API 0.24": {
        "SEND_START: anybody's key": "BAD_SIGNATURE",
        "SEND_START: API 0.17": "POLICY_FAILURE",
        "RECEIVE_START: API 0.17": "-",
    },
}
REFUSED = {
    "LAUNCH_START: with a session": "POLICY_FAILURE",
    "LAUNCH_START: strict_policy": "POLICY_FAILURE",
    **{f"RECEIVE_START: {name}": "POLICY_FAILURE" for name in ("same owner", "other owner", "API 0.17", "no SEV-ES")},
    **dict.fromkeys(("SEND_UPDATE_DATA", "RECEIVE_UPDATE_DATA", "SEND_UPDATE_VMSA", "RECEIVE_FINISH"), "-"),
}


def test_policy_matrix() -> None:
    found = policies.policy_matrix()

    def name(row: str, column: str) -> str:
        status = found.status(row, column)
        return "-" if status is None else status.name

    plain = {row: name(row, "no bit") for row in found.rows}
    assert [row for row, status in plain.items() if status != "SUCCESS"] == [
        "ACTIVATE: ASID 5",
        "LAUNCH_UPDATE_VMSA",
        "SEND_UPDATE_VMSA",
        "RECEIVE_UPDATE_VMSA",
    ]
    for column, want in {**DIFFERS, "API 0.25": REFUSED, "bit 6": REFUSED}.items():
        differs = {row: name(row, column) for row in found.rows if name(row, column) != plain[row]}
        assert differs == want, column
    sent = [row for row in found.rows if row.startswith(("SEND", "RECEIVE"))]
    assert {name(row, "NOSEND") for row in sent} == {"POLICY_FAILURE", "-"} and len(sent) == 14
    assert len(found._repr_html_().encode()) < LIMIT and "policy failure" in found._repr_html_()


def test_policy_panel() -> None:
    panel = policies.policy_panel()
    assert "0x00000001" in panel.value_text and "2 of 32 answers differ" in panel.value_text
    panel.set("NODBG", False)
    panel.set("reserved", True)
    assert "reserved 0x0040" in panel.value_text and "LAUNCH_START" in panel.value_text
    panel.set("reserved", False)
    panel.set("NOKS", True)
    lines = panel.value_text.splitlines()
    assert len(lines) == 3 and lines[2].split() == [
        "LAUNCH_START:",
        "shared",
        "key",
        "✓",
        "ok",
        "✗",
        "policy",
        "failure",
    ]


def test_the_attackers_key_opens_what_is_sent_to_it() -> None:
    key, cert = policies.attackers_key()
    assert cert.public_point == key.public and policies.POLICIES["SEV, API 0.24"] == Policy(0x18000020)


def test_diagrams() -> None:
    assert "INIT\n    -> UNINIT: SHUTDOWN\n    -> WORKING: LAUNCH_START, RECEIVE_START" in platform_diagram().text()
    text = guest_diagram("SENT").text()
    assert "now: SENT" in text and "SUPDATE\n    -> SENT: SEND_FINISH\n    -> RUNNING: SEND_CANCEL" in text


def test_status_tour() -> None:
    tour = status_tour()
    assert list(tour)[-1] == "LAUNCH_START with 1024 guests"
    assert [reply.status.name for reply in tour.values() if reply.rule] == [
        "INVALID_CONFIG",
        "SECURE_DATA_INVALID",
        "HWERROR_PLATFORM",
        "ASID_OWNED",
        "DFFLUSH_REQUIRED",
        "WBINVD_REQUIRED",
        "INVALID_GUEST",
        "INVALID_PARAM",
        "INVALID_CONFIG",
        "INVALID_COMMAND",
        "RESOURCE_LIMIT",
    ]


def test_buffers() -> None:
    text = buffer_maps().text()
    assert "SEND_UPDATE_DATA, SEND_UPDATE_VMSA" in text and "software_data" in text
    assert "SHUTDOWN, PLATFORM_RESET, PEK_GEN, PDH_GEN, DF_FLUSH, NOP" in text


def test_run() -> None:
    steps = record_run()
    assert [(s.command, s.platform.name, s.guest.name) for s in steps][-3:] == [
        ("RECEIVE_START", "WORKING", "RUPDATE"),
        ("RECEIVE_FINISH", "WORKING", "RUNNING"),
        ("SHUTDOWN", "UNINIT", "UNINIT"),
    ]
    assert [s.reply.status.name for s in steps if s.reply.status is not S.SUCCESS] == [
        "INVALID_PLATFORM_STATE",
        "INACTIVE",
        "INVALID_GUEST_STATE",
        "INVALID_GUEST_STATE",
        "INVALID_GUEST_STATE",
        "ACTIVE",
    ]
    assert "guest 1 is still bound" in run_table(steps).text()
    panel = run_panel()
    assert "SEND_START: SUCCESS" in panel.value_text and "now: SUPDATE" in panel.value_text
    panel.set("step", 18)
    assert "DECOMMISSION: ACTIVE" in panel.value_text and "now: SENT" in panel.value_text


def test_why() -> None:
    shown = why_table("launch_secret", "BAD_MEASUREMENT")
    assert [row["fact sheet"] for row in shown.rows] == ["20 §3.6 row 8"]
    panel = why_panel()
    assert "DBG_DECRYPT: 10 of 10 rules" in panel.value_text
    panel.set("status", "POLICY_FAILURE")
    assert "1 of 10 rules" in panel.value_text and "NODBG" in panel.value_text
    panel.set("command", "NOP")
    assert "NOP never answers POLICY_FAILURE" in panel.value_text
    panel.set("command", "")
    assert "DBG_ENCRYPT" in panel.value_text and "SEND_START" in panel.value_text
    panel.set("status", "")
    assert "neither" in panel.value_text
