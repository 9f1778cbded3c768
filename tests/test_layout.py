"""The machinery that declares, parses, packs and describes structures, and every structure declared with it."""

import enum
import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sevref
from sevref.layout import AFTER, Layout, integer, layouts, nested, raw, reserved, table, u8, u16, u32, u64, union
from sevref.status import InputError

for module in pkgutil.walk_packages(sevref.__path__, "sevref."):
    if not module.name.startswith(("sevref.show", "sevref.cli", "sevref.__main__")):  # those need the extra `lab`
        importlib.import_module(module.name)
DECLARED = {name: cls for name, cls in layouts().items() if cls.__module__.startswith("sevref.")}


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class Inner(Layout, size=4, register=False):
    a = u8(0, "first")
    pad = reserved(1, 3)


class Outer(Layout, size=0x20, register=False):
    flags = u32(0x00, "flags", bits={0: ("LOW", "lowest"), 31: ("HIGH", "highest")})
    colour = u16(0x04, "colour", names=Colour, default=1)
    count = u8(0x06, "a byte")
    more = u8(0x07, "another", default=0xAB)
    big = u64(0x08, "64 bits")
    key = raw(0x10, 4, "a key", secret=True)
    inner = nested(0x14, Inner, "a structure")
    rows = table(0x18, Inner, 2, "two of them")


BYTES = bytes.fromhex("01000080020007091122334455667788c0ffee11050000000600000007000001")


class Sized(Layout, register=False):
    length = u16(0, "length of text")
    kind = u8(2, "0: number, 1: Inner, else bytes")
    text = raw(3, lambda obj: obj.length, "text")
    body = union(AFTER, 4, lambda obj: {1: Inner}.get(obj.kind), "by kind")
    entries = table(AFTER, Inner, lambda obj: obj.kind, "as many as kind")
    tail = u16(AFTER, "the end")


# -- declaring


def test_a_gap_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Bad.b: gap: declared at 0x5, expected 0x4"):

        class Bad(Layout):
            a = u32(0, "")
            b = u32(5, "")


def test_an_overlap_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Bad.b: overlap: declared at 0x3, expected 0x4"):

        class Bad(Layout):
            a = u32(0, "")
            b = u32(3, "")


def test_not_starting_at_zero_is_an_error() -> None:
    with pytest.raises(TypeError, match="gap"):

        class Bad(Layout):
            a = u32(4, "")


@pytest.mark.parametrize("size", [7, 9, 0])
def test_a_wrong_size_is_an_error(size: int) -> None:
    with pytest.raises(TypeError, match="fields end at 0x8"):

        class Bad(Layout, size=size):
            a = u64(0, "")


def test_a_variable_part_needs_after_and_has_no_size() -> None:
    with pytest.raises(TypeError, match="AFTER"):

        class Bad(Layout):
            n = u8(0, "")
            a = raw(1, lambda obj: obj.n, "")
            b = u8(2, "")

    with pytest.raises(TypeError, match="size"):

        class AlsoBad(Layout, size=1):
            n = u8(0, "")
            a = raw(1, lambda obj: obj.n, "")

    with pytest.raises(TypeError, match="expected 0x1"):

        class Early(Layout):
            n = u8(0, "")
            a = u8(AFTER, "")


def test_two_structures_of_one_name_are_an_error() -> None:
    with pytest.raises(TypeError, match="two layouts are called"):
        type(next(iter(DECLARED)), (Layout,), {"__module__": "elsewhere", "a": u8(0, "")})


def test_a_subclass_goes_on_where_its_base_ends() -> None:
    class Longer(Inner, size=6, register=False):
        more = u16(4, "more")

    assert Longer.parse(bytes.fromhex("010000000200")).more == 2
    with pytest.raises(TypeError, match="overlap"):

        class Bad(Inner, register=False):
            more = u16(0, "more")


# -- parsing and packing


def test_values() -> None:
    obj = Outer.parse(BYTES)
    assert (obj.flags, obj.colour, obj.count, obj.more) == (0x80000001, 2, 7, 9)
    assert obj.big == 0x8877665544332211  # little-endian
    assert obj.key == bytes.fromhex("c0ffee11")
    assert (obj.inner.a, [row.a for row in obj.rows]) == (5, [6, 7])
    assert obj.rows[1].pad == bytes.fromhex("000001")
    assert obj.pack() == BYTES


@given(st.binary(min_size=0x20, max_size=0x20))
def test_every_byte_survives(data: bytes) -> None:
    assert Outer.parse(data).pack() == data


@given(st.binary(max_size=40))
def test_parse_accepts_or_names_the_field(data: bytes) -> None:
    try:
        assert Sized.parse(data).pack() == data
    except InputError as error:
        assert str(error).startswith("Sized")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers_of_all_kinds(kind: type) -> None:
    assert Outer.parse(kind(BYTES)) == Outer.parse(BYTES)


@pytest.mark.parametrize(
    ("length", "field", "offset", "wanted", "found"),
    [(0, "flags", 0, 4, 0), (7, "more", 7, 1, 0), (0x13, "key", 0x10, 4, 3), (0x1F, "rows", 0x18, 8, 7)],
)
def test_too_short(length: int, field: str, offset: int, wanted: int, found: int) -> None:
    with pytest.raises(InputError) as caught:
        Outer.parse(BYTES[:length], where="some.file")
    assert str(caught.value) == (
        f"some.file: Outer.{field} at offset 0x{offset:X}: expected {wanted} bytes, "
        f"found {found} bytes (the data ends at 0x{length:X})"
    )


def test_too_long() -> None:
    with pytest.raises(InputError, match="Outer: expected 32 bytes, found 33 bytes"):
        Outer.parse(BYTES + b"\0")
    assert Outer.parse(BYTES + b"\0", exact=False).pack() == BYTES


def test_fresh_object() -> None:
    obj = Outer()
    assert obj.pack() == bytes(4) + b"\x01\0" + b"\0\xab" + bytes(24)
    assert Outer(flags=3, rows=(Inner(a=1), Inner(a=2))).pack()[0x18:] == bytes.fromhex("0100000002000000")
    with pytest.raises(TypeError, match="no field colur"):
        Outer(colur=1)


def test_assigning_and_copying() -> None:
    obj = Outer.parse(BYTES)
    copy = obj.replace(count=8)
    assert (obj.count, copy.count) == (7, 8)
    assert copy != obj and copy.replace(count=7) == obj
    obj.big = 1
    assert obj.pack()[8:16] == b"\x01" + bytes(7)
    assert obj != object() and Inner() != Outer()


@pytest.mark.parametrize(("field", "value"), [("flags", 1 << 32), ("count", 256), ("colour", -1), ("big", 1 << 64)])
def test_integers_that_do_not_fit(field: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"Outer.{field}: expected an integer of \d bytes, found {value:#x}"):
        Outer(**{field: value}).pack()


@pytest.mark.parametrize("value", [b"", b"abc", b"abcde"])
def test_bytes_of_the_wrong_length(value: bytes) -> None:
    with pytest.raises(InputError, match=rf"Outer.key: expected 4 bytes, found {len(value)} bytes"):
        Outer(key=value).pack()
    with pytest.raises(InputError, match=r"Outer.rows: expected 8 bytes, found 4 bytes"):
        Outer(rows=(Inner(),)).pack()


# -- unions and sizes that depend on fields


@pytest.mark.parametrize(
    ("data", "body", "entries"),
    [("03000061626301020304ffee", bytes, 0), ("00000101020304aabbccddffee", Inner, 1)],
)
def test_field_sized_parts(data: str, body: type, entries: int) -> None:
    obj = Sized.parse(bytes.fromhex(data))
    assert type(obj.body) is body and len(obj.entries) == entries and obj.tail == 0xEEFF
    assert obj.pack().hex() == data
    assert obj.offset_of("tail") == len(data) // 2 - 2
    assert obj.offset_of("body") == 3 + obj.length


def test_offset_of_unknown_field() -> None:
    with pytest.raises(KeyError):
        Outer().offset_of("nothing")


def test_field_sized_parts_that_end_early() -> None:
    with pytest.raises(InputError, match=r"Sized.text at offset 0x3: expected 4 bytes, found 3 bytes"):
        Sized.parse(bytes.fromhex("040000616263"))
    with pytest.raises(InputError, match=r"Sized.entries at offset 0x7: expected 8 bytes, found 6 bytes"):
        Sized.parse(bytes.fromhex("00000201020304aabbccddffee"))


def test_a_negative_size_is_an_input_error() -> None:
    class Rest(Layout, register=False):
        total = u8(0, "size of all")
        rest = raw(1, lambda obj: obj.total - 1, "the rest")

    assert Rest.parse(b"\x03ab").rest == b"ab"
    with pytest.raises(InputError, match=r"Rest.rest"):
        Rest.parse(b"\0")


def test_a_changed_length_must_fit_the_data() -> None:
    obj = Sized(length=3, text=b"abc")
    obj.length = 4
    with pytest.raises(InputError, match=r"Sized.text: expected 4 bytes, found 3 bytes"):
        obj.pack()


# -- describing


def test_rows() -> None:
    rows = Outer.parse(BYTES).describe()
    assert [(row.name, row.offset, row.size) for row in rows] == [
        ("flags", 0x00, 4),
        ("colour", 0x04, 2),
        ("count", 0x06, 1),
        ("more", 0x07, 1),
        ("big", 0x08, 8),
        ("key", 0x10, 4),
        ("inner.a", 0x14, 1),
        ("inner.pad", 0x15, 3),
        ("rows[0].a", 0x18, 1),
        ("rows[0].pad", 0x19, 3),
        ("rows[1].a", 0x1C, 1),
        ("rows[1].pad", 0x1D, 3),
    ]
    assert b"".join(row.data for row in rows) == BYTES
    texts = {row.name: row.text for row in rows}
    assert texts["flags"] == "0x80000001 LOW HIGH"
    assert texts["colour"] == "2 BLUE"
    assert texts["count"] == "7" and texts["big"] == "0x8877665544332211"
    assert texts["key"] == "(secret)" and texts["rows[1].pad"] == "000001"
    assert rows[0].kind == "integer" and rows[7].kind == "reserved" and rows[5].secret


def test_words_of_unknown_values() -> None:
    texts = {row.name: row.text for row in Outer(flags=6, colour=9).describe()}
    assert texts["flags"] == "6 bit 1 bit 2" and texts["colour"] == "9 (unknown)"


def test_problems() -> None:
    assert Outer.parse(BYTES).problems() == ["rows[1].pad at 0x1: reserved bytes are not zero"]
    assert Outer(colour=9, inner=Inner(pad=b"\0\0\x01")).problems() == [
        "colour at 0x4: 0x9 is not a known Colour",
        "inner.pad at 0x1: reserved bytes are not zero",
    ]
    assert Outer().problems() == []


def test_documentation_table() -> None:
    rows = {row["name"]: row for row in Outer.table()}
    assert list(rows) == ["flags", "colour", "count", "more", "big", "key", "inner", "rows"]
    assert rows["key"] == {"name": "key", "offset": 0x10, "size": 4, "kind": "bytes", "meaning": "a key"}
    variable = {row["name"]: (row["offset"], row["size"]) for row in Sized.table()}
    assert variable == {
        "length": (0, 2),
        "kind": (2, 1),
        "text": (3, None),
        "body": (None, 4),
        "entries": (None, None),
        "tail": (None, 2),
    }


def test_secrets_are_shown_nowhere() -> None:
    class Secretive(Layout, register=False):
        key = raw(0, 8, "a key", secret=True)
        number = integer(8, 4, "another", secret=True)

    class Around(Layout, register=False):
        inside = nested(0, Secretive, "nested")
        many = table(12, Secretive, 1, "in a table")

    secret = bytes.fromhex("deadbeefdeadbeef") + bytes.fromhex("efbeadde")
    obj = Around.parse(secret * 2)
    shown = [repr(obj), str(obj), repr(obj.inside), repr(obj.describe()), repr(obj.table())]
    obj.inside.number = 0xDEADBEEF << 8
    for broken in (lambda: obj.pack(), lambda: Secretive(key=secret).pack(), lambda: Secretive.parse(secret[:-1])):
        with pytest.raises(InputError) as caught:
            broken()
        shown.append(f"{caught.value}{caught.value!r}")
    for text in shown:
        for leak in ("deadbeef", "xde", "3735928559", str(0xDEADBEEF << 8)):
            assert leak not in text.lower()


# -- every structure of the package


def test_there_are_structures() -> None:
    assert {"SevCertificate", "Session", "PacketHeader", "AttestationReport"} <= set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_rows_tile_the_bytes(name: str) -> None:
    """Each byte belongs to exactly one row, and packing gives back what was parsed."""
    cls = DECLARED[name]
    data = bytes((i * 37 + 11) % 256 for i in range(cls.SIZE)) if cls.FIXED else cls().pack()
    try:
        obj = cls.parse(data)
    except InputError:  # its fields name no known form
        data = cls().pack()
        obj = cls.parse(data)
    assert obj.pack() == data
    position = 0
    for row in obj.describe():
        assert row.offset == position, row.name
        assert row.size == len(row.data) > 0
        assert row.data == data[position : position + row.size]
        assert row.meaning
        position += row.size
    assert position == len(data)


@pytest.mark.parametrize("name", DECLARED)
def test_structures_are_explained(name: str) -> None:
    cls = DECLARED[name]
    assert cls.__doc__ and cls.__doc__ != Layout.__doc__
    assert all(row["meaning"] for row in cls.table())
    assert len({row["name"] for row in cls.table()}) == len(cls.table())
