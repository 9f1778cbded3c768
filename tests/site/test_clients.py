"""The pages for tool authors: every client is compiled and run, every example says what the page says."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from sevref.cli import main
from sevref.resources import data_path
from support import ROOT

PAGE = data_path("site", "pages", "check-your-implementation.md")
SEVREF = [sys.executable, "-m", "sevref"]
SAYS = ["SUCCESS", "INVALID_PLATFORM_STATE - ACTIVATE needs platform state WORKING, it is INIT"]
COMPILERS = {
    "c": lambda source, program: ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", program, source],
    "rs": lambda source, program: ["rustc", "--edition", "2021", "-D", "warnings", "-o", program, source],
    "go": lambda source, program: ["go", "build", "-o", program, source],
}


@pytest.mark.slow
@pytest.mark.parametrize("language", COMPILERS)
def test_client(language, tmp_path):
    command = COMPILERS[language](str(data_path("protocol", f"client.{language}")), str(tmp_path / "client"))
    if shutil.which(command[0]) is None:
        pytest.skip(f"no compiler: {command[0]}")
    built = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "client", *SEVREF], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()) == (0, SAYS), done.stderr
    failed = subprocess.run([tmp_path / "client", "/bin/false"], capture_output=True, text=True, timeout=120)
    assert failed.returncode != 0


def test_the_page_says_what_the_clients_print():
    assert "```text\n" + "\n".join(SAYS) + "\n```" in PAGE.read_text()


EXAMPLES = {
    "check_session": ["0x60 policy_mac"],
    "check_measurement": ["0x28 mnonce     000102030405060708090a0b0c0d0e0f", "MEASURE 5ac54c9342bdb826"],
    "check_certificate": ["0x005 api_minor: 19, expected 18", "PEK: ", "BAD_SIGNATURE"],
    "check_platform": ["DFFLUSH_REQUIRED"],
    "check_launch": ["as it was made: SUCCESS", "POLICY_MAC does not match"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_python_example(name):
    program = [sys.executable, data_path("site", "examples", f"{name}.py")]
    arguments = SEVREF if name == "check_launch" else []
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr
    assert [words for words in EXAMPLES[name] if words not in done.stdout] == []
    if name == "check_launch":
        assert f"```text\n{done.stdout.replace(': SUCCESS ', ': SUCCESS')}```" in PAGE.read_text()


def test_every_example_is_checked():
    files = {path.name for path in data_path("site", "examples").iterdir()}
    assert files == {*(f"{name}.py" for name in EXAMPLES), "requests.jsonl", "replay.txt", "own.json", "own.txt"}


@pytest.fixture
def newcomer(tmp_path):
    """A folder with the files that the pages offer, and an environment in which `sevref` and `python` are these."""
    for path in (*data_path("protocol").iterdir(), *data_path("site", "examples").iterdir()):
        shutil.copy(path, tmp_path)
    (tmp_path / "bin").mkdir()
    for name, command in {"sevref": SEVREF, "python": SEVREF[:1]}.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)

    def run(line):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


TYPED = re.findall(r"run with\s+`([^`]+)`", PAGE.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("line", TYPED)
def test_a_client_is_run_as_the_page_says(line, newcomer):
    if shutil.which(line.split()[0]) is None:
        pytest.skip(f"no compiler: {line.split()[0]}")
    done = newcomer(line)
    said = SAYS[:1] if line.startswith("sh ") else SAYS
    assert done.returncode == 0 and [words for words in said if words not in done.stdout.splitlines()] == [], (
        done.stderr
    )


def test_the_page_has_a_command_for_every_client():
    assert len(TYPED) == len(list(data_path("protocol").glob("client.*"))) == 5
    assert not {name.name for name in data_path("protocol").glob("client.*")} - set(
        re.findall(r"client\.\w+", " ".join(TYPED))
    )


def test_the_commands_of_both_pages_run(newcomer):
    """What stands between backticks and begins with `sevref`, in the words of the pages; FILE and COMMAND filled in."""
    text = PAGE.read_text() + data_path("site", "pages", "bug-as-a-trace.md").read_text()
    block = re.search(r"```sh\n\s*(sevref serve .*)\n", text)[1]
    assert newcomer(block).returncode == 0
    typed = {line for line in re.findall(r"`(sevref [^`]+)`", text) if "==" not in line}
    assert {"sevref conform bug.json", "sevref why LAUNCH_START BAD_MEASUREMENT", "sevref --version"} <= typed
    for line in sorted(typed - {"sevref serve --stdio", "sevref conform"}):
        line = line.replace("COMMAND", "ACTIVATE").replace("FILE", "oca.cert").replace("FOLDER", "platform")
        if "cert" in line or "chain" in line:
            continue  # they need a platform's files; tests/cli runs them
        done = newcomer(line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


def test_the_trace_written_by_hand(newcomer):
    done = newcomer("sevref conform own.json")
    assert done.returncode == 1 and not done.stderr
    assert "$ sevref conform own.json\n" + done.stdout == data_path("site", "examples", "own.txt").read_text()


def test_what_a_step_needs_at_least(tmp_path, capsys):
    """As the page says: without its outputs a step is replayed, without one of the others it is not."""
    path = tmp_path / "least.json"

    def replay(*left_out):
        trace = json.loads(data_path("site", "examples", "own.json").read_text())
        for step in trace["steps"]:
            for name in left_out:
                del step[name]
        path.write_text(json.dumps(trace))
        return main(["conform", str(path)]), capsys.readouterr().out

    code, said = replay("cmdbuf_out")
    assert code == 1 and "1 of 2 commands agree" in said
    needed = re.search(r"a step needs ([^;]+);", PAGE.read_text())[1]
    names = re.findall(r"`(\w+)`", needed)
    assert len(names) == 7
    for name in set(names) - {"i"}:  # the number is needed only to name a difference
        assert replay(name)[0] == 2, name


def test_a_bug_as_a_trace(tmp_path, monkeypatch, capsys):
    """The worked example: record, change the answer that is wrong, see it named."""
    monkeypatch.chdir(tmp_path)
    with data_path("site", "examples", "requests.jsonl").open() as requests:
        subprocess.run([*SEVREF, "serve", "--stdio", "--record", "bug.json"], stdin=requests, check=True, stdout=-3)
    assert main(["conform", "bug.json"]) == 0
    capsys.readouterr()
    trace = json.loads((tmp_path / "bug.json").read_text())
    step = trace["steps"][-1]
    assert step["status"] == "INVALID_PLATFORM_STATE"
    step["status"], step["status_code"] = "INVALID_GUEST", 0x10
    (tmp_path / "bug.json").write_text(json.dumps(trace))
    assert main(["conform", "bug.json"]) == 1
    shown = data_path("site", "examples", "replay.txt").read_text()
    assert "$ sevref conform bug.json\n" + capsys.readouterr().out == shown
