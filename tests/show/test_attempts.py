"""Attempts record who really noticed; the tape passes on what it hands out."""

from __future__ import annotations

import pytest

from sevref.crypto import SeededRandom
from sevref.machine import Machine
from sevref.show.attempts import Attempts, Tape, brief
from sevref.status import InputError, SevError, Status


def refuse() -> None:
    raise SevError(Status.BAD_MEASUREMENT, "WRAP_MAC does <not> match", "LAUNCH_START")


def test_attempts_record_the_answer() -> None:
    tried = Attempts()
    shown = tried.run("flip a bit", refuse)
    assert "BAD_MEASUREMENT (0x0B)" in shown.text() and "AMD-SP" in shown.text()
    tried.run("replace everything", refuse, by="guest owner")
    shown = tried.run("send it again", lambda: None, otherwise="a second guest")
    assert "nobody" in shown.text() and "a second guest" in shown.text()
    assert tried.answers() == [
        ("AMD-SP", "BAD_MEASUREMENT"),
        ("guest owner", "BAD_MEASUREMENT"),
        ("nobody", "SUCCESS"),
    ]
    assert [entry.why for entry in tried.entries] == ["WRAP_MAC does <not> match"] * 2 + ["a second guest"]


def test_attempts_show_as_a_table() -> None:
    tried = Attempts()
    tried.run("flip a bit", refuse)
    tried.run("send it again", lambda: None, otherwise="a second guest")
    lines = tried.text().splitlines()
    assert lines[0] == "What an attacker tried"
    assert lines[3].split() == [
        "flip",
        "a",
        "bit",
        "✓",
        "AMD-SP",
        "BAD_MEASUREMENT",
        "WRAP_MAC",
        "does",
        "<not>",
        "match",
    ]
    assert lines[4].split() == ["send", "it", "again", "✗", "nobody", "SUCCESS", "a", "second", "guest"]
    page = tried.html()
    assert "WRAP_MAC does &lt;not&gt; match" in page and "<not>" not in page


def test_reasons_are_brief_in_the_table_and_whole_in_the_answer() -> None:
    rule = (
        f"the platform's chain does not verify: ARK, root hash: root hash is {'0123456789abcdef' * 6}; needed: another"
    )

    def fail() -> None:
        raise SevError(Status.INVALID_CERTIFICATE, rule)

    tried = Attempts()
    assert rule in tried.run("forge", fail).text()
    assert tried.entries[0].why == rule
    for shown in (tried.text(), tried.html()):
        assert "ARK, root hash: root hash is 01234567…" in shown
        assert "needed" not in shown and "does not verify" not in shown and "89abcdef" not in shown
    assert brief("SESSION_LEN must be 128, found 127") == "SESSION_LEN must be 128, found 127"
    assert brief("deadbeef0123 stays") == "deadbeef0123 stays"


def test_a_repeated_reason_is_not_spelt_out() -> None:
    tried = Attempts()
    tried.run("first", refuse)
    tried.run("second", refuse)
    tried.run("third", lambda: None)
    ends = [line.split("MEASUREMENT")[-1].split("SUCCESS")[-1].strip() for line in tried.text().splitlines()[3:]]
    assert ends == ["WRAP_MAC does <not> match", "the same", ""]
    assert tried.entries[1].why == "WRAP_MAC does <not> match"


def test_other_errors_are_no_answers() -> None:
    def stumble() -> None:
        raise InputError("offset", "0 to 3", 4)

    tried = Attempts()
    with pytest.raises(InputError):
        tried.run("stumble", stumble)
    assert tried.entries == []


def test_tape_passes_on_and_remembers() -> None:
    tape, plain = Tape(SeededRandom(b"s", "x")), SeededRandom(b"s", "x")
    assert [tape.draw(16, "TEK"), tape.draw(48, "key"), tape.draw(16, "TEK")] == [
        plain.draw(16),
        plain.draw(48),
        plain.draw(16),
    ]
    again = SeededRandom(b"s", "x")
    first, key, second = again.draw(16), again.draw(48), again.draw(16)
    assert [(d.what, d.data) for d in tape.draws] == [("TEK", first), ("key", key), ("TEK", second)]
    assert tape.last("TEK") == second and tape.last("key") == key
    with pytest.raises(KeyError):
        tape.last("TIK")
    assert first.hex() in tape.table("draws").text()
    assert first.hex() not in repr(tape) + repr(tape.draws)


def test_tape_serves_a_machine() -> None:
    tape = Tape(SeededRandom(b"s", "platform A"))
    assert Machine("milan", seed=b"s", rng=tape, dram_size=4 << 20).rng is tape
