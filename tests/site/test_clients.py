"""The pages for tool authors: every client is compiled and run, every example says what the page says."""

import json
import shutil
import subprocess
import sys

import pytest

from sevref.cli import main
from sevref.resources import data_path

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
    page = data_path("site", "pages", "check-your-implementation.md").read_text()
    assert "```text\n" + "\n".join(SAYS) + "\n```" in page


@pytest.mark.parametrize("name", ["check_session", "check_platform"])
def test_python_example(name):
    done = subprocess.run([sys.executable, data_path("site", "examples", f"{name}.py")], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert ("wrap_mac" if name == "check_session" else "DFFLUSH_REQUIRED") in done.stdout


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
