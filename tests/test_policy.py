"""Guest policy: bits and versions where the specification has them."""

import pytest

from sevref.policy import Policy
from sevref.status import InputError

BITS = {"NODBG": 0x01, "NOKS": 0x02, "ES": 0x04, "NOSEND": 0x08, "DOMAIN": 0x10, "SEV": 0x20}


@pytest.mark.parametrize("name", BITS)
def test_each_bit(name: str) -> None:
    policy = Policy(BITS[name])
    assert Policy.make(name) == policy == BITS[name]
    assert Policy.make(name.lower()) == policy
    for other in BITS:
        assert policy.has(other) is (other == name)
        assert getattr(policy, other.lower()) is (other == name)
        assert Policy(0xFFFFFFFF ^ BITS[name]).has(other) is (other != name)
        assert getattr(Policy(0xFFFFFFFF ^ BITS[name]), other.lower()) is (other != name)


def test_minimum_version() -> None:
    policy = Policy(0x18020001)
    assert policy.api == (2, 0x18)
    assert Policy.make("NODBG", api=(2, 0x18)) == 0x18020001
    assert Policy.make("NODBG", "ES", "SEV", api=(0, 17)) == 0x11000025


@pytest.mark.parametrize(
    ("policy", "major", "minor", "allowed"),
    [
        (0x18000000, 0, 24, True),
        (0x18000000, 0, 23, False),
        (0x18000000, 0, 25, True),
        (0x18000000, 1, 0, True),
        (0x00010000, 0, 255, False),
        (0x05010000, 1, 4, False),
        (0x05010000, 1, 5, True),
        (0x05010000, 2, 0, True),
        (0, 0, 0, True),
    ],
)
def test_version_rule_looks_at_the_major_number_first(policy: int, major: int, minor: int, allowed: bool) -> None:
    assert Policy(policy).allows_api(major, minor) is allowed


def test_reserved_bits_are_6_to_15() -> None:
    assert [bit for bit in range(32) if Policy(1 << bit).reserved] == list(range(6, 16))
    assert Policy(0xFFFFFFFF).reserved == 0xFFC0


def test_a_policy_is_its_number() -> None:
    policy = Policy(0x11000023)
    assert policy == 0x11000023 and policy.to_bytes(4, "little").hex() == "23000011"
    assert Policy() == 0 and Policy(0xFFFFFFFF) == 0xFFFFFFFF


def test_words() -> None:
    assert str(Policy(0x11000023)) == "0x11000023 (NODBG NOKS SEV, API >= 0.17)"
    assert str(Policy(0x00000140)) == "0x00000140 (reserved 0x0140, API >= 0.0)"
    assert repr(Policy(0)) == "Policy(0x00000000 (no bit, API >= 0.0))"
    rows = {row["bits"]: row for row in Policy(0x18010001).table()}
    assert [row for row in rows if rows[row]["set"]] == ["0", "23:16", "31:24"]
    assert (rows["23:16"]["set"], rows["31:24"]["set"], rows["0"]["name"]) == (1, 24, "NODBG")
    assert list(rows) == ["0", "1", "2", "3", "4", "5", "15:6", "23:16", "31:24"]


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_more_than_32_bits(value: int) -> None:
    with pytest.raises(InputError, match="32 bits"):
        Policy(value)


def test_unknown_names_and_versions() -> None:
    for call in (Policy.make, Policy(0).has):
        with pytest.raises(InputError, match=r"NODBG.*NODEBUG"):
            call("NODEBUG")
    for api in ((256, 0), (0, 256), (-1, 1), (1, -1)):
        with pytest.raises(InputError, match="0 to 255"):
            Policy.make(api=api)
