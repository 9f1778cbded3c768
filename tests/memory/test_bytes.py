"""Byte-granular accesses: what a processor does to whole blocks when it writes less than one."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import reference
from sevref.memory import CHUNK, Engine
from sevref.status import InputError

SEED = bytes(range(32))
KEY, OTHER = bytes(range(7, 39)), bytes(range(100, 132))
SIZE = 3 * 4096


@pytest.mark.parametrize("preset", ["xex-zen1", "xex-boot-random"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reads_and_writes_equal_the_slow_engine(preset: str, data: st.DataObject) -> None:
    engine = Engine.preset(preset, boot_seed=SEED)
    constants = reference.zen1() if preset == "xex-zen1" else reference.seeded(SEED)
    key = engine.new_key(KEY)
    start = random.Random(3).randbytes(SIZE)
    dram = bytearray(start)
    p = data.draw(st.one_of(st.integers(0, SIZE), st.sampled_from([0, 4095, 4096, 4097, 8191, SIZE - 1, SIZE])))
    size = data.draw(st.one_of(st.integers(0, 70), st.sampled_from([15, 16, 17, 600])))
    size = min(size, SIZE - p)
    assert engine.read(key, dram, p, size) == reference.read(constants, KEY, bytes(dram), p, size)
    content = data.draw(st.binary(min_size=size, max_size=size))
    slow = bytearray(start)
    reference.write(constants, KEY, slow, p, content)
    engine.write(key, dram, p, content)
    assert dram == slow
    assert engine.read(key, dram, p, size) == content


@pytest.mark.parametrize("p", [0, 1, 15, 16, CHUNK - 7, CHUNK])
@pytest.mark.parametrize("size", [CHUNK, CHUNK + 5])
def test_long_unaligned_accesses(p: int, size: int) -> None:
    engine = Engine.preset("xex-boot-random", boot_seed=SEED)
    key, rnd = engine.new_key(KEY), random.Random(p)
    plain = rnd.randbytes(3 * CHUNK)
    dram = bytearray(engine.encrypt(key, 0, plain))
    content = rnd.randbytes(size)
    assert engine.read(key, dram, p, size) == plain[p : p + size]
    engine.write(key, dram, p, content)
    assert engine.decrypt(key, 0, dram) == plain[:p] + content + plain[p + size :]


@pytest.mark.parametrize("position", range(16))
def test_one_byte_with_the_wrong_key_scrambles_the_15_around_it(position: int) -> None:
    engine = Engine.preset("xex-boot-random", boot_seed=SEED)
    owner, intruder = engine.new_key(KEY), engine.new_key(OTHER)
    plain = random.Random(4).randbytes(4096)
    dram = bytearray(engine.encrypt(owner, 0, plain))
    engine.write(intruder, dram, 0x120 + position, b"\x5a")
    assert engine.read(intruder, dram, 0x120 + position, 1) == b"\x5a"
    seen = engine.read(owner, dram, 0, 4096)
    assert seen[:0x120] == plain[:0x120] and seen[0x130:] == plain[0x130:]
    changed = sum(a != b for a, b in zip(seen[0x120:0x130], plain[0x120:0x130], strict=True))
    assert changed >= 12  # 16 bytes of noise: one in 256 may agree by chance


def test_one_byte_with_the_right_key_changes_one_byte() -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    plain = random.Random(5).randbytes(4096)
    dram = bytearray(engine.encrypt(key, 0, plain))
    raw = bytes(dram)
    engine.write(key, dram, 0x7FF, bytes([plain[0x7FF] ^ 0xFF]))
    assert engine.read(key, dram, 0, 4096) == plain[:0x7FF] + bytes([plain[0x7FF] ^ 0xFF]) + plain[0x800:]
    assert dram[:0x7F0] == raw[:0x7F0] and dram[0x800:] == raw[0x800:]


def test_no_key_reads_and_writes_the_raw_bytes() -> None:
    engine = Engine.preset("xex-zen1")
    dram = bytearray(64)
    engine.write(None, dram, 3, b"abc")
    assert dram == bytes(3) + b"abc" + bytes(58)
    assert engine.read(None, dram, 2, 5) == b"\0abc\0"
    high = engine.encrypt(None, 1 << 40, b"needs no constant")
    assert high == b"needs no constant"


def test_the_c_bit_is_dropped() -> None:
    engine = Engine.preset("xex-zen1")
    dram, key = bytearray(64), engine.new_key(KEY)
    engine.write(key, dram, 1 << 51 | 5, b"abc")
    assert engine.read(key, dram, 5, 3) == engine.read(key, dram, 1 << 51 | 5, 3) == b"abc"


@pytest.mark.parametrize("key", [True, False])
def test_outside_of_dram(key: bool) -> None:
    engine = Engine.preset("xex-zen1")
    slot = engine.new_key(KEY) if key else None
    dram = bytearray(40)  # the last block is not whole
    before = bytes(dram)
    for p, size in ((40, 1), (30, 11), (-1, 2), (1 << 33, 1), (0, 41)):
        with pytest.raises(InputError):
            engine.read(slot, dram, p, size)
        with pytest.raises(InputError):
            engine.write(slot, dram, p, bytes(size))
    if key:
        with pytest.raises(InputError):
            engine.read(slot, dram, 33, 2)
        with pytest.raises(InputError):
            engine.write(slot, dram, 33, b"ab")
    with pytest.raises(InputError):
        engine.read(slot, dram, 0, -1)
    assert dram == before


def test_dram_of_other_kinds() -> None:
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    array = np.zeros(8192, np.uint8)
    engine.write(key, array, 4090, b"across the page")
    assert engine.read(key, memoryview(array), 4090, 15) == b"across the page"
    with pytest.raises(InputError, match="read-only"):
        engine.write(key, bytes(32), 0, b"x")


def test_copying_inside_dram() -> None:
    """The source may be a view of the same memory, overlapping what is written."""
    engine = Engine.preset("xex-zen1")
    key = engine.new_key(KEY)
    dram = bytearray(random.Random(6).randbytes(256))
    source = bytes(dram[3:100])
    engine.write(key, dram, 21, memoryview(dram)[3:100])
    assert engine.read(key, dram, 21, 97) == source


def test_a_region_that_does_not_start_at_zero() -> None:
    engine = Engine.preset("xex-boot-random", boot_seed=SEED)
    key, base = engine.new_key(KEY), 0x1_0000_0000
    region = bytearray(8192)
    engine.write(key, region, base + 4090, b"across the page", base=base)
    assert engine.read(key, region, base + 4090, 15, base=base) == b"across the page"
    blocks = bytes(region[4080:4112])
    assert reference.xex(reference.seeded(SEED), KEY, base + 4080, blocks, False)[10:25] == b"across the page"
    for p, size in ((base - 1, 2), (base - 16, 16), (base + 8191, 2), (0, 1)):
        with pytest.raises(InputError, match="0x100000000 to 0x100002000"):
            engine.read(key, region, p, size, base=base)
        with pytest.raises(InputError):
            engine.write(None, region, p, bytes(size), base=base)
