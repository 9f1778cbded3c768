"""SNP metadata, the builder's SNP and SVSM images, and every byte of a firmware's end mutated."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevref.boot import SNP_SECTIONS, Guest, Image, KernelHashes, build_firmware, parse_footer, parse_metadata, predict
from sevref.boot.image import as_image
from sevref.status import InputError
from support import peer, vectors

#: (GPA, size, type) as the sheet's section 1.6 lists them
PARSES = {
    "ovmf_AmdSev_suffix.bin": [
        (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x80F000, 0x1000, 4),
        (0x810000, 0x1000, 0x10), (0x811000, 0xF000, 1),
    ],
    "ovmf_OvmfX64_suffix.bin": [
        (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x80F000, 0x1000, 4),
        (0x810000, 0x10000, 1),
    ],
    "svsm_suffix.bin": [(0, 0x9E000, 1), (0x9E000, 0x1000, 2), (0x9F000, 0x1000, 3)],
}  # fmt: skip


def listed(sections):
    return [(section.gpa, section.size, section.type) for section in sections]


@pytest.mark.vectors
@pytest.mark.parametrize("name", PARSES)
def test_real_images(name):
    assert listed(parse_metadata(Image(vectors("ovmf", name)))) == PARSES[name]


@pytest.mark.peer
def test_debians_images():
    assert listed(parse_metadata(Image(peer("OVMF_CODE.fd")))) == [
        (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x80F000, 0x11000, 1),
    ]  # fmt: skip
    with pytest.raises(InputError, match="cannot start as an SNP guest"):
        parse_metadata(Image(peer("OVMF_CODE_4M.fd")))


def test_the_builders_images():
    image = build_firmware(8192, sections=[(0x1000, 0x2000, 1), (0x8000, 0x1000, 0x10)], hashes_area=(0x8C00, 0x400))
    assert listed(parse_metadata(image)) == [(0x1000, 0x2000, 1), (0x8000, 0x1000, 0x10)]
    assert b"ASEV" + bytes.fromhex("28000000 01000000 02000000 00100000 00200000 01000000") in image
    assert parse_footer(image).hashes_area().base == 0x8C00
    assert listed(parse_metadata(build_firmware(sections=SNP_SECTIONS))) == list(SNP_SECTIONS)
    guest = Guest(Image(build_firmware(sections=SNP_SECTIONS)), vcpus=2, kernel=KernelHashes.of(b"kernel"))
    assert len(predict(guest).steps) == 1 + 7 + 2
    svsm = Image(build_firmware(8192, sections=[(0, 0x1000, 1)], svsm_entry=0x10))
    steps = predict(Guest(Image(build_firmware(4096)), mode="snp:svsm", svsm=svsm, vars_size=4096)).steps
    assert [(step.what, step.gpa) for step in steps] == [
        ("firmware", 0xFFFFF000), ("svsm", 0xFFFFC000), ("section SEC_MEM", 0), ("vmsa 0", 0xFFFFFFFFF000),
    ]  # fmt: skip
    assert build_firmware() == build_firmware(sections=None, svsm_entry=None)


def metadata(image, offset, data):
    """The image with ``data`` at an offset from the start of its metadata."""
    changed = bytearray(image)
    start = image.index(b"ASEV") + offset
    changed[start : start + len(data)] = data
    return bytes(changed)


GOOD = build_firmware(8192, sections=[(0x1000, 0x2000, 1), (0x8000, 0x1000, 0x10), (0x9000, 0x1000, 2)])


@pytest.mark.parametrize(
    "offset, data, reason",
    [
        (0, b"ASEW", "signature: expected ASEV"),
        (8, b"\2", "version: expected 1, found 2"),
        (4, b"\x35", "length for 3 sections: expected 52, found 53"),
        (12, b"\xff\xff\xff\xff", "length for 4294967295 sections"),
        (24, b"\5", "section 0: type: expected 1, 2, 3, 4 or 0x10, found 0x5"),
        (24, b"\1\1", "section 0: type: expected 1, 2, 3, 4 or 0x10, found 0x101"),  # all four bytes are read
        (16, b"\1", "section 0: gpa: expected a multiple of 4096, found 0x1001"),
        (20, b"\1", "section 0: size: expected a multiple of 4096, found 0x2001"),
        (20, b"\0\x80\0\0", "no overlap, found two sections at 0x8000"),
        (28, b"\0\x20\0\0", "no overlap, found two sections at 0x2000"),
        (
            20,
            b"\0\xf0\xff\xff",
            "section 0: end: expected at most 0xFFFFE000, where the image begins, found 0x100000000",
        ),
        (40, b"\0\xe0\xff\xff", "section 2: end: expected at most 0xFFFFE000"),
    ],
)
def test_malformed(offset, data, reason):
    image = metadata(GOOD, offset, data)
    with pytest.raises(InputError, match="SNP metadata.*" + reason):
        parse_metadata(image)
    with pytest.raises(InputError):
        predict(Guest(Image(image)))


@pytest.mark.parametrize("distance", [0, 15, 8193, 0xFFFFFFFF])
def test_a_locator_outside(distance):
    place = GOOD.index(bytes.fromhex("66 65 88 dc 4a 98 98 47")) - 6
    image = GOOD[:place] + distance.to_bytes(4, "little") + GOOD[place + 4 :]
    with pytest.raises(InputError, match="locator: expected 16 to 8192 bytes from the end of the image"):
        parse_metadata(image)


def test_sections_that_reach_beyond_the_image():
    """A header at the very end says that three sections follow."""
    place = GOOD.index(bytes.fromhex("66 65 88 dc 4a 98 98 47")) - 6
    head = GOOD[GOOD.index(b"ASEV") :][:16]
    image = GOOD[:place] + (16).to_bytes(4, "little") + GOOD[place + 4 : -16] + head
    with pytest.raises(InputError, match="length: expected at most 16 bytes, the end of the image, found 52"):
        parse_metadata(image)


def test_an_absurd_section_takes_no_memory():
    """Almost 4 GiB to validate: a million steps would be made, but nothing is allocated and parsing is instant."""
    image = build_firmware(4096, sections=[(0x1000, 0xFFF00000, 1)])
    start = time.process_time()
    assert parse_metadata(image)[0].size == 0xFFF00000
    assert time.process_time() - start < 0.1


def test_a_hashes_page_of_another_size():
    guest = Guest(Image(build_firmware(sections=[(0x10000, 0x2000, 0x10)])), kernel=KernelHashes.of(b"x"))
    with pytest.raises(InputError, match="section of kernel hashes: expected 4096 bytes, found 8192"):
        predict(guest)
    small = build_firmware(sections=SNP_SECTIONS, hashes_area=(0x10C00, 175))
    with pytest.raises(InputError, match="kernel hashes area: expected at least 176 bytes, found 175"):
        predict(guest._replace(firmware=Image(small)))
    with pytest.raises(InputError, match="at least 176"):
        predict(guest._replace(firmware=Image(small), mode="sev"))
    late = build_firmware(sections=SNP_SECTIONS, hashes_area=(0x10F51, 176))
    with pytest.raises(InputError, match="offset in its page: expected at most 3920, found 3921"):
        predict(guest._replace(firmware=Image(late)))
    assert predict(guest._replace(firmware=Image(build_firmware(sections=SNP_SECTIONS, hashes_area=(0x10F50, 176)))))


def test_a_secrets_page_of_two_pages_is_walked():
    """From the same hash of the firmware on, one section of two pages and two of one page are the same."""
    one, two = (
        predict(Guest(Image(build_firmware(sections=sections)), ovmf_hash=bytes(range(48)))).steps
        for sections in ([(0x1000, 0x1000, 2), (0x2000, 0x1000, 2)], [(0x1000, 0x2000, 2)])
    )
    assert (two[0].what, two[0].digest_after) == ("firmware, by its given hash", bytes(range(48)))
    assert two[1].pages == 2
    assert one[2].digest_after == two[1].digest_after != one[1].digest_after


@pytest.mark.slow
@pytest.mark.vectors
def test_every_byte_of_the_end_mutated():
    """Whatever a byte becomes: a digest or an ``InputError``, in every mode."""
    good = vectors("ovmf", "ovmf_AmdSev_suffix.bin").read_bytes()
    kernel, rng = KernelHashes.of(b"kernel"), random.Random(1)
    start = good.index(b"ASEV")
    assert 4096 - start > 0x88 + 32
    outcomes = {"digest": 0, "refused": 0}
    for place in range(start, 4096):
        for value in {0, 0xFF, good[place] ^ 1, good[place] ^ 0x80, rng.randrange(256)} - {good[place]}:
            image = good[:place] + bytes([value]) + good[place + 1 :]
            for mode in "sev", "seves", "snp":
                guest = Guest(Image(image), mode=mode, vcpus=2, kernel=kernel if rng.random() < 0.5 else None)
                try:
                    found = predict(guest)
                    assert len(found.digest) == (48 if mode == "snp" else 32)
                    outcomes["digest"] += 1
                except InputError as error:
                    assert "\n" not in str(error)
                    outcomes["refused"] += 1
    assert min(outcomes.values()) > 500, outcomes


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.sampled_from(["sev", "seves", "snp"]))
def test_any_bytes(data, cut, mode):
    """Random ends of an image, and images that are cut off."""
    for image in (GOOD[: len(GOOD) - len(data) - cut] + data + GOOD[len(GOOD) - cut :] if cut else data, GOOD[cut:]):
        if not image:
            continue
        try:
            predict(Guest(as_image(image), mode=mode, kernel=KernelHashes.of(b"")))
        except InputError as error:
            assert error.field


def test_files_that_change_or_vanish(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(GOOD)
    image = Image(path)
    path.write_bytes(GOOD + bytes(4096))
    with pytest.raises(InputError, match="8192 bytes, as when it was opened, found 12288 bytes"):
        predict(Guest(image, mode="sev"))
    path.unlink()
    with pytest.raises(InputError, match="a readable file, found no such file"):
        predict(Guest(image, mode="sev"))
    assert repr(image).endswith("image, 8192 bytes)")
