"""The launch digest of a large image costs little more than hashing it."""

import hashlib
import io
from collections.abc import Callable

import pytest

from sevref.measurement import launch_digest

SIZE = 64 << 20
CHUNK = 0x5000  # what Genoa's firmware takes at a time


@pytest.fixture(scope="module")
def image() -> bytes:
    return bytes(range(251)) * (SIZE // 251) + bytes(SIZE % 251)


def test_launch_digest_of_64_mib(image: bytes, ratio: Callable[..., float]) -> None:
    def raw() -> bytes:
        return hashlib.sha256(image).digest()

    assert len(image) == SIZE and launch_digest(image) == raw()
    ratio("launch digest, 64 MiB at once", lambda: launch_digest(image), raw, 1.1, rounds=5)


def test_launch_digest_of_64_mib_in_chunks(image: bytes, ratio: Callable[..., float]) -> None:
    view = memoryview(image)

    def ours() -> bytes:
        return launch_digest(view[i : i + CHUNK] for i in range(0, SIZE, CHUNK))

    def raw() -> bytes:
        return hashlib.sha256(image).digest()

    assert ours() == raw()
    ratio("launch digest, 64 MiB in 20 KiB chunks", ours, raw, 1.1, rounds=5)


def test_launch_digest_of_a_64_mib_file(image: bytes, ratio: Callable[..., float]) -> None:
    file = io.BytesIO(image)

    def ours() -> bytes:
        file.seek(0)
        return launch_digest(file)

    def raw() -> bytes:
        return hashlib.sha256(image).digest()

    assert ours() == raw()
    ratio("launch digest, 64 MiB file", ours, raw, 1.1, rounds=5)
