"""The fast engine against the slow one, and what an engine must and must not do."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import reference
from sevref.memory import CHUNK, PRESETS, SMALL, Engine, UnknownConstant
from sevref.status import InputError

SEED = bytes(range(32))
KEY = bytes.fromhex("c0ffee") + bytes(range(29))
TABLES: dict[str, Callable[[], dict[int, bytes]]] = {
    "xex-zen1": reference.zen1,
    "xex-boot-random": lambda: reference.seeded(SEED),
}


@pytest.fixture(params=TABLES)
def both(request: pytest.FixtureRequest) -> tuple[Engine, dict[int, bytes]]:
    return Engine.preset(request.param, boot_seed=SEED), TABLES[request.param]()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_every_preset_says_what_it_is() -> None:
    assert all(preset.label and preset.stands_for for preset in PRESETS.values())


# -- tweak


def test_tweak_of_zero_is_zero(both: tuple[Engine, dict[int, bytes]]) -> None:
    assert both[0].tweak(0) == bytes(16)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_tweak_is_linear(p: int, q: int) -> None:
    for name in TABLES:
        engine = Engine.preset(name, boot_seed=SEED)
        assert reference.xor(engine.tweak(p), engine.tweak(q)) == engine.tweak(p ^ q)
        assert engine.tweak(p) == reference.tweak(TABLES[name](), p)


def test_bits_inside_the_block_do_not_count(both: tuple[Engine, dict[int, bytes]]) -> None:
    assert both[0].tweak(0x123F) == both[0].tweak(0x1230) != both[0].tweak(0x1240)


def test_the_c_bit_does_not_count(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine = both[0]
    key = engine.new_key(KEY)
    assert engine.tweak(0x1230 | 1 << 51) == engine.tweak(0x1230)
    assert engine.encrypt(key, 0x1230 | 1 << 51, bytes(32)) == engine.encrypt(key, 0x1230, bytes(32))
    other = Engine.preset("xex-zen1", c_bit=47)
    assert other.tweak(1 << 47 | 16) == other.tweak(16)
    with pytest.raises(InputError):
        other.tweak(1 << 51 | 16)


def test_published_constants_are_independent() -> None:
    basis: dict[int, int] = {}
    for constant in Engine.preset("xex-zen1").constants.values():
        value = int.from_bytes(constant, "big")
        while value and value.bit_length() in basis:
            value ^= basis[value.bit_length()]
        if value:
            basis[value.bit_length()] = value
    assert len(basis) == 28


def test_constants_are_read_only(both: tuple[Engine, dict[int, bytes]]) -> None:
    with pytest.raises(TypeError):
        both[0].constants[4] = bytes(16)  # type: ignore[index]


@pytest.mark.parametrize("p", [1 << 32, 1 << 40, (1 << 46) - 16])
def test_unknown_constants_are_an_error(p: int) -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    for call in (lambda: engine.tweak(p), lambda: engine.encrypt(key, p, bytes(16))):
        with pytest.raises(UnknownConstant, match=r"2\*\*32"):
            call()
    Engine.preset("xex-boot-random").encrypt(key, p, bytes(16))


def test_range_that_only_ends_above_the_known_constants() -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    engine.encrypt(key, 0xFFFFF000, bytes(4096))
    buffer = bytearray(4112)
    with pytest.raises(UnknownConstant):
        engine.encrypt_into(key, 0xFFFFF000, buffer)
    assert buffer == bytes(4112)


def test_end_of_the_address_space() -> None:
    engine = Engine.preset("xex-boot-random", pa_bits=40)
    key = engine.new_key(KEY)
    engine.encrypt(key, (1 << 40) - 32, bytes(32))
    for p, size in (((1 << 40) - 32, 48), (1 << 40, 16), (-16, 16), (-(1 << 51), 16)):
        with pytest.raises(InputError) as caught:
            engine.encrypt(key, p, bytes(size))
        assert not isinstance(caught.value, UnknownConstant)


# -- fast against slow

EDGES = [16, 64, SMALL - 16, SMALL, SMALL + 16, 4080, 4096, 4112, 12288, CHUNK - 16, CHUNK, CHUNK + 16, 2 * CHUNK + 48]


def sampled(size: int, rnd: random.Random) -> list[int]:
    """Offsets of blocks worth comparing with the slow engine: ends, page and chunk borders, random ones."""
    borders = {0, size - 16, *range(0, size, 4096)} if size <= 16384 else {0, 16, 4080, 4096, size - 32, size - 16}
    return sorted({*borders, *(rnd.randrange(0, size, 16) for _ in range(12))})


@pytest.mark.parametrize("size", EDGES)
def test_fast_equals_slow(both: tuple[Engine, dict[int, bytes]], size: int) -> None:
    engine, constants = both
    key, rnd = engine.new_key(KEY), random.Random(size)
    data = noise(size, size)
    for p in (0, 16, 4080, 4096 - 32, CHUNK - 16, CHUNK, 3 * CHUNK - 64, rnd.randrange(0, 1 << 31, 16), 0x8FFFF000):
        cipher, plain = engine.encrypt(key, p, data), engine.decrypt(key, p, data)
        assert len(cipher) == len(plain) == size
        offsets = {*sampled(size, rnd), *((-p) % CHUNK + d for d in (-16, 0))}
        for i in (i for i in offsets if 0 <= i < size):
            block = data[i : i + 16]
            assert cipher[i : i + 16] == reference.xex(constants, KEY, p + i, block, True), hex(p + i)
            assert plain[i : i + 16] == reference.xex(constants, KEY, p + i, block, False), hex(p + i)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, (1 << 28) - 1), st.integers(0, 200), st.integers(0, 2**32))
def test_random_small_ranges(block: int, count: int, seed: int) -> None:
    for name in TABLES:
        engine = Engine.preset(name, boot_seed=SEED)
        p, size = min(block * 16, (1 << 32) - 16 * count), 16 * count
        data = noise(size, seed)
        cipher = engine.encrypt(engine.new_key(KEY), p, data)
        assert cipher == reference.xex(TABLES[name](), KEY, p, data, True)


def test_bulk_equals_block_by_block(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine, _ = both
    key = engine.new_key(KEY)
    for p in (CHUNK - 4096 - 48, 7 * CHUNK - 8192):
        data = noise(2 * 8192 + 48)
        blocks = [engine.encrypt(key, p + i, data[i : i + 16]) for i in range(0, len(data), 16)]
        assert engine.encrypt(key, p, data) == b"".join(blocks)


def test_order_of_calls_does_not_matter(both: tuple[Engine, dict[int, bytes]]) -> None:
    """The engine keeps tweaks of the last chunk: going up, down and to and fro gives the same bytes."""
    engine, _ = both
    key, data = engine.new_key(KEY), noise(CHUNK)
    places = [i * CHUNK for i in (0, 1, 2, 7, 3, 1, 0, 4095, 0)]
    fresh = {p: Engine.preset(engine.settings.name, boot_seed=SEED).encrypt(key, p, data) for p in places}
    assert len(set(fresh.values())) == len(fresh)
    for p in places:
        assert engine.encrypt(key, p, data) == fresh[p]
        assert engine.encrypt(key, p + 4096, data[4096:8192]) == fresh[p][4096:8192]
        assert engine.encrypt(key, p ^ CHUNK, data[:8192]) != fresh[p][:8192]
        assert engine.decrypt(key, p, fresh[p]) == data


def test_an_interrupt_leaves_no_wrong_tweaks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.preset("xex-boot-random", boot_seed=SEED)
    key, data = engine.new_key(KEY), noise(CHUNK)
    expected = engine.encrypt(key, 5 * CHUNK, data)

    real, calls = np.bitwise_xor, []

    def interrupted(*arrays: object) -> None:
        real(*arrays)  # type: ignore[call-overload]
        calls.append(arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "bitwise_xor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.encrypt(key, 6 * CHUNK, data)
    monkeypatch.undo()
    assert len(calls) == 1
    assert engine.encrypt(key, 5 * CHUNK, data) == expected


# -- properties that callers rely on


def test_same_three_things_same_ciphertext() -> None:
    """Key, address and plaintext decide, for the life of the key; a change of any one changes the block."""
    data = noise(4096)
    first, again = (Engine.preset("xex-boot-random", boot_seed=SEED) for _ in range(2))
    key = first.new_key(KEY)
    cipher = first.encrypt(key, 0x3000, data)
    assert cipher == first.encrypt(key, 0x3000, data) == again.encrypt(again.new_key(KEY), 0x3000, data)
    assert cipher != first.encrypt(key, 0x4000, data)
    assert cipher != first.encrypt(first.new_key(KEY[::-1]), 0x3000, data)
    other_boot = Engine.preset("xex-boot-random", boot_seed=SEED[::-1])
    assert cipher != other_boot.encrypt(key, 0x3000, data)
    changed = first.encrypt(key, 0x3000, data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert changed[:16] + changed[32:] == cipher[:16] + cipher[32:]
    assert changed[16:32] != cipher[16:32]


def test_a_zero_page_has_256_different_blocks(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine = both[0]
    key = engine.new_key(KEY)
    page, other = engine.encrypt(key, 0x5000, bytes(4096)), engine.encrypt(key, 0x6000, bytes(4096))
    assert len({(page + other)[i : i + 16] for i in range(0, 8192, 16)}) == 512


def test_without_a_boot_seed_every_boot_differs() -> None:
    a, b = Engine.preset("xex-boot-random"), Engine.preset("xex-boot-random")
    assert a.constants != b.constants
    assert a.host_key().seed != b.host_key().seed
    c, d = Engine.preset("xex-zen1"), Engine.preset("xex-zen1")
    assert c.constants == d.constants
    assert c.host_key().seed != d.host_key().seed


def test_a_wrong_key_gives_noise_not_an_error(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine = both[0]
    data = bytes(4096)
    cipher = engine.encrypt(engine.new_key(KEY), 0x9000, data)
    for wrong in (engine.new_key(bytes(32)), engine.host_key()):
        plain = engine.decrypt(wrong, 0x9000, cipher)
        assert all(plain[i : i + 16] != bytes(16) for i in range(0, 4096, 16))


def test_only_the_first_half_of_the_seed_is_the_key(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine = both[0]
    a, b = engine.new_key(bytes(32)), engine.new_key(bytes(16) + b"x" * 16)
    assert engine.encrypt(a, 0, bytes(16)) == engine.encrypt(b, 0, bytes(16))


def test_no_key_bypasses_the_engine(both: tuple[Engine, dict[int, bytes]]) -> None:
    engine, data = both[0], noise(4096)
    buffer = bytearray(data)
    engine.encrypt_into(None, 0, buffer)
    assert buffer == engine.encrypt(None, 0, data) == engine.decrypt(None, 16, data) == data


def test_keys_are_in_no_repr(both: tuple[Engine, dict[int, bytes]]) -> None:
    secret = bytes.fromhex("5ec2e7" * 10 + "0102")
    engine = Engine.preset(both[0].settings.name, boot_seed=secret)
    key = engine.new_key(secret)
    engine.encrypt(key, 0, bytes(16))
    for thing in (key, engine, engine.host_key()):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert "5ec2e7" not in text.lower() and "\\xc2" not in text.lower() and "b'" not in text
    with pytest.raises(InputError) as caught:
        engine.new_key(secret[:31])
    assert "5ec2e7" not in str(caught.value) and "\\xc2" not in str(caught.value)


# -- buffers


@pytest.mark.parametrize("size", [16, SMALL, 4096, CHUNK, CHUNK + 4096])
def test_in_place_equals_out_of_place(both: tuple[Engine, dict[int, bytes]], size: int) -> None:
    engine, data = both[0], noise(size)
    key = engine.new_key(KEY)
    for p in (0x2000, 0x2010):
        cipher = engine.encrypt(key, p, data)
        for kind in (bytearray, lambda d: np.frombuffer(bytearray(d), np.uint8), lambda d: np.array(bytearray(d))):
            buffer = kind(data)
            engine.encrypt_into(key, p, buffer)
            assert bytes(buffer) == cipher
            engine.decrypt_into(key, p, memoryview(buffer))
            assert bytes(buffer) == data


def test_nothing_around_the_range_changes(both: tuple[Engine, dict[int, bytes]]) -> None:
    """The bulk path lends the cipher 15 bytes behind each piece: they must come out as they were."""
    engine = both[0]
    key, data = engine.new_key(KEY), noise(3 * CHUNK)
    for start, size in ((0, 16), (3, 32), (16, 4096), (5, 4096), (4096, CHUNK), (1, CHUNK), (32, 2 * CHUNK + 16)):
        buffer = bytearray(data)
        engine.encrypt_into(key, 0x1000, memoryview(buffer)[start : start + size])
        assert buffer[start : start + size] == engine.encrypt(key, 0x1000, data[start : start + size])
        assert buffer[:start] == data[:start] and buffer[start + size :] == data[start + size :]


@pytest.mark.parametrize("size", [16, 4096, CHUNK])
def test_inputs_of_all_kinds(both: tuple[Engine, dict[int, bytes]], size: int) -> None:
    engine, data = both[0], noise(size)
    key = engine.new_key(KEY)
    cipher = engine.encrypt(key, 0x8000, data)
    kinds = [bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), np.frombuffer(data, np.uint64)]
    assert all(engine.encrypt(key, 0x8000, kind) == cipher for kind in kinds)
    assert all(engine.decrypt(key, 0x8000, engine.encrypt(key, 0x8000, kind)) == data for kind in kinds)
    assert bytes(kinds[0]) == data  # what was given is not changed


@pytest.mark.parametrize(("p", "size"), [(1, 16), (8, 16), (0, 1), (0, 15), (16, 4097), (4097, 4096), (8, CHUNK)])
def test_misaligned_is_an_error_and_changes_nothing(p: int, size: int) -> None:
    engine = Engine.preset("xex-zen1")
    key, buffer = engine.new_key(KEY), bytearray(noise(size))
    before = bytes(buffer)
    for call in (engine.encrypt, engine.decrypt, engine.encrypt_into, engine.decrypt_into):
        with pytest.raises(InputError, match="16 bytes"):
            call(key, p, buffer)
    assert buffer == before


def test_unusable_buffers() -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    for call in (engine.encrypt_into, engine.decrypt_into):
        with pytest.raises(InputError, match="read-only"):
            call(key, 0, bytes(16))
        with pytest.raises(InputError, match="contiguous"):
            call(key, 0, np.zeros(64, np.uint8)[::2])
    for wrong in (16, "text", None):
        with pytest.raises(InputError, match="contiguous"):
            engine.encrypt(key, 0, wrong)  # type: ignore[arg-type]


def test_nothing_to_do() -> None:
    engine = Engine.preset("xex-zen1")
    assert engine.encrypt(engine.new_key(KEY), 0x1000, b"") == b""
    assert engine.read(engine.new_key(KEY), bytearray(32), 7, 0) == b""


# -- construction


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_seeds_have_32_bytes(size: int) -> None:
    with pytest.raises(InputError, match="32 bytes"):
        Engine.preset("xex-zen1").new_key(bytes(size))
    with pytest.raises(InputError, match="32 bytes"):
        Engine.preset("xex-zen1", boot_seed=bytes(size))


def test_bad_construction() -> None:
    with pytest.raises(InputError, match="xex-zen1"):
        Engine.preset("des")
    for pa_bits, c_bit in ((46, 45), (31, 51), (46, 64), (65, 66)):
        with pytest.raises(InputError, match="c_bit"):
            Engine.preset("xex-zen1", pa_bits=pa_bits, c_bit=c_bit)
    from sevref.memory import seeded_constants

    with pytest.raises(InputError, match="period"):
        seeded_constants(SEED, 46, 8)
