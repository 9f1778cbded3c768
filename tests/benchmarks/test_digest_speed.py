"""The launch digest of a large image costs little more than hashing it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sevref.measurement import launch_digest

SIZE = 64 << 20


@pytest.fixture(scope="module")
def image() -> bytes:
    return bytes(range(251)) * (SIZE // 251) + bytes(SIZE % 251)


def test_launch_digest_of_64_mib(image: bytes, ratio: Callable[..., float]) -> None:
    def raw() -> bytes:
        return hashlib.sha256(image).digest()

    assert len(image) == SIZE
    assert launch_digest(image) == raw()
    ratio("launch digest, 64 MiB in memory", lambda: launch_digest(image), raw, 1.1)


def test_launch_digest_of_a_64_mib_file(image: bytes, tmp_path: Path, ratio: Callable[..., float]) -> None:
    path = tmp_path / "image"
    path.write_bytes(image)

    def ours() -> bytes:
        with path.open("rb") as file:
            return launch_digest(file)

    def raw() -> bytes:
        return hashlib.sha256(image).digest()

    assert ours() == raw()
    ratio("launch digest, 64 MiB from a file", ours, raw, 1.1)
