"""Certificates in files: kinds, names, content, and what is refused."""

import base64
import os
import shutil

import pytest

from certs.keys import NAPLES, naples, oca, pdh, pek
from sevref import InputError, load_chain, parse_certificate, simulated_roots, verify_chain
from sevref.certs import Chain, SevCertificate, amd_roots, load_roots
from sevref.certs.files import split
from support import vectors


def write(folder, **files):
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


def joined(*places) -> bytes:
    return b"".join(naples()[place] for place in places)


KINDS = {  # name: what stands in the file, in order; its size in bytes
    "chain buffer": (("pek", "oca", "cek"), 6252),
    "sevctl export": (("pdh", "pek", "oca", "cek"), 8336),
    "sevctl export --full": (("pdh", "pek", "oca", "cek", "ask", "ark"), 10000),
    "AMD bundle": (("ask", "ark"), 1664),
    "any order": (("ark", "ask", "cek", "oca", "pdh", "pek"), 10000),
    "two": (("pdh", "cek"), 4168),
    "one of SEV": (("oca",), 2084),
    "one of AMD": (("ask",), 832),
}


@pytest.mark.parametrize("text", ["binary", "base64", "base64 with lines"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, text, tmp_path):
    places, size = KINDS[kind]
    data = joined(*places)
    assert len(data) == size
    if text != "binary":
        data = base64.b64encode(data) if text == "base64" else base64.encodebytes(data)
    write(tmp_path, some__file=data)
    chain = load_chain(tmp_path / "some.file")
    assert {place: cert.pack() for place, cert in chain.items()} == {place: naples()[place] for place in places}
    assert chain.sources == dict.fromkeys(places, str(tmp_path / "some.file"))


def test_base64_sizes_of_the_wild():
    assert len(base64.b64encode(naples()["pdh"])) == 2780
    assert len(base64.b64encode(joined("pek", "oca", "cek"))) == 8336  # like sevctl's binary export, but text


@pytest.mark.parametrize("name", ["rome", "milan", "genoa", "turin"])
def test_large_bundles_and_full_exports(name, tmp_path):
    bundle = vectors("certs", name, "ask.cert").read_bytes() + vectors("certs", name, "ark.cert").read_bytes()
    full = joined("pdh", "pek", "oca", "cek") + bundle
    assert (len(bundle), len(full)) == (3200, 11536)
    write(tmp_path, bundle=bundle, full=full)
    for file in ("bundle", "full"):
        chain = load_chain(tmp_path / file)
        assert (chain.ark, chain.ask) == (amd_roots(name).ark, amd_roots(name).ask)
    assert chain.pdh.pack() == naples()["pdh"]


# -- the Naples ARK without signature


def test_the_three_forms_of_the_naples_ark(tmp_path):
    published = vectors("certs", "naples", "ark.unsigned.cert").read_bytes()
    signature = vectors("certs", "naples", "ark.signature.bin").read_bytes()
    assert naples()["ark"] == published + signature and len(published) == 576
    for data in (published, published + bytes(256), published + signature):
        assert parse_certificate(data).pack() == naples()["ark"]
    assert parse_certificate(published + bytes(255) + b"\1").pack() == published + bytes(255) + b"\1"
    bundle = naples()["ask"] + published
    assert len(bundle) == 1408
    write(tmp_path, bundle=bundle, zeros=naples()["ask"] + published + bytes(256), ark__cert=published)
    write(tmp_path, full=joined("pdh", "pek", "oca", "cek") + bundle)
    for file in ("bundle", "zeros", "ark.cert", "full"):
        chain = load_chain(tmp_path / file)
        assert chain.ark.pack() == naples()["ark"]
        assert len(chain.notes) == 1 and "without its signature" in chain.notes[0]
    result = verify_chain(chain)
    assert result.valid and result.warnings == chain.notes


def test_only_that_ark_is_completed():
    published = bytearray(naples()["ark"][:576])
    forged = bytes(published[:400]) + bytes([published[400] ^ 1]) + bytes(published[401:])
    completed = parse_certificate(forged)  # the preamble is that of Naples: completed, and then refused
    assert completed.pack()[:576] == forged
    result = verify_chain(Chain(ark=completed, **parsed("ask", "cek", "oca", "pek", "pdh")))
    assert [check.status.name for check in result.failures if check.subject == "ARK"] == [
        "BAD_SIGNATURE",
        "INVALID_CERTIFICATE",
    ]
    published[4] ^= 1
    with pytest.raises(InputError, match="832 bytes by its size fields, found 576"):
        parse_certificate(bytes(published))
    with pytest.raises(InputError, match="found 576"):
        parse_certificate(naples()["ask"][:576])
    zeros = simulated_roots("naples").ask.signed_bytes() + bytes(256)
    assert parse_certificate(zeros).pack() == zeros


def parsed(*places):
    return {place: parse_certificate(naples()[place]) for place in places}


# -- folders


def test_exact_names_win(tmp_path):
    write(tmp_path, **{f"{place}__cert": naples()[place] for place in NAPLES})
    write(tmp_path, copy__cert=naples()["pek"], cert_chain__cert=joined("pek", "oca", "cek"), notes__txt=b"hello")
    (tmp_path / "sub").mkdir()
    chain = load_chain(tmp_path)
    assert sorted(chain.ignored) == ["cert_chain.cert", "copy.cert", "notes.txt"]
    assert verify_chain(chain).valid and verify_chain(chain).ignored == chain.ignored


def test_the_folder_of_the_vectors():
    chain = load_chain(vectors("certs", "naples"))
    assert sorted(chain.ignored) == [
        "ark.signature.bin",
        "ark.unsigned.cert",
        "cek.unsigned.cert",
        "export017_pdh.cert",
        "export017_pek_oca_cek.cert",
    ]
    assert verify_chain(chain).valid


def test_content_without_exact_names(tmp_path):
    write(tmp_path, **{f"x{place}": naples()[place] for place in NAPLES}, notes__txt=b"hello", empty=b"")
    write(tmp_path, broken__cert=naples()["pek"][:-1], large=bytes(1 << 17), Ark__cert=b"not this name")
    chain = load_chain(tmp_path)
    assert sorted(chain.ignored) == ["Ark.cert", "broken.cert", "empty", "large", "notes.txt"]
    assert [note.split(" ")[0] for note in chain.notes] == ["Ark.cert", "broken.cert"]
    assert verify_chain(chain).valid


def test_two_candidates_are_both_named(tmp_path):
    write(tmp_path, a__cert=naples()["pek"], b__cert=pek().pack())
    for paths in (tmp_path, [tmp_path / "a.cert", tmp_path / "b.cert"]):
        with pytest.raises(InputError, match="PEK: expected one candidate") as caught:
            load_chain(paths)
        assert "a.cert" in str(caught.value) and "b.cert" in str(caught.value)
    write(tmp_path, both=naples()["pek"] + pek().pack())
    with pytest.raises(InputError, match="PEK, PEK"):
        load_chain(tmp_path / "both")


def test_a_signed_and_an_unsigned_cek_file_are_two_candidates(tmp_path):
    shutil.copy(vectors("certs", "naples", "cek.unsigned.cert"), tmp_path / "a")
    write(tmp_path, b=naples()["cek"])
    with pytest.raises(InputError, match="CEK: expected one candidate"):
        load_chain(tmp_path)


@pytest.mark.parametrize("place", NAPLES)
def test_an_exact_name_decides_the_place(place, tmp_path):
    """What the certificate says of itself is left to the checks."""
    data = bytearray(naples()[place])
    data[0x24 if len(data) == 832 else 0x08] ^= 0x80
    write(tmp_path, **{f"{place}__cert": bytes(data)})
    chain = load_chain(tmp_path)
    assert getattr(chain, place).pack() == data
    assert not verify_chain(chain).valid
    (tmp_path / f"{place}.cert").rename(tmp_path / "other.cert")
    with pytest.raises(InputError, match="usage at 0x"):
        load_chain(tmp_path / "other.cert")


def test_unreadable_sizes_in_a_named_ark_are_left_to_the_checks(tmp_path):
    data = bytearray(naples()["ark"])
    data[0x3D] = 0x09
    write(tmp_path, ark__cert=bytes(data))
    result = verify_chain(load_chain(tmp_path))
    failed = {(c.subject, c.check): c for c in result.failures}
    assert failed["ARK", "signature"].status.name == "INVALID_CERTIFICATE"
    assert "2304 bits" in failed["ARK", "signature"].detail
    write(tmp_path, bundle=naples()["ask"] + bytes(data))
    assert load_chain(tmp_path / "bundle").ark.modulus_size == 2304
    with pytest.raises(InputError, match="MODULUS_SIZE at offset 0x3C"):
        write(tmp_path, other=bytes(data))
        load_chain(tmp_path / "other")


# -- options


def test_options_win(tmp_path):
    write(tmp_path, **{f"{place}__cert": naples()[place] for place in NAPLES}, mine=oca().pack())
    chain = load_chain(tmp_path, oca=tmp_path / "mine")
    assert chain.oca == oca() and chain.pek.pack() == naples()["pek"]
    assert chain.ignored[-1] == f"OCA of {tmp_path / 'oca.cert'}"
    alone = load_chain(pdh=tmp_path / "pdh.cert")
    assert [place for place, _ in alone.items()] == ["pdh"]


@pytest.mark.parametrize(("option", "place"), [("pek", "ask"), ("ask", "pek"), ("ark", "cek"), ("cek", "ark")])
def test_an_option_with_the_other_format(option, place, tmp_path):
    write(tmp_path, file=naples()[place])
    with pytest.raises(InputError, match=f"file: {option.upper()}"):
        load_chain(**{option: tmp_path / "file"})


# -- a signed CEK for an exported one


def test_the_signed_cek_replaces_the_exported_one(tmp_path):
    unsigned = vectors("certs", "naples", "cek.unsigned.cert").read_bytes()
    write(tmp_path, export=joined("pek", "oca") + unsigned, pdh=naples()["pdh"], signed=naples()["cek"])
    for chain in (
        load_chain([tmp_path / "export", tmp_path / "pdh", tmp_path / "signed"]),
        load_chain([tmp_path / "signed", tmp_path / "export", tmp_path / "pdh"]),
        load_chain([tmp_path / "export", tmp_path / "pdh"], cek=tmp_path / "signed"),
        load_chain(tmp_path),
    ):
        assert chain.cek.pack() == naples()["cek"] and chain.exported_cek.pack() == unsigned
        result = verify_chain(chain)
        assert result.valid and [c.ok for c in result.checks if c.check == "same as exported"] == [True]


def test_the_signed_cek_of_another_chip(tmp_path):
    export = vectors("certs", "naples", "export017_pek_oca_cek.cert")
    pdh_file = vectors("certs", "naples", "export017_pdh.cert")
    write(tmp_path, signed=naples()["cek"])
    result = verify_chain(load_chain([export, pdh_file], cek=tmp_path / "signed"))
    failed = {(c.subject, c.issuer, c.check): c.status.name for c in result.failures}
    assert failed == {
        ("CEK", "", "same as exported"): "INVALID_CERTIFICATE",
        ("PEK", "CEK", "signature"): "BAD_SIGNATURE",
    }
    assert result.root == "amd"


def test_the_comparison_covers_0x008_to_0x413():
    chain = load_chain(vectors("certs", "naples"))
    for offset, same in ((0x004, True), (0x005, True), (0x007, True), (0x008, False), (0x413, False), (0x414, True)):
        data = bytearray(naples()["cek"])
        data[offset] ^= 1
        chain.exported_cek = SevCertificate.parse(data)
        found = [check.ok for check in verify_chain(chain).checks if check.check == "same as exported"]
        assert found == [same], hex(offset)


# -- bad input

GARBAGE = bytes(range(1, 256)) * 9


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found 0 bytes"),
        (b"\0", "found 1 bytes"),
        (GARBAGE[:2083], "found 2083 bytes"),
        (GARBAGE[:2085], "found 2085 bytes"),
        (GARBAGE[:2084], "usage at 0x08"),
        (GARBAGE[:832], "PUBEXP_SIZE at offset 0x38"),
        (GARBAGE[:1600], "PUBEXP_SIZE at offset 0x38"),
        (GARBAGE[:576], "found 576 bytes"),
        (bytes(6252), None),
        (bytes(1664), None),
        (b"hello world\n", "text that is not base64"),
        (b"AAAA\n", "found 3 bytes"),
        (b"AAA=A", "text that is not base64"),
        (base64.b64encode(bytes(2084))[:-1], "text that is not base64"),
        (b"-----BEGIN CERTIFICATE-----\n", "PEM"),
        (bytes(1 << 17), "more than 65536 bytes"),
    ],
)
def test_files_that_hold_no_certificate(data, words, tmp_path):
    write(tmp_path, file=data)
    if words is None:  # of a known size: taken by position, and every check fails
        assert not verify_chain(load_chain(tmp_path / "file")).valid
        return
    with pytest.raises(InputError, match=words) as caught:
        load_chain(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_bundle_with_impossible_sizes_is_named(tmp_path):
    for offset, words in ((0x3E, "at most 1600 bytes"), (832 + 0x3E, "at most 1600 bytes")):
        data = bytearray(joined("ask", "ark"))
        data[offset] = 0xFF
        write(tmp_path, file=bytes(data))
        with pytest.raises(InputError, match=f"file: AMD certificate.*{words}"):
            load_chain(tmp_path / "file")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_and_oversized(kind, tmp_path):
    data = joined(*KINDS[kind][0])
    for damaged in (data[:-1], data[: len(data) // 2 + 1], data + b"\0", data[1:]):
        write(tmp_path, file=damaged)
        with pytest.raises(InputError):
            load_chain(tmp_path / "file")


def test_names_that_lead_nowhere(tmp_path):
    for path in (tmp_path / "none", tmp_path):  # an empty folder
        with pytest.raises(InputError):
            load_chain(path)
    with pytest.raises(InputError, match="at least one certificate"):
        load_chain([])
    if os.geteuid():
        (tmp_path / "locked").touch(mode=0)
        with pytest.raises(InputError, match="permission denied"):
            load_chain(tmp_path / "locked")


def test_positions_of_a_damaged_export():
    """Two that claim one place: then the position decides, and the checks find the damage."""
    data = bytearray(joined("pdh", "pek", "oca", "cek", "ask", "ark"))
    data[2084 + 0x08] = 0x03  # the PEK says PDH
    assert [place for place, _ in split(bytes(data), "x")] == ["pdh", "pek", "oca", "cek", "ask", "ark"]
    data[10000 - 832 + 0x3D] = 0x09  # the ARK says 2304 bits
    places = split(bytes(data), "x")
    assert [place for place, _ in places] == ["pdh", "pek", "oca", "cek", "ask", "ark"]
    assert not verify_chain(Chain(**dict(places))).valid


# -- roots in files


def test_roots_from_files(tmp_path):
    root = simulated_roots("milan")
    write(tmp_path, bundle=root.ask.pack() + root.ark.pack(), alone=root.ark.pack(), ask=root.ask.pack())
    assert load_roots(tmp_path / "bundle") == root
    assert load_roots(tmp_path / "alone", Chain(ask=root.ask)) == root
    for name, missing in (("alone", "no ASK"), ("ask", "no ARK")):
        with pytest.raises(InputError, match=missing):
            load_roots(tmp_path / name)
    odd = root.ark.replace(key_id=b"somebody's root!")
    write(tmp_path, odd=root.ask.pack() + odd.pack())
    found = load_roots(tmp_path / "odd")
    assert (found.name, found.generation.name, found.generation.amd_hash) == ("custom", "other", "sha384")


def test_generated_certificates_come_back(tmp_path):
    write(tmp_path, file=pdh().pack() + pek().pack() + oca().pack())
    chain = load_chain(tmp_path / "file")
    assert (chain.pdh, chain.pek, chain.oca) == (pdh(), pek(), oca())
