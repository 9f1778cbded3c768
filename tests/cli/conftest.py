"""``cli``: runs the command line in this process, as the ``sevref`` script does."""

from typing import NamedTuple

import pytest

from sevref.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("SEVREF_TRACEBACK", "1")  # a defect of ours is an exception here, not exit code 2

    def run(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """Runs the command line; it must end with exit code 2, one line of reason and nothing on standard output."""

    def run(*argv):
        done = cli(*argv)
        assert done.code == 2, done
        assert done.out == ""
        assert "Traceback" not in done.err
        assert "internal error" not in done.err
        reason = done.err.rstrip("\n")
        if not reason.startswith("usage:"):  # argparse puts the command's usage before its reason
            assert "\n" not in reason
        return reason.splitlines()[-1]

    return run
