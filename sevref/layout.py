"""How a binary structure is declared, parsed, packed and described.

A structure is a subclass of ``Layout`` whose attributes are fields in the order and with the offsets of AMD's
tables. The one declaration yields parsing, packing, checking, the documentation table (``table``) and the byte
map (``describe``). A gap, an overlap or a wrong total is a ``TypeError`` when the module is imported::

    class Header(Layout, size=0x34):
        '''Packet header (SEV API 55766, section "LAUNCH_SECRET").'''
        flags = u32(0x00, "bit 0: COMPRESSED")
        iv = raw(0x04, 16, "initial counter block")
        mac = raw(0x14, 32, "HMAC-SHA-256")

Offsets and sizes are in bytes; integers are little-endian. Sizes may depend on earlier fields (a function of the
object, with offset ``AFTER`` = behind the previous field), and a union chooses its layout by earlier fields.
Parsing keeps every byte, reserved ones too, so ``parse(data).pack() == data`` always holds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar, overload

from sevref.status import InputError

T = TypeVar("T")
L = TypeVar("L", bound="Layout")

BitTable = Mapping[int, tuple[str, str]]
Size = int | Callable[[Any], int]
#: offset of a field that stands behind one whose size is not constant
AFTER = -1

_REGISTRY: dict[str, type[Layout]] = {}


def layouts() -> dict[str, type[Layout]]:
    """Every declared structure of the modules imported so far, by class name; ``sevref.layouts`` imports all."""
    return dict(sorted(_REGISTRY.items()))


class Row(NamedTuple):
    """One field of one object, ready to be shown; ``offset`` and ``size`` in bytes, ``data`` as in memory."""

    name: str
    offset: int
    size: int
    kind: str
    data: bytes
    text: str
    meaning: str
    secret: bool = False

    def __repr__(self) -> str:  # without the data, which may be secret
        shown = (f"{name}={value!r}" for name, value in self._asdict().items() if name != "data")
        return f"Row({', '.join(shown)})"


class Field(Generic[T]):
    """A named part of a layout; reads as its value on objects and as itself on the class.

    ``offset`` and ``size`` are in bytes; ``kind`` is one of integer, bytes, reserved, layout, union, table; ``meaning``
    is one line for people. Declared with ``u32``, ``raw`` and the other functions below."""

    name: str

    def __init__(
        self,
        kind: str,
        offset: int,
        size: Size,
        meaning: str,
        *,
        default: Any = None,
        names: type[enum.IntEnum] | None = None,
        bits: BitTable | None = None,
        choose: Callable[[Any], type[Layout] | None] | None = None,
        secret: bool = False,
    ) -> None:
        self.kind, self.offset, self.size, self.meaning = kind, offset, size, meaning
        self.default, self.names, self.bits, self.choose, self.secret = default, names, bits, choose, secret

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Layout, owner: type) -> T: ...
    def __get__(self, obj: Layout | None, owner: type) -> Any:
        return self if obj is None else obj.__dict__[self.name]

    def __repr__(self) -> str:  # what ``help`` of a layout shows for each field
        at = "behind the previous field" if self.offset == AFTER else f"at 0x{self.offset:X}"
        size = f"{self.size} bytes" if isinstance(self.size, int) else "bytes by earlier fields"
        return f"<{self.kind} {at}, {size}: {self.meaning}>"

    if TYPE_CHECKING:  # an object's values are plain attributes, which hide the fields of its class: that is fast

        def __set__(self, obj: Layout, value: T) -> None: ...

    def length(self, obj: Layout | None) -> int:
        """Size in bytes in ``obj``; ``obj`` matters where the size depends on earlier fields."""
        return self.size if isinstance(self.size, int) else self.size(obj)

    def decode(self, chunk: bytes, obj: Layout) -> Any:
        """Value of the field whose bytes are ``chunk``: a number, bytes, a layout or a tuple of layouts."""
        if self.kind == "integer":
            return int.from_bytes(chunk, "little")
        if self.kind == "bytes" or self.kind == "reserved":
            return chunk
        if self.kind == "layout" or self.kind == "union":
            cls = self.choose(obj) if self.choose else None
            return chunk if cls is None else cls.parse(chunk)
        if self.kind == "table":
            assert self.choose is not None
            cls = self.choose(obj)
            assert cls is not None
            return tuple(cls.parse(chunk[i : i + cls.SIZE]) for i in range(0, len(chunk), cls.SIZE))
        return chunk

    def encode(self, obj: Layout) -> bytes:
        """The field's bytes in ``obj``. ``InputError`` if the value does not fit its size."""
        value, size = obj.__dict__[self.name], self.size
        if not isinstance(size, int):
            size = size(obj)
        if self.kind == "integer":
            try:
                return int(value).to_bytes(size, "little")
            except OverflowError:
                found = "one outside (not shown)" if self.secret else hex(value)
                where = f"{type(obj).__name__}.{self.name}"
                raise InputError(where, f"an integer of {size} bytes", found) from None
        if isinstance(value, Layout):
            value = value.pack()
        elif self.kind == "table":
            value = b"".join(entry.pack() for entry in value)
        if len(value) != size:
            raise InputError(f"{type(obj).__name__}.{self.name}", f"{size} bytes", f"{len(value)} bytes")
        return bytes(value)

    def initial(self, obj: Layout) -> Any:
        """Value of the field in a fresh object: zero, or the declared default."""
        if self.default is not None:
            return self.default
        if self.kind == "integer":
            return 0
        return self.decode(bytes(self.length(obj)), obj)

    def text(self, value: Any) -> str:
        """The value in words: names and bits where the field has them, else hex."""
        if self.secret:
            return "(secret)"
        if self.kind != "integer":
            return value.hex() if isinstance(value, bytes) else str(value)
        shown = f"0x{value:X}" if value > 9 else str(value)
        if self.names is not None:
            known = value in self.names._value2member_map_
            return f"{shown} {self.names(value).name if known else '(unknown)'}"
        if self.bits is not None:
            on = [
                self.bits[i][0] if i in self.bits else f"bit {i}" for i in range(value.bit_length()) if value >> i & 1
            ]
            return f"{shown} {' '.join(on)}".rstrip()
        return shown


def integer(
    offset: int,
    size: Size,
    meaning: str,
    *,
    names: type[enum.IntEnum] | None = None,
    bits: BitTable | None = None,
    default: int | None = None,
    secret: bool = False,
) -> Field[int]:
    """Declare a little-endian unsigned integer of ``size`` bytes at ``offset``.

    ``names`` or ``bits`` (bit number -> name, meaning) give its values words; a ``secret`` one is shown nowhere."""
    return Field("integer", offset, size, meaning, names=names, bits=bits, default=default, secret=secret)


def u8(offset: int, meaning: str, **how: Any) -> Field[int]:
    """Declare an unsigned integer of 1 byte at ``offset``; keywords as ``integer``."""
    return integer(offset, 1, meaning, **how)


def u16(offset: int, meaning: str, **how: Any) -> Field[int]:
    """Declare a little-endian unsigned integer of 2 bytes at ``offset``; keywords as ``integer``."""
    return integer(offset, 2, meaning, **how)


def u32(offset: int, meaning: str, **how: Any) -> Field[int]:
    """Declare a little-endian unsigned integer of 4 bytes at ``offset``; keywords as ``integer``."""
    return integer(offset, 4, meaning, **how)


def u64(offset: int, meaning: str, **how: Any) -> Field[int]:
    """Declare a little-endian unsigned integer of 8 bytes at ``offset``; keywords as ``integer``."""
    return integer(offset, 8, meaning, **how)


def raw(offset: int, size: Size, meaning: str, *, default: bytes | None = None, secret: bool = False) -> Field[bytes]:
    """Declare ``size`` bytes at ``offset``, kept as they are; a ``secret`` field is shown nowhere."""
    return Field("bytes", offset, size, meaning, default=default, secret=secret)


def reserved(offset: int, size: Size, meaning: str = "reserved, zero") -> Field[bytes]:
    """Declare ``size`` bytes at ``offset`` that should be zero.

    They are kept when parsed and reported by ``Layout.problems``; whoever must refuses them."""
    return Field("reserved", offset, size, meaning)


def nested(offset: int, cls: type[L], meaning: str) -> Field[L]:
    """Declare another layout, of constant size, at ``offset``."""
    return Field("layout", offset, cls.SIZE, meaning, choose=lambda _: cls)


def union(offset: int, size: Size, choose: Callable[[Any], type[Layout] | None], meaning: str) -> Field[Any]:
    """Declare ``size`` bytes at ``offset`` that are one of several layouts.

    ``choose(object)`` names it by earlier fields; None: plain bytes."""
    return Field("union", offset, size, meaning, choose=choose)


def table(offset: int, cls: type[L], count: Size, meaning: str) -> Field[tuple[L, ...]]:
    """Declare ``count`` entries of one layout behind each other, from ``offset`` on."""
    size: Size = count * cls.SIZE if isinstance(count, int) else lambda obj: count(obj) * cls.SIZE
    return Field("table", offset, size, meaning, choose=lambda _: cls)


class Layout:
    """Base of every binary structure: one declaration for parsing, packing, checking and describing.

    Class attributes: ``fields`` (in order), ``SIZE`` (bytes; the constant part if ``FIXED`` is false). Integers are
    little-endian. Fields are keyword arguments; one that is not given is zero or its declared default, an unknown one
    is a ``TypeError``. How to declare a structure: ``sevref.layout``.

        >>> from sevref import PacketHeader
        >>> header = PacketHeader.parse(bytes(52))
        >>> header.replace(flags=1).pack()[:8].hex(), PacketHeader.SIZE
        ('0100000000000000', 52)
        >>> [(row["name"], row["offset"], row["size"]) for row in PacketHeader.table()]
        [('flags', 0, 4), ('iv', 4, 16), ('mac', 20, 32)]
    """

    fields: ClassVar[tuple[Field[Any], ...]] = ()
    SIZE: ClassVar[int] = 0
    FIXED: ClassVar[bool] = True

    def __init_subclass__(cls, size: int | None = None, register: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [value for value in vars(cls).values() if isinstance(value, Field)]
        cls.fields = (*cls.fields, *own)
        end, fixed = 0, True
        for field in cls.fields:
            if fixed and field.offset != end:
                kind = "gap" if field.offset > end else "overlap"
                raise TypeError(
                    f"{cls.__name__}.{field.name}: {kind}: declared at 0x{field.offset:X}, expected 0x{end:X}"
                )
            if not fixed and field.offset != AFTER:
                raise TypeError(f"{cls.__name__}.{field.name}: behind a field of variable size the offset is AFTER")
            if isinstance(field.size, int):
                end += field.size
            else:
                fixed = False
        if size is not None and (end != size or not fixed):
            raise TypeError(f"{cls.__name__}: declared size 0x{size:X}, fields end at 0x{end:X}")
        cls.SIZE, cls.FIXED = end, fixed
        if register and cls.fields:
            if cls.__name__ in _REGISTRY and _REGISTRY[cls.__name__].__module__ != cls.__module__:
                raise TypeError(f"two layouts are called {cls.__name__}")
            _REGISTRY[cls.__name__] = cls

    def __init__(self, **values: Any) -> None:
        for field in self.fields:
            name = field.name
            self.__dict__[name] = values.pop(name) if name in values else field.initial(self)
        if values:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(values))}")

    @property
    def _values(self) -> dict[str, Any]:
        """The value of each field by name."""
        return self.__dict__

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview, *, exact: bool = True, where: str = "") -> Self:
        """Object from the bytes ``data``; every byte is kept, reserved ones too.

        ``InputError`` names the first field that the data does not reach, or, with ``exact``, the size when bytes are
        left over. ``where`` (a file name, say) starts the message."""
        data = bytes(data)
        obj = cls.__new__(cls)
        own = obj.__dict__
        position, prefix = 0, f"{where}: " if where else ""
        for field in cls.fields:
            length = field.size if isinstance(field.size, int) else field.size(obj)
            chunk = data[position : position + length]
            if length < 0 or len(chunk) < length:
                raise InputError(
                    f"{prefix}{cls.__name__}.{field.name} at offset 0x{position:X}",
                    f"{length} bytes",
                    f"{len(chunk)} bytes (the data ends at 0x{len(data):X})",
                )
            if field.kind == "integer":  # the most frequent kind, without a call
                own[field.name] = int.from_bytes(chunk, "little")
            else:
                own[field.name] = field.decode(chunk, obj)
            position += length
        if exact and position != len(data):
            raise InputError(f"{prefix}{cls.__name__}", f"{position} bytes", f"{len(data)} bytes")
        return obj

    def pack(self) -> bytes:
        """The structure's bytes: what ``parse`` read, or ``InputError`` if a value does not fit its field."""
        return b"".join([field.encode(self) for field in self.fields])

    def replace(self, **changes: Any) -> Self:
        """Copy with some fields changed, by name; ``TypeError`` for a name that is no field."""
        return type(self)(**{**self._values, **changes})

    def offset_of(self, name: str) -> int:
        """Offset in bytes of the field called ``name`` in this object; ``KeyError`` for an unknown name."""
        for field, offset in self._spans():
            if field.name == name:
                return offset
        raise KeyError(name)

    def _spans(self) -> Iterator[tuple[Field[Any], int]]:
        position = 0
        for field in self.fields:
            yield field, position
            position += field.length(self)

    def describe(self, *, base: int = 0, prefix: str = "") -> list[Row]:
        """Every field down to the leaves: each byte of the structure belongs to exactly one row.

        ``base`` is added to the offsets, ``prefix`` stands before the names."""
        rows: list[Row] = []
        for field, offset in self._spans():
            value, name = self._values[field.name], prefix + field.name
            if isinstance(value, Layout):
                rows += value.describe(base=base + offset, prefix=name + ".")
            elif field.kind == "table":
                for i, entry in enumerate(value):
                    rows += entry.describe(base=base + offset + i * entry.SIZE, prefix=f"{name}[{i}].")
            elif field.length(self):
                data = field.encode(self)
                text = field.text(value)
                rows.append(Row(name, base + offset, len(data), field.kind, data, text, field.meaning, field.secret))
        return rows

    @classmethod
    def table(cls) -> list[dict[str, Any]]:
        """The documentation table: one dict per field with name, offset, size, kind, meaning.

        Offset and size are None where they depend on the object."""
        rows, fixed = [], True
        for field in cls.fields:
            size = field.size if isinstance(field.size, int) else None
            rows.append(
                {
                    "name": field.name,
                    "offset": field.offset if fixed else None,
                    "size": size,
                    "kind": field.kind,
                    "meaning": field.meaning,
                }
            )
            fixed = fixed and size is not None
        return rows

    def problems(self) -> list[str]:
        """Reserved bytes that are not zero and enumerated values without a name, in words."""
        found = []
        for field, offset in self._spans():
            value = self._values[field.name]
            if isinstance(value, Layout):
                found += [f"{field.name}.{problem}" for problem in value.problems()]
            elif field.kind == "table":
                for i, entry in enumerate(value):
                    found += [f"{field.name}[{i}].{problem}" for problem in entry.problems()]
            elif field.kind == "reserved" and any(value):
                found.append(f"{field.name} at 0x{offset:X}: reserved bytes are not zero")
            elif field.names is not None and value not in field.names._value2member_map_:
                found.append(f"{field.name} at 0x{offset:X}: 0x{value:X} is not a known {field.names.__name__}")
        return found

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = []
        for field in self.fields:
            text = field.text(self._values[field.name])
            if len(text) > 40:
                text = text[:32] + "..."
            parts.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(parts)})"
