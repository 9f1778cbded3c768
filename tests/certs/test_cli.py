"""The commands ``cert show`` and ``chain verify``: JSON, exit codes, messages."""

import base64
import json

import pytest

from certs.keys import NAPLES, naples
from sevref import simulated_roots
from sevref.cli import main
from support import vectors


@pytest.fixture
def sevref(capsys):
    """Run the command line; exit code, standard output, standard error."""

    def run(*argv):
        code = main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path):
    for place in NAPLES:
        (tmp_path / f"{place}.cert").write_bytes(naples()[place])
    return tmp_path


def verdict(sevref, *argv):
    code, out, _ = sevref("chain", "verify", "--json", *argv)
    return code, json.loads(out)


# -- chain verify


def test_the_real_chain(sevref, folder):
    (folder / "README").write_text("hello")
    code, document = verdict(sevref, folder)
    assert code == 0
    assert (document["valid"], document["generation"], document["root"]) == (True, "naples", "amd")
    assert document["warnings"] == [] and document["ignored"] == ["README"]
    assert {tuple(check) for check in document["checks"]} == {("subject", "issuer", "check", "ok", "status", "detail")}
    assert {check["status"] for check in document["checks"]} == {"SUCCESS"}
    code, out, err = sevref("chain", "verify", folder)
    assert code == 0 and "valid: root amd, generation naples" in out and err == ""


def test_files_and_options(sevref, folder):
    files = [folder / f"{place}.cert" for place in NAPLES]
    assert verdict(sevref, *files)[0] == 0
    options = [f"--{place}={folder / f'{place}.cert'}" for place in NAPLES]
    assert verdict(sevref, *options)[0] == 0
    assert verdict(sevref, *files[2:])[1]["root"] == "amd"  # ARK and ASK completed
    export = folder / "export"
    export.write_bytes(base64.b64encode(b"".join(naples()[place] for place in ("pdh", "pek", "oca", "cek"))))
    code, document = verdict(sevref, export)
    assert code == 0 and document["valid"]


def test_a_changed_byte(sevref, folder):
    data = bytearray(naples()["pdh"])
    data[0x20] ^= 1
    (folder / "pdh.cert").write_bytes(data)
    code, document = verdict(sevref, folder)
    assert code == 1 and document["valid"] is False
    bad = [(check["subject"], check["issuer"], check["status"]) for check in document["checks"] if not check["ok"]]
    assert bad == [("PDH", "PEK", "BAD_SIGNATURE"), ("PDH", "", "INVALID_CERTIFICATE")]
    code, out, _ = sevref("chain", "verify", folder)
    assert code == 1 and "BAD_SIGNATURE (0x0A)" in out and "NOT valid: 2 checks failed" in out


def test_strict(sevref, folder):
    data = bytearray(naples()["pdh"])
    data[0x823] ^= 1
    (folder / "pdh.cert").write_bytes(data)
    code, document = verdict(sevref, folder)
    assert code == 0 and len(document["warnings"]) == 1
    assert verdict(sevref, folder, "--strict")[0] == 1


def test_roots(sevref, folder):
    root = simulated_roots("naples")
    bundle, ark = folder / "bundle", folder / "test_ark"
    bundle.write_bytes(root.ask.pack() + root.ark.pack())
    ark.write_bytes(root.ark.pack())
    code, document = verdict(sevref, folder, "--roots", bundle)
    assert code == 1 and document["root"] == "unknown"
    assert verdict(sevref, folder, "--roots", folder / "ark.cert")[1]["root"] == "custom"
    code, document = verdict(sevref, folder, "--roots", vectors("certs", "naples"))
    assert code == 0 and document["root"] == "custom"
    code, out, err = sevref("chain", "verify", folder / "pdh.cert", "--json", "--roots", ark)
    assert (code, out) == (2, "") and "no ASK" in err


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty", b""),
        ("short.cert", bytes(2083)),
        ("long.cert", bytes(2085)),
        ("pdh.cert", bytes(832)),
        ("ark.cert", bytes(2084)),
        ("text", b"certificates are elsewhere\n"),
        ("garbage", b"\xff" * 2084),
        ("x509.pem", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
    ],
)
def test_unusable_files(sevref, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    code, out, err = sevref("chain", "verify", "--json", tmp_path / name)
    assert (code, out) == (2, "") and str(tmp_path / name) in err and "expected" in err and "found" in err


def test_nothing_and_nowhere(sevref, tmp_path):
    for argv in ([], [tmp_path / "none"], [tmp_path], ["--pek", tmp_path / "none"], ["--roots", "nowhere", tmp_path]):
        code, out, err = sevref("chain", "verify", "--json", *argv)
        assert (code, out) == (2, "") and err.startswith("sevref: ")


def test_two_candidates(sevref, tmp_path):
    (tmp_path / "one").write_bytes(naples()["pek"])
    (tmp_path / "two").write_bytes(naples()["pek"])
    code, _, err = sevref("chain", "verify", tmp_path)
    assert code == 2 and str(tmp_path / "one") in err and str(tmp_path / "two") in err


# -- cert show


@pytest.mark.parametrize("place", NAPLES)
@pytest.mark.parametrize("text", [False, True])
def test_show(sevref, tmp_path, place, text):
    data = naples()[place]
    path = tmp_path / "some"
    path.write_bytes(base64.encodebytes(data) if text else data)
    code, out, _ = sevref("cert", "show", "--json", path)
    document = json.loads(out)
    assert code == 0
    assert document["kind"] == ("amd" if place in ("ark", "ask") else "sev")
    assert document["usage"] == place.upper()
    sums = {
        "ark": "dedabca561e1dece8cc00b7bda864cf5f20b95017864408cfe18eaee0dce24b9",
        "pdh": "34b11563c32bd17b4e2b4b8205301af64e7bd06a85e2a6ada789bc9d5dfd9932",
    }
    assert document["sha256"] == sums.get(place, document["sha256"])
    end = 0
    for entry in document["fields"]:
        assert set(entry) == {"name", "offset", "size", "value", "meaning"} and entry["offset"] == end
        end += entry["size"]
    assert end == len(data)
    code, out, _ = sevref("cert", "show", path)
    assert code == 0 and place.upper() in out.splitlines()[0]


def test_show_the_published_ark(sevref, tmp_path):
    (tmp_path / "ark").write_bytes(naples()["ark"][:576])
    document = json.loads(sevref("cert", "show", "--json", tmp_path / "ark")[1])
    assert document["sha256"] == "8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31"
    assert document["completed"] is True and document["fields"][-1]["size"] == 256


def test_show_a_certificate_of_an_unknown_usage(sevref, tmp_path):
    (tmp_path / "odd").write_bytes(bytes(8) + b"\x77" + bytes(2075))
    code, out, _ = sevref("cert", "show", "--json", tmp_path / "odd")
    assert code == 0 and json.loads(out)["usage"] == "0x77"


@pytest.mark.parametrize("data", [b"", bytes(2083), bytes(832), b"hello\n", bytes(6252), bytes(1664)])
def test_show_what_is_no_certificate(sevref, tmp_path, data):
    (tmp_path / "odd").write_bytes(data)
    code, out, err = sevref("cert", "show", "--json", tmp_path / "odd")
    assert (code, out) == (2, "") and str(tmp_path / "odd") in err and "expected" in err


@pytest.mark.parametrize("command", [("cert", "show"), ("chain", "verify")])
def test_help_has_an_example(sevref, command):
    code, out, _ = sevref(*command, "--help")
    assert code == 0 and "example:" in out
    assert sevref(command[0], "--help")[1].count("example:") == 1
    assert sevref(command[0])[0] == 2 and sevref(*command, "--no-such-option")[0] == 2
