"""``session create``, ``measurement build``, ``measurement verify``, ``secret build``: results and refusals."""

import base64
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sevref.certs import Chain, SevCertificate
from sevref.crypto import PrivateKey
from sevref.transport import PacketHeader, Session, open_packet, parse_secret_table

DISK = "736869e5-84f0-4973-92ec-06879ce3da0b"
OTHER = "736869e5-aaaa-4973-92ec-06879ce3da0b"
FIRMWARE = bytes(range(256)) * 16
TIK, TEK = bytes.fromhex("66320db73158a35a255d051758e95ed4"), bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3")
NONCE = bytes.fromhex("4fbe0bedbad6c86ae8f68971d103e554")
# The 56 bytes of sheet 20, section 3.5: API 0.18 build 15, policy 0x12000001
COVERED = bytes.fromhex("0400120f01000012") + hashlib.sha256(FIRMWARE).digest() + NONCE
BLOB = base64.b64encode(hmac.digest(TIK, COVERED, "sha256") + NONCE).decode()
OLD_BLOB = base64.b64encode(hmac.digest(TIK, COVERED[4:], "sha256") + NONCE).decode()

Cli = Callable[..., object]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    contents = {
        "firmware": FIRMWARE, "tik": TIK, "tek": TEK, "tk": TEK + TIK, "secret": b"MY-LUKS-PASSPHRASE",
        "secret2": b"SOME OTHER SECRET", "empty": b"", "short": bytes(15), "long": bytes(33), "big": bytes(16345),
    }  # fmt: skip
    for name, content in contents.items():
        Path(name).write_bytes(content)
    return tmp_path


def version(minor: int = 18) -> list[str]:
    return ["--api-major", "0", "--api-minor", str(minor), "--build-id", "0x0f"]


LAUNCH = [*version(), "--policy", "0x12000001", "--firmware", "firmware"]


# ---------------------------------------------------------------------------------------------- measurement build


@pytest.mark.parametrize("nonce", [["--nonce", NONCE.hex()], ["--launch-measure-blob", BLOB]])
def test_measurement_build(cli: Cli, files: Path, nonce: list[str]) -> None:
    words = ["measurement", "build", *LAUNCH, "--tik", "tik", *nonce]
    done = cli(*words)
    assert (done.code, done.out, done.err) == (0, BLOB + "\n", "")
    document = json.loads(cli(*words, "--json").out)
    assert document == {"measurement": BLOB, "digest": hashlib.sha256(FIRMWARE).hexdigest()}


def test_measurement_build_before_0_17(cli: Cli, files: Path) -> None:
    words = ["measurement", "build", *version(16), *LAUNCH[6:], "--tik", "tik", "--nonce", NONCE.hex()]
    assert cli(*words).out == OLD_BLOB + "\n"


@pytest.mark.parametrize("name", ["short", "long", "empty", "tk", "missing", "."])
def test_measurement_build_unusable_tik(refused: Cli, files: Path, name: str) -> None:
    reason = refused("measurement", "build", *LAUNCH, "--tik", name, "--nonce", NONCE.hex())
    assert f"TIK {name}" in reason


@pytest.mark.parametrize("name", ["empty", "missing", "."])
def test_measurement_build_unusable_firmware(refused: Cli, files: Path, name: str) -> None:
    launch = [*LAUNCH[:-1], name]
    reason = refused("measurement", "build", *launch, "--tik", "tik", "--nonce", NONCE.hex())
    assert f"firmware {name}" in reason


@pytest.mark.parametrize("blob", ["", "!", BLOB[:-1], BLOB[:-4], BLOB + "AAAA", base64.b64encode(bytes(47)).decode()])
def test_measurement_build_unusable_blob(refused: Cli, files: Path, blob: str) -> None:
    reason = refused("measurement", "build", *LAUNCH, "--tik", "tik", "--launch-measure-blob", blob)
    assert "--launch-measure-blob" in reason and "base64" in reason


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--api-major", "256"), ("--api-minor", "-1"), ("--build-id", "x"), ("--policy", "0x100000000"),
        ("--policy", ""), ("--nonce", "00"), ("--nonce", NONCE.hex() + "00"), ("--nonce", "zz" * 16),
    ],
)  # fmt: skip
def test_measurement_build_unusable_values(refused: Cli, files: Path, option: str, value: str) -> None:
    words = [*LAUNCH, "--tik", "tik", "--nonce", NONCE.hex()]
    words[words.index(option) + 1] = value
    assert option in refused("measurement", "build", *words)


@pytest.mark.parametrize(
    "option", ["--api-major", "--api-minor", "--build-id", "--policy", "--firmware", "--tik", "--nonce"]
)
def test_measurement_build_needs(refused: Cli, files: Path, option: str) -> None:
    words = [*LAUNCH, "--tik", "tik", "--nonce", NONCE.hex()]
    i = words.index(option)
    assert option in refused("measurement", "build", *words[:i], *words[i + 2 :])


# ---------------------------------------------------------------------------------------------- measurement verify


@pytest.mark.parametrize("keys", [["--tik", "tik"], ["--tik", "tik", "--tek", "tek"], ["--tk", "tk"]])
def test_measurement_verify(cli: Cli, files: Path, keys: list[str]) -> None:
    words = ["measurement", "verify", "--measurement", BLOB, *LAUNCH, *keys]
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    document = json.loads(cli(*words, "--json").out)
    assert (document["match"], document["expected"], document["found"]) == (True, BLOB, BLOB)


@pytest.mark.parametrize("change", ["measure", "nonce", "api-major", "api-minor", "build", "policy", "firmware", "tik"])
def test_measurement_verify_says_no(cli: Cli, files: Path, change: str) -> None:
    blob, words = bytearray(base64.b64decode(BLOB)), [*LAUNCH, "--tik", "tik"]
    edits = {"api-major": (1, "1"), "api-minor": (3, "19"), "build": (5, "14"), "policy": (7, "0x12000003")}
    match change:
        case "measure":
            blob[31] ^= 1
        case "nonce":
            blob[47] ^= 1
        case "firmware":
            Path("firmware").write_bytes(FIRMWARE[:-1] + b"\0")
        case "tik":
            Path("tik").write_bytes(TEK)
        case _:
            words[edits[change][0]] = edits[change][1]
    found = base64.b64encode(blob).decode()
    done = cli("measurement", "verify", "--measurement", found, *words)
    assert done.code == 1 and "does NOT match" in done.out
    done = cli("measurement", "verify", "--measurement", found, *words, "--json")
    document = json.loads(done.out)
    assert (done.code, document["match"], document["found"]) == (1, False, found)
    assert document["expected"] != found


def test_measurement_verify_takes_tek_before_tik(cli: Cli, files: Path) -> None:
    Path("tk").write_bytes(TIK + TEK)
    assert cli("measurement", "verify", "--measurement", BLOB, *LAUNCH, "--tk", "tk").code == 1


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ([], "--tik, or --tk"), (["--tek", "tek"], "--tik, or --tk"), (["--tk", "tk", "--tik", "tik"], "both"),
        (["--tk", "tik"], "TEK and TIK tik"), (["--tk", "long"], "TEK and TIK long"), (["--tk", "empty"], "empty"),
        (["--tik", "tik", "--tek", "short"], "TEK short"), (["--tik", "missing"], "TIK missing"),
    ],
)  # fmt: skip
def test_measurement_verify_unusable_keys(refused: Cli, files: Path, keys: list[str], word: str) -> None:
    assert word in refused("measurement", "verify", "--measurement", BLOB, *LAUNCH, *keys)


@pytest.mark.parametrize("blob", ["", "####", BLOB[:-4], BLOB + "AAAA"])
def test_measurement_verify_unusable_measurement(refused: Cli, files: Path, blob: str) -> None:
    assert "--measurement" in refused("measurement", "verify", "--measurement", blob, *LAUNCH, "--tik", "tik")


# ---------------------------------------------------------------------------------------------- secret build

SECRETS = ["--secret", f"{DISK}:secret", "--secret", f"{OTHER}:secret2"]
SECRET_WORDS = ["secret", "build", "--launch-measure-blob", BLOB]


@pytest.mark.parametrize("keys", [["--tik", "tik", "--tek", "tek"], ["--tk", "tk"]])
@pytest.mark.parametrize("old", [False, True])
def test_secret_build(cli: Cli, files: Path, keys: list[str], old: bool) -> None:
    words = [*SECRET_WORDS, *keys, *SECRETS, *(version(16) if old else [])]
    done = cli(*words, "header", "payload", "--json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert document["entries"] == [{"guid": DISK, "bytes": 18}, {"guid": OTHER, "bytes": 17}]
    assert (document["header_bytes"], document["payload_bytes"]) == (52, 96)
    header, payload = Path("header").read_bytes(), Path("payload").read_bytes()
    assert (len(header), len(payload), header[:4]) == (52, 96, bytes(4))
    trailer = b"" if old else base64.b64decode(BLOB)[:32]
    table = open_packet(TEK, TIK, 1, PacketHeader.parse(header), payload, trailer=trailer)
    assert [(str(guid), data) for guid, data in parse_secret_table(table)] == [
        (DISK, b"MY-LUKS-PASSPHRASE"),
        (OTHER, b"SOME OTHER SECRET"),
    ]
    cli(*words, "header2", "payload2")
    assert Path("header2").read_bytes()[4:20] != header[4:20]  # a new IV for every packet


def test_secret_build_text_does_not_show_the_secret(cli: Cli, files: Path) -> None:
    done = cli(*SECRET_WORDS, "--tk", "tk", *SECRETS, "header", "payload")
    assert "PASSPHRASE" not in done.out and DISK in done.out


@pytest.mark.parametrize(
    ("secrets", "word"),
    [
        ([f"{DISK}"], "--secret"), ([f"{DISK}:"], "--secret"), ([":secret"], "--secret"),
        (["nonsense:secret"], "GUID"), ([f"{DISK}:missing"], "secret missing"), ([f"{DISK}:empty"], "secret empty"),
        ([f"{DISK}:big"], "16384"), ([f"{DISK}:."], "secret ."),
        ([f"{DISK}:secret", "00000000-0000-0000-0000-000000000000:secret"], "GUID"),
    ],
)  # fmt: skip
def test_secret_build_unusable_secrets(refused: Cli, files: Path, secrets: list[str], word: str) -> None:
    Path("header").write_bytes(b"old")
    options = [part for secret in secrets for part in ("--secret", secret)]
    assert word in refused(*SECRET_WORDS, "--tk", "tk", *options, "header", "payload")
    assert Path("header").read_bytes() == b"old" and not Path("payload").exists()


@pytest.mark.parametrize(
    ("keys", "word"),
    [([], "--tik and --tek"), (["--tik", "tik"], "--tik and --tek"), (["--tek", "tek"], "--tik and --tek"),
     (["--tk", "short"], "TEK and TIK short"), (["--tik", "tik", "--tek", "long"], "TEK long")],
)  # fmt: skip
def test_secret_build_unusable_keys(refused: Cli, files: Path, keys: list[str], word: str) -> None:
    assert word in refused(*SECRET_WORDS, *keys, *SECRETS, "header", "payload")
    assert not Path("header").exists() and not Path("payload").exists()


def test_secret_build_unusable_rest(refused: Cli, files: Path) -> None:
    good = ["--tk", "tk", *SECRETS]
    assert "--launch-measure-blob" in refused("secret", "build", "--launch-measure-blob", "AAAA", *good, "h", "p")
    assert "--secret" in refused(*SECRET_WORDS, "--tk", "tk", "h", "p")
    assert "PAYLOAD" in refused(*SECRET_WORDS, *good, "h")
    for same in ("h", "./h"):
        assert "output files" in refused(*SECRET_WORDS, *good, "h", same)
    assert "no/such" in refused(*SECRET_WORDS, *good, "h", "no/such/p")
    assert sorted(os.listdir(".")) == sorted(
        ["firmware", "tik", "tek", "tk", "secret", "secret2", "empty", "short", "long", "big"]
    )


# ---------------------------------------------------------------------------------------------- session create


@pytest.fixture
def platform(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a simulated platform, and beside it the simulated AMD's root."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "platform"
    folder.mkdir()
    for place in ("cek", "oca", "pek", "pdh"):
        (folder / f"{place}.cert").write_bytes(getattr(chain, place).pack())
    assert chain.ask is not None and chain.ark is not None
    (tmp_path / "roots").write_bytes(chain.ask.pack() + chain.ark.pack())
    return folder


CREATE = ["session", "create", "--chain", "platform", "--roots", "roots"]
NAMES = ["vm_godh.b64", "vm_session.b64", "vm_tek.bin", "vm_tik.bin"]


def test_session_create(cli: Cli, platform: Path, pdh_key: PrivateKey) -> None:
    done = cli(*CREATE, "--policy", "0x5", "--out", "new/keys", "--json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert (document["policy"], document["chain_valid"]) == (5, True)
    assert sorted(document["files"]) == [os.path.join("new/keys", name) for name in NAMES]
    folder = Path("new/keys")
    assert sorted(os.listdir(folder)) == NAMES
    for name in NAMES:
        assert stat.S_IMODE((folder / name).stat().st_mode) == (0o600 if name.endswith("bin") else 0o644)
    texts = [(folder / name).read_bytes() for name in ("vm_godh.b64", "vm_session.b64")]
    assert [len(text) for text in texts] == [2780, 172]  # base64 of 2084 and 128 bytes, no line break
    godh, session = SevCertificate.parse(base64.b64decode(texts[0])), Session.parse(base64.b64decode(texts[1]))
    channel = session.open(pdh_key, godh, 5)
    assert ((folder / "vm_tik.bin").read_bytes(), (folder / "vm_tek.bin").read_bytes()) == (channel.tik, channel.tek)


def test_session_create_seed_and_name(cli: Cli, platform: Path) -> None:
    words = [*CREATE, "--policy", "1"]
    assert cli(*words, "--seed", "00ff", "--name", "a").code == 0
    assert cli(*words, "--seed", "00ff", "--name", "b").code == 0
    assert cli(*words, "--name", "c").code == 0
    for end in ("godh.b64", "session.b64", "tik.bin", "tek.bin"):
        one, same, other = (Path(f"{name}_{end}").read_bytes() for name in "abc")
        assert one == same != other


def test_session_create_insecure(cli: Cli, refused: Cli, platform: Path, pdh_key: PrivateKey) -> None:
    words = ["session", "create", "--pdh", "platform/pdh.cert", "--policy", "1"]
    done = cli(*words, "--insecure", "--json")
    assert (done.code, json.loads(done.out)["chain_valid"]) == (0, False)
    session = Session.parse(base64.b64decode(Path("vm_session.b64").read_bytes()))
    godh = SevCertificate.parse(base64.b64decode(Path("vm_godh.b64").read_bytes()))
    assert session.open(pdh_key, godh, 1).tik == Path("vm_tik.bin").read_bytes()
    assert "--insecure" in refused(*words)
    assert "--insecure" in refused(*CREATE, "--policy", "1", "--insecure")
    assert "--min-api" in refused(*words, "--insecure", "--min-api", "0.17")
    assert cli(*words[:-1], "0", "--insecure").code == 1
    assert cli(*words[:-1], "0", "--insecure", "--allow-debug").code == 0


@pytest.mark.parametrize(
    ("words", "status", "valid"),
    [
        (["--policy", "0"], "POLICY_FAILURE", True),
        (["--policy", "0x41"], "POLICY_FAILURE", True),
        (["--policy", "0x19000001"], "POLICY_FAILURE", True),
        (["--policy", "1", "--min-api", "0.25"], "POLICY_FAILURE", True),
        (["--policy", "1", "--roots", "amd"], "INVALID_CERTIFICATE", False),
    ],
)
def test_session_create_refuses(cli: Cli, platform: Path, words: list[str], status: str, valid: bool) -> None:
    done = cli(*CREATE, *words)
    assert (done.code, done.out) == (1, "") and status in done.err
    done = cli(*CREATE, *words, "--json")
    document = json.loads(done.out)
    assert (done.code, document["files"], document["chain_valid"], document["status"]) == (1, [], valid, status)
    assert sorted(os.listdir(".")) == ["platform", "roots"]


@pytest.mark.parametrize(
    "words",
    [["--policy", "0", "--allow-debug"], ["--policy", "0x18000001"], ["--policy", "1", "--min-api", "0.24"]],
)
def test_session_create_accepts(cli: Cli, platform: Path, words: list[str]) -> None:
    assert cli(*CREATE, *words).code == 0


def test_session_create_default_minimum_is_the_policys(
    cli: Cli, platform: Path, chain_of: Callable[..., Chain]
) -> None:
    old = chain_of(api=(0, 17))
    for place in ("oca", "pek", "pdh"):
        (platform / f"{place}.cert").write_bytes(getattr(old, place).pack())
    assert cli(*CREATE, "--policy", "0x11000001").code == 0
    assert cli(*CREATE, "--policy", "0x12000001").code == 1


def test_session_create_broken_chain_names_the_check(cli: Cli, platform: Path) -> None:
    data = bytearray((platform / "pek.cert").read_bytes())
    data[4] ^= 1
    (platform / "pek.cert").write_bytes(data)
    done = cli(*CREATE, "--policy", "1")
    assert done.code == 1 and "PEK" in done.err and "BAD_SIGNATURE" in done.err
    assert not Path("vm_tik.bin").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(2083), bytes(2085), bytes(2084), b"\xff" * 70000, b"AAAA"])
def test_session_create_unusable_certificates(refused: Cli, platform: Path, content: bytes) -> None:
    Path("file").write_bytes(content)
    assert "file" in refused("session", "create", "--chain", "file", "--policy", "1")
    assert "file" in refused("session", "create", "--pdh", "file", "--insecure", "--policy", "1")
    assert "file" in refused("session", "create", "--chain", "platform", "--roots", "file", "--policy", "1")
    assert sorted(os.listdir(".")) == ["file", "platform", "roots"]


def test_session_create_wrong_kind(refused: Cli, platform: Path) -> None:
    words = ["session", "create", "--policy", "1", "--insecure", "--pdh"]
    assert "platform/pek.cert" in refused(*words, "platform/pek.cert")
    assert "roots" in refused(*words, "roots")
    Path("pdh.cert").write_bytes((platform / "pek.cert").read_bytes())
    assert "pdh.cert" in refused(*words, "pdh.cert")
    assert "missing" in refused(*words, "missing")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "--policy"), (["--policy", "0x100000000"], "--policy"), (["--policy", "one"], "--policy"),
        (["--policy", "1", "--min-api", "1"], "--min-api"), (["--policy", "1", "--seed", "0"], "--seed"),
        (["--policy", "1", "--name", "a/b"], "--name"), (["--policy", "1", "--name", ""], "--name"),
        (["--policy", "1", "--out", "roots"], "roots"), (["--policy", "1", "--pdh", "platform/pdh.cert"], "--pdh"),
    ],
)  # fmt: skip
def test_session_create_unusable_options(refused: Cli, platform: Path, words: list[str], word: str) -> None:
    assert word in refused(*CREATE, *words)
    assert sorted(os.listdir(".")) == ["platform", "roots"]


def test_session_create_writes_all_or_nothing(cli: Cli, refused: Cli, platform: Path) -> None:
    Path("vm_tek.bin").mkdir()
    assert "vm_tek.bin" in refused(*CREATE, "--policy", "1")
    assert sorted(os.listdir(".")) == ["platform", "roots", "vm_tek.bin"]


@pytest.mark.parametrize(
    "words", [["session", "create"], ["measurement", "build"], ["measurement", "verify"], ["secret", "build"]]
)
def test_help_has_an_example(cli: Cli, words: list[str]) -> None:
    done = cli(*words, "--help")
    assert done.code == 0 and "example" in done.out and f"sevref {' '.join(words)} --" in done.out
