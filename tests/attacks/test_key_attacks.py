"""Key management: each attack against verifiers that look, and one that does not."""

import pytest

from sevref.attacks.keylab import CASES, KEY_ATTACKS, SECRET, Case, KeyServer, KeyWorld, run_case, run_cases

#: (attack, what the verifier requires, secret lost, who stops it)
EXPECTED = [
    ("impersonate", "the whole chain", False, "guest owner: INVALID_CERTIFICATE"),
    ("impersonate", "nothing: takes any PDH", True, ""),
    ("borrowed_cek", "the whole chain", False, "guest owner: BAD_SIGNATURE"),
    ("leaked_cek", "the whole chain, API 0.24 or later", True, ""),
    ("clone", "answers a session as often as asked", True, ""),
    ("clone", "answers each session once", False, "guest owner"),
    ("rollback", "API 0.24 in the certificates (made anew by the old firmware)", False, "guest owner: POLICY_FAILURE"),
    ("rollback", "no minimum", True, ""),
    (
        "rollback",
        "API 0.24 against the measurement (certificates kept from newer firmware)",
        False,
        "guest owner: POLICY_FAILURE",
    ),
    ("rollback", "API 0.24 in the policy (certificates kept from newer firmware)", False, "AMD-SP: POLICY_FAILURE"),
    ("downgrade", "NODBG in its policy", False, "guest owner: BAD_MEASUREMENT"),
    ("downgrade", "a policy that allows debugging", True, ""),
    ("wrong_guest", "API 0.24 or later", False, "AMD-SP: BAD_MEASUREMENT"),
    ("wrong_guest", "takes API 0.16", True, ""),
]


def test_every_case() -> None:
    found = run_cases()
    assert [(o.case.attack, o.case.requires, o.outcome.works, o.outcome.refused) for o in found] == EXPECTED
    assert all(o.outcome.works == o.case.works for o in found) and len(found) == len(CASES)
    notes = {o.case.requires: o.notes for o in found if o.case.attack == "downgrade"}
    assert notes["NODBG in its policy"] == ["the firmware refuses the session under another policy: BAD_MEASUREMENT"]
    assert set(KEY_ATTACKS) == {name for name, *_ in EXPECTED}


@pytest.mark.parametrize("minor", [0, 16, 23])
def test_a_leaked_cek_says_any_version_and_a_minimum_does_not_help(minor: int) -> None:
    """The attacker signs whatever version is wanted: a SEV CEK depends on the chip alone."""
    found = run_case(Case("leaked_cek", "", True, minimum_api=(0, 24), firmware=(0, minor, 1)))
    assert found.outcome.works


def test_rolled_back_firmware_just_below_the_minimum() -> None:
    for minor, works in ((23, False), (24, True)):
        found = run_case(Case("rollback", "", works, old_minor=minor))
        assert found.outcome.works == works


def test_the_brief_tells_no_secret() -> None:
    for case in CASES:
        world = KeyWorld(case)
        text = repr(KeyServer(world).brief)
        assert SECRET.hex() not in text and str(SECRET) not in text
        assert ("leaked_cek" in text) == (case.attack == "leaked_cek")


@pytest.mark.parametrize("op", ["bus_read", "run", "firmware", "owner", "tik", "_opened"])
def test_no_request_reaches_further(op: str) -> None:
    server = KeyServer(KeyWorld(CASES[0]))
    assert server.answer({"op": op, "address": 0, "size": 1})["refused"] == "InputError"
