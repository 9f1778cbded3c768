"""No key is in any ``repr``, exception text or log entry."""

import itertools
from typing import Any

import pytest

from firmware.kit import CHIP_KEY, DRAM, MIB, Rig
from sevref import (
    GuestOwner,
    Hypervisor,
    Machine,
    Platform,
    PlatformOwner,
    Policy,
    PrivateKey,
    SevError,
    SimulatedAmd,
    Usage,
)
from sevref.boot import build_firmware
from sevref.certs.roots import simulated_key


def everything() -> tuple[list[Any], list[bytes], list[str]]:
    """Objects of a platform with a guest, the secrets in them, and texts of refusals and of the log."""
    machine = Machine(seed=b"secrets", dram_size=8 * MIB)
    amd = SimulatedAmd("milan")
    amd.enrol(machine)
    platform = Platform(machine)
    host = Hypervisor(platform)
    host.boot()
    platform_owner = PlatformOwner(seed=b"po")
    platform.pek_cert_import(platform_owner.sign_csr(platform.pek_csr()), platform_owner.oca)
    owner = GuestOwner(roots=machine.amd, seed=b"go")
    opened = owner.open_session(host.certificates(amd), Policy.make("NODBG"))
    vm = host.launch(build_firmware(), opened.policy, opened.godh, opened.session)
    texts = []
    tampered = opened.session.pack()[:-1] + b"\x00"
    for call in (
        lambda: platform.launch_start(1, opened.godh, tampered),
        lambda: platform.launch_start(0, opened.godh, opened.session),
        lambda: platform.launch_secret(vm.handle, bytes(0x34), bytes(16), 0x100000),
        lambda: platform.activate(vm.handle, 0),
        lambda: platform.pek_cert_import(platform_owner.oca, platform_owner.oca),
        lambda: platform.dbg_decrypt(vm.handle, 0x100000, 0x200000, 16),
    ):
        with pytest.raises(SevError) as error:
            call()
        texts += [str(error.value), repr(error.value), repr(error.value.args)]
    vm.measure()
    with pytest.raises(SevError) as error:
        platform.launch_secret(vm.handle, bytes(0x34), bytes(16), 0x100000)
    texts += [str(error.value), repr(error.value)]
    firmware = platform._firmware
    guest, identity = firmware.guests[vm.handle], firmware.identity
    keys = [identity.pek_key, identity.pdh_key, firmware.cek, platform_owner._key]
    objects = [
        machine, machine.umc, machine.umc.engine, machine.rng, machine.dram, machine.amd, *machine.umc._slots.values(),
        platform, firmware, firmware.store, firmware.issuer, firmware.asids, firmware.refusal, guest, guest.digest,
        identity, firmware.state, *firmware.guests.values(), *keys, amd, host, vm, owner, platform_owner, opened,
        opened.session, opened.godh, simulated_key("milan", Usage.ASK), platform.guest_status(vm.handle), *platform.log,
    ]  # fmt: skip
    assert any(guest.tik) and guest.tik == opened.tik
    secrets = [
        machine.fused_chip_key(), guest.vek, guest.oek, guest.tek, guest.tik, guest.ms,
        *(key.d.to_bytes(48, "big") for key in keys),
        *(number.to_bytes(256, "big") for number in (simulated_key("milan", Usage.ASK).p, simulated_key("milan", Usage.ASK).q)),
    ]  # fmt: skip
    return objects, secrets, texts + [repr(entry) for entry in platform.log]


def forms(secret: bytes) -> set[str]:
    """How a key would show: hex in both orders, bytes literals, an integer."""
    flipped = secret[::-1]
    found = {secret.hex(), flipped.hex(), repr(secret)[2:-1], repr(flipped)[2:-1], repr(bytearray(secret))[12:-2]}
    found |= {str(int.from_bytes(data, "big")) for data in (secret, flipped)}
    return found | {form[: len(form) // 2] for form in found} | {form[len(form) // 2 :] for form in found}


def test_no_key_is_shown() -> None:
    objects, secrets, texts = everything()
    shown = [text for thing in objects for text in (repr(thing), str(thing))] + texts
    for text, secret in itertools.product(shown, secrets):
        for form in forms(secret):
            assert form not in text.lower() and form not in text, f"a secret of {len(secret)} bytes is shown"


def test_the_test_would_see_a_key() -> None:
    key = PrivateKey(0x1234567890ABCDEF << 300)
    assert any(form in f"key {key.d:x} end" for form in forms(key.d.to_bytes(48, "big")))
    assert any(form in repr({"tik": b"sixteen byte key"}) for form in forms(b"sixteen byte key"))


def test_guest_memory_stays_out_of_the_hosts_view() -> None:
    """A host that reads all of DRAM and flash finds no key and no secret."""
    rig = Rig().init()
    opened = rig.owner(1)
    handle = rig.start_with(opened)
    rig.activate(handle)
    guest, identity = rig.firmware.guests[handle], rig.firmware.identity
    memory = rig.get(0, DRAM) + bytes(rig.machine.flash)
    for secret in (guest.vek, guest.oek, guest.tek, guest.tik, guest.ms, CHIP_KEY):
        assert secret not in memory
    for key in (identity.pek_key, identity.pdh_key, identity.oca_key, rig.firmware.cek):
        assert key.d.to_bytes(48, "little") not in memory and key.d.to_bytes(48, "big") not in memory
