"""``sevref sp``: a platform in a folder, owned, exported, rotated, reset and damaged.

Sizes, offsets, file names and answers are the fact sheets' (sheet 10, sections 3, 4, 5.3 and 7; sheet 50, sections 3
and 4), never read from the code.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sevref import Machine, Platform, PlatformOwner, SevCertificate
from sevref.certs import new_certificate, sign_certificate
from sevref.cli import chip as chips
from sevref.crypto import PrivateKey

COMMANDS = {
    "new", "status", "reset", "export", "pek-csr", "sign-csr", "pek-cert-import", "pek-gen", "pdh-gen", "get-id",
    "certify",
}  # fmt: skip
CERT, FLASH = 2084, 0x8000
PDH, PEK, OCA, CEK = 0x1003, 0x1002, 0x1001, 0x1004
SLOT1, SLOT2 = 0x414, 0x61C
EMPTY = (0x1000).to_bytes(4, "little") + bytes(516)
# sheet 10, section 5.3, vector 1
SECRET = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
ID = (
    "6d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2"
    "487e6222a6664e079c8edf7518defd562dbeda1e7593dfd7f0be285880a24dab"
)
CEK_X = bytes.fromhex(
    "afecf5117786a57a6d00dd745ad35a629dc32823c829c5c7a9873a3f8707fdceccfe7b62284281691298483b7839db74"
)


@pytest.fixture
def sp(cli):
    """Runs a command on a chip, which must succeed; the JSON document."""

    def call(folder, *words):
        done = cli("sp", folder, *words, "--json")
        assert done.code == 0, done
        document = json.loads(done.out)
        assert document["status"] == "SUCCESS"
        return document

    return call


@pytest.fixture
def a(tmp_path, sp):
    """A new chip, the same for every test."""
    sp(tmp_path / "a", "new", "--seed", "5eed")
    return tmp_path / "a"


def usage(cert):
    return int.from_bytes(cert[8:12], "little")


def word(cert, offset):
    return int.from_bytes(cert[offset : offset + 4], "little")


def chain(sp, folder, out=None):
    """PDH, PEK, OCA and signed CEK as sevctl's export has them."""
    file = folder.parent / f"{folder.name}.chain"
    sp(folder, "export", file)
    data = file.read_bytes()
    return dict(zip(("pdh", "pek", "oca", "cek"), (data[i : i + CERT] for i in range(0, 4 * CERT, CERT)), strict=True))


def owned(sp, folder, out, *owner):
    """Let an owner take the chip over, with the files that the commands hand to each other."""
    sp(folder, "pek-csr", "--out", out)
    sp(folder, "sign-csr", out / "pek_csr.cert", "--oca", out / "o.cert", "--key", out / "o.key", "--out", out, *owner)
    sp(folder, "pek-cert-import", out / "pek_csr.signed.cert", out / "o.cert")


def flip(file, offset, bit=1):
    data = bytearray(file.read_bytes())
    data[offset] ^= bit
    file.write_bytes(data)


# ---------------------------------------------------------------------------------------------- the chip


def test_the_commands_are_those_of_the_contract(cli):
    done = cli("sp", "--help")
    assert done.code == 0
    assert set(re.findall(r"^    ([a-z-]+)(?: |$)", done.out, re.M)) == COMMANDS


def test_a_new_chip_is_two_files_that_nobody_else_reads(tmp_path, sp):
    document = sp(tmp_path / "a", "new", "--generation", "rome")
    assert document["generation"] == "rome" and document["init"] == ["SUCCESS"]
    assert len(document["id"]) == 128
    files = {path.name: path.stat() for path in (tmp_path / "a").iterdir()}
    assert set(files) == {"chip.json", "flash.bin"}
    assert files["flash.bin"].st_size == FLASH
    assert {stat.S_IMODE(found.st_mode) for found in files.values()} == {0o600}


def test_status_of_a_new_chip(a, sp):
    document = sp(a, "status")
    found = {key: document[key] for key in ("api_major", "api_minor", "build", "state", "owner", "es", "guest_count")}
    assert found == {
        "api_major": 0, "api_minor": 24, "build": 15, "state": "INIT", "owner": "self", "es": False, "guest_count": 0,
    }  # fmt: skip
    assert (document["generation"], document["name"], document["init"]) == ("milan", "platform A", ["SUCCESS"])


def test_id_and_cek_come_from_the_fuses(tmp_path, sp):
    folder = tmp_path / "vector"
    folder.mkdir()
    chip = {"format": "sevref chip 1", "generation": "milan", "name": "vector 1", "chip_key": SECRET}
    (folder / "chip.json").write_text(json.dumps(chip))
    (folder / "flash.bin").write_bytes(b"\xff" * FLASH)
    assert sp(folder, "get-id")["id"] == ID
    cek = chain(sp, folder)["cek"]
    assert cek[0x14 : 0x14 + 48] == CEK_X
    sp(folder, "pek-gen")
    assert chain(sp, folder)["cek"][:0x414] == cek[:0x414]


def test_a_seed_gives_the_machine_of_the_library(a, sp):
    platform = Platform(Machine("milan", seed=bytes.fromhex("5eed")))
    platform.init()
    assert sp(a, "get-id")["id"] == platform.get_id().hex()
    exported, found = platform.pdh_cert_export(), chain(sp, a)
    assert [found[place] for place in ("pdh", "pek", "oca")] == [
        cert.pack() for cert in (exported.pdh, exported.pek, exported.oca)
    ]


def test_chips_of_one_seed_differ_by_name_and_without_seed_always(tmp_path, sp):
    ids = {
        sp(tmp_path / "1", "new", "--seed", "00")["id"],
        sp(tmp_path / "2", "new", "--seed", "00", "--name", "platform B")["id"],
        sp(tmp_path / "3", "new")["id"],
        sp(tmp_path / "4", "new")["id"],
    }
    assert len(ids) == 4


def test_no_second_chip_in_a_folder(a, sp, refused):
    before = {path.name: path.read_bytes() for path in a.iterdir()}
    assert "without a chip" in refused("sp", a, "new")
    assert {path.name: path.read_bytes() for path in a.iterdir()} == before
    (a / "chip.json").unlink()
    assert "flash.bin with content" in refused("sp", a, "new")
    (a / "flash.bin").write_bytes(b"\xff" * FLASH)
    sp(a, "new")


def test_what_is_no_chip_is_refused(a, tmp_path, refused):
    assert "a folder" in refused("sp", tmp_path / "nowhere", "status")
    assert "chip.json" in refused("sp", tmp_path, "status")
    flash = (a / "flash.bin").read_bytes()
    for wrong in (flash[:-1], flash + b"\xff", b""):
        (a / "flash.bin").write_bytes(wrong)
        assert "32768 bytes" in refused("sp", a, "status")
    (a / "flash.bin").unlink()
    assert "flash.bin" in refused("sp", a, "status")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", "sevref chip 2", "format"),
        ("generation", "rhodes", "generation"),
        ("name", "", "name"),
        ("name", 7, "name"),
        ("chip_key", SECRET[2:], "64 hex digits"),
        ("chip_key", "x" * 64, "something else"),
        ("chip_key", "00" * 32, "secp256k1"),
        ("chip_key", None, "something else"),
    ],
)
def test_fuses_that_make_no_sense_are_refused_without_showing_the_secret(a, refused, field, value, reason):
    document = json.loads((a / "chip.json").read_text())
    (a / "chip.json").write_text(json.dumps(document | {field: value}))
    text = refused("sp", a, "status")
    assert reason in text and document["chip_key"] not in text


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("generation", "full"), [("naples", 10000), ("rome", 11536), ("genoa", 11536)])
def test_export_writes_the_file_of_sevctl(tmp_path, sp, cli, generation, full):
    folder, file = tmp_path / "a", tmp_path / "sev.chain"
    sp(folder, "new", "--generation", generation)
    assert sp(folder, "export", file)["files"] == [str(file)]
    short = file.read_bytes()
    assert len(short) == 8336
    assert [usage(short[i : i + CERT]) for i in range(0, 8336, CERT)] == [PDH, PEK, OCA, CEK]
    sp(folder, "export", "--full", file)
    long = file.read_bytes()
    assert len(long) == full and long[: 3 * CERT] == short[: 3 * CERT]
    assert [word(long, 8336 + 0x24), word(long, (8336 + full) // 2 + 0x24)] == [0x13, 0x00]  # KEY_USAGE: ASK, ARK
    assert cli("chain", "verify", file, "--roots", file).code == 0
    assert cli("chain", "verify", file).code == 1  # a TEST root is nobody's root


def test_export_writes_the_files_of_sev_tool(a, tmp_path, sp, cli):
    names = {"pdh.cert": CERT, "pek.cert": CERT, "oca.cert": CERT, "cek.cert": CERT, "cert_chain.cert": 6252}
    sp(a, "export", "--out", tmp_path / "tool")
    assert {path.name: path.stat().st_size for path in (tmp_path / "tool").iterdir()} == names
    sp(a, "export", "--full", "--out", tmp_path / "tool")
    names |= {"ask.cert": 1600, "ark.cert": 1600, "ask_ark.cert": 3200}
    files = {path.name: path.read_bytes() for path in (tmp_path / "tool").iterdir()}
    assert {name: len(data) for name, data in files.items()} == names
    assert files["ask_ark.cert"] == files["ask.cert"] + files["ark.cert"]
    unsigned = files["cert_chain.cert"][2 * CERT :]
    assert files["cert_chain.cert"][: 2 * CERT] == files["pek.cert"] + files["oca.cert"]
    assert unsigned[SLOT1:] == 2 * EMPTY  # as the firmware exports it
    assert word(files["cek.cert"], SLOT1) == 0x13 and files["cek.cert"][SLOT2:] == EMPTY
    assert files["cek.cert"][:8] == bytes([1, 0, 0, 0, 0, 14, 0, 0])  # API 0.14, as AMD's service writes it
    assert files["cek.cert"][8:SLOT1] == unsigned[8:SLOT1]
    assert cli("chain", "verify", tmp_path / "tool", "--roots", tmp_path / "tool").code == 0


def test_the_service_signs_anew_at_each_request(a, tmp_path, sp):
    document = sp(a, "certify", "--out", tmp_path / "1")
    assert "TEST" in document["issuer"] and document["id"] == sp(a, "get-id")["id"]
    sp(a, "certify", "--out", tmp_path / "2")
    one, two = ((tmp_path / n / "cek.cert").read_bytes() for n in "12")
    assert one[:SLOT1] == two[:SLOT1] and one != two
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"cek.cert", "ask.cert", "ark.cert", "ask_ark.cert"}


def test_every_output_says_that_amd_is_simulated(a, tmp_path, cli):
    for words in (["certify", "--out", tmp_path], ["export", tmp_path / "chain"]):
        assert "TEST key" in cli("sp", a, *words).out
    assert "TEST keys" in cli("sp", "--help").out


def test_the_csr_is_the_pek_without_signatures(a, tmp_path, sp):
    assert sp(a, "pek-csr", "--out", tmp_path)["files"] == [str(tmp_path / "pek_csr.cert")]
    sp(a, "pek-csr", tmp_path / "other")
    csr = (tmp_path / "pek_csr.cert").read_bytes()
    assert csr == chain(sp, a)["pek"][:SLOT1] + 2 * EMPTY == (tmp_path / "other").read_bytes()


def test_files_go_to_the_current_folder_by_default(a, tmp_path, sp, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sp("a", "pek-csr")
    assert (tmp_path / "pek_csr.cert").stat().st_size == CERT


# ---------------------------------------------------------------------------------------------- the identity


def test_the_identity_stays_from_call_to_call(a, sp):
    first, flash = chain(sp, a), (a / "flash.bin").read_bytes()
    second = chain(sp, a)
    assert [first[place] == second[place] for place in ("pdh", "pek", "oca")] == [True] * 3
    assert (a / "flash.bin").read_bytes() == flash  # not even written


@pytest.mark.parametrize(
    ("command", "changed"), [("pdh-gen", {"pdh"}), ("pek-gen", {"oca", "pek", "pdh"}), ("reset", {"oca", "pek", "pdh"})]
)
def test_what_a_rotation_changes(a, sp, command, changed):
    before = chain(sp, a)
    sp(a, command)
    after = chain(sp, a)
    assert {place for place in before if before[place][:SLOT1] != after[place][:SLOT1]} == changed


def test_reset_leaves_an_erased_flash(a, sp):
    sp(a, "reset")
    assert (a / "flash.bin").read_bytes() == b"\xff" * FLASH


def test_seeded_calls_repeat_and_draw_nothing_twice(tmp_path, sp):
    found = []
    for copy in ("1", "2"):
        folder = tmp_path / copy
        sp(folder, "new", "--seed", "01")
        first = chain(sp, folder)
        sp(folder, "pdh-gen", "--seed", "01")
        found.append((first, chain(sp, folder)["pdh"]))
    assert found[0][1] == found[1][1] and found[0][0]["pek"] == found[1][0]["pek"]
    first, pdh = found[0]
    assert pdh[0x14:0xA4] not in {cert[0x14:0xA4] for cert in first.values()}


# ---------------------------------------------------------------------------------------------- ownership


def test_an_owner_takes_over_and_stays_until_pek_gen(a, tmp_path, sp):
    before = chain(sp, a)
    owned(sp, a, tmp_path, "--generate")
    assert sp(a, "status")["owner"] == "external"
    after = chain(sp, a)
    assert after["oca"] == (tmp_path / "o.cert").read_bytes()
    assert after["pek"][:SLOT1] == before["pek"][:SLOT1]
    assert [word(after["pek"], slot) for slot in (SLOT1, SLOT2)] == [OCA, CEK]
    assert after["pek"][SLOT2:] == before["pek"][SLOT2:]
    assert after["pdh"][:SLOT1] != before["pdh"][:SLOT1]
    sp(a, "pek-gen")
    assert sp(a, "status")["owner"] == "self"


def test_reset_ends_an_ownership(a, tmp_path, sp):
    owned(sp, a, tmp_path, "--generate")
    sp(a, "reset")
    assert sp(a, "status")["owner"] == "self"


def test_a_domain_of_three_platforms(tmp_path, sp, cli):
    chains = []
    for name in "abc":
        sp(tmp_path / name, "new", "--name", name)
        owned(sp, tmp_path / name, tmp_path, *(["--generate"] if name == "a" else []))
        sp(tmp_path / name, "export", "--full", tmp_path / "chain")
        assert cli("chain", "verify", tmp_path / "chain", "--roots", tmp_path / "chain").code == 0
        chains.append(chain(sp, tmp_path / name))
    assert len({found["oca"] for found in chains}) == 1
    assert len({found["pek"] for found in chains}) == len({found["cek"][:SLOT1] for found in chains}) == 3


def test_generated_keys_are_those_of_sevctl(a, tmp_path, sp, refused):
    sp(a, "pek-csr", "--out", tmp_path)
    words = ["--oca", tmp_path / "o.cert", "--key", tmp_path / "o.key", "--out", tmp_path]
    sp(a, "sign-csr", tmp_path / "pek_csr.cert", "--generate", *words)
    key, oca = (tmp_path / "o.key").read_bytes(), (tmp_path / "o.cert").read_bytes()
    assert stat.S_IMODE((tmp_path / "o.key").stat().st_mode) == 0o600
    assert key[:2] == b"\x30\x81" and key[3:8] == b"\x02\x01\x01\x04\x30"  # SEC1: version 1, 48-byte OCTET STRING
    private = serialization.load_der_private_key(key, None)
    assert private.curve.name == "secp384r1"
    assert oca[0x14:0x44] == private.public_key().public_numbers().x.to_bytes(48, "little")
    assert oca[:8] == bytes([1, 0, 0, 0, 0, 0, 0, 0]) and usage(oca) == OCA and word(oca, SLOT1) == OCA
    assert "does not exist" in refused("sp", a, "sign-csr", tmp_path / "pek_csr.cert", "--generate", *words)
    assert (tmp_path / "o.key").read_bytes() == key


def write_owner(folder, key, encoding="DER", form="TraditionalOpenSSL", algo=0x2):
    """A P-384 owner's files, and the OCA certificate signed with ``algo``."""
    private = PrivateKey(key.private_numbers().private_value)
    oca = new_certificate(OCA, algo, private.public, (0, 0))
    sign_certificate(oca, private, OCA, algo)
    (folder / "o.cert").write_bytes(oca.pack())
    data = key.private_bytes(
        getattr(serialization.Encoding, encoding),
        getattr(serialization.PrivateFormat, form),
        serialization.NoEncryption(),
    )
    (folder / "o.key").write_bytes(data)


@pytest.mark.parametrize("form", ["TraditionalOpenSSL", "PKCS8"])
@pytest.mark.parametrize("encoding", ["DER", "PEM"])
def test_an_owner_brings_its_own_key(a, tmp_path, sp, encoding, form):
    write_owner(tmp_path, ec.derive_private_key(12345, ec.SECP384R1()), encoding, form)
    owned(sp, a, tmp_path)
    assert sp(a, "status")["owner"] == "external"


def test_an_oca_with_sha384_signs_with_its_own_algorithm(a, tmp_path, sp):
    write_owner(tmp_path, ec.derive_private_key(777, ec.SECP384R1()), algo=0x102)
    owned(sp, a, tmp_path)
    assert word(chain(sp, a)["pek"], SLOT1 + 4) == 0x102


def test_keys_that_do_not_fit_are_refused(a, tmp_path, sp, refused):
    sp(a, "pek-csr", "--out", tmp_path)
    words = ["sp", a, "sign-csr", tmp_path / "pek_csr.cert", "--oca", tmp_path / "o.cert", "--key", tmp_path / "o.key"]
    write_owner(tmp_path, ec.derive_private_key(5, ec.SECP384R1()))
    other = ec.derive_private_key(6, ec.SECP384R1())
    encoding, none = serialization.Encoding.DER, serialization.NoEncryption()
    form = serialization.PrivateFormat
    small = rsa.generate_private_key(65537, 1024)
    cases = {
        other.private_bytes(encoding, form.TraditionalOpenSSL, none): "public half",
        ec.derive_private_key(5, ec.SECP256R1()).private_bytes(encoding, form.TraditionalOpenSSL, none): "P-384",
        small.private_bytes(encoding, form.TraditionalOpenSSL, none): "P-384",
        other.private_bytes(serialization.Encoding.PEM, form.PKCS8, serialization.BestAvailableEncryption(b"x")): "EC",
        b"not a key": "EC private key",
        b"": "EC private key",
    }
    for data, reason in cases.items():
        (tmp_path / "o.key").write_bytes(data)
        assert reason in refused(*words)
    assert not (tmp_path / "pek_csr.signed.cert").exists()


def test_a_damaged_oca_and_a_csr_with_signatures_are_not_signed(a, tmp_path, sp, cli, refused):
    owned(sp, a, tmp_path, "--generate")
    words = ["--oca", tmp_path / "o.cert", "--key", tmp_path / "o.key", "--out", tmp_path / "out"]
    assert "empty" in refused("sp", a, "sign-csr", tmp_path / "pek_csr.signed.cert", *words)
    flip(tmp_path / "o.cert", 0x41C)
    done = cli("sp", a, "sign-csr", tmp_path / "pek_csr.cert", *words, "--json")
    assert done.code == 1 and json.loads(done.out)["status"] == "BAD_SIGNATURE"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ("the owner's signature flipped", "BAD_SIGNATURE"),
        ("the OCA's signature flipped", "BAD_SIGNATURE"),
        ("the CSR itself", "INVALID_CERTIFICATE"),
        ("another chip's PEK", "INVALID_CERTIFICATE"),
        ("owned already", "ALREADY_OWNED"),
    ],
)
def test_refused_imports(a, tmp_path, sp, cli, case, status):
    sp(a, "pek-csr", "--out", tmp_path)
    owner = PlatformOwner(seed=b"owner")
    pek, oca = owner.sign_csr(SevCertificate.parse((tmp_path / "pek_csr.cert").read_bytes())).pack(), owner.oca.pack()
    (tmp_path / "pek").write_bytes(pek)
    (tmp_path / "oca").write_bytes(oca)
    if case == "the owner's signature flipped":
        flip(tmp_path / "pek", 0x41C)
    elif case == "the OCA's signature flipped":
        flip(tmp_path / "oca", 0x41C)
    elif case == "the CSR itself":
        shutil.copy(tmp_path / "pek_csr.cert", tmp_path / "pek")
    elif case == "another chip's PEK":
        sp(tmp_path / "b", "new")
        sp(tmp_path / "b", "pek-csr", "--out", tmp_path)
        signed = owner.sign_csr(SevCertificate.parse((tmp_path / "pek_csr.cert").read_bytes()))
        (tmp_path / "pek").write_bytes(signed.pack())
    else:
        sp(a, "pek-cert-import", tmp_path / "pek", tmp_path / "oca")
    flash = (a / "flash.bin").read_bytes()
    done = cli("sp", a, "pek-cert-import", tmp_path / "pek", tmp_path / "oca", "--json")
    document = json.loads(done.out)
    assert done.code == 1
    assert (document["status"], document["command"]) == (status, "PEK_CERT_IMPORT")
    assert status in done.err and document["rule"] in done.err
    assert (a / "flash.bin").read_bytes() == flash


def test_files_that_are_no_certificates_are_refused(a, tmp_path, refused):
    (tmp_path / "short").write_bytes(bytes(2083))
    assert "2084 bytes" in refused("sp", a, "pek-cert-import", tmp_path / "short", tmp_path / "short")
    assert "readable" in refused("sp", a, "pek-cert-import", tmp_path / "none", tmp_path / "none")


# ---------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("offset", [0x0000, 0x1000, 0x2493, 0x2494, 0x24B3, 0x24B4, 0x24C3])
def test_a_flipped_bit_in_the_record_is_found_erased_and_said(a, sp, cli, offset):
    before = chain(sp, a)
    flip(a / "flash.bin", offset, 0x40)
    done = cli("sp", a, "status", "--json")
    assert done.code == 0
    assert json.loads(done.out)["init"] == ["SECURE_DATA_INVALID", "SUCCESS"]
    assert "SECURE_DATA_INVALID" in done.err and "erased" in done.err
    after = chain(sp, a)
    assert {place for place in before if before[place][:SLOT1] != after[place][:SLOT1]} == {"pdh", "pek", "oca"}
    again = cli("sp", a, "status", "--json")
    assert again.err == "" and json.loads(again.out)["init"] == ["SUCCESS"]


def test_bytes_behind_the_record_do_not_count(a, sp):
    before = chain(sp, a)
    for offset in (0x24C4, 0x7FFF):
        flip(a / "flash.bin", offset)
    assert sp(a, "status")["init"] == ["SUCCESS"]
    assert chain(sp, a)["pdh"] == before["pdh"]


def test_zeros_are_damage_and_ff_is_empty(a, sp):
    (a / "flash.bin").write_bytes(bytes(FLASH))
    assert sp(a, "status")["init"] == ["SECURE_DATA_INVALID", "SUCCESS"]
    before = chain(sp, a)
    data = (a / "flash.bin").read_bytes()
    (a / "flash.bin").write_bytes(b"\xff" * 4 + data[4:])  # an empty medium by the firmware's test
    assert sp(a, "status")["init"] == ["SUCCESS"]
    assert chain(sp, a)["pek"] != before["pek"]


def test_another_chips_flash_is_damage(a, tmp_path, sp):
    sp(tmp_path / "b", "new")
    shutil.copy(tmp_path / "b" / "flash.bin", a / "flash.bin")
    assert sp(a, "get-id")["init"] == ["SECURE_DATA_INVALID", "SUCCESS"]


def test_an_old_flash_brings_the_old_identity_back(a, sp):
    """Rollback is possible: nothing outside the flash counts its versions."""
    before, flash = chain(sp, a), (a / "flash.bin").read_bytes()
    sp(a, "pek-gen")
    (a / "flash.bin").write_bytes(flash)
    assert chain(sp, a)["pek"] == before["pek"]


def test_damage_is_said_too_when_the_command_fails(a, tmp_path, cli):
    flip(a / "flash.bin", 0)
    owner = PlatformOwner(seed=b"owner")
    (tmp_path / "oca").write_bytes(owner.oca.pack())
    done = cli("sp", a, "pek-cert-import", tmp_path / "oca", tmp_path / "oca", "--json")
    assert done.code == 1 and "SECURE_DATA_INVALID" in done.err
    document = json.loads(done.out)
    assert document["status"] == "INVALID_CERTIFICATE" and document["init"] == ["SECURE_DATA_INVALID", "SUCCESS"]


def test_a_disk_that_fails_leaves_the_old_identity(a, sp, refused, monkeypatch):
    flash = (a / "flash.bin").read_bytes()
    for call in ("write", "fsync", "rename", "open"):
        real = getattr(os, call)

        def fail(first, *rest, real=real, call=call, **named):
            # the open folder and the library's own files must work
            if call == "open" and not str(first).endswith("flash.bin.new"):
                return real(first, *rest, **named)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            assert "No space left" in refused("sp", a, "pek-gen")
        assert (a / "flash.bin").read_bytes() == flash
        assert {path.name for path in a.iterdir()} == {"chip.json", "flash.bin"}
    assert sp(a, "status")["init"] == ["SUCCESS"]


# ---------------------------------------------------------------------------------------------- secrets


def test_no_secret_is_ever_printed(tmp_path, cli, monkeypatch):
    """Chip secret and owner's key, in hex or as numbers, in no output of any command; nor in reprs."""
    monkeypatch.chdir(tmp_path)
    calls = [
        ["new"], ["status"], ["export", "chain"], ["pek-csr"],
        ["sign-csr", "pek_csr.cert", "--generate", "--oca", "o.cert", "--key", "o.key"],
        ["sign-csr", "pek_csr.cert", "--oca", "o.cert", "--key", "o.key"],
        ["pek-cert-import", "pek_csr.signed.cert", "o.cert"], ["pek-cert-import", "pek_csr.signed.cert", "o.cert"],
        ["pdh-gen"], ["pek-gen"], ["get-id"], ["certify"], ["reset"],
    ]  # fmt: skip
    assert {words[0] for words in calls} == COMMANDS
    text = "".join(out for words in calls for done in [cli("sp", "a", *words, "--json")] for out in done[1:])
    secret = json.loads((tmp_path / "a" / "chip.json").read_text())["chip_key"]
    key = serialization.load_der_private_key((tmp_path / "o.key").read_bytes(), None)
    scalar = key.private_numbers().private_value
    text += repr(chips.load(tmp_path / "a"))
    assert len(text) > 2000
    for secret_text in (secret, f"{scalar:x}", str(scalar), str(int(secret, 16))):
        assert secret_text.lower() not in text.lower()


# ---------------------------------------------------------------------------------------------- two calls at once


def start(folder, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "sevref", "sp", folder, *words, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_call_waits_for_the_one_before_it(a):
    folder = os.open(a, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    before = (a / "flash.bin").read_bytes()
    with start(a, "pdh-gen") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert (a / "flash.bin").read_bytes() == before
        os.close(folder)
        assert process.wait(30) == 0
    assert (a / "flash.bin").read_bytes() != before


def test_calls_at_the_same_time_run_one_after_the_other(a, sp):
    """Held back until all wait, then let go together: each finds a whole flash, and the last one's is there."""
    folder = os.open(a, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    processes = [start(a, command) for command in ("pdh-gen", "pek-gen", "pdh-gen", "status")]
    time.sleep(0.5)
    os.close(folder)
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["init"] == ["SUCCESS"]
    assert sp(a, "status")["init"] == ["SUCCESS"]
    assert {path.name for path in a.iterdir()} == {"chip.json", "flash.bin"}
