"""The memory engine over 16 MiB in place, against AES-128-ECB alone on the same bytes."""

import random
from collections.abc import Callable

import pytest

from sevref.memory import Engine

SIZE = 16 << 20
GOAL = 1 / 0.35  # of the raw speed


@pytest.mark.parametrize("direction", ["encrypt", "decrypt"])
@pytest.mark.parametrize("preset", ["xex-zen1", "xex-boot-random"])
def test_engine_speed(preset: str, direction: str, ratio: Callable[..., float]) -> None:
    engine = Engine.preset(preset, boot_seed=bytes(32))
    key = engine.new_key(random.Random(1).randbytes(32))
    buffer = bytearray(random.Random(2).randbytes(SIZE))
    source, target = bytes(buffer), bytearray(SIZE + 15)
    ours = engine.encrypt_into if direction == "encrypt" else engine.decrypt_into
    raw = key.context(direction == "encrypt")

    def call() -> None:
        ours(key, 0x100000, buffer)

    def primitive() -> None:
        raw.update_into(source, target)

    ratio(f"engine {preset}, {direction} 16 MiB", call, primitive, goal=GOAL, rounds=25)
