"""A call of ``sevref sp`` that is killed at any moment leaves the old identity or the new one.

Two ways to die. With strace a whole ``sevref`` process gets SIGKILL when it enters its n-th system call that touches
the chip's folder, for every n: that covers each call that the kernel sees, the interpreter's own included, but it
cannot stop inside one, and it needs ptrace. Without strace a forked process kills itself before its n-th operating
system call, for every n, for every command that writes; and in the middle of each write, after half of the bytes.

What the tests cannot show is a loss of *power*: that nothing is renamed or answered before its bytes are on the disk
is asserted as the order of the system calls.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from sevref import PlatformOwner, SevCertificate
from support import peer

FLASH = 0x8000
ERASED = b"\xff" * FLASH
SEED = ("--seed", "c4a5")

#: Forks a process per job and kills it at its n-th operating system call; prints the signal that ended it. A job with
#: n = 0 lives: it prints the names of its calls.
WORKER = """
import fcntl, json, os, sys
import sevref.cli
from sevref.cli import chip, sp

NAMES = ("open", "write", "fsync", "rename", "close", "fchmod", "unlink", "mkdir")

def arm(n, torn):
    seen = []
    def wrap(name, real):
        def call(*args, **named):
            seen.append(name)
            if len(seen) == n:
                if torn:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), 9)
            return real(*args, **named)
        return call
    for name in NAMES:
        setattr(os, name, wrap(name, getattr(os, name)))
    fcntl.flock = wrap("flock", fcntl.flock)
    return seen

for words, n, torn in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        out = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        seen = arm(n, torn)
        code = sevref.cli.main(words)
        names = list(seen)
        if n == 0:
            os.write(out, (json.dumps(names) + "\\n").encode())
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    if n:
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)
"""


def die(jobs):
    """Run (words, n, torn) jobs; a line of the worker for each."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER], input=json.dumps(jobs), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def initialised(cli, folder):
    """The answers of INIT on a copy of a chip."""
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    done = cli("sp", copy, "status", "--json")
    shutil.rmtree(copy)
    assert done.code == 0
    return json.loads(done.out)["init"]


@pytest.fixture
def chip(tmp_path, cli):
    folder = tmp_path / "chip"
    assert cli("sp", folder, "new", *SEED).code == 0
    return folder


@pytest.fixture
def files(tmp_path, chip, cli):
    """A signed PEK and an OCA for the chip."""
    assert cli("sp", chip, "pek-csr", tmp_path / "csr").code == 0
    owner = PlatformOwner(seed=b"owner")
    (tmp_path / "pek").write_bytes(owner.sign_csr(SevCertificate.parse((tmp_path / "csr").read_bytes())).pack())
    (tmp_path / "oca").write_bytes(owner.oca.pack())
    return [str(tmp_path / "pek"), str(tmp_path / "oca")]


def everywhere(chip, words):
    """Kill ``words`` on copies of the chip before every call, and in the middle of every write. The copy on which it
    lived, and the others."""

    def copy(n, torn=False):
        folder = chip.parent / "copies" / f"{n}{'torn' if torn else ''}"
        shutil.copytree(chip, folder)
        return folder

    whole = copy(0)
    (names,) = die([[["sp", str(whole), *words], 0, False]])
    assert "write" in names and "rename" in names
    moments = [(n, False) for n in range(1, len(names) + 1)]
    moments += [(n, True) for n, name in enumerate(names, 1) if name == "write"]
    folders = [copy(*moment) for moment in moments]
    ends = die([[["sp", str(folder), *words], *moment] for folder, moment in zip(folders, moments, strict=True)])
    assert ends == [signal.SIGKILL] * len(moments)
    return whole, folders


@pytest.mark.parametrize("command", ["pdh-gen", "pek-gen", "pek-cert-import", "reset"])
def test_killed_at_every_call_the_identity_is_the_old_or_the_new_one(chip, files, cli, command):
    whole, killed = everywhere(chip, [command, *(files if command == "pek-cert-import" else []), *SEED])
    old, new = ((folder / "flash.bin").read_bytes() for folder in (chip, whole))
    assert old != new and (new == ERASED) == (command == "reset")
    found = [(folder / "flash.bin").read_bytes() for folder in killed]
    assert set(found) == {old, new}
    fuses = (chip / "chip.json").read_bytes()
    assert {(folder / "chip.json").read_bytes() for folder in killed} == {fuses}
    for flash in (old, new):  # one of each kind
        assert initialised(cli, killed[found.index(flash)]) == ["SUCCESS"]


def test_killed_while_a_damaged_flash_is_replaced(chip, cli):
    """Damaged, erased or new: never the damaged bytes half erased."""
    flash = bytearray((chip / "flash.bin").read_bytes())
    flash[9] ^= 1
    (chip / "flash.bin").write_bytes(flash)
    whole, killed = everywhere(chip, ["status", *SEED])
    new = (whole / "flash.bin").read_bytes()
    assert {(folder / "flash.bin").read_bytes() for folder in killed} == {bytes(flash), ERASED, new}
    assert initialised(cli, whole) == ["SUCCESS"]


def test_killed_while_it_is_made_a_chip_is_there_or_can_be_made(tmp_path, cli):
    empty = tmp_path / "empty"
    empty.mkdir()
    whole, killed = everywhere(empty, ["new", *SEED])
    fuses, new = ((whole / name).read_bytes() for name in ("chip.json", "flash.bin"))
    kinds = set()
    for folder in killed:
        names = {path.name for path in folder.iterdir()} - {"flash.bin.new", "chip.json.new"}
        if "chip.json" in names:
            assert (folder / "chip.json").read_bytes() == fuses
            assert (folder / "flash.bin").read_bytes() in (ERASED, new)
            kinds.add("chip")
        else:
            kinds.add("no chip")
    assert kinds == {"chip", "no chip"}
    for kind, words in (("chip", ["status"]), ("no chip", ["new", *SEED])):
        folder = next(f for f in killed if (f / "chip.json").exists() == (kind == "chip"))
        assert cli("sp", folder, *words).code == 0


def test_what_a_killed_call_left_behind_is_cleared_away(chip, cli):
    (chip / "flash.bin.new").write_bytes(b"half a rec")
    before = (chip / "flash.bin").read_bytes()
    assert cli("sp", chip, "pdh-gen").code == 0
    assert {path.name for path in chip.iterdir()} == {"chip.json", "flash.bin"}
    assert (chip / "flash.bin").read_bytes() != before


# ---------------------------------------------------------------------------------------------- real system calls


@pytest.fixture
def traced(tmp_path):
    """Runs ``sevref`` under strace, which sees the calls that touch the chip's folder."""
    strace = peer("strace")
    probe = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"ptrace is not allowed here: {probe.stderr.strip()[:80]}")
    log = tmp_path / "strace.log"

    def run(folder, *words, kill=()):
        filters = [option for name in ("", "/flash.bin", "/flash.bin.new") for option in ("-P", f"{folder}{name}")]
        inject = ["-e", "inject={}:signal=KILL:when={}".format(*kill)] if kill else []
        command = [sys.executable, "-m", "sevref", "sp", folder, *words]
        done = subprocess.run([strace, "-f", "-y", "-o", log, *filters, *inject, *command], capture_output=True)
        calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
        return done.returncode, [call for call in calls if not call.startswith(("+++", "---"))]

    return run


def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_the_answer(chip, traced):
    code, calls = traced(chip, "pdh-gen")
    assert code == 0
    order = [
        r"flock\(\d+<[^>]*/chip>, LOCK_EX\)",
        r'openat\(\d+<[^>]*/chip>, "flash.bin.new", .*O_CREAT.*, 0600\)',
        r"write\(\d+<[^>]*/flash.bin.new>, .*, 32768\) += 32768",
        r"fsync\(\d+<[^>]*/flash.bin.new>\) += 0",
        r'rename[a-z0-9]*\(.*"flash.bin.new", .*"flash.bin".*\) += 0',
        r"fsync\(\d+<[^>]*/chip>\) += 0",
        r"close\(\d+<[^>]*/chip>\)",
    ]
    where = [next((i for i, call in enumerate(calls) if re.match(pattern, call)), -1) for pattern in order]
    assert -1 not in where, (where, calls)
    assert where == sorted(where)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pdh-gen", "pek-cert-import"])
def test_killed_by_the_kernel_at_every_system_call(chip, files, cli, traced, command):
    words = [command, *(files if command == "pek-cert-import" else []), *SEED]
    whole = chip.parent / "whole"
    shutil.copytree(chip, whole)
    code, calls = traced(whole, *words)
    assert code == 0
    old, new = ((folder / "flash.bin").read_bytes() for folder in (chip, whole))
    names = [call[: call.index("(")] for call in calls]
    found = []
    for n, name in enumerate(names):
        folder = chip.parent / f"killed{n}"
        shutil.copytree(chip, folder)
        code, seen = traced(folder, *words, kill=(name, names[: n + 1].count(name)))
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert [call[: call.index("(")] for call in seen] == names[: n + 1]  # it died entering this one
        found.append((folder / "flash.bin").read_bytes())
        if n in (0, len(names) - 1):
            assert initialised(cli, folder) == ["SUCCESS"]
    assert found == sorted(found, key=[old, new].index)  # old up to one call, new from there on
    assert set(found) == {old, new}
