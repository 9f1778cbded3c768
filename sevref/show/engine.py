"""The memory engine to look at and to play with: a picture in memory, a page of equal blocks, what one bit changes.

All keys and boot seeds here are TEST values. Every answer is the engine's own.
"""

from __future__ import annotations

from typing import Any

from sevref.memory import PRESETS, Engine
from sevref.show import widgets
from sevref.show.heatmap import Gallery, Picture, bits, equality, grey
from sevref.show.html import Showable, Stack, statement
from sevref.show.table import Table, table
from sevref.show.widgets import Panel, panel

WIDTH, HEIGHT = 64, 48  #: of the test image, in blocks of 16 bytes
KEY, OTHER_KEY, BOOT = bytes(range(32)), bytes(range(100, 132)), bytes(range(32, 64))
ENGINES = {
    "plain": "no tweak (nothing of AMD's)",
    "xe-zen1": "XE, constants of Zen 1",
    "xex-zen1": "XEX, constants of Zen 1",
    "xex-boot-random": "XEX, constants new at boot (MODEL)",
    "xts-boot-random": "XTS (MODEL)",
}
_LETTERS = {
    "S": ("#####", "#....", "#####", "....#", "#####"),
    "E": ("#####", "#....", "####.", "#....", "#####"),
    "V": ("#...#", "#...#", "#...#", ".#.#.", "..#.."),
}


def test_image() -> bytes:
    """64 × 48 cells of 16 equal bytes each: the letters SEV on a flat ground above a band of stripes."""
    image = bytearray(b"\xe0" * (WIDTH * HEIGHT))
    for place, letter in enumerate("SEV"):
        for y, line in enumerate(_LETTERS[letter]):
            for x, cell in enumerate(line):
                for dy in range(5 if cell == "#" else 0):
                    start = (5 + 5 * y + dy) * WIDTH + 4 + 20 * place + 3 * x
                    image[start : start + 3] = b"\x20" * 3
    for y in range(36, 44):
        image[y * WIDTH : (y + 1) * WIDTH] = bytes(0x40 if x // 8 % 2 else 0xA0 for x in range(WIDTH))
    return b"".join(bytes([cell]) * 16 for cell in image)


def encrypted(preset: str, p: int, data: bytes, key: bytes = KEY) -> bytes:
    """``data`` as it lies in DRAM at address ``p`` under a TEST key and a TEST boot seed."""
    engine = Engine.preset(preset, boot_seed=BOOT)
    return engine.encrypt(engine.new_key(key), p, data)


def image_gallery(places: tuple[tuple[str, int], ...]) -> Gallery:
    """The test image, and what lies in DRAM for each (preset, address)."""
    image = test_image()
    pictures = [grey(image, WIDTH, "plaintext", "the letters SEV above a band of stripes")]
    for preset, p in places:
        note = "the letters remain visible" if preset == "plain" else "noise: nothing of the picture is left"
        pictures.append(grey(encrypted(preset, p, image), WIDTH, f"{ENGINES[preset]}, at 0x{p:X}", note))
    return Gallery(*pictures, title="One image in memory")


def avalanche(preset: str) -> tuple[Gallery, dict[str, int]]:
    """What one flipped bit changes in one block of ciphertext: of the plaintext, of the address, of the key; and what a
    flipped ciphertext bit changes in the plaintext. Number of changed bits of 128 by name."""
    p, block = 0x12340, b"a block of memory"[:16]
    engine = Engine.preset(preset, boot_seed=BOOT)
    key = engine.new_key(KEY)
    c = engine.encrypt(key, p, block)
    flipped = bytes([c[0] ^ 1]) + c[1:]
    pairs = {
        "a plaintext bit": (c, engine.encrypt(key, p, bytes([block[0] ^ 1]) + block[1:])),
        "an address bit": (c, engine.encrypt(key, p ^ 0x1000, block)),
        "a key bit": (c, engine.encrypt(engine.new_key(bytes([KEY[0] ^ 1]) + KEY[1:]), p, block)),
        "a ciphertext bit": (block, engine.decrypt(key, p, flipped)),
    }
    pictures, changed = [], {}
    for name, (before, after) in pairs.items():
        difference = bytes(a ^ b for a, b in zip(before, after, strict=True))
        changed[name] = sum(byte.bit_count() for byte in difference)
        note = f"{changed[name]} of 128 bits differ"
        pictures.append(bits([difference[i : i + 2] for i in range(0, 16, 2)], f"flip {name}", note, scale=8))
    return Gallery(*pictures, title=f"One bit flipped: {ENGINES[preset]}"), changed


def constants_picture(preset: str, count: int = 28, size: int = 4) -> Picture:
    """The constants t_4 on as a matrix: a line for each address bit, a cell for each bit of ``size`` bytes."""
    constants = Engine.preset(preset, boot_seed=BOOT).constants
    rows = [constants[bit][:size] for bit in range(4, 4 + count)]
    note = f"line i is the constant of address bit i + 4, rank {rank([int.from_bytes(row, 'big') for row in rows])}"
    return bits(rows, f"tweak constants: {ENGINES[preset]}", note)


def rank(vectors: list[int]) -> int:
    """Rank over GF(2)."""
    basis: dict[int, int] = {}
    for vector in vectors:
        while vector and vector.bit_length() in basis:
            vector ^= basis[vector.bit_length()]
        if vector:
            basis[vector.bit_length()] = vector
    return len(basis)


def preset_table() -> Table:
    """Every preset: what it stands for, and what of it is published, reported or model."""
    rows = [
        {
            "preset": p.name,
            "mode": p.mode.name,
            "key bits": p.key_bits,
            "stands for": p.stands_for,
            "what it is": p.label,
        }
        for p in PRESETS.values()
    ]
    return table(rows, "Engine presets")


PATTERNS = {
    "zeros": lambda: bytes(4096),
    "text that repeats": lambda: b"attack at dawn! " * 256,
    "a counter": lambda: b"".join(i.to_bytes(16, "little") for i in range(256)),
    "two values in turn": lambda: (b"A" * 16 + b"B" * 16) * 128,
}


def engine_panel() -> Panel:
    """Choose engine, address, pattern and key, and watch which blocks of a page are equal in DRAM.

    Controls: ``engine``, ``page`` (0-4095, address / 4096), ``pattern``, ``other_key``, ``compare`` (the same page at
    the next address, in the same picture)."""
    controls = {
        "engine": widgets.choice("engine", [(words, name) for name, words in ENGINES.items()], "plain"),
        "page": widgets.number("page of memory", 0x123, 0, 4095, "address divided by 4096"),
        "pattern": widgets.choice("contents", list(PATTERNS), "text that repeats"),
        "other_key": widgets.tick("another guest's key"),
        "compare": widgets.tick("the next page too", tooltip="the same contents at the next page"),
    }
    return panel(controls, _page, "A page of memory as the hypervisor sees it", "Equal blocks have one colour.")


def _page(values: dict[str, Any]) -> Showable:
    key, p, data = OTHER_KEY if values["other_key"] else KEY, values["page"] << 12, PATTERNS[values["pattern"]]()
    cipher = encrypted(values["engine"], p, data, key)
    if values["compare"]:
        cipher += encrypted(values["engine"], p + 4096, data, key)
    first = statement(None, f"the first block is {cipher[:16].hex()}", [PRESETS[values["engine"]].label])
    return Stack(equality(cipher, f"{ENGINES[values['engine']]}, from 0x{p:X}"), first)
