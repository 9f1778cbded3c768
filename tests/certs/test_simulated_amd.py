"""The certificate service of the simulated AMD."""

import pytest

from certs.keys import CEK, STRANGER
from sevref import InputError, SimulatedAmd
from sevref.certs import new_certificate, simulated_roots, validate

CHIP = bytes(range(64))


@pytest.mark.parametrize(("name", "algo"), [("naples", 0x001), ("milan", 0x101)])
def test_certify(name, algo):
    amd = SimulatedAmd(name, seed=b"1")
    amd.register(CHIP, CEK.public)
    cert = amd.certify(CHIP, new_certificate(0x1004, 0x002, CEK.public, (0, 24)))
    assert (cert.api_major, cert.api_minor) == (0, 14)
    assert (cert.pubkey_usage, cert.pubkey_algo) == (0x1004, 0x002)
    assert [(slot.usage, slot.algo) for slot in cert.slots] == [(0x13, algo), (0x1000, 0)]
    assert cert.public_point == CEK.public
    validate(cert, amd.roots.ask.signing_key(amd.roots.generation), strict_salt=True)
    assert amd.roots == simulated_roots(name) and amd.roots.name == "custom"


def test_every_answer_is_newly_signed_and_reproducible():
    answers = []
    for seed in (b"1", b"1", b"2"):
        amd = SimulatedAmd("naples", seed=seed)
        amd.register(CHIP, CEK.public)
        answers.append([amd.certify(CHIP).pack(), amd.certify(CHIP).pack()])
    assert answers[0] == answers[1] != answers[2]
    assert answers[0][0] != answers[0][1] and answers[0][0][:0x41C] == answers[0][1][:0x41C]


def test_unknown_chips_are_refused():
    amd = SimulatedAmd("naples")
    amd.register(CHIP, CEK.public)
    for chip in (bytes(64), CHIP[:63], b"", CHIP + b"\0"):
        with pytest.raises(InputError, match="a chip that this simulated AMD has made"):
            amd.certify(chip, CEK.public)
    with pytest.raises(InputError, match="another key"):
        amd.certify(CHIP, STRANGER.public)
    with pytest.raises(InputError, match="another key"):
        amd.register(CHIP, STRANGER.public)
    amd.register(CHIP, CEK.public)
    with pytest.raises(InputError, match="64 bytes, found 3 bytes"):
        amd.register(b"abc", CEK.public)
