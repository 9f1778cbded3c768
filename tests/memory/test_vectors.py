"""Known answers of the memory engine (made with an independent AES), fast and slow engine alike."""

from dataclasses import replace

import pytest

from memory import reference
from sevref.memory import PRESETS, ZEN1, Engine, LinearTweaks, Mode, seeded_constants

KEY = bytes(range(16)) + bytes(16)  # the slot's 32-byte seed: the AES-128 key is its first half
SEED = bytes(range(32))
COUNT = bytes(range(16))
TEXT = b"sevref test data"

# p, plaintext, T(p) as its 4-byte pattern, XE, XEX
PUBLISHED = [
    (0x0, bytes(16), "00000000", "c6a13b37878f5b826f4f8162a1c8d879", "c6a13b37878f5b826f4f8162a1c8d879"),
    (0x10, bytes(16), "82253838", "4fe50171829ed1d549b684b82f48d57b", "cdc0394900bbe9edcb93bc80ad6ded43"),
    (0x1000, bytes(16), "b09230c2", "1f1c7c424fddc1d134bc3ac5c2dd3f0c", "af8e4c80ff4ff113842e0a07724f0fce"),
    (0x1010, COUNT, "32b708fa", "e5a58b2e64dfa06b9d89f89e2f786359", "d71283d45668a891af3ef0641dcf6ba3"),
    (0x40001000, TEXT, "accf5c20", "b937a87b7ea6aff984d61401e9d57c87", "15f8f45bd269f3d928194821451a20a7"),
    (0xFFFFFFF0, COUNT, "ecd0d382", "4bc065b554fc6da067ce5a1d6866909a", "a710b637b82cbe228b1e899f84b64318"),
]
SEEDED = [
    (0x10, bytes(16), None, "3557ea7f1289db239aebf16fb2d336f3"),
    (0x40001000, TEXT, "08ef9fd30436f3683e6382ce68c217df", "74bab5d0f4d65c75ebde76e885293975"),
    (0x123450000, COUNT, "9d9239a69c142404ba41475376cdc1f3", "78e25ae857c4a7d6f67ed4f6f0c4d00d"),
]
HOST_KEY = "4cdb3d23c92900e831e0ca5c8ad2c2596323dbc82d2bbea3999850883f4b3af0"


@pytest.mark.parametrize(("p", "plain", "pattern", "_xe", "xex"), PUBLISHED)
def test_published_constants(p: int, plain: bytes, pattern: str, _xe: str, xex: str) -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    assert engine.tweak(p).hex() == pattern * 4
    assert engine.encrypt(key, p, plain).hex() == xex
    assert engine.decrypt(key, p, bytes.fromhex(xex)) == plain
    assert reference.tweak(reference.zen1(), p).hex() == pattern * 4
    assert reference.xex(reference.zen1(), KEY, p, plain, True).hex() == xex
    assert reference.xex(reference.zen1(), KEY, p, bytes.fromhex(xex), False) == plain


@pytest.mark.parametrize(("p", "plain", "tweak", "xex"), SEEDED)
def test_seeded_constants(p: int, plain: bytes, tweak: str | None, xex: str) -> None:
    engine = Engine.preset("xex-boot-random", boot_seed=SEED)
    key = engine.new_key(KEY)
    assert tweak is None or engine.tweak(p).hex() == tweak
    assert engine.encrypt(key, p, plain).hex() == xex
    assert engine.decrypt(key, p, bytes.fromhex(xex)) == plain
    assert reference.xex(reference.seeded(SEED), KEY, p, plain, True).hex() == xex


def test_seeded_table() -> None:
    constants = Engine.preset("xex-boot-random", boot_seed=SEED).constants
    assert constants[4].hex() == "7a086e0b7dd6e4add350e23b873f0b3f"
    assert constants[12].hex() == "1364d70795ac5f1cef1a865dfc96139c"
    assert constants[32].hex() == "2197a7eba8b4ced747c354206046ce93"
    assert list(constants) == list(range(4, 46))
    assert constants == reference.seeded(SEED)


@pytest.mark.parametrize(("period", "t4", "t12"), [(4, "f8cd0a08", "7dcd28fa"), (2, "15e7", "2596")])
def test_shorter_periods(period: int, t4: str, t12: str) -> None:
    table = seeded_constants(SEED, 46, period)
    assert table[0].hex() == t4 * (16 // period)
    assert table[8].hex() == t12 * (16 // period)
    assert dict(enumerate(table, 4)) == reference.seeded(SEED, 46, period)


def test_published_table() -> None:
    assert dict(enumerate(ZEN1, 4)) == reference.zen1()
    assert Engine.preset("xex-zen1").constants == reference.zen1()


@pytest.mark.parametrize("preset", ["xex-zen1", "xex-boot-random"])
def test_host_key(preset: str) -> None:
    engine = Engine.preset(preset, boot_seed=SEED)
    assert engine.host_key().seed.hex() == HOST_KEY
    other = engine.new_key(bytes.fromhex(HOST_KEY))
    assert engine.encrypt(engine.host_key(), 0x7000, TEXT) == engine.encrypt(other, 0x7000, TEXT)


# -- a mode is data: the same engine with other rows of the table


@pytest.mark.parametrize(("p", "plain", "_pattern", "xe", "_xex"), PUBLISHED)
def test_another_mode_is_one_more_row(p: int, plain: bytes, _pattern: str, xe: str, _xex: str) -> None:
    preset = replace(PRESETS["xex-zen1"], name="xe", mode=Mode("xe", before=True, after=False))
    engine = Engine(preset)
    key = engine.new_key(KEY)
    assert engine.encrypt(key, p, plain).hex() == xe
    assert engine.decrypt(key, p, bytes.fromhex(xe)) == plain
    if p % 4096 == 0:  # the bulk path too
        page = plain + bytes(4080)
        assert engine.encrypt(key, p, page)[:16].hex() == xe
        assert engine.decrypt(key, p, engine.encrypt(key, p, page)) == page


def test_tweaks_may_come_from_the_key() -> None:
    """The engine of the recorded firmware traces: T = AES(second half of the seed, address), HOST key all zero."""
    engine = Engine.preset("recorded-traces", boot_seed=SEED)
    key = engine.new_key(SEED)
    data = bytes(i * 7 % 256 for i in range(8192))
    tweaks = [reference.aes(SEED[16:], (0x23000 + i).to_bytes(16, "little"), True) for i in range(0, 8192, 16)]
    expected = b"".join(
        reference.xor(reference.aes(SEED[:16], reference.xor(data[16 * i : 16 * i + 16], t), True), t)
        for i, t in enumerate(tweaks)
    )
    for size in (16, 64, 512, 4096, 8192):
        assert engine.encrypt(key, 0x23000, data[:size]) == expected[:size]
        assert engine.decrypt(key, 0x23000, expected[:size]) == data[:size]
    assert engine.tweak(0x2301F, key) == tweaks[1]
    assert engine.encrypt(engine.host_key(), 0x40, data) == engine.encrypt(engine.new_key(bytes(32)), 0x40, data)


def test_two_constants_may_be_missing() -> None:
    """One 1950X was reported with t_8 = t_9 = 0: a zero page then repeats inside itself."""
    table = (*ZEN1[:4], bytes(16), bytes(16), *ZEN1[6:])
    engine = Engine(replace(PRESETS["xex-zen1"], tweaks=lambda seed, bits: LinearTweaks(table)))
    page = engine.encrypt(engine.new_key(KEY), 0x5000, bytes(4096))
    assert len({page[i : i + 16] for i in range(0, 4096, 16)}) == 64
