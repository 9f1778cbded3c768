"""Several files are written all or nothing, whatever fails and when."""

import os
import stat

import pytest

from sevref.cli import common
from sevref.status import InputError

FILES = {"a_godh.b64": (b"godh", 0o644), "a_tik.bin": (b"tik" * 100_000, 0o600), "a_tek.bin": (b"", 0o600)}


def content(folder):
    """Everything in a folder: name -> (content, mode)."""
    return {p.name: (p.read_bytes(), stat.S_IMODE(p.stat().st_mode)) for p in folder.iterdir()}


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(params=["new", "one there", "all there"])
def folder(request, tmp_path):
    names = {"new": [], "one there": ["a_tik.bin"], "all there": list(FILES)}[request.param]
    for name in names:
        (tmp_path / name).write_bytes(b"old " + name.encode())
        (tmp_path / name).chmod(0o640)
    return tmp_path


def test_contents_and_modes(folder):
    common.write_files({folder / name: value for name, value in FILES.items()})
    assert content(folder) == FILES


def test_the_umask_applies(tmp_path):
    os.umask(0o077)
    common.write_files({str(tmp_path / "a"): (b"a", 0o644)})
    assert content(tmp_path) == {"a": (b"a", 0o600)}


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common.write_files({"a": (b"1", 0o644), "./b": (b"2", 0o644)})
    assert content(tmp_path) == {"a": (b"1", 0o644), "b": (b"2", 0o644)}


def test_a_private_file_is_never_readable_to_others(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(stat.S_IMODE(os.fstat(fd).st_mode)), fsync(fd)))
    common.write_files({tmp_path / "tik": (b"tik", 0o600)})
    assert seen == [0o600]


@pytest.mark.parametrize("function", ["open", "fsync", "rename"])
def test_any_call_fails(folder, monkeypatch, function):
    """open, fsync and rename fail at the n-th call, for every n: every name is what it was."""
    before = content(folder)
    real = getattr(os, function)
    for error in OSError(28, "No space left on device"), KeyboardInterrupt():
        for n in range(100):
            calls = 0

            def failing(*args, n=n, error=error, **kwargs):
                nonlocal calls
                calls += 1
                if calls == n + 1:
                    raise error
                return real(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(os, function, failing)
                if n >= 3 + (len(before) if function == "rename" else 0):
                    break
                with pytest.raises(type(error)):
                    common.write_files({folder / name: value for name, value in FILES.items()})
            assert content(folder) == before
        assert n == 3 + (len(before) if function == "rename" else 0)  # as many calls as can fail
    common.write_files({folder / name: value for name, value in FILES.items()})
    assert content(folder) == FILES


def test_each_file_is_on_the_disk_before_any_name_changes(folder, monkeypatch):
    order = []
    for name in "fsync", "rename":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1])
    common.write_files({folder / name: value for name, value in FILES.items()})
    assert order[:3] == ["fsync"] * 3
    assert set(order[3:]) == {"rename"}


def test_a_write_fails_midway(folder, monkeypatch):
    before = content(folder)

    class Short:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise OSError(28, "No space left on device")

    def short(*arguments, **options):
        return Short(open(*arguments, **options))

    monkeypatch.setattr(common, "open", short, raising=False)
    with pytest.raises(OSError, match="No space left"):
        common.write_files({folder / name: value for name, value in FILES.items()})
    assert content(folder) == before


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"output file .*/none/b: expected an existing folder .*/none, found none"):
        common.write_files({tmp_path / "a": (b"a", 0o644), tmp_path / "none" / "b": (b"b", 0o644)})
    assert content(tmp_path) == {}


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="expected a name that can be written, found not a directory"):
        common.write_files({tmp_path / "a": (b"a", 0o644), tmp_path / "file" / "b": (b"b", 0o644)})
    assert content(tmp_path) == {"file": (b"x", 0o644)}


def test_a_folder_of_the_files_name(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b: expected a new name or a regular file, found a folder"):
        common.write_files({tmp_path / "a": (b"a", 0o644), tmp_path / "b": (b"b", 0o644)})
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a new name or a regular file, found a special file"):
        common.write_files({tmp_path / "pipe": (b"a", 0o644)})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(PermissionError):
        common.write_files({tmp_path / "a": (b"a", 0o644), locked / "b": (b"b", 0o644)})
    assert [p.name for p in tmp_path.iterdir()] == ["locked"]


def test_a_folder_that_nobody_can_write():
    with pytest.raises((OSError, InputError)):
        common.write_files({"/proc/sevref-test": (b"a", 0o644)})


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    common.write_files({tmp_path / "link": (b"new", 0o644)})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_the_same_file_twice(tmp_path):
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="different names"):
        common.write_files({tmp_path / "a": (b"1", 0o644), tmp_path / "link": (b"2", 0o644)})
    assert not (tmp_path / "a").exists()


def test_a_name_of_the_greatest_length(tmp_path):
    common.write_files({tmp_path / ("n" * 255): (b"a", 0o644)})
    assert content(tmp_path) == {"n" * 255: (b"a", 0o644)}
    with pytest.raises((OSError, InputError)):
        common.write_files({tmp_path / "a": (b"a", 0o644), tmp_path / ("n" * 256): (b"a", 0o644)})
    assert content(tmp_path) == {"n" * 255: (b"a", 0o644)}
