"""Pictures of memory, and the panels of the engine and the attack lab, moved control by control."""

import hashlib
import io
import zlib

import pytest

from sevref.memory import PRESETS, ZEN1
from sevref.show import digest_of
from sevref.show.engine import (
    BOOT,
    ENGINES,
    HEIGHT,
    KEY,
    WIDTH,
    avalanche,
    constants_picture,
    encrypted,
    engine_panel,
    image_gallery,
    preset_table,
    rank,
)
from sevref.show.engine import test_image as the_image
from sevref.show.heatmap import Picture, bits, equality, grey, png
from sevref.show.html import LIMIT
from sevref.show.lab import Lab, attack_panel, matrix_table, noticed_by
from show.page import read


def decoded(data: bytes) -> tuple[int, int, list[bytes], bytes]:
    """Width, height, lines without filter bytes, palette; every checksum is looked at."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    file, chunks = io.BytesIO(data[8:]), {}
    while head := file.read(8):
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = file.read(size)
        assert zlib.crc32(kind + body) == int.from_bytes(file.read(4), "big")
        chunks[kind] = body
    header = chunks[b"IHDR"]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    raw = zlib.decompress(chunks[b"IDAT"])
    lines = [raw[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)]
    return width, height, lines, chunks.get(b"PLTE", b"")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (16, 16), (128, 96), (300, 400)])
def test_png_can_be_read_back(width: int, height: int) -> None:
    pixels = bytes(i * 7 % 251 for i in range(width * height))
    assert decoded(png(pixels, width)) == (width, height, [pixels[y * width :][:width] for y in range(height)], b"")
    assert decoded(png(bytes(width * height), width, ["#010203", "#FFFFFF"]))[3] == b"\1\2\3\xff\xff\xff"


def test_png_equals_the_literal() -> None:
    """So that no library's compression gets into a notebook's output."""
    assert png(bytes(range(16)), 4).hex() == (
        "89504e470d0a1a0a0000000d49484452000000040000000408000000008c9ac1a20000001f49444154780101"
        "1400ebff000001020300040506070008090a0b000c0d0e0f03200079583e97ac0000000049454e44ae426082"
    )


def test_equality_colours_equal_blocks_alike() -> None:
    picture = equality(b"A" * 16 + b"B" * 16 + b"A" * 16 + b"C" * 16, "four", per_line=4)
    assert "4 blocks, 3 different; the most frequent occurs 2 times" in picture.alt
    assert picture._pixels[0] == picture._pixels[2] != 0 and picture._pixels[1] == picture._pixels[3] == 0


def test_bits_are_counted() -> None:
    picture = bits([b"\x01\x80", b"\xff\x00"], "two", "note")
    assert "2 × 16 bits, 10 of 32 set (31 %); note" in picture.alt
    assert list(picture._pixels[:16]) == [1] + [0] * 14 + [1]


@pytest.mark.parametrize("picture", [grey(bytes(4096), 16, "a <grey> one"), equality(bytes(4096), "equal")])
def test_every_picture_has_words_and_a_digest(picture: Picture) -> None:
    page = picture._repr_html_()
    (image,) = read(page).all("img")
    assert picture.alt in image.attributes["alt"] and picture.title in image.attributes["alt"]
    assert picture.digest == digest_of(picture._pixels) and picture.digest in picture.text()
    assert picture.digest[:16] in page


def test_the_image_is_what_its_words_say() -> None:
    image = the_image()
    assert len(image) == 16 * WIDTH * HEIGHT and set(image) == {0x20, 0x40, 0xA0, 0xE0}
    assert all(len(set(image[i : i + 16])) == 1 for i in range(0, len(image), 16))


def test_gallery() -> None:
    places = (("plain", 0x10000), ("xe-zen1", 0x10000), ("xex-boot-random", 0x10000), ("xex-boot-random", 0x20000))
    gallery = image_gallery(places)
    assert len(gallery._repr_html_().encode()) < LIMIT
    plaintext, plain, *others = gallery.pictures
    different = [int(p.alt.split("; ")[1].split()[0]) for p in gallery.pictures]
    assert different == [4, 4, 3072, 3072, 3072]
    assert len({p.digest for p in gallery.pictures}) == 5
    assert (
        plain.digest == hashlib.sha256(encrypted("plain", 0, the_image())[::16]).hexdigest()
    )  # the address does not enter
    assert len(others) == 3 and plaintext.digest == hashlib.sha256(the_image()[::16]).hexdigest()


@pytest.mark.parametrize("preset", ENGINES)
def test_avalanche(preset: str) -> None:
    gallery, changed = avalanche(preset)
    assert len(gallery.pictures) == 4
    for name, count in changed.items():
        wanted = count == 0 if preset == "plain" and name == "an address bit" else 40 <= count <= 88
        assert wanted, (name, count)


def test_constants() -> None:
    picture = constants_picture("xex-zen1")
    assert "28 × 32 bits" in picture.alt and "rank 28" in picture.alt
    ones = sum(byte.bit_count() for constant in ZEN1 for byte in constant[:4])
    assert f"{ones} of 896 set" in picture.alt
    assert "rank 42" in constants_picture("xex-boot-random", 42, 16).alt
    assert rank([0b110, 0b011, 0b101]) == 2 and rank([]) == 0 and rank([0]) == 0


def test_table_says_what_is_model() -> None:
    text = preset_table().text()
    assert all(name in text for name in PRESETS) and "reverse engineered" in text and "model" in text


def test_engine_panel() -> None:
    panel = engine_panel()
    assert "256 blocks, 1 different" in panel.value_text
    for engine in ("xe-zen1", "xex-zen1", "xex-boot-random", "xts-boot-random"):
        panel.set("engine", engine)
        assert "256 blocks, 256 different" in panel.value_text
        assert encrypted(engine, 0x123000, b"attack at dawn! ", KEY).hex() in panel.value_text
        panel.set("compare", True)
        assert "512 blocks, 512 different" in panel.value_text
        panel.set("compare", False)
    before = panel.value_text
    panel.set("other_key", True)
    assert panel.value_text != before
    panel.set("page", 0x124)
    panel.set("engine", "plain")
    panel.set("pattern", "two values in turn")
    assert "256 blocks, 2 different" in panel.value_text and "0x124000" in panel.value_text
    panel.set("pattern", "a counter")
    assert "256 blocks, 256 different" in panel.value_text
    panel.reset()
    assert "256 blocks, 1 different" in panel.static().text() and len(BOOT) == 32


def test_attack_panel() -> None:
    panel = attack_panel()
    assert "E12: Put an old block back" in panel.value_text and "it works: nobody stops it" in panel.value_text
    panel.set("protection", "SNP")
    assert "stopped: RmpFault" in panel.value_text
    panel.set("attack", "side_channel")
    assert "it works" in panel.value_text
    panel.set("protection", "SNP + hiding")
    assert "noise, or nothing to use" in panel.value_text
    panel.set("processor", "Naples (7251)")
    assert "SEV or SEV-ES" in panel.value_text
    panel.set("protection", "SEV-ES")
    panel.set("attack", "recover_constants")
    assert "E5" in panel.value_text and "it works" in panel.value_text
    panel.set("attack", "raw_move")
    assert "as expected" in panel.value_text and "it works: nobody" not in panel.value_text
    panel.reset()
    assert "it works: nobody stops it" in panel.static().text()


def test_lab_remembers_what_was_tried() -> None:
    lab = Lab()
    both = lab.compare("replay", ("milan", "SEV"), ("milan", "SNP")).text()
    assert "it works: nobody stops it" in both and "RmpFault" in both and "Hetzelt and Buhren" in both
    lab.run("firmware_oracle", "milan", "SNP + hiding")
    lab.run("plain_reads", "naples", engine="xe-zen1")
    from sevref.attacks.keylab import CASES, run_cases

    assert "another chip" in lab.note(run_cases([CASES[2], CASES[5], CASES[9]])).text()
    rows = [(noticed_by(entry.outcome), entry.outcome.works) for entry in lab.entries]
    assert rows == [
        ("nobody", True),
        ("processor", False),
        ("AMD-SP", False),
        ("nobody", False),
        ("guest owner", False),
        ("guest owner", False),
        ("AMD-SP", False),
    ]
    text = lab.text()
    assert "Naples (xe-zen1), SEV" in text and "noise, or nothing to use" in text and "it works" in text
    assert lab.last is lab.entries[-1].outcome and "<table" in lab._repr_html_()


def test_matrix_table() -> None:
    from sevref.attacks.grid import matrix

    text = matrix_table(matrix(["E12 replay", "E5 to E9 tweak attacks"])).text()
    assert "works" in text and "stopped" in text and "Naples (7251) works" in text
