"""Modes, keys per channel and threads: every preset against the slow engine; known answers of XE and XTS."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from memory import reference
from memory.test_vectors import COUNT, PUBLISHED, TEXT
from sevref.memory import CHUNK, PRESETS, SMALL, Engine, EnginePreset, UnknownConstant, variant
from sevref.status import InputError
from sevref.tweaks import XtsTweaks, channel_key, cxl_key

SEED = bytes(range(32))
VEK = random.Random(9).randbytes(32)
Slow = Callable[[int, bytes, bool], bytes]
MODES: dict[str, tuple[EnginePreset, Slow]] = {
    "xe-zen1": (variant("xe-zen1"), lambda p, d, e: reference.xe(reference.zen1(), VEK, p, d, e)),
    "xex-zen1": (variant("xex-zen1"), lambda p, d, e: reference.xex(reference.zen1(), VEK, p, d, e)),
    "xex-boot-random": (
        variant("xex-boot-random"),
        lambda p, d, e: reference.xex(reference.seeded(SEED), VEK, p, d, e),
    ),
    "xts-boot-random": (variant("xts-boot-random"), lambda p, d, e: reference.xts(SEED, VEK, p, d, e)),
    "plain": (variant("plain"), lambda p, d, e: reference.xe({}, VEK, p, d, e)),
    "period 4": (
        variant("xex-boot-random", period=4),
        lambda p, d, e: reference.xex(reference.seeded(SEED, 46, 4), VEK, p, d, e),
    ),
    "12 channels": (
        variant("xts-boot-random", channels=12),
        lambda p, d, e: reference.xts(SEED, VEK, p, d, e, channels=12),
    ),
    "unit 4096": (
        variant("xts-boot-random", unit=4096),
        lambda p, d, e: reference.xts(SEED, VEK, p, d, e, unit=4096),
    ),
}


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_every_preset_is_here() -> None:
    assert set(PRESETS) - {"recorded-traces"} <= set(MODES)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("size", [16, 64, 304, SMALL, SMALL + 16, 4112, CHUNK + 4096 + 32])
def test_fast_equals_slow(name: str, size: int) -> None:
    preset, slow = MODES[name]
    engine = Engine(preset, boot_seed=SEED)
    key, data, rnd = engine.new_key(VEK), noise(size, size), random.Random(size)
    for p in (0, 16, 48, 240, 4080, CHUNK - 32, rnd.randrange(0, 1 << 31, 16)):
        cipher, plain = engine.encrypt(key, p, data), engine.decrypt(key, p, data)
        assert engine.decrypt(key, p, cipher) == data
        assert engine.encrypt(key, p, plain) == data
        blocks = range(0, size, 16) if size <= 4112 and p < 64 else {0, size - 16, *rnd.sample(range(0, size, 16), 1)}
        for i in (i for i in {*blocks, -p % 4096, -p % CHUNK} if i < size):
            block = data[i : i + 16]
            assert cipher[i : i + 16] == slow(p + i, block, True), hex(p + i)
            assert plain[i : i + 16] == slow(p + i, block, False), hex(p + i)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bytes(name: str, threads: int) -> None:
    preset, _ = MODES[name]
    one, many = Engine(preset, boot_seed=SEED), Engine(preset, boot_seed=SEED)
    for p, size in ((0, 4 * CHUNK), (0x1230, 3 * CHUNK + 80), (CHUNK - 16, CHUNK + 48), (7 * CHUNK, CHUNK), (0, 48)):
        data = noise(size)
        buffer = bytearray(data)
        many.encrypt_into(many.new_key(VEK), p, buffer, threads=threads)
        assert buffer == one.encrypt(one.new_key(VEK), p, data)
        many.decrypt_into(many.new_key(VEK), p, buffer, threads=threads)
        assert buffer == data


def test_threads_report_errors_before_anything_changes() -> None:
    engine = Engine.preset("xex-zen1")
    key, buffer = engine.new_key(VEK), bytearray(4 * CHUNK)
    for p in (8, (1 << 32) - CHUNK):
        with pytest.raises(InputError):
            engine.encrypt_into(key, p, buffer, threads=2)
        assert buffer == bytes(4 * CHUNK)
    with pytest.raises(InputError, match="threads"):
        engine.encrypt_into(key, 0, buffer, threads=0)
    engine.encrypt_into(None, 8, buffer, threads=2)
    assert buffer == bytes(4 * CHUNK)


@pytest.mark.parametrize("threads", [1, 2])
def test_progress(threads: int) -> None:
    engine = Engine.preset("xex-zen1")
    key, size, calls = engine.new_key(VEK), (40 << 20) + 32, []
    buffer = np.zeros(size, np.uint8)
    engine.encrypt_into(key, 0x1000, buffer, threads=threads, progress=lambda *call: calls.append(call))
    assert calls == [(16 << 20, size), (32 << 20, size), (size, size)]
    plain = Engine.preset("xex-zen1")
    for i in (0, (16 << 20) - 16, 16 << 20, size - 16):
        assert bytes(buffer[i : i + 16]) == plain.encrypt(plain.new_key(VEK), 0x1000 + i, bytes(16))


# -- known answers


@pytest.mark.parametrize(("p", "plain", "pattern", "xe", "_xex"), PUBLISHED)
def test_published_xe(p: int, plain: bytes, pattern: str, xe: str, _xex: str) -> None:
    engine = Engine.preset("xe-zen1")
    key = engine.new_key(bytes(range(16)) + bytes(16))
    assert engine.tweak(p).hex() == pattern * 4
    assert engine.encrypt(key, p, plain).hex() == xe
    assert engine.decrypt(key, p, bytes.fromhex(xe)) == plain
    assert reference.xe(reference.zen1(), bytes(range(16)), p, plain, True).hex() == xe


CHANNELS = {
    0: "56cf6eb7e76b8dacd67c747bfad45e8057e83258fc2e3b07d7090b6140d20697",
    1: "9984bedf62fa4f7c55089ac51325213bec72713ce922e4bcd790d5ca3b717f08",
    12: "974e1af4a3e8abfbc7ce8ffec8b8d79c2a37ca630a541953eb2eede09bea1c23",
}
CXL = {
    1: "a32548c624a311137b3fbca48b3645c3f970986c3a7c0d86eb408cf8bf162a14",
    2: "528f2a09abefb6d2d920e7a730bed2dfddf247b9baed5669be44b2b7b868676b",
}
K2 = "039c1e0f741a440659f43b70eae96348cb2ccd9bd37b2c1da1a4d89599ca36a5"
XTS = [
    (
        0,
        bytes(64),
        "83f103789d1f3d44dc4d4c0e95c19937f49fd27bce7420a9218591adffdb6164"
        "14cf95236f6dad0520ba294b6f8c94b3619ee342a878d8fb3fa3b946c1714e6e",
    ),
    (
        0x123450040,
        bytes(range(64)),
        "543994ba02d5fe9ea5b5690a8eea6c45e635d79d8dc2e0a1007a3e810a6d9d95"
        "a7636fe0b5f2c484b46b493b996ab1eac4a7e963efd53a08a10e95f7ac7e3f63",
    ),
]


def test_keys_of_channels() -> None:
    for channel, key in CHANNELS.items():
        assert channel_key(SEED, channel).hex() == key
    assert {dies: cxl_key(SEED, dies).hex() for dies in CXL} == CXL


@pytest.mark.parametrize(("p", "plain", "cipher"), XTS)
def test_xts(p: int, plain: bytes, cipher: str) -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED)
    key = engine.new_key(SEED)
    assert engine.encrypt(key, p, plain).hex() == cipher
    assert engine.decrypt(key, p, bytes.fromhex(cipher)) == plain
    assert reference.xts(SEED, SEED, p, plain, True).hex() == cipher
    library = Cipher(
        algorithms.AES(bytes.fromhex(CHANNELS[0] + K2)), modes.XTS((p // 64).to_bytes(16, "little"))
    ).encryptor()
    assert library.update(plain).hex() == cipher


@pytest.mark.parametrize("channel", [1, 12])
def test_a_channel_has_a_key_of_its_own(channel: int) -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED, channels=13)
    p = channel << 8
    tweak = engine.tweak(p)
    block = reference.aes(bytes.fromhex(CHANNELS[channel]), reference.xor(TEXT, tweak), True)
    assert engine.encrypt(engine.new_key(SEED), p, TEXT) == reference.xor(block, tweak)


def test_xts_data_unit_of_a_page_equals_the_librarys() -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED, unit=4096)
    data = noise(8192)
    expected = b""
    for unit in (5, 6):
        key = algorithms.AES(bytes.fromhex(CHANNELS[0] + K2))
        cipher = Cipher(key, modes.XTS(unit.to_bytes(16, "little"))).encryptor()
        expected += cipher.update(data[(unit - 5) * 4096 :][:4096])
    assert engine.encrypt(engine.new_key(SEED), 5 * 4096, data) == expected


def test_the_host_key_of_xts_is_not_derived_per_channel() -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED)
    host = bytes.fromhex("4cdb3d23c92900e831e0ca5c8ad2c2596323dbc82d2bbea3999850883f4b3af0")
    expected = reference.xor(reference.aes(host, reference.xor(COUNT, engine.tweak(64)), True), engine.tweak(64))
    assert engine.encrypt(engine.host_key(), 64, COUNT) == expected


def test_xts_has_no_constants_and_is_not_linear() -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED)
    assert engine.constants == {}
    assert engine.tweak(0) != bytes(16)
    assert reference.xor(engine.tweak(0x1000), engine.tweak(0x40)) != reference.xor(engine.tweak(0x1040), bytes(16))


# -- other parameters


def test_period_2_and_4() -> None:
    four, two = (Engine.preset("xex-boot-random", boot_seed=SEED, period=n) for n in (4, 2))
    assert (four.constants[4][:4].hex(), four.constants[12][:4].hex()) == ("f8cd0a08", "7dcd28fa")
    assert (two.constants[4][:2].hex(), two.constants[12][:2].hex()) == ("15e7", "2596")
    assert four.constants == reference.seeded(SEED, 46, 4) and two.constants == reference.seeded(SEED, 46, 2)
    assert "period" in two.settings.label and not two.settings.public_constants


def test_a_table_may_be_extended() -> None:
    table = {**reference.zen1(), 32: bytes(range(16))}
    engine = Engine.preset("xex-zen1", constants=table)
    assert engine.tweak(1 << 32 | 16) == reference.xor(bytes(range(16)), reference.zen1()[4])
    with pytest.raises(UnknownConstant):
        engine.tweak(1 << 33)


def test_plain_repeats_and_the_others_do_not() -> None:
    for name in PRESETS:
        engine = Engine.preset(name, boot_seed=SEED)
        page = engine.encrypt(engine.new_key(VEK), 0x7000, bytes(4096))
        assert len({page[i : i + 16] for i in range(0, 4096, 16)}) == (1 if name == "plain" else 256), name


@pytest.mark.parametrize(
    "changes", [{"period": 3}, {"channels": 0}, {"channels": 65}, {"unit": 128}, {"constants": (bytes(15),)}]
)
def test_impossible_parameters(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        variant("xex-boot-random", **changes)  # type: ignore[arg-type]


def test_a_preset_without_changes_is_itself() -> None:
    assert variant("xex-zen1") is PRESETS["xex-zen1"]
    other = replace(PRESETS["xex-zen1"], name="mine")
    assert variant(other) is other and Engine.preset(other).settings is other


def test_keys_and_tweaks_are_in_no_repr() -> None:
    engine = Engine.preset("xts-boot-random", boot_seed=SEED, channels=2)
    key = engine.new_key(VEK)
    engine.encrypt(key, 0, bytes(1024))
    assert repr(key) == "KeySlot(AES-256)"
    for thing in (engine, key, engine.settings, XtsTweaks(SEED)):
        assert VEK.hex() not in repr(thing) and repr(VEK)[2:10] not in repr(thing) and K2[:8] not in repr(thing)
