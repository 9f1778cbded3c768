"""``sevref snapshot``: a guest outlives the process that launched it, on the same chip and for as long as its PDH does."""

import json
import struct

import pytest

from sevref.cli import guests


@pytest.fixture
def chip(cli, tmp_path):
    def new(name="a"):
        assert cli("sp", tmp_path / name, "new", "--seed", "c0de", "--name", name).code == 0
        return tmp_path / name

    return new


def answer(done):
    assert done.code == 0, done
    return json.loads(done.out)


@pytest.mark.parametrize("es", [(), ("--es", "--policy", "0x18000025")], ids=["sev", "es"])
def test_create_restore_show(cli, chip, tmp_path, es):
    folder, file = chip(), tmp_path / "g.snap"
    made = answer(cli("snapshot", "create", folder, file, "--message", "grüße", *es, "--json"))
    assert (made["status"], made["policy"]) == ("SUCCESS", 0x18000025 if es else 0x18000021)
    assert len(made["launch_digest"]) == 64 and "grüße".encode() not in file.read_bytes()
    done = cli("snapshot", "restore", folder, file, *es[:1], "--json")
    back = answer(done)
    assert back == {
        "status": "SUCCESS",
        "policy": made["policy"],
        "state": "RUNNING",
        "launch_digest": "00" * 32,
        "message": "grüße",
    }
    assert done.err.splitlines()[-1].startswith("restore: 100 % of ")
    assert answer(cli("snapshot", "restore", folder, file, *es[:1], "--json")) == back  # a second time
    shown = answer(cli("snapshot", "show", file, "--json"))
    data = file.read_bytes()
    assert (shown["policy"], shown["ram_size"], shown["image_size"]) == struct.unpack_from("<IQI", data, 0x0C)
    assert shown["vmsas"] == (2 if es else 0) and shown["nonce"] == data[0x848:0x858].hex()
    kinds = [record["kind"] for record in shown["records"]]
    assert kinds == ["DATA"] * 20 + ["VMSA"] * (2 if es else 0) + ["END"]
    assert shown["records"][0]["mac"] == data[0x8C8 + 16 + 20 : 0x8C8 + 16 + 52].hex()
    text = cli("snapshot", "show", file).out
    assert shown["records"][0]["mac"] in text and shown["nonce"] in text


def test_the_chip_decides(cli, chip, tmp_path):
    a, b, file = chip(), chip("b"), tmp_path / "g.snap"
    answer(cli("snapshot", "create", a, file, "--json"))
    done = cli("snapshot", "restore", b, file, "--json")
    assert (done.code, json.loads(done.out)["status"]) == (1, "BAD_MEASUREMENT")
    assert cli("sp", a, "pdh-gen").code == 0
    done = cli("snapshot", "restore", a, file, "--json")
    document = json.loads(done.out)
    assert (done.code, document["command"], document["status"]) == (1, "RECEIVE_START", "BAD_MEASUREMENT")
    assert "BAD_MEASUREMENT" in done.err


def test_the_same_seed_writes_the_same_file(cli, chip, tmp_path):
    folder, files = chip(), [tmp_path / name for name in ("one", "two", "three")]
    for file, seed in zip(files, ("00", "00", "01"), strict=True):
        answer(cli("snapshot", "create", folder, file, "--seed", seed, "--json"))
    one, two, three = (file.read_bytes() for file in files)
    assert one == two != three


def test_policies_that_refuse(cli, chip, tmp_path):
    folder, file = chip(), tmp_path / "g.snap"
    for policy, command in (("0x18000009", "SEND_START"), ("0x18000020", None)):  # NOSEND; without NODBG
        done = cli("snapshot", "create", folder, file, "--policy", policy, "--json")
        document = json.loads(done.out)
        assert (done.code, document["status"], document["command"]) == (1, "POLICY_FAILURE", command)
    done = cli("snapshot", "create", folder, file, "--policy", "0x18000025", "--json")  # ES without --es
    assert (done.code, json.loads(done.out)["status"]) == (1, "UNSUPPORTED")
    assert not file.exists()


def test_changed_files(cli, refused, chip, tmp_path):
    folder, file = chip(), tmp_path / "g.snap"
    answer(cli("snapshot", "create", folder, file, "--json"))
    data = file.read_bytes()
    file.write_bytes(data[:-20])
    message = f"{file}, offset 0x{len(data) - 32 + 12:X}"
    assert refused("snapshot", "show", file).startswith(f"sevref: {file}, offset 0x")
    last = cli("snapshot", "restore", folder, file)
    assert last.code == 2 and "payload: expected 16384 bytes" in last.err and message
    flipped = bytearray(data)
    flipped[-100] ^= 1
    file.write_bytes(flipped)
    done = cli("snapshot", "restore", folder, file, "--json")
    assert (done.code, json.loads(done.out)["command"]) == (1, "RECEIVE_UPDATE_DATA")
    file.write_bytes(b"SEVguest" + bytes(30))
    assert "head: expected 2240 bytes, found 30" in refused("snapshot", "show", file)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["create", "{dir}", "{tmp}/none/g"], "No such file or directory"),
        (["create", "{dir}", "{tmp}/g", "--ram", "5000"], "--ram: expected a multiple of 4096 from 8192, found 5000"),
        (["create", "{dir}", "{tmp}/g", "--message", "x" * 4001], "--message: expected at most 4000 bytes, found 4001"),
        (["create", "{tmp}/nothing", "{tmp}/g"], "chip folder"),
        (["restore", "{dir}", "{tmp}/g"], "No such file or directory"),
        (["show", "{tmp}/g"], "snapshot {tmp}/g: expected a readable file"),
        ([], "COMMAND"),
    ],
)
def test_bad_input(refused, chip, tmp_path, words, reason):
    folder = chip()
    names = {"dir": folder, "tmp": tmp_path}
    assert reason.format(**names) in refused("snapshot", *(word.format(**names) for word in words))
    assert not (tmp_path / "g").exists()


def test_the_bar(capsys, monkeypatch):
    bar = guests.Bar("save")
    for done in range(101):
        bar(done, 100)
    assert capsys.readouterr().err.splitlines() == [f"save: {share:3} % of 100 bytes" for share in (25, 50, 75, 100)]
    monkeypatch.setattr(guests.sys.stderr, "isatty", lambda: True, raising=False)
    bar = guests.Bar("save")
    bar(50, 100)
    bar(100, 100)
    assert capsys.readouterr().err == (
        f"\rsave [{'#' * 20}{'.' * 20}]  50 % of 100 bytes\rsave [{'#' * 40}] 100 % of 100 bytes\n"
    )
