"""The 55 recorded changes of single bytes of the real Naples chain, by three procedures."""

import json

import pytest

from certs.keys import naples
from sevref import SevError, Status, load_chain, verify_chain
from sevref.certs import AmdCertificate, SevCertificate, amd_roots, check_peer, validate, validate_amd
from support import vectors

DOCUMENT = json.loads(vectors("certs", "tampered.json").read_text())
CASES = {case["id"]: case for case in DOCUMENT["cases"]}
STEPS = {
    "platform_chain": ("ARK self", "ASK by ARK", "CEK by ASK", "PEK by CEK", "PDH by PEK"),
    "domain_chain": ("OCA self", "PEK by OCA", "PDH by PEK"),
}


def place_of(case) -> str:
    return case["file"].removeprefix("naples/").removesuffix(".cert")


def files(case=None) -> dict[str, bytes]:
    data = dict(naples())
    if case:
        changed = bytearray(data[place_of(case)])
        assert changed[case["offset"]] == case["original"]
        changed[case["offset"]] ^= case["xor"]
        data[place_of(case)] = bytes(changed)
    return data


def run(procedure, data) -> tuple[str, str | None]:
    """Status and failing step, the rules called one by one."""
    root = amd_roots("naples")
    ark, ask = (AmdCertificate.parse_prefix(data[place]) for place in ("ark", "ask"))
    cek, oca, pek, pdh = (SevCertificate.parse(data[place]) for place in ("cek", "oca", "pek", "pdh"))
    rules = {
        "ARK self": lambda: validate_amd(ark, ark, 0x00, root.generation, root=root),
        "ASK by ARK": lambda: validate_amd(ask, ark, 0x13, root.generation),
        "CEK by ASK": lambda: validate(cek, ask.signing_key(root.generation)),
        "PEK by CEK": lambda: validate(pek, cek.signing_key()),
        "OCA self": lambda: validate(oca, oca.signing_key()),
        "PEK by OCA": lambda: validate(pek, oca.signing_key()),
        "PDH by PEK": lambda: validate(pdh, pek.signing_key()),
    }
    try:
        step = None
        for step in STEPS.get(procedure, ()):
            rules[step]()
        if procedure == "dh_cert_sanity":
            check_peer(pdh)
    except SevError as error:
        return error.status.name, step
    return "SUCCESS", None


def test_there_are_55():
    assert len(CASES) == 55
    assert {name for case in CASES.values() for name in case["expected"]} == {*STEPS, "dh_cert_sanity"}


@pytest.mark.parametrize("procedure", [*STEPS, "dh_cert_sanity"])
def test_unchanged(procedure):
    assert run(procedure, files()) == ("SUCCESS", None) and DOCUMENT["baseline"][procedure] == "SUCCESS"


@pytest.mark.parametrize("name", CASES)
def test_rules(name):
    case = CASES[name]
    for procedure, expected in case["expected"].items():
        status, step = run(procedure, files(case))
        assert (status, Status[status]) == (expected["status"], expected["code"])
        if procedure in STEPS:
            assert step == expected["failing_step"]


@pytest.mark.parametrize("name", CASES)
def test_chain(name, tmp_path):
    """The same through files: the first failing check of each procedure, and the verdict of the whole."""
    case = CASES[name]
    for place, data in files(case).items():
        (tmp_path / f"{place}.cert").write_bytes(data)
    result = verify_chain(load_chain(tmp_path))
    assert result.ignored == []
    for procedure, expected in case["expected"].items():
        if procedure not in STEPS:
            continue
        first = next((check for check in in_order(result, procedure) if not check.ok), None)
        assert (first.status.name if first else "SUCCESS") == expected["status"]
        subject, _, issuer = (expected["failing_step"] or "").partition(" ")
        if first:
            assert first.subject == subject and issuer in ("self", f"by {first.issuer}")
    both = [expected["status"] for expected in case["expected"].values()]
    relevant = [status for procedure, status in zip(case["expected"], both, strict=True) if procedure in STEPS]
    assert result.valid == (set(relevant) == {"SUCCESS"})
    assert result.valid == (not result.failures)
    if result.valid:
        assert result.warnings and result.root == "amd"  # the changed byte is not as it should be, and is reported


def in_order(result, procedure):
    for step in STEPS[procedure]:
        subject = step.split()[0]
        issuer = subject if step.endswith("self") else step.split()[-1]
        yield from (c for c in result.checks if (c.subject, c.issuer) == (subject, issuer) and c.check == "signature")
