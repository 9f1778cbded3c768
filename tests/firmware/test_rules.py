"""``sevref why``: the rules come from the source of the commands, in the order of the sheets."""

import json

import pytest

from sevref.cli import main
from sevref.firmware import BODIES, COMMANDS
from sevref.firmware.rules import SHEETS, rules
from sevref.status import InputError

BUFFER = ("INVALID_ADDRESS", "10 §1.4; 10 §1.6")

#: (status, section and row) in order, literal from the sheets' tables; details of nested checks left out
EXPECTED = {
    "LAUNCH_START": [
        BUFFER,
        ("INVALID_PLATFORM_STATE", "20 §3.1 row 1"),
        ("INVALID_LENGTH", "20 §3.1 row 2"),
        ("INVALID_ADDRESS", "20 §3.1 row 3"),
        ("INVALID_LENGTH", "20 §3.1 row 4"),
        ("INVALID_ADDRESS", "20 §3.1 row 5"),
        ("INVALID_CERTIFICATE", "20 §3.1 row 6"),
        ("BAD_MEASUREMENT", "20 §3.1 row 6"),
        ("POLICY_FAILURE", "20 §3.1 row 6"),
        ("POLICY_FAILURE", "20 §3.1 row 9"),
        ("INVALID_GUEST", "20 §3.1 row 11"),
        ("POLICY_FAILURE", "20 §3.1 row 12"),
        ("RESOURCE_LIMIT", "20 §3.1 row 13"),
        ("UNSUPPORTED", "20 §3.1 row 14"),
    ],
    "LAUNCH_SECRET": [
        BUFFER,
        ("INVALID_PLATFORM_STATE", "20 §3.6 row 1"),
        ("INVALID_GUEST", "20 §3.6 row 2"),
        ("INVALID_ADDRESS", "20 §3.6 row 3"),
        ("INVALID_LENGTH", "20 §3.6 row 4"),
        ("INVALID_GUEST_STATE", "20 §3.6 row 5"),
        ("INACTIVE", "20 §3.6 row 6"),
        ("INVALID_ADDRESS", "20 §3.6 row 7"),
        ("BAD_MEASUREMENT", "20 §3.6 row 8"),
        ("UNSUPPORTED", "20 §3.6 row 9"),
    ],
    "ACTIVATE": [
        BUFFER,
        ("INVALID_PLATFORM_STATE", "20 §5.4 row 1"),
        ("INVALID_GUEST", "20 §5.4 row 2"),
        ("INVALID_ASID", "20 §5.4 row 3"),
        ("ASID_OWNED", "20 §5.4 row 4"),
        ("ACTIVE", "20 §5.4 row 5"),
        ("INVALID_GUEST_STATE", "20 §5.4 row 6"),
        ("DFFLUSH_REQUIRED", "20 §5.4 row 7"),
        ("ASID_OWNED", "20 §5.4 row 8"),
        ("INVALID_ASID", "20 §5.4 row 9"),
    ],
    "INIT": [
        BUFFER,
        ("INVALID_PLATFORM_STATE", "10 §3.1 row 1"),
        ("HWERROR_PLATFORM", "10 §3.1 row 2"),
        ("INVALID_CONFIG", "10 §3.1 row 3"),
        ("SECURE_DATA_INVALID", "10 §3.1 row 11"),
        ("HWERROR_PLATFORM", "10 §3.1 row 12"),
        ("INVALID_ADDRESS", "10 §3.1 row 14"),
        ("INVALID_LENGTH", "10 §3.1 row 15"),
        ("INVALID_ADDRESS", "10 §3.1 row 16"),
    ],
    "SWAP_OUT": [
        BUFFER,
        ("INVALID_PLATFORM_STATE", "20 §6.3 row 1"),
        ("INVALID_ADDRESS", "20 §6.3"),
        ("INVALID_ADDRESS", "20 §6.3 row 2"),
        ("INVALID_ADDRESS", "20 §6.3 row 3"),
        ("INVALID_PARAM", "20 §6.3 row 4"),
        ("INVALID_PARAM", "20 §6.3 row 5"),
        ("INVALID_GUEST", "20 §6.3 row 6"),
        ("INACTIVE", "20 §6.3 row 7"),
        ("AEAD_OFLOW", "20 §6.3 row 8"),
        ("INVALID_PARAM", "20 §6.3 row 9"),
        ("INVALID_ADDRESS", "20 §6.3"),
    ],
    "NOP": [("INVALID_PLATFORM_STATE", "10 §3.13 row 1")],
    "PLATFORM_STATUS": [("INVALID_PLATFORM_STATE", "10 §3.4 row 1"), BUFFER],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_order_statuses_and_rows(name):
    found = []
    for rule in rules(name):
        entry = (rule.status.name, rule.sheet if rule.sheet == BUFFER[1] else rule.sheet.split(";")[0])
        if not found or found[-1] != entry:
            found.append(entry)
    assert found == EXPECTED[name]


def test_send_start_walks_both_chains_of_certificates():
    found = rules("SEND_START")
    sections = [rule.sheet.split(" row")[0] for rule in found]
    assert sections.index("30 §5.2.1") < sections.index("30 §5.2.2")
    statuses = {rule.status.name for rule in found}
    assert {"POLICY_FAILURE", "INVALID_LENGTH", "BAD_SIGNATURE", "INVALID_CERTIFICATE", "UNSUPPORTED"} <= statuses
    assert [rule.order for rule in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("name", [row.name for row in COMMANDS.values()])
def test_every_command_has_rules_in_words_with_a_place(name):
    found = rules(name)
    assert found and COMMANDS and set(SHEETS) == {row.name for row in COMMANDS.values()}
    for rule in found:
        assert rule.rule and "found" not in rule.rule.split() and rule.sheet[:3] in ("10 ", "20 ", "30 ", "50 ")
    assert len({(rule.status, rule.rule, rule.sheet) for rule in found}) == len(found)


@pytest.mark.parametrize("name", ["LAUNCH_UPDATE", "SEND_UPDATE", "RECEIVE_UPDATE"])
def test_a_shared_body_gives_each_command_its_own_rules(name):
    data, vmsa = rules(f"{name}_DATA"), rules(f"{name}_VMSA")
    assert "UNSUPPORTED" in {rule.status.name for rule in vmsa}
    assert not any("VMSA" in rule.rule for rule in data)
    assert len(vmsa) > len(data)


def test_all_commands_are_built():
    assert set(BODIES) == set(COMMANDS)


def test_command_line(capsys):
    assert main(["why", "launch_start", "BAD_MEASUREMENT", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [set(entry) for entry in document] == [{"order", "status", "rule", "sheet"}] * 2
    assert {entry["status"] for entry in document} == {"BAD_MEASUREMENT"}
    assert "WRAP_MAC" in document[0]["rule"] and "POLICY_MAC" in document[1]["rule"]
    assert main(["why", "LAUNCH_START", "0x0B"]) == 0
    assert "WRAP_MAC" in capsys.readouterr().out
    assert main(["why", "NOP", "ACTIVE"]) == 0
    assert "never answers ACTIVE" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["why", "LAUNCH"], ["why", "NOP", "BAD"], ["why", "NOP", "0xFFFF"], ["why"]])
def test_unknown_names_are_refused(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err and "Traceback" not in err


def test_unknown_command_is_an_input_error():
    with pytest.raises(InputError, match="LAUNCH_START"):
        rules("nothing")
