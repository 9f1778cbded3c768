"""The memory engine over 16 MiB in place, against AES-128-ECB alone (``update_into``, a reused context, preallocated
buffers) on the same bytes; and the memory that a guest of 1 GiB costs.

Goals: 0.40 of the raw speed with one thread, 0.65 with two; floors 0.28 and 0.45. The gate of ``ratio`` is a factor of
1.25, so a goal of 0.35 here fails below 0.28, one of 0.5625 below 0.45. The XTS model has no goal: its row is told.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from sevref.memory import Engine
from sevref.tweaks import KeySlot

SIZE = 16 << 20


@pytest.mark.parametrize("direction", ["encrypt", "decrypt"])
@pytest.mark.parametrize(
    ("preset", "goal"),
    [("xe-zen1", 1 / 0.35), ("xex-zen1", 1 / 0.35), ("xex-boot-random", 1 / 0.35), ("xts-boot-random", 20)],
)
def test_engine_speed(preset: str, goal: float, direction: str, ratio: Callable[..., float]) -> None:
    engine = Engine.preset(preset, boot_seed=bytes(32))
    key = engine.new_key(random.Random(1).randbytes(32))
    buffer = bytearray(random.Random(2).randbytes(SIZE))
    source, target = bytes(buffer), bytearray(SIZE + 15)
    ours = engine.encrypt_into if direction == "encrypt" else engine.decrypt_into
    raw = KeySlot(bytes(32), 128).context(direction == "encrypt")

    def call() -> None:
        ours(key, 0x100000, buffer)

    def primitive() -> None:
        raw.update_into(source, target)

    ratio(f"engine {preset}, {direction} 16 MiB", call, primitive, goal=goal, rounds=25)


def test_two_threads(ratio: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads' CPU times are taken: the longer one is the time on two idle cores, whatever else this machine does."""
    engine = Engine.preset("xex-boot-random", boot_seed=bytes(32))
    key, buffer = engine.new_key(random.Random(1).randbytes(32)), bytearray(random.Random(2).randbytes(SIZE))
    source, target, raw = bytes(buffer), bytearray(SIZE + 15), KeySlot(bytes(32), 128).context(True)
    spent: dict[int, float] = {}
    convert = engine._convert

    def timed(*arguments: object) -> None:
        start = time.thread_time()
        convert(*arguments)  # type: ignore[arg-type]
        spent[arguments[4]] = time.thread_time() - start  # type: ignore[index]

    monkeypatch.setattr(engine, "_convert", timed)
    ours, theirs, outside = [], [], []
    for _ in range(30):
        start = time.thread_time()
        engine.encrypt_into(key, 0x100000, buffer, threads=2)
        outside.append(time.thread_time() - start - spent[0])
        ours.append(max(spent.values()))
        start = time.thread_time()
        raw.update_into(source, target)
        theirs.append(time.thread_time() - start)
    assert sorted(spent) == [0, 1]
    ratio.record("engine xex-boot-random, 16 MiB, two threads", min(ours) + min(outside), min(theirs), 1 / 0.5625)  # type: ignore[attr-defined]


GUEST = """
import mmap, sys
from sevref.memory import Engine
import numpy
SIZE = 1 << 30
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) >> 10
cells = memoryview(mmap.mmap(-1, SIZE))
for start in range(0, SIZE, 1 << 20):
    cells[start : start + (1 << 20)] = bytes([start >> 20 & 0xFF]) * (1 << 20)
engine = Engine.preset("xex-boot-random", boot_seed=bytes(32))
key = engine.new_key(bytes(range(32)))
engine.encrypt_into(key, 0, bytearray(64), threads=2)  # imports
before, seen = peak(), []
engine.encrypt_into(key, 0x100000, cells, threads=int(sys.argv[1]), progress=lambda done, total: seen.append((done, total)))
assert seen == [(done, SIZE) for done in range(16 << 20, SIZE + 1, 16 << 20)]
assert cells[SIZE - 16 :] == engine.encrypt(key, 0x100000 + SIZE - 16, bytes([0xFF]) * 16)
print(before, peak())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_guest_of_1_gib_needs_8_mib_more(threads: int) -> None:
    run = subprocess.run([sys.executable, "-c", GUEST, str(threads)], check=True, capture_output=True, text=True)
    before, after = (int(word) for word in run.stdout.split())
    print(f"{after - before} MiB more, {threads} threads")
    assert before > 1024 and after - before <= 8
