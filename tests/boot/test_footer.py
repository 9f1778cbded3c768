"""The firmware table: real images, the builder, and every malformed piece."""

import contextlib
import random
from uuid import UUID

import pytest
from sevsnpmeasure.ovmf import OVMF

from sevref import boot
from sevref.boot import footer
from sevref.status import InputError
from support import peer, vectors

RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SECRET = "4c2eb361-7d9b-4cc3-8081-127c90d3d294"
HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SNP = "dc886566-984a-4798-a75e-5585a7bf67cc"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
ENDING = "96b582de-1fb2-45f7-baea-a366c55a082d"
ENDING_STORED = bytes.fromhex("de82b596b21ff745baeaa366c55a082d")

# image: reset address, hashes area, secret area, total length (sheet 70, section 1.6)
REAL = {
    "ovmf_AmdSev_suffix.bin": (0x0080B004, (0x810C00, 0x400), (0x810000, 0xC00), 0x88),
    "ovmf_OvmfX64_suffix.bin": (0x0080B004, (0, 0), (0, 0), 0x88),
    "ovmf_el9_amdsev_suffix.bin": (0x0080B004, (0x80CC00, 0x400), (0x80C000, 0xC00), 0x72),
    "svsm_suffix.bin": (0xFFFFFFF0, None, (0xDEADBEEF, 0), 0x6E),
}


def table(image):
    """GUID -> data."""
    return {str(entry.guid): entry.data for entry in boot.parse_footer(image).entries}


def pair(data):
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")


@pytest.mark.vectors
@pytest.mark.parametrize("name", REAL)
def test_real_images(name):
    reset, hashes, secret, total = REAL[name]
    image = vectors("ovmf", name).read_bytes()
    entries = table(image)
    assert int.from_bytes(entries[RESET], "little") == reset
    assert (pair(entries[HASHES]) if hashes else entries.get(HASHES)) == hashes
    assert pair(entries[SECRET]) == secret
    assert 18 + sum(len(data) + 18 for data in entries.values()) == total
    found = boot.parse_footer(image)
    assert found.reset_address() == reset
    for call, area, words in (
        (found.hashes_area, hashes, "a kernel hashes area"),
        (found.secret_area, secret, "a launch secret area"),
    ):
        if area and area[1]:
            assert (call().base, call().size) == area
        else:
            with pytest.raises(InputError, match=f"firmware table: expected {words}, found (none|base)"):
                call()


@pytest.mark.vectors
def test_every_entry_of_a_real_image():
    """Offsets and order; the table ends at 4096 - 32 and starts 0x6E before that."""
    image = vectors("ovmf", "svsm_suffix.bin").read_bytes()
    entries = boot.parse_footer(image).entries
    assert {str(entry.guid) for entry in entries} == {RESET, SECRET, SNP, SVSM_INFO}
    position = 4096 - 32 - 18
    for entry in entries:
        position -= 18 + len(entry.data)
        assert entry.offset == position
        assert image[position : position + len(entry.data)] == entry.data
        assert image[position + len(entry.data) + 2 :][:16] == entry.guid.bytes_le
    assert position == 4096 - 32 - 0x6E
    assert {str(e.guid): e.name for e in entries}[SVSM_INFO] == "SVSM info"


@pytest.mark.peer
@pytest.mark.parametrize("name, secret", [("OVMF_CODE.fd", (0, 0)), ("OVMF_CODE_4M.fd", (0, 0))])
def test_debians_images(name, secret):
    assert pair(table(peer(name).read_bytes())[SECRET]) == secret


# ---------------------------------------------------------------------------------------------- the builder


def test_the_builders_bytes():
    """The whole end of the image, written out."""
    image = boot.build_firmware(4096, label=b"L")
    ending = (
        "000c0100 00040000 1a00 1f3755723b3a044b927b1da6efa8d454"  # hashes at 0x10C00, 0x400 bytes
        "00000100 000c0000 1a00 61b32e4c9b7dc34c8081127c90d3d294"  # secret at 0x10000, 0xC00 bytes
        "04b00000 1600 de71f7007e1acb4f890e68c77e2fb44e"  # application processors start at 0xB004
        "5c00 de82b596b21ff745baeaa366c55a082d"
        "faf4ebfd 909090909090909090909090"  # at F000:FFE0: cli; hlt; jmp -3
        "e9edff 90909090909090909090909090"  # at F000:FFF0: jmp -19, to FFE0
    )
    ending = bytes.fromhex(ending)
    assert image == b"L" + b"\xff" * (4096 - 1 - len(ending)) + ending


def test_defaults_and_options():
    image = boot.build_firmware()
    assert len(image) == 0x10000
    assert image.startswith(b"sevref guest firmware\xff")
    assert image == boot.build_firmware()
    assert image != boot.build_firmware(label=b"sevref guest firmwarE")
    other = boot.build_firmware(
        0x3000,
        label=b"",
        reset_vector=b"\xf4",
        reset_address=0x1234,
        secret_area=(0x5000, 16),
        hashes_area=None,
    )
    assert len(other) == 0x3000
    assert other[-16:] == b"\xf4" + b"\x90" * 15
    assert table(other) == {RESET: bytes.fromhex("34120000"), SECRET: bytes.fromhex("0050000010000000")}
    assert boot.parse_footer(other).reset_address() == 0x1234
    empty = boot.build_firmware(4096, reset_address=None, secret_area=None, hashes_area=None)
    assert table(empty) == {}
    assert empty[-34 - 16 :][:18] == bytes.fromhex("1200") + ENDING_STORED


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"size": 0}, "firmware size: expected a multiple of 4096 bytes, found 0 bytes"),
        ({"size": 4097}, "firmware size"),
        ({"size": -4096}, "firmware size"),
        ({"reset_vector": bytes(17)}, "reset vector: expected at most 16 bytes, found 17 bytes"),
        (
            {"size": 4096, "label": bytes(3973)},
            "firmware label: expected at most 3972 bytes, found 3973 bytes",
        ),
        ({"reset_address": 1 << 32}, "ResetBlock.address"),
        ({"secret_area": (1 << 32, 1)}, "GuestArea.base"),
        ({"hashes_area": (0, -1)}, "GuestArea.size"),
    ],
)
def test_the_builder_refuses(arguments, reason):
    with pytest.raises(InputError, match=reason):
        boot.build_firmware(**arguments)


def test_the_largest_label():
    image = boot.build_firmware(4096, label=b"l" * 3972)
    assert image.startswith(b"l" * 3972 + bytes.fromhex("000c0100"))


@pytest.mark.peer
@pytest.mark.parametrize("arguments", [{}, {"size": 4096, "reset_address": 0x12345678, "hashes_area": (0x7000, 0x400)}])
def test_the_peer_reads_what_we_build(arguments, tmp_path):
    image = boot.build_firmware(**arguments)
    path = tmp_path / "firmware"
    path.write_bytes(image)
    found = OVMF(str(path))
    assert found.gpa() == (1 << 32) - len(image)
    assert found.sev_es_reset_eip() == arguments.get("reset_address", 0xB004)
    assert found.sev_hashes_table_gpa() == arguments.get("hashes_area", (0x10C00,))[0]
    assert found.is_sev_hashes_table_supported()
    assert found.table_item(SECRET) == bytes.fromhex("00000100000c0000")


@pytest.mark.peer
def test_the_peer_sees_no_hashes_area_when_we_leave_it_out(tmp_path):
    path = tmp_path / "firmware"
    path.write_bytes(boot.build_firmware(hashes_area=None))
    assert not OVMF(str(path)).is_sev_hashes_table_supported()


# ---------------------------------------------------------------------------------------------- malformed


def entry(guid, data, length=None):
    length = len(data) + 18 if length is None else length
    return data + length.to_bytes(2, "little") + UUID(guid).bytes_le


def image_of(*entries, total=None, before=b"", ending=ENDING):
    """An image whose table holds the entries, farthest from the end first."""
    body = b"".join(entries)
    total = len(body) + 18 if total is None else total
    return before + body + total.to_bytes(2, "little") + UUID(ending).bytes_le + bytes(32)


def test_the_helper_makes_tables():
    """The malformed cases below differ from this in one place each."""
    found = boot.parse_footer(image_of(entry(SECRET, bytes(8)), entry(RESET, b"\1\0\0\0"), before=bytes(7)))
    assert [(str(e.guid), e.offset) for e in found.entries] == [(RESET, 7 + 26), (SECRET, 7)]
    assert found.reset_address() == 1


@pytest.mark.parametrize("size", [0, 1, 18, 32, 49])
def test_an_image_too_short(size):
    with pytest.raises(InputError, match=rf"firmware image: expected at least 50 bytes, found {size} bytes"):
        boot.parse_footer(image_of()[-size:] if size else b"")


def test_the_smallest_image():
    assert len(image_of()) == 50
    assert boot.parse_footer(image_of()) == boot.Footer(())


def test_no_table():
    """Not an error until something of it is needed."""
    for image in bytes(50), image_of(entry(RESET, b"\1\0\0\0"), ending=RESET):
        found = boot.parse_footer(image)
        assert found.entries == ()
        for call, words in (
            (found.reset_address, "an SEV-ES reset block"),
            (found.secret_area, "a launch secret area"),
            (found.hashes_area, "a kernel hashes area"),
        ):
            with pytest.raises(InputError, match=f"firmware table: expected {words}, found none"):
                call()


@pytest.mark.parametrize("total", [0, 17])
def test_a_total_length_below_that_of_the_footer(total):
    with pytest.raises(InputError, match=rf"total length: expected 18 to 118 bytes, found {total} bytes"):
        boot.parse_footer(image_of(before=bytes(100), total=total))


@pytest.mark.parametrize("total, ok", [(118, True), (119, False), (0xFFFF, False)])
def test_a_table_that_reaches_before_the_image(total, ok):
    image = image_of(entry(SECRET, bytes(82)), before=b"", total=total)
    if ok:
        assert len(boot.parse_footer(image).entries) == 1
    else:
        with pytest.raises(InputError, match=f"total length: expected 18 to 118 bytes, found {total} bytes"):
            boot.parse_footer(image)


@pytest.mark.parametrize("length", [0, 1, 17, 27, 0xFFFF])
def test_a_length_of_an_entry_that_does_not_fit(length):
    image = image_of(entry(SECRET, bytes(8), length), before=bytes(100))
    where = rf"firmware table: length of entry {SECRET} at file offset 0x6C: expected 18 to 26 bytes, found {length}"
    with pytest.raises(InputError, match=where):
        boot.parse_footer(image)


def test_the_second_entry_is_checked_too():
    image = image_of(entry(SECRET, bytes(8), 27), entry(RESET, bytes(4)), before=bytes(100))
    with pytest.raises(InputError, match=f"length of entry {SECRET} at file offset 0x6C: expected 18 to 26 bytes"):
        boot.parse_footer(image)


def test_fewer_than_18_bytes_left_end_the_table():
    image = image_of(bytes(17), entry(RESET, b"\1\0\0\0"))
    assert len(boot.parse_footer(image).entries) == 1
    with pytest.raises(InputError, match="length of entry 00000000-0000-0000-0000-000000000000"):
        boot.parse_footer(image_of(bytes(18), entry(RESET, b"\1\0\0\0")))


def test_of_two_entries_the_one_nearer_to_the_end_counts():
    image = image_of(entry(RESET, b"\1\0\0\0"), entry(RESET, b"\2\0\0\0"))
    assert boot.parse_footer(image).reset_address() == 2


def test_an_empty_entry():
    image = image_of(entry(SNP, b""))
    assert table(image) == {SNP: b""}


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(5), bytes(8)])
def test_a_reset_block_of_another_size(data):
    found = boot.parse_footer(image_of(entry(RESET, data)))
    with pytest.raises(InputError, match=r"SEV-ES reset block at file offset 0x0: ResetBlock.*expected 4 bytes"):
        found.reset_address()


def test_a_reset_address_of_zero():
    found = boot.parse_footer(image_of(entry(RESET, bytes(4))))
    with pytest.raises(InputError, match="expected an SEV-ES reset block, found address 0"):
        found.reset_address()


@pytest.mark.parametrize("data", [b"", b"\1" * 7, b"\1" * 9])
@pytest.mark.parametrize("guid, name", [(SECRET, "secret_area"), (HASHES, "hashes_area")])
def test_an_area_of_another_size(data, guid, name):
    found = boot.parse_footer(image_of(entry(guid, data)))
    with pytest.raises(InputError, match=r"area at file offset 0x0: GuestArea"):
        getattr(found, name)()


@pytest.mark.parametrize("data", ["0000000000000000", "0000810000000000", "0000000000040000"])
def test_an_area_of_nothing(data):
    found = boot.parse_footer(image_of(entry(SECRET, bytes.fromhex(data))))
    with pytest.raises(InputError, match="expected a launch secret area, found base 0x"):
        found.secret_area()


def test_garbage_gives_only_input_errors():
    """Seeded; half of the images keep the footer's GUID, so that the walk is reached."""
    rng = random.Random(1)
    good = bytearray(boot.build_firmware(4096)[-200:])
    outcomes = {"parsed": 0, "refused": 0}
    for _ in range(3000):
        image = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            image[rng.randrange(50, 150)] = rng.randrange(256)
        try:
            found = boot.parse_footer(bytes(image[rng.choice([0, 0, 0, rng.randrange(200)]) :]))
            outcomes["parsed"] += 1
            for call in found.reset_address, found.secret_area, found.hashes_area:
                with contextlib.suppress(InputError):
                    call()
        except InputError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes


def test_names():
    assert {str(guid): name for guid, name in footer.NAMES.items()} == {
        ENDING: "table footer",
        RESET: "SEV-ES reset block",
        SECRET: "launch secret area",
        HASHES: "kernel hashes area",
        SNP: "SNP metadata locator",
        SVSM_INFO: "SVSM info",
        "e47a6535-984a-4798-865e-4685a7bf8ec2": "TDX metadata locator",
    }
