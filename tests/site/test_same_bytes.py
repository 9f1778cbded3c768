"""The site is the same, byte for byte, on another day, in another place, under another user's settings.

The clock is moved by a program that starts the build: time namespaces do not move the time of day.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

LATER = """
import datetime, runpy, sys, time

shift = 400.3 * 86400
now, local, utc, formatted = time.time, time.localtime, time.gmtime, time.strftime
moment = datetime.datetime

class Later(moment):
    @classmethod
    def now(cls, tz=None):
        return moment.now(tz) + datetime.timedelta(seconds=shift)

    @classmethod
    def utcnow(cls):
        return moment.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=shift)

time.time = lambda: now() + shift
time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: utc(time.time() if seconds is None else seconds)
time.strftime = lambda form, when=None: formatted(form, time.localtime() if when is None else when)
datetime.datetime = Later
"""
BUILD = """
sys.argv[0] = "sevref.site"
runpy.run_module("sevref.site", run_name="__main__")
"""


def elsewhere(tmp_path):
    """Environment and folder of the second build: nothing that the first one may have had."""
    folder = tmp_path / "other folder"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SEVREF_VECTORS")}
    return folder, {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "4711",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "40",
    }


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differences(first, second):
    """Names of the files that are not the same in both folders."""
    one, other = contents(first), contents(second)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


@pytest.mark.slow
def test_the_site_is_the_same_bytes_in_other_circumstances(site, tmp_path):
    folder, environment = elsewhere(tmp_path)
    alone = {min(os.sched_getaffinity(0))}  # one process, where the first build may have had several
    done = subprocess.run(
        [sys.executable, "-c", LATER + BUILD, str(folder / "pages")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        umask=0o077,
        preexec_fn=lambda: os.sched_setaffinity(0, alone),
    )
    assert done.returncode == 0, done.stderr
    assert len(contents(site)) > 140
    assert differences(site, folder / "pages") == [], "if SEVREF_SITE names an older build: build it again"


def test_the_second_build_has_another_day(tmp_path):
    """The clock that the build sees is more than a year ahead, whichever way it asks."""
    folder, environment = elsewhere(tmp_path)
    asks = "print(int(time.time()), datetime.datetime.now().year, time.gmtime().tm_year, time.strftime('%Y'))"
    here = subprocess.check_output([sys.executable, "-c", "import datetime, time\n" + asks], text=True).split()
    there = subprocess.check_output(
        [sys.executable, "-c", LATER + asks], cwd=folder, env=environment, text=True
    ).split()
    assert all(int(b) > int(a) for a, b in zip(here, there, strict=True))


def test_the_comparison_names_what_differs(tmp_path):
    for name, files in {"a": {"x": "1", "y": "2"}, "b": {"x": "1", "y": "3", "z": "4"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            Path(tmp_path, name, file).write_text(text)
    assert differences(tmp_path / "a", tmp_path / "b") == ["y", "z"]
