"""The secret table (sheet 20, section 8) and the limits of packets."""

import uuid
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevref.status import InputError, SevError, Status
from sevref.transport import (
    Context,
    PacketHeader,
    SecretEntry,
    SecretTableHeader,
    build_secret_table,
    make_packet,
    open_packet,
    pad16,
    parse_secret_table,
)

DISK = "736869e5-84f0-4973-92ec-06879ce3da0b"
# GUIDs in EFI byte order, as sheet 20, section 9 shows them
HEAD_GUID = bytes.fromhex("42f5741edd71664d963eef4287ff173b")
DISK_GUID = bytes.fromhex("e5696873f084734992ec06879ce3da0b")
OTHER = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def test_layout_of_head_and_entry() -> None:
    table = build_secret_table({DISK: b"MY-LUKS-PASSPHRASE"})
    assert table == HEAD_GUID + bytes.fromhex("3a000000") + DISK_GUID + bytes.fromhex("26000000") + (
        b"MY-LUKS-PASSPHRASE" + bytes(6)
    )
    assert SecretTableHeader.parse(table, exact=False).length == 58
    assert SecretEntry.parse(table[20:58]).data == b"MY-LUKS-PASSPHRASE"


@pytest.mark.parametrize(("size", "total"), [(0, 48), (1, 48), (8, 48), (9, 64), (24, 64), (25, 80)])
def test_padding_is_to_16_and_none_when_aligned(size: int, total: int) -> None:
    table = build_secret_table([(DISK, b"s" * size)])
    assert len(table) == total
    assert table[40 + size :] == bytes(total - 40 - size)
    assert int.from_bytes(table[16:20], "little") == 40 + size  # without the padding
    assert (pad16(b""), pad16(b"x" * 16), pad16(b"x")) == (b"", b"x" * 16, b"x" + bytes(15))


def test_no_entry_gives_the_head_alone() -> None:
    table = build_secret_table({})
    assert table == HEAD_GUID + bytes.fromhex("14000000") + bytes(12)
    assert parse_secret_table(table) == []


@given(st.lists(st.tuples(st.uuids().filter(lambda guid: guid.int != 0), st.binary(max_size=40)), max_size=6))
def test_what_is_built_is_parsed(entries: list[tuple[uuid.UUID, bytes]]) -> None:
    table = build_secret_table(entries)
    assert len(table) % 16 == 0
    assert parse_secret_table(table) == entries
    assert parse_secret_table(table + b"\xff" * 100) == entries  # the area is larger than the table


@pytest.mark.parametrize("guid", ["", "luks", DISK[:-1], DISK + "0", "{", str(uuid.UUID(int=0))])
def test_unusable_guids(guid: str) -> None:
    with pytest.raises(InputError, match="secret table: GUID"):
        build_secret_table([(guid, b"x")])


def table(total: int | None = None, length: int | None = None, guid: bytes = HEAD_GUID) -> bytes:
    """A table with two entries, the second of which may have a wrong length."""
    first = DISK_GUID + (22).to_bytes(4, "little") + b"ab"
    second = OTHER.bytes_le + (23 if length is None else length).to_bytes(4, "little") + b"cde"
    size = 20 + len(first) + len(second) if total is None else total
    return guid + size.to_bytes(4, "little") + first + second + bytes(15)


def test_the_rules_of_linux() -> None:
    assert parse_secret_table(table()) == [(uuid.UUID(DISK), b"ab"), (OTHER, b"cde")]
    assert parse_secret_table(table(total=20)) == []
    assert parse_secret_table(table(total=42)) == [(uuid.UUID(DISK), b"ab")]
    assert len(table()) == 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guid": DISK_GUID}, "secret table: GUID"),
        ({"total": 19}, "total length"),
        ({"total": 0}, "total length"),
        ({"total": 81}, "total length"),
        ({"total": 2**32 - 1}, "total length"),
        ({"length": 19}, "entry at 0x2A: length"),
        ({"length": 0}, "entry at 0x2A: length"),
        ({"length": 24}, "entry at 0x2A: length"),
        ({"length": 2**32 - 1}, "entry at 0x2A: length"),
        ({"total": 61}, "entry at 0x2A"),  # 19 bytes left, no room for an entry
        ({"total": 43}, "entry at 0x2A"),
    ],
)
def test_broken_tables_are_rejected(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_secret_table(table(**change))


def test_deleted_entries_are_skipped() -> None:
    """Linux zeroes data and GUID of an entry that it deletes and keeps its length."""
    data = bytearray(table())
    data[20:36] = bytes(16)
    data[40:42] = bytes(2)
    assert parse_secret_table(data) == [(OTHER, b"cde")]


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_an_input_error(data: bytes, with_head: bool) -> None:
    if with_head:
        data = HEAD_GUID + data
    with suppress(InputError):
        parse_secret_table(data)


def test_a_packet_is_bound_to_its_context() -> None:
    """Data, VMSA and secret packets do not pass for each other (context 3 is the specification's for VMSAs)."""
    tek, tik = b"e" * 16, b"i" * 16
    for made in Context:
        header, data = make_packet(tek, tik, made, bytes(32), iv=bytes(16))
        for wanted in Context:
            if made == wanted:
                assert open_packet(tek, tik, wanted, header, data) == bytes(32)
            else:
                with pytest.raises(SevError) as caught:
                    open_packet(tek, tik, wanted, header, data)
                assert caught.value.status == Status.BAD_MEASUREMENT


@pytest.mark.parametrize(
    ("context", "status"),
    [(1, Status.BAD_MEASUREMENT), (2, Status.UNSUPPORTED), (3, Status.UNSUPPORTED)],
)
def test_the_compressed_flag_against_the_mac(context: int, status: Status) -> None:
    """LAUNCH_SECRET looks at the MAC first, RECEIVE_UPDATE_* at the flag (sheet 30, sections 5.8 and 5.10)."""
    header = PacketHeader(flags=1, iv=bytes(16), mac=bytes(32))
    with pytest.raises(SevError) as caught:
        open_packet(bytes(16), bytes(16), context, header, bytes(16))
    assert caught.value.status == status


def test_arguments_of_the_wrong_size() -> None:
    good = {"tek": bytes(16), "tik": bytes(16), "context": 1, "plaintext": bytes(16), "iv": bytes(16)}
    assert make_packet(**good, trailer=bytes(32))
    bad: list[dict[str, object]] = [
        {"tek": bytes(32)}, {"tik": bytes(15)}, {"iv": bytes(12)}, {"trailer": bytes(48)}, {"flags": 1 << 32},
        {"context": 256},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises(InputError):
            make_packet(**{**good, **change})
