"""``sevref demo``: the whole story, step by step; the same with the same seed; and how it ends when something is wrong."""

import json
import re
import subprocess
import sys

import pytest

from sevref.cli import demo
from sevref.roles import GuestVm

HYPERVISOR, OWNER, ATTACKER, GUEST = "hypervisor", "guest owner", "attacker", "guest"
GOOD = "SUCCESS"
# party, command, status; VMSA marks the two commands of an SEV-ES guest
VMSA = [(HYPERVISOR, "LAUNCH_UPDATE_VMSA", GOOD)] * 2
ATTACKERS_VMSA = [(ATTACKER, "LAUNCH_UPDATE_VMSA", GOOD)] * 2
SENT_VMSA = [(HYPERVISOR, "SEND_UPDATE_VMSA", GOOD)]
RECEIVED_VMSA = [(HYPERVISOR, "RECEIVE_UPDATE_VMSA", GOOD)]
STORY = [
    (HYPERVISOR, "INIT", GOOD),
    (HYPERVISOR, "DF_FLUSH", GOOD),
    (HYPERVISOR, "PLATFORM_STATUS", GOOD),
    (HYPERVISOR, "GET_ID", GOOD),
    (HYPERVISOR, "PDH_CERT_EXPORT", GOOD),
    ("AMD", "certify the CEK", GOOD),
    (HYPERVISOR, "PEK_CSR", GOOD),
    ("platform owner", "sign the PEK", GOOD),
    (HYPERVISOR, "PEK_CERT_IMPORT", GOOD),
    (HYPERVISOR, "PDH_CERT_EXPORT", GOOD),
    (OWNER, "verify the chain", GOOD),
    (OWNER, "make a session", GOOD),
    (HYPERVISOR, "LAUNCH_START", GOOD),
    (HYPERVISOR, "ACTIVATE", GOOD),
    (HYPERVISOR, "LAUNCH_UPDATE_DATA", GOOD),
    *VMSA,
    (HYPERVISOR, "LAUNCH_MEASURE", GOOD),
    (HYPERVISOR, "PLATFORM_STATUS", GOOD),
    (OWNER, "check the measurement", GOOD),
    (OWNER, "package the disk key", GOOD),
    (HYPERVISOR, "LAUNCH_SECRET", GOOD),
    (HYPERVISOR, "LAUNCH_FINISH", GOOD),
    (GUEST, "read the secret area", GOOD),
    (HYPERVISOR, "read the same bytes", GOOD),
    (HYPERVISOR, "ATTESTATION", GOOD),
    (OWNER, "verify the report", GOOD),
    # 5: to platform B
    (HYPERVISOR, "INIT", GOOD),
    (HYPERVISOR, "DF_FLUSH", GOOD),
    (HYPERVISOR, "GET_ID", GOOD),
    (HYPERVISOR, "PDH_CERT_EXPORT", GOOD),
    ("AMD", "certify the CEK", GOOD),
    (ATTACKER, "SEND_START", "BAD_SIGNATURE"),  # to a key of its own
    (HYPERVISOR, "SEND_START", GOOD),
    (HYPERVISOR, "PDH_CERT_EXPORT", GOOD),
    (HYPERVISOR, "SEND_UPDATE_DATA", GOOD),
    (HYPERVISOR, "RECEIVE_START", GOOD),
    (HYPERVISOR, "ACTIVATE", GOOD),
    (HYPERVISOR, "RECEIVE_UPDATE_DATA", GOOD),
    *SENT_VMSA,
    *RECEIVED_VMSA,
    (HYPERVISOR, "SEND_FINISH", GOOD),
    (HYPERVISOR, "RECEIVE_FINISH", GOOD),
    (HYPERVISOR, "DEACTIVATE", GOOD),
    (HYPERVISOR, "DECOMMISSION", GOOD),
    (GUEST, "read the secret area", GOOD),
    (HYPERVISOR, "DF_FLUSH", GOOD),
    # 6: a snapshot
    (HYPERVISOR, "SEND_START", GOOD),
    (HYPERVISOR, "PDH_CERT_EXPORT", GOOD),
    (HYPERVISOR, "SEND_UPDATE_DATA", GOOD),
    *SENT_VMSA,
    (HYPERVISOR, "SEND_FINISH", GOOD),
    (HYPERVISOR, "DEACTIVATE", GOOD),
    (HYPERVISOR, "DECOMMISSION", GOOD),
    (HYPERVISOR, "cut the power", GOOD),
    (HYPERVISOR, "INIT", GOOD),
    (HYPERVISOR, "DF_FLUSH", GOOD),
    (HYPERVISOR, "RECEIVE_START", GOOD),
    (HYPERVISOR, "ACTIVATE", GOOD),
    (HYPERVISOR, "RECEIVE_UPDATE_DATA", GOOD),
    *RECEIVED_VMSA,
    (HYPERVISOR, "RECEIVE_FINISH", GOOD),
    (GUEST, "read the secret area", GOOD),
    (HYPERVISOR, "PDH_GEN", GOOD),
    (ATTACKER, "RECEIVE_START", "BAD_MEASUREMENT"),  # the same file after it
    # 7: NODBG
    (ATTACKER, "DBG_DECRYPT", "POLICY_FAILURE"),
    (ATTACKER, "DBG_ENCRYPT", "POLICY_FAILURE"),
    # 8
    (OWNER, "verify the chain", "INVALID_CERTIFICATE"),  # not AMD's real root
    (OWNER, "verify the chain", "BAD_SIGNATURE"),  # another PDH
    (ATTACKER, "LAUNCH_START", "BAD_MEASUREMENT"),  # another policy
    (ATTACKER, "LAUNCH_START", "BAD_MEASUREMENT"),  # a flipped bit
    (ATTACKER, "LAUNCH_SECRET", "INVALID_GUEST_STATE"),
    (ATTACKER, "LAUNCH_START", GOOD),
    (ATTACKER, "ACTIVATE", GOOD),
    (ATTACKER, "LAUNCH_UPDATE_DATA", GOOD),
    *ATTACKERS_VMSA,
    (ATTACKER, "LAUNCH_MEASURE", GOOD),
    (OWNER, "check the measurement", "BAD_MEASUREMENT"),
    (OWNER, "package the disk key", "BAD_MEASUREMENT"),
    (ATTACKER, "LAUNCH_START", GOOD),
    (ATTACKER, "ACTIVATE", GOOD),
    (ATTACKER, "LAUNCH_UPDATE_DATA", GOOD),
    *ATTACKERS_VMSA,
    (ATTACKER, "LAUNCH_MEASURE", GOOD),
    (ATTACKER, "LAUNCH_SECRET", "BAD_MEASUREMENT"),  # of the first launch
    (ATTACKER, "LAUNCH_START", "BAD_MEASUREMENT"),  # on another platform
    (ATTACKER, "overwrite a memory block", GOOD),
    (GUEST, "read the secret area", GOOD),
]


def rows(document):
    return [(step["party"], step["command"], step["status"]) for step in document["steps"]]


@pytest.mark.parametrize("es", [False, True], ids=["sev", "es"])
@pytest.mark.parametrize("generation", ["naples", "rome", "milan", "genoa"])
def test_the_story(cli, generation, es):
    done = cli("demo", "--generation", generation, "--seed", "00", "--json", *(["--es"] if es else []))
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert document["ok"] is True
    assert rows(document) == [row for row in STORY if es or not row[1].endswith("_UPDATE_VMSA")]
    assert all(step["note"] for step in document["steps"] if step["status"] != GOOD)
    assert {"party", "command", "status", "note"} <= set(document["steps"][0])


def test_text(cli):
    done = cli("demo", "--seed", "00")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("\nAll 80 steps ended as they should; 13 of them were refused.\n")
    assert re.findall(r"^\d\..*", done.out, re.M) == [
        "1. A milan platform gets its identity and an owner",
        "2. The guest owner verifies the platform and opens a session",
        "3. Launch: the guest is encrypted and measured",
        "4. A disk key reaches the guest",
        "5. The guest moves to platform B",
        "6. The guest is saved, and survives a power cycle",
        "7. The hypervisor asks for the guest's memory",
        "8. What an attacker tried",
    ]
    assert 'SUCCESS              "disk key of the demonstration"' in done.out
    assert "0x18000023 (NODBG NOKS SEV, API >= 0.24)" in done.out
    assert "SEND_UPDATE_DATA           SUCCESS              68 packets" in done.out
    assert "test key" in done.out
    assert max(map(len, done.out.splitlines())) <= 120


def test_the_same_seed_tells_the_same_story(cli):
    first, second, other = (cli("demo", "--seed", seed).out for seed in ("5eed", "5EED", "5eee"))
    assert first == second
    assert first != other


def test_without_a_seed_no_two_are_the_same(cli):
    first, second = (json.loads(cli("demo", "--json").out)["steps"] for _ in range(2))
    assert [step["status"] for step in first] == [step["status"] for step in second]
    changed = {a["command"] for a, b in zip(first, second, strict=True) if a != b}
    assert changed == {"GET_ID", "sign the PEK", "LAUNCH_MEASURE", "read the same bytes"}


def test_the_platforms_are_two(cli):
    steps = json.loads(cli("demo", "--seed", "00", "--json").out)["steps"]
    first, second = (step["note"] for step in steps if step["command"] == "GET_ID")
    assert first != second


def test_each_generation_has_its_own_engine(cli):
    """Naples XORs published constants, Rome random ones: other ciphertext of the same key and bytes."""
    naples, rome = (
        next(step["note"] for step in json.loads(done.out)["steps"] if step["command"] == "read the same bytes")
        for done in (cli("demo", "--seed", "00", "--json", "--generation", name) for name in ("naples", "rome"))
    )
    assert naples != rome


def test_it_ends_where_a_check_fails_that_should_not(cli, monkeypatch):
    monkeypatch.setattr(demo, "launch_digest", lambda *_: bytes(32))
    done = cli("demo", "--seed", "00", "--json")
    document = json.loads(done.out)
    assert (done.code, document["ok"]) == (1, False)
    last = document["steps"][-1]
    assert (last["command"], last["status"], last["expected"]) == ("check the measurement", "BAD_MEASUREMENT", GOOD)
    text = cli("demo", "--seed", "00")
    assert text.code == 1
    assert text.out.endswith("\n  expected SUCCESS: the story ends here\n\nIt went wrong.\n")


def test_it_ends_where_the_platform_is_not_amds(cli, monkeypatch):
    monkeypatch.setattr(demo.SimulatedAmd, "certify", lambda amd, chip, cek: cek)
    done = cli("demo", "--seed", "00", "--json")
    last = json.loads(done.out)["steps"][-1]
    assert (done.code, last["command"], last["status"]) == (1, "verify the chain", "INVALID_CERTIFICATE")


def test_it_ends_where_an_attack_succeeds(cli, monkeypatch):
    """A guest owner who accepts every measurement."""
    monkeypatch.setattr("sevref.roles.guest_owner.require_mac", lambda *_: None)
    done = cli("demo", "--seed", "00", "--json")
    document = json.loads(done.out)
    assert (done.code, document["ok"]) == (1, False)
    last = document["steps"][-1]
    assert (last["command"], last["status"], last["expected"]) == ("check the measurement", GOOD, "BAD_MEASUREMENT")


@pytest.mark.parametrize(
    "name, value, command, note",
    [
        (
            "seen_by_host",
            lambda vm, gpa, size: vm.vcpu().read(gpa, size),
            "read the same bytes",
            "the guest's plaintext",
        ),
        ("inject_secret", lambda *_: None, "read the secret area", "secret table: GUID: expected"),
        (
            "paddr",
            lambda vm, gpa, real=GuestVm.paddr: real(vm, gpa ^ 0x1000),
            "read the secret area",
            "secret table: GUID",
        ),
    ],
)
def test_it_ends_where_a_party_sees_something_else(cli, monkeypatch, name, value, command, note):
    monkeypatch.setattr(GuestVm, name, value)
    done = cli("demo", "--seed", "00", "--json")
    assert done.code == 1
    last = json.loads(done.out)["steps"][-1]
    assert (last["command"], last["status"]) == (command, "WRONG")
    assert last["note"].startswith(note)


def test_it_ends_where_the_guest_finds_another_key(cli, monkeypatch):
    real = demo.GuestOwner.package_secret
    other = [(demo.DISK_KEY_GUID, b"another key")]
    monkeypatch.setattr(demo.GuestOwner, "package_secret", lambda owner, _: real(owner, other))
    last = json.loads(cli("demo", "--json").out)["steps"][-1]
    assert (last["command"], last["status"], last["note"]) == (
        "read the secret area",
        "WRONG",
        "another disk key, or none",
    )


def test_it_ends_when_the_host_has_no_memory_left(cli, monkeypatch):
    machine = demo.Machine
    monkeypatch.setattr(demo, "Machine", lambda *a, **k: machine(*a, dram_size=0x380000, **k))
    done = cli("demo", "--json")
    document = json.loads(done.out)
    assert (done.code, document["ok"]) == (1, False)
    assert document["steps"][-1]["status"] == "RESOURCE_LIMIT"


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--generation", "turin"], "argument --generation: invalid choice: 'turin'"),
        (["--seed", "xyz"], "argument --seed: seed: expected pairs of hex digits, found 3 characters that are not"),
        (["--seed", ""], "argument --seed: seed: expected pairs of hex digits, found nothing"),
        (["--seed"], "argument --seed: expected one argument"),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_bad_options(refused, words, reason):
    assert reason in refused("demo", "--json", *words)


def test_as_a_program():
    done = subprocess.run([sys.executable, "-m", "sevref", "demo", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"] is True
