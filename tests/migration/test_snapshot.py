"""Snapshots (sheet 30, section 9): each row of its table that a hypervisor can try."""

import os
from pathlib import Path

import pytest

from migration.stage import TEXT, TEXT_AT, Stage, memory
from sevref import GENOA_1_55_25, SPEC_0_24, GuestState, Hypervisor, InputError, PlatformOwner, SevError
from sevref import Status as S
from sevref.roles.migration import state_of
from sevref.roles.snapshot import restore, save
from sevref.roles.stream import read_stream, write_stream

PROFILES = {"spec": SPEC_0_24, "genoa": GENOA_1_55_25}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("es", [False, True], ids=["sev", "es"])
def test_checkpoint_and_continue(tmp_path: Path, profile: str, es: bool) -> None:
    stage = Stage("A", PROFILES[profile])
    vm, path = stage.guest(*(["ES", "SEV", "DOMAIN"] if es else [])), tmp_path / "guest"
    before, shown = memory(vm), []
    head = save(vm, stage.chain, path, progress=lambda done, total: shown.append((done, total)))
    assert shown[-1][0] == shown[-1][1] > 0
    assert head.policy == (0b110101 if es else 1) and path.read_bytes()[:2248] == head.pack()
    assert TEXT not in path.read_bytes()
    assert state_of(vm) is GuestState.RUNNING and memory(vm) == before
    vm.vcpu().write(TEXT_AT, b"changed since then")

    copy = restore(stage.host, path)
    assert memory(copy) == before
    assert copy.handle != vm.handle and copy.asid != vm.asid
    assert copy.seen_by_host(0, 4096) != vm.seen_by_host(0, 4096)
    assert vm.vcpu().read(TEXT_AT, 7) == b"changed"
    # a guest that was received has no launch digest (5.7)
    assert stage.platform.attestation(copy.handle, bytes(16)).launch_digest == bytes(32)
    assert stage.platform.attestation(vm.handle, bytes(16)).launch_digest != bytes(32)


def test_twice_and_old_ones_too(tmp_path: Path) -> None:
    """Clone and rollback: nobody counts."""
    stage = Stage("A")
    vm = stage.guest()
    save(vm, stage.chain, tmp_path / "monday")
    vm.vcpu().write(TEXT_AT, b"tuesday's word")
    save(vm, stage.chain, tmp_path / "tuesday", stop=True)
    assert stage.guests == 0
    copies = [restore(stage.host, tmp_path / day) for day in ("tuesday", "monday", "monday")]
    assert [copy.vcpu().read(TEXT_AT, 4) for copy in copies] == [b"tues", TEXT[:4], TEXT[:4]]
    assert stage.guests == 3 and len({copy.asid for copy in copies}) == 3


def test_it_survives_a_power_cycle(tmp_path: Path) -> None:
    stage = Stage("A")
    vm = stage.guest("ES")
    before = memory(vm)
    save(vm, stage.chain, tmp_path / "guest", stop=True)
    stage.machine.power_cycle()
    host = Hypervisor(stage.platform)
    host.boot(es=True)
    assert memory(restore(host, tmp_path / "guest")) == before


@pytest.mark.parametrize("event", ["pdh_gen", "pek_gen", "platform_reset", "new owner", "lost flash", "another chip"])
def test_a_new_pdh_ends_it(tmp_path: Path, event: str) -> None:
    """BAD_MEASUREMENT at WRAP_MAC, and nothing is left of the attempt."""
    stage = Stage("A")
    save(stage.guest(), stage.chain, tmp_path / "guest", stop=True)
    host, platform = stage.host, stage.platform
    if event == "new owner":
        owner = PlatformOwner(seed=b"new")
        platform.pek_cert_import(owner.sign_csr(platform.pek_csr()), owner.oca)
    elif event == "platform_reset":
        platform.shutdown()
        platform.platform_reset()
        host = Hypervisor(platform)
        host.boot()
    elif event == "lost flash":
        stage.machine.flash[:] = b"\xff" * 0x8000
        stage.machine.power_cycle()
        host = Hypervisor(platform)
        host.boot()
    elif event == "another chip":
        stage = Stage("B")
        host = stage.host
    else:
        getattr(platform, event)()
    with pytest.raises(SevError, match="WRAP_MAC") as error:
        restore(host, tmp_path / "guest")
    assert (error.value.command, error.value.status) == ("RECEIVE_START", S.BAD_MEASUREMENT)
    assert stage.guests == 0


def test_for_another_platform(tmp_path: Path) -> None:
    """Migration by file: it opens on the platform that it was made for, and only there."""
    a, b = Stage("A"), Stage("B")
    vm = a.guest("SEV", "ES")
    before = memory(vm)
    save(vm, b.chain, tmp_path / "guest", stop=True)
    with pytest.raises(SevError) as error:
        restore(a.host, tmp_path / "guest")
    assert error.value.status is S.BAD_MEASUREMENT
    assert memory(restore(b.host, tmp_path / "guest")) == before and a.guests == 0


def test_nosend_forbids_it(tmp_path: Path) -> None:
    stage = Stage("A")
    vm = stage.guest("NOSEND")
    with pytest.raises(SevError) as error:
        save(vm, stage.chain, tmp_path / "guest")
    assert error.value.status is S.POLICY_FAILURE
    assert list(tmp_path.iterdir()) == [] and state_of(vm) is GuestState.RUNNING


def test_pages_of_two_snapshots_do_not_mix(tmp_path: Path) -> None:
    """Every SEND_START has new keys; and a DATA packet is no VMSA packet."""
    stage = Stage("A")
    vm = stage.guest("ES")
    for name in ("one", "two"):
        save(vm, stage.chain, tmp_path / name)
    (head, parts), (_, others) = (read_stream((tmp_path / name).read_bytes()) for name in ("one", "two"))
    mixed = [others[0], *parts[1:]]
    (tmp_path / "mixed").write_bytes(b"".join(write_stream(head, mixed)))
    with pytest.raises(SevError) as error:
        restore(stage.host, tmp_path / "mixed")
    assert error.value.status is S.BAD_MEASUREMENT and stage.guests == 1


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("A")
    vm, path = stage.guest(), tmp_path / "guest"
    path.write_bytes(b"an older snapshot")

    def broken(done: int, _total: int) -> None:
        if done > 0x5000:
            raise OSError(28, "No space left on device")

    for stop in (False, True):
        with pytest.raises(OSError, match="No space left"):
            save(vm, stage.chain, path, stop=stop, progress=broken)
        assert path.read_bytes() == b"an older snapshot" and list(tmp_path.iterdir()) == [path]
        assert state_of(vm) is GuestState.RUNNING
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError):
        save(vm, stage.chain, path, stop=True)
    assert path.read_bytes() == b"an older snapshot" and list(tmp_path.iterdir()) == [path]
    assert state_of(vm) is GuestState.RUNNING
    monkeypatch.undo()
    save(vm, stage.chain, path)
    assert path.read_bytes()[:8] == b"SEVguest" and list(tmp_path.iterdir()) == [path]


def test_no_such_folder(tmp_path: Path) -> None:
    stage = Stage("A")
    vm = stage.guest()
    with pytest.raises(FileNotFoundError):
        save(vm, stage.chain, tmp_path / "none" / "guest")
    assert state_of(vm) is GuestState.RUNNING
    with pytest.raises(FileNotFoundError):
        restore(stage.host, tmp_path / "guest")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty, offset 0x0: MAGIC: expected 8 bytes, found 0"):
        restore(stage.host, tmp_path / "empty")
