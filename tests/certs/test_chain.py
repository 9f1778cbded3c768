"""Whole chains: every check reported, roots completed and pinned, what the verdict does not depend on."""

import dataclasses

import pytest

from certs.keys import CEK, OCA, PEK, naples, oca, pdh, pek, rsa_key, signed
from sevref import InputError, SimulatedAmd, load_chain, parse_certificate, simulated_roots, verify_chain
from sevref.certs import Chain, Roots, SevCertificate, Usage, amd_roots, sign_certificate, simulated_key
from sevref.crypto import rsa_pss_sign
from support import vectors

ROWS = [
    ("ARK", "", "present"),
    ("ASK", "", "present"),
    ("CEK", "", "present"),
    ("OCA", "", "present"),
    ("PEK", "", "present"),
    ("PDH", "", "present"),
    ("ARK", "ARK", "signature"),
    ("ARK", "", "key id"),
    ("ARK", "", "root hash"),
    ("ASK", "ARK", "signature"),
    ("CEK", "ASK", "signature"),
    ("OCA", "OCA", "signature"),
    ("PEK", "OCA", "signature"),
    ("PEK", "CEK", "signature"),
    ("PDH", "PEK", "signature"),
    ("PDH", "", "peer key"),
]


def real(**changes) -> Chain:
    certs = {place: parse_certificate(data) for place, data in naples().items()}
    return Chain(**{**certs, **changes})


def simulated(name="naples", **changes) -> Chain:
    amd = SimulatedAmd(name)
    amd.register(bytes(64), CEK.public)
    certs = {"ark": amd.roots.ark, "ask": amd.roots.ask, "cek": amd.certify(bytes(64))}
    return Chain(**{**certs, "oca": oca(), "pek": pek(), "pdh": pdh(), **changes})


def failed(result):
    return {(c.subject, c.issuer, c.check): c.status.name for c in result.failures}


def test_the_real_naples_chain():
    result = verify_chain(real())
    assert result.valid and result.root == "amd" and result.generation == "naples"
    assert result.warnings == [] and result.ignored == []
    assert [(c.subject, c.issuer, c.check) for c in result.checks] == ROWS
    assert all(c.ok and c.status == 0 and c.detail for c in result.checks)
    strict = verify_chain(real(), strict=True)
    assert strict.valid and len(strict.checks) == len(ROWS) + 6


@pytest.mark.parametrize("gone", [("ark",), ("ask",), ("ark", "ask")])
def test_amds_part_is_completed(gone):
    result = verify_chain(real(**dict.fromkeys(gone)))
    assert result.valid and result.root == "amd" and result.generation == "naples"
    details = {c.subject: c.detail for c in result.checks if c.check == "present"}
    for place in gone:
        assert details[place.upper()] == "completed from the root amd naples"


@pytest.mark.parametrize("name", ["naples", "rome", "milan", "genoa", "turin"])
def test_completion_finds_the_generation(name):
    roots = [simulated_roots(other) for other in ("naples", "rome", "milan", "genoa", "turin")]
    # Rome to Turin share one pair of test keys: the ASK is the same key, so the first of them is found
    result = verify_chain(simulated(name, ark=None, ask=None), roots=roots)
    assert result.valid and result.root == "custom"
    assert result.generation == ("naples" if name == "naples" else "rome")
    result = verify_chain(simulated(name, ark=None), roots=roots)
    assert result.valid and result.generation == name
    assert verify_chain(simulated(name), roots=simulated_roots(name)).generation == name


@pytest.mark.parametrize("gone", ["cek", "oca", "pek", "pdh"])
def test_a_missing_certificate(gone):
    result = verify_chain(real(**{gone: None}))
    assert not result.valid
    assert [(c.subject, c.issuer, c.check) for c in result.checks] == ROWS  # all are made and reported
    assert set(failed(result)) == {row for row in ROWS if gone.upper() in row[:2]}
    missing = next(c for c in result.failures if c.check == "present")
    assert missing.detail.startswith("missing; needed: ")
    assert all(gone.upper() in c.detail for c in result.failures)


def test_an_empty_chain_fails_everywhere():
    result = verify_chain(Chain())
    assert {(c.subject, c.issuer, c.check) for c in result.failures} == set(ROWS)
    assert (result.root, result.generation) == ("unknown", None)


# -- roots


def test_a_chain_is_never_its_own_root():
    chain = simulated()
    result = verify_chain(chain)  # everything fits, but nobody trusts this ARK
    assert failed(result) == {("ARK", "", "root hash"): "INVALID_CERTIFICATE"}
    assert result.root == "unknown" and result.generation == "naples"
    assert "needed: the ARK of a trusted root" in result.failures[0].detail
    assert verify_chain(chain, roots=simulated_roots("naples")).valid


def test_a_self_made_root_with_a_key_id_of_its_own():
    key = rsa_key(2048)
    ark = simulated_roots("naples").ark.replace(key_id=b"I am a new root!", certifying_id=b"I am a new root!")
    ark.modulus = key.public.n
    ark.signature = rsa_pss_sign(key, ark.signed_bytes(), bytes(32), "sha256")
    ask = simulated_roots("naples").ask.replace(certifying_id=ark.key_id)
    ask.signature = rsa_pss_sign(key, ask.signed_bytes(), bytes(32), "sha256")
    chain = simulated(ark=ark, ask=ask)
    result = verify_chain(chain)
    assert failed(result) == dict.fromkeys([("ARK", "", "key id"), ("ARK", "", "root hash")], "INVALID_CERTIFICATE")
    assert (result.root, result.generation) == ("unknown", None)
    generation = dataclasses.replace(amd_roots("naples").generation, name="other", root_key_id=ark.key_id)
    pinned = verify_chain(chain, roots=Roots.pin(ark, ask, generation))
    assert pinned.valid and (pinned.root, pinned.generation) == ("custom", "other")


def test_other_roots_do_not_help():
    result = verify_chain(real(), roots=simulated_roots("naples"))
    assert failed(result) == {("ARK", "", "root hash"): "INVALID_CERTIFICATE"} and result.root == "unknown"
    result = verify_chain(real(), roots=simulated_roots("milan"))
    assert failed(result) == dict.fromkeys([("ARK", "", "key id"), ("ARK", "", "root hash")], "INVALID_CERTIFICATE")
    assert result.generation == "naples"
    result = verify_chain(real(), roots=[])
    assert not result.valid and result.root == "unknown"


def test_several_roots():
    roots = [simulated_roots("naples"), amd_roots("naples"), amd_roots("milan")]
    assert verify_chain(real(), roots=roots).root == "amd"
    assert verify_chain(simulated(), roots=roots).root == "custom"
    assert verify_chain(real(ark=None), roots=roots).root == "amd"
    assert verify_chain(simulated(ark=None), roots=roots).root == "custom"
    assert verify_chain(simulated(ark=None, ask=None), roots=roots).root == "custom"


def test_a_completed_ark_needs_an_ask_below_it():
    ask = amd_roots("naples").ask.replace(key_id=bytes(16))
    result = verify_chain(real(ark=None, ask=ask))
    assert failed(result) == {("ASK", "ARK", "signature"): "BAD_SIGNATURE"}
    assert result.root == "unknown"


def test_an_unknown_word_for_roots():
    with pytest.raises(InputError, match="roots"):
        verify_chain(real(), roots="everybody")


# -- exported chains


def test_the_017_export():
    files = [vectors("certs", "naples", name) for name in ("export017_pek_oca_cek.cert", "export017_pdh.cert")]
    result = verify_chain(load_chain(files))
    good = {(c.subject, c.issuer) for c in result.checks if c.ok and c.check == "signature"}
    assert good == {("OCA", "OCA"), ("PEK", "OCA"), ("PEK", "CEK"), ("PDH", "PEK")}
    assert not result.valid and (result.root, result.generation) == ("unknown", None)
    cek = next(c for c in result.failures if (c.subject, c.issuer) == ("CEK", "ASK"))
    assert cek.status.name == "INVALID_CERTIFICATE" and "GET_ID" in cek.detail
    assert len(result.warnings) == 1 and "https://kdsintf.amd.com/cek/id/" in result.warnings[0]


def test_an_unsigned_cek_with_amds_part_there():
    unsigned = parse_certificate(vectors("certs", "naples", "cek.unsigned.cert").read_bytes())
    result = verify_chain(real(cek=unsigned))
    assert failed(result) == {("CEK", "ASK", "signature"): "INVALID_CERTIFICATE"}
    assert result.root == "amd" and "without AMD's signature" in result.failures[0].detail


# -- other owners


@pytest.mark.parametrize(("bits", "algo"), [(1024, 0x001), (2048, 0x101), (4096, 0x001)])
def test_an_rsa_owner(bits, algo):
    key = rsa_key(bits)
    own = signed(0x1001, algo, key.public, (key, 0x1001, algo))
    below = signed(0x1002, 0x002, PEK.public, (key, 0x1001, algo), (CEK, 0x1004, 0x002))
    chain = simulated(oca=own, pek=below)
    assert verify_chain(chain, roots=simulated_roots("naples"), strict=True).valid
    if bits < 4096:
        own.sig1.value |= 1 << 4095
        result = verify_chain(chain, roots=simulated_roots("naples"))
        assert result.valid and result.warnings == [
            f"OCA: slot 1: bytes behind the signature's {bits // 8} are not zero"
        ]


def test_slots_of_a_pek_the_other_way_round():
    swapped = signed(0x1002, 0x002, PEK.public, (CEK, 0x1004, 0x002), (OCA, 0x1001, 0x002))
    assert verify_chain(simulated(pek=swapped), roots=simulated_roots("naples"), strict=True).valid


def test_a_pdh_that_is_no_peer():
    """Signed properly, but for ECDSA: the signature check passes, the key agreement would not."""
    wrong = signed(0x1003, 0x002, PEK.public, (PEK, 0x1002, 0x002))
    result = verify_chain(simulated(pdh=wrong), roots=simulated_roots("naples"))
    assert failed(result) == {("PDH", "", "peer key"): "INVALID_CERTIFICATE"}


def test_certificates_in_the_wrong_places():
    chain = real()
    chain.pek, chain.pdh = chain.pdh, chain.pek
    assert not verify_chain(chain).valid
    chain = real()
    chain.pek = chain.oca  # the OCA's own signature is a good one by the OCA
    result = verify_chain(chain)
    assert ("PEK", "CEK", "signature") in failed(result)


# -- what the verdict does not depend on

UNREAD = [  # place, offset, value, the warning
    ("oca", 0x4AC, 1, "OCA: slot 1: the 368 bytes behind s are not zero"),
    ("oca", 0x61B, 1, "OCA: slot 1: the 368 bytes behind s are not zero"),
    ("oca", 0x624, 1, "OCA: slot 2 is empty, but its 512 data bytes are not zero"),
    ("pek", 0x6B4, 1, "PEK: slot 2: the 368 bytes behind s are not zero"),
    ("pdh", 0x823, 1, "PDH: slot 2 is empty, but its 512 data bytes are not zero"),
    ("cek", 0x51C, 1, "CEK: slot 1: bytes behind the signature's 256 are not zero"),
    ("cek", 0x61B, 128, "CEK: slot 1: bytes behind the signature's 256 are not zero"),
]


@pytest.mark.parametrize(("place", "offset", "value", "warning"), UNREAD)
def test_unread_bytes_are_warnings(place, offset, value, warning):
    data = bytearray(naples()[place])
    data[offset] ^= value
    chain = real(**{place: SevCertificate.parse(data)})
    result = verify_chain(chain)
    assert result.valid and result.warnings == [warning]
    strict = verify_chain(chain, strict=True)
    assert failed(strict) == {(place.upper(), "", "strict form"): "INVALID_CERTIFICATE"}


def test_signed_but_odd_bytes_are_warnings():
    odd = pdh()
    odd.reserved, odd.pubkey.filler = b"\1\0", bytes(879) + b"\1"
    data = odd.body() + bytes.fromhex("0010000000000000") + bytes(512) + bytes.fromhex("0010000000000000") + bytes(512)
    odd = SevCertificate.parse(data)
    sign_certificate(odd, PEK, 0x1002, 0x002)
    sign_certificate(odd, OCA, 0x1001, 0x002)
    result = verify_chain(simulated(pdh=odd), roots=simulated_roots("naples"))
    assert result.valid
    assert result.warnings == [
        "PDH: reserved bytes at 0x006 are not zero",
        "PDH: public key: bytes behind the coordinates are not zero",
        "PDH: slot 2 names OCA (0x1001), which signs no certificate of this kind",
    ]


def test_reserved_bytes_of_amds_format():
    root = simulated_roots("naples")
    ask = root.ask.replace(reserved=bytes(15) + b"\1")
    ask.signature = rsa_pss_sign(simulated_key("naples", Usage.ARK), ask.signed_bytes(), bytes(32), "sha256")
    result = verify_chain(simulated(ask=ask), roots=root)
    assert result.valid and result.warnings == ["ASK: reserved bytes at 0x28 are not zero"]
    assert not verify_chain(simulated(ask=ask), roots=root, strict=True).valid


def test_strict_demands_the_salt_of_the_hashs_length():
    root = simulated_roots("naples")
    cek = signed(0x1004, 0x002, CEK.public)
    sign_certificate(cek, simulated_key("naples", Usage.ASK), 0x13, 0x001, salt=bytes(20))
    assert verify_chain(simulated(cek=cek), roots=root).valid
    assert failed(verify_chain(simulated(cek=cek), roots=root, strict=True)) == {
        ("CEK", "ASK", "signature"): "BAD_SIGNATURE"
    }


def test_verification_changes_nothing():
    chain = real()
    before = {place: cert.pack() for place, cert in chain.items()}
    assert verify_chain(chain) == verify_chain(chain)
    assert {place: cert.pack() for place, cert in chain.items()} == before and chain.notes == chain.ignored == []
