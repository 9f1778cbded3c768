"""The frame of the command line: what a command may raise and what comes of it, lazy imports, shared options."""

import argparse
import json
import os
import re
import subprocess
import sys
import types
from importlib.metadata import version as installed_version
from pathlib import PurePosixPath

import pytest

from sevref import cli as frame
from sevref.cli import common
from sevref.status import InputError, SevError, Status

CONTRACT = {  # cli.md: command -> second words
    "lab": [],
    "demo": [],
    "cert": ["show"],
    "chain": ["verify"],
    "session": ["create"],
    "measurement": ["build", "verify"],
    "secret": ["build"],
    "sp": [],
    "conform": [],
    "why": [],
    "serve": [],
    "migrate": [],
    "snapshot": [],
    "digest": [],
    "report": ["show", "verify"],
}
SPINE = ["lab", "demo", "cert", "chain", "session", "measurement", "secret"]  # the others come later
BUILT = [name for name in CONTRACT if name in SPINE or name in frame.COMMANDS]
COMMANDS = [[name, *([word] if word else [])] for name in BUILT for word in CONTRACT[name] or [""]]
FIRST_WORDS = [[name] for name in BUILT if CONTRACT[name]]


def python(code, *argv, **how):
    env = {k: v for k, v in os.environ.items() if k != "SEVREF_TRACEBACK"} | how.pop("env", {})
    command = [sys.executable, "-c", code, *argv]
    how = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "env": env} | how
    return subprocess.run(command, **how)


@pytest.fixture
def command(monkeypatch):
    """Adds a command whose run() is the given function."""

    def add(run):
        module = types.ModuleType("a_command_of_the_tests")

        def configure(parser):
            parser.add_argument("words", nargs="*")
            common.json_option(parser)
            parser.set_defaults(run=run)

        module.configure = configure
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(frame.COMMANDS, "odd", (module.__name__, "a command of the tests"))

    return add


def raising(error):
    def run(args):
        raise error

    return run


def test_the_commands_are_those_of_the_contract():
    assert set(frame.COMMANDS) == set(BUILT)


@pytest.mark.parametrize("words", COMMANDS + FIRST_WORDS, ids=" ".join)
def test_help_of_every_command_has_an_example(cli, words):
    done = cli(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert re.search(rf"^example[^\n]*:\s+sevref {' '.join(words)} ", done.out, re.M)


def test_the_help_ends_in_an_example_and_names_every_command(cli):
    done = cli("--help")
    assert done.code == 0
    assert done.out.rstrip("\n").splitlines()[-1].startswith("  sevref ")
    for name in BUILT:
        assert f"    {name}" in done.out


def test_version(cli):
    assert cli("--version") == (0, f"sevref {installed_version('sevref')}\n", "")


@pytest.mark.parametrize(
    "words",
    [[], ["nothing"], ["cert"], ["session", "nothing"], ["--vers"], ["demo", "--sed", "00"]],
    ids=" ".join,
)
def test_unknown_words_are_exit_code_2(refused, words):
    assert ": error: " in refused(*words)


def test_python_m_sevref_is_the_command():
    done = python("import runpy; runpy.run_module('sevref', run_name='__main__', alter_sys=True)", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sevref ")
    assert subprocess.run([sys.executable, "-m", "sevref", "nothing"], capture_output=True).returncode == 2


def test_only_the_module_of_the_command_is_imported():
    code = "import sys; from sevref.cli import main; code = main(); print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    for words in ["--help"], ["lab", "--help"]:
        done = python(code, *words)
        assert done.returncode == 0
        modules = set(done.stderr.split())
        assert {name for name in modules if name.startswith("sevref.cli.")} == {"sevref.cli.common"} | (
            {"sevref.cli.lab"} if words[0] == "lab" else set()
        )
        assert not modules & {
            "numpy",
            "IPython",
            "nbformat",
            "jupyterlab",
            "pandas",
            "cryptography",
            "sevref.certs",
        }


@pytest.mark.parametrize(
    "error, reason",
    [
        (InputError("x.cert: version", "1", "7"), "sevref: x.cert: version: expected 1, found 7"),
        (InputError("file\nname", 1, 2), "sevref: file name: expected 1, found 2"),
        (
            FileNotFoundError(2, "No such file or directory", "a.cert"),
            "sevref: a.cert: No such file or directory",
        ),
        (PermissionError(13, "Permission denied", b"a.cert"), "sevref: a.cert: Permission denied"),
        (OSError("odd"), "sevref: odd"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "sevref: text: expected UTF-8, found",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_unusable_input_is_exit_code_2(command, refused, error, reason, options):
    command(raising(error))
    assert refused("odd", *options).startswith(reason)


def test_a_refusal_of_the_firmware_is_exit_code_1(command, cli):
    command(raising(SevError(Status.BAD_MEASUREMENT, "WRAP_MAC does not verify", "LAUNCH_START")))
    reason = "sevref: LAUNCH_START: BAD_MEASUREMENT (0x0B): WRAP_MAC does not verify\n"
    assert cli("odd") == (1, "", reason)
    done = cli("odd", "--json")
    assert (done.code, done.err) == (1, reason)
    assert json.loads(done.out) == {
        "ok": False,
        "status": "BAD_MEASUREMENT",
        "rule": "WRAP_MAC does not verify",
        "command": "LAUNCH_START",
    }


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_code_of_run_is_the_exit_code(command, cli, code):
    command(lambda args: code)
    assert cli("odd") == (code, "", "")


def test_interrupted(command, cli):
    command(raising(KeyboardInterrupt()))
    assert cli("odd") == (130, "", "")


def test_nobody_reads_what_a_command_prints(command, cli):
    command(raising(BrokenPipeError(32, "Broken pipe")))
    assert cli("odd") == (141, "", "")


def test_a_defect_shows_no_traceback_unless_asked(command, cli, monkeypatch):
    command(raising(ZeroDivisionError("division by zero")))
    with pytest.raises(ZeroDivisionError):
        cli("odd")
    monkeypatch.delenv("SEVREF_TRACEBACK")
    reason = "sevref: internal error: ZeroDivisionError: division by zero (SEVREF_TRACEBACK=1 shows where)\n"
    assert cli("odd") == (2, "", reason)


def test_json_is_one_document(command, cli):
    def run(args):
        document = {"key": b"\x01\xff", "path": PurePosixPath("a/b"), "n": Status.ACTIVE, "list": (1, None)}
        common.emit(args, document, "text for people")
        return 0

    command(run)
    assert cli("odd") == (0, "text for people\n", "")
    assert json.loads(cli("odd", "--json").out) == {
        "key": "01ff",
        "path": "a/b",
        "n": 0x12,
        "list": [1, None],
    }


def test_a_character_that_the_terminal_cannot_show(command):
    code = (
        "import sys, types; from sevref import cli; from sevref.cli import common\n"
        "m = types.ModuleType('m'); sys.modules['m'] = m; cli.COMMANDS['odd'] = ('m', 'x')\n"
        "m.configure = lambda parser: parser.set_defaults(run=lambda args: common.emit(args, {}, '\\u2192 \\udc80') or 0)\n"
        "sys.exit(cli.main())"
    )
    done = python(code, "odd", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u2192 \\udc80\n", "")


def redirected(stdout):
    """--help with another standard output, which Python buffers as it does outside of tests."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-m", "sevref", "--help"], stdout=stdout, stderr=subprocess.PIPE, env=env)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_standard_output():
    with open("/dev/full", "w") as full:
        done = redirected(full)
    assert (done.returncode, done.stderr) == (2, b"sevref: standard output: No space left on device\n")


def test_nobody_reads_standard_output():
    reading, writing = os.pipe()
    os.close(reading)
    done = redirected(writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "text, value",
    [("0", 0), ("42", 42), ("0x2a", 42), ("0X2A", 42), ("007", 7), ("0xffffffffffffffff", 2**64 - 1)],
)
def test_integers(text, value):
    assert common.integer(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "0b1", "0x", "1.0", "ff", "0xfg", str(2**64), "9" * 5000, "٣"]
)
def test_integers_that_are_not(text):
    with pytest.raises(InputError):
        common.integer(text)


def test_integers_of_some_bits():
    assert common.integer_of(8)("0xff") == 255
    with pytest.raises(InputError, match="at most 8 bits, found 256"):
        common.integer_of(8)("256")


def test_hex():
    assert common.hex_bytes("00Ff") == b"\x00\xff"
    assert common.hex_bytes_of(2)("00ff") == b"\x00\xff"
    assert common.hex_bytes("") == b""
    with pytest.raises(InputError, match=r"expected 32 hex digits \(16 bytes\), found 4 hex digits"):
        common.hex_bytes("00ff", 16)


@pytest.mark.parametrize("text", ["0", "0x00", "00 ff", "not hex at all!!", "zz"])
def test_hex_that_is_not_is_refused_and_not_shown(text):
    with pytest.raises(InputError) as caught:
        common.hex_bytes(text)
    assert str(caught.value) == f"value: expected pairs of hex digits, found {len(text)} characters that are not"


def test_seed_of_nothing():
    assert common.seed_bytes("00") == b"\0"
    with pytest.raises(InputError, match="seed: expected pairs of hex digits, found nothing"):
        common.seed_bytes("")


@pytest.mark.parametrize("text, value", [("0.24", (0, 24)), ("1.0", (1, 0)), ("255.255", (255, 255))])
def test_api_versions(text, value):
    assert common.api_version(text) == value


@pytest.mark.parametrize("text", ["", "1", "0.", ".24", "0.24.1", "0.256", "256.0", "-1.0", "0x1.0", "a.b", "0.0024"])
def test_api_versions_that_are_not(text):
    with pytest.raises(InputError, match=r"MAJOR\.MINOR"):
        common.api_version(text)


def test_the_reason_of_an_option_names_it_and_what_was_found(command, refused, monkeypatch):
    def configure(parser):
        parser.add_argument("--policy", type=common.integer_of(32))
        parser.add_argument("--nonce", type=common.hex_bytes_of(16))
        parser.set_defaults(run=lambda args: 0)

    command(None)
    sys.modules["a_command_of_the_tests"].configure = configure
    assert refused("odd", "--policy", "x1").endswith(
        "argument --policy: value: expected a decimal or 0x number, found 'x1'"
    )
    assert refused("odd", "--nonce", "00").endswith(
        "argument --nonce: value: expected 32 hex digits (16 bytes), found 2 hex digits"
    )
    assert refused("odd", "--nonce", "not-a-nonce").endswith(
        "expected pairs of hex digits, found 11 characters that are not"
    )


def test_base64():
    assert common.base64_text("AAEC\n", "blob") == b"\0\1\2"
    assert common.base64_text(b" AA\r\nEC", "blob", 3) == b"\0\1\2"
    with pytest.raises(InputError, match="blob: expected base64 of 48 bytes, found base64 of 3 bytes"):
        common.base64_text("AAEC", "blob", 48)


@pytest.mark.parametrize("text", ["AAE", "A===", "====", "AA=C", "AAEC=", "A-_C", "*", "AAé=", b"\xff\xfe"])
def test_base64_that_is_not(text):
    with pytest.raises(InputError, match=r"^blob: expected base64 text, found"):
        common.base64_text(text, "blob")


# ---------------------------------------------------------------------------------------------- reading


def test_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"AAEC")
    assert common.read_file(path, "thing") == b"AAEC"
    assert common.read_file(str(path), "thing", limit=4) == b"AAEC"
    assert common.exact_file(path, "thing", 4) == b"AAEC"
    assert common.base64_file(path, "thing", 3) == b"\0\1\2"
    with pytest.raises(InputError, match=rf"^thing {path}: expected at most 3 bytes, found more$"):
        common.read_file(path, "thing", limit=3)
    with pytest.raises(InputError, match=rf"^thing {path}: expected 16 bytes, found 4 bytes$"):
        common.exact_file(path, "thing", 16)
    with pytest.raises(InputError, match=rf"^thing {path}: expected base64 of 16 bytes, found base64 of 3 bytes$"):
        common.base64_file(path, "thing", 16)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="none: expected a readable file, found no such file or directory"):
        common.read_file(tmp_path / "none", "thing")
    with pytest.raises(InputError, match="expected a readable file, found is a directory"):
        common.read_file(tmp_path, "thing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="expected a readable file, found too many levels"):
        common.read_file(tmp_path / "loop", "thing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "file"
    path.touch(mode=0)
    with pytest.raises(InputError, match="permission denied"):
        common.read_file(path, "thing")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_an_endless_file():
    with pytest.raises(InputError, match="at most 1000 bytes"):
        common.read_file("/dev/zero", "thing", limit=1000)


def test_option_errors_are_both():
    assert issubclass(common.OptionError, InputError) and issubclass(common.OptionError, argparse.ArgumentTypeError)
