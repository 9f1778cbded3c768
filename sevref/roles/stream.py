"""How a guest in transit is written down: the stream of a migration and the file of a snapshot.

AMD's interface defines a session and packets, not how they reach the other side with what is needed to use them: the
policy, the sender's PDH certificate, and where each packet belongs. That is the hypervisor's business, and so is this
format. Integers are little-endian, sizes are in bytes:

    StreamHead          once: policy, shape of the guest, sender's PDH certificate, SESSION
    Record + body       for every piece of the guest, in any order, any number of times:
      DATA              PacketHeader (52), then ``length`` bytes of ciphertext for RECEIVE_UPDATE_DATA
      VMSA              the same for RECEIVE_UPDATE_VMSA
      SHARED            ``length`` bytes that the guest shares with the host, as they are
    Record END          once: how many records came before

No MAC covers anything outside the session and the packets: not the addresses, the order or the number of records.
Whoever carries the stream can change them, and the firmware does not notice; counting them finds accidents only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from enum import IntEnum
from typing import TypeAlias

from sevref.certs import SevCertificate
from sevref.layout import Layout, nested, raw, u32, u64
from sevref.machine import PAGE
from sevref.status import InputError
from sevref.transport import PacketHeader, Session

STREAM_MAGIC = b"SEVguest"
VERSION = 1
#: largest payload that any firmware takes in one packet
PACKET_LIMIT = 0x5000
MAX_VMSAS = 512

#: What one side says and hears: yields bytes to write, or a number of bytes to read, which are then sent in. Fewer
#: bytes than wanted mean that the channel has ended.
Conversation: TypeAlias = Generator[bytes | int, bytes, None]
#: a record, its packet header (None for SHARED and END) and its payload
Part: TypeAlias = "tuple[Record, PacketHeader | None, bytes]"


class ChannelBroken(InputError):
    """The channel, or the file, ended before what was said on it did: in ``field``, named with its offset."""


class Kind(IntEnum):
    """What a record carries."""

    DATA = 1
    VMSA = 2
    SHARED = 3
    END = 4


class StreamHead(Layout, size=0x8C8):
    """Start of a stream, 2248 bytes.

    SESSION says nothing about itself: policy and sender come from here, and are checked by it. Offset, size in bytes,
    field:

        0x000    8  magic       SEVguest
        0x008    4  version     version of this format: 1
        0x00C    4  policy      the guest's policy as SEND_START returned it; POLICY_MAC covers it
        0x010    8  ram_size    bytes of RAM from guest-physical address 0, a multiple of 4096
        0x018    4  image_size  bytes of firmware image that end at 4 GiB, a multiple of 4096
        0x01C    4  vmsas       register pages: vCPUs of an SEV-ES guest, 0 without SEV-ES
        0x020    4  reserved    zero
        0x024 2084  sender_pdh  the sender's PDH certificate at SEND_START
        0x848  128  session     SESSION as SEND_START wrote it
    """

    magic = raw(0x00, 8, "SEVguest", default=STREAM_MAGIC)
    version = u32(0x08, "version of this format: 1", default=VERSION)
    policy = u32(0x0C, "the guest's policy as SEND_START returned it; POLICY_MAC covers it")
    ram_size = u64(0x10, "bytes of RAM from guest-physical address 0, a multiple of 4096")
    image_size = u32(0x18, "bytes of firmware image that end at 4 GiB, a multiple of 4096")
    vmsas = u32(0x1C, "register pages: vCPUs of an SEV-ES guest, 0 without SEV-ES")
    reserved = raw(0x20, 4, "zero")
    sender_pdh = nested(0x24, SevCertificate, "the sender's PDH certificate at SEND_START")
    session = nested(0x848, Session, "SESSION as SEND_START wrote it")


class Record(Layout, size=0x10):
    """What comes next in a stream, 16 bytes.

    Offset, size in bytes, field:

        0x00 4  kind     1 DATA, 2 VMSA, 3 SHARED, 4 END
        0x04 4  length   bytes of payload: a multiple of 16 from 16 to 20480; 0 for END
        0x08 8  address  guest-physical address; VMSA: number of the vCPU; END: records before this one
    """

    kind = u32(0x00, "1 DATA, 2 VMSA, 3 SHARED, 4 END", names=Kind)
    length = u32(0x04, "bytes of payload: a multiple of 16 from 16 to 20480; 0 for END")
    address = u64(0x08, "guest-physical address; VMSA: number of the vCPU; END: records before this one")


class Reader:
    """Takes parts off a channel, and knows where in the stream ``name`` it is."""

    def __init__(self, name: str) -> None:
        self.name, self.offset = name, 0

    def where(self, field: str, back: int = 0) -> str:
        """Stream, offset and field, for an error about what was read ``back`` bytes ago."""
        return f"{self.name}, offset 0x{self.offset - back:X}: {field}"

    def take(self, size: int, field: str) -> Generator[bytes | int, bytes, bytes]:
        """The next ``size`` bytes, which are ``field``. ``ChannelBroken`` if there are fewer."""
        data = b""
        if size:
            data = yield size
        if len(data) != size:
            raise ChannelBroken(self.where(field), f"{size} bytes", f"{len(data)} and the end of the channel")
        self.offset += size
        return data

    def head(self, start: bytes) -> Generator[bytes | int, bytes, StreamHead]:
        """The head whose first 8 bytes are ``start``. ``InputError`` naming offset and field."""
        if start != STREAM_MAGIC:
            raise InputError(self.where("MAGIC", 8), STREAM_MAGIC.decode(), start.hex())
        head = StreamHead.parse(start + (yield from self.take(StreamHead.SIZE - 8, "head")))
        checks = {
            "version": (head.version == VERSION, VERSION),
            "ram_size": (head.ram_size % PAGE == 0 and 0 < head.ram_size < 1 << 32, "a multiple of 4096 below 4 GiB"),
            "image_size": (head.image_size % PAGE == 0 and head.image_size > 0, "a multiple of 4096, not 0"),
            "vmsas": (head.vmsas <= MAX_VMSAS, f"at most {MAX_VMSAS}"),
            "reserved": (not any(head.reserved), "zeros"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                value = getattr(head, name)
                found = value.hex() if isinstance(value, bytes) else value
                back = StreamHead.SIZE - head.offset_of(name)
                raise InputError(self.where(name.upper(), back), expected, found)
        if head.ram_size + head.image_size > 1 << 32:
            back = StreamHead.SIZE - head.offset_of("image_size")
            raise InputError(self.where("IMAGE_SIZE", back), "room between RAM and 4 GiB", head.image_size)
        return head

    def record(self, head: StreamHead) -> Generator[bytes | int, bytes, Part]:
        """A record with its packet header and payload. ``InputError`` as in ``head``."""
        record = Record.parse((yield from self.take(Record.SIZE, "record")))
        if record.kind not in set(Kind):
            raise InputError(self.where("KIND", Record.SIZE), "1 to 4", record.kind)
        if record.kind == Kind.END:
            if record.length:
                raise InputError(self.where("LENGTH", Record.SIZE - 4), "0 at the end", record.length)
            return record, None, b""
        if not 0 < record.length <= PACKET_LIMIT or record.length % 16:
            expected = f"a multiple of 16 from 16 to {PACKET_LIMIT}"
            raise InputError(self.where("LENGTH", Record.SIZE - 4), expected, record.length)
        self._check_address(record, head)
        header = None
        if record.kind != Kind.SHARED:
            header = PacketHeader.parse((yield from self.take(PacketHeader.SIZE, "packet header")))
        return record, header, (yield from self.take(record.length, "payload"))

    def _check_address(self, record: Record, head: StreamHead) -> None:
        start, end = record.address, record.address + record.length
        image = (1 << 32) - head.image_size
        if record.kind == Kind.VMSA:
            good, expected = start < head.vmsas, f"a vCPU below {head.vmsas}"
        else:
            inside = end <= head.ram_size or (image <= start and end <= 1 << 32)
            good = inside and start % 16 == 0
            expected = f"16-byte aligned, in RAM below 0x{head.ram_size:X} or in the image from 0x{image:X}"
        if not good:
            raise InputError(self.where("ADDRESS", Record.SIZE - 8), expected, f"0x{start:X}, {record.length} bytes")


def read_stream(data: bytes, name: str = "stream") -> tuple[StreamHead, list[Part]]:
    """Head and records of a whole stream in memory, END included. ``InputError`` naming offset and field."""
    parts: list[Part] = []
    heads: list[StreamHead] = []

    def read() -> Conversation:
        reader = Reader(name)
        heads.append((yield from reader.head((yield from reader.take(8, "MAGIC")))))
        while not parts or parts[-1][0].kind != Kind.END:
            parts.append((yield from reader.record(heads[0])))
        if left := len(data) - reader.offset:
            raise InputError(reader.where("end"), "the end of the stream", f"{left} more bytes")

    conversation, position = read(), 0
    step = next(conversation, None)
    while step is not None:
        assert isinstance(step, int)
        chunk, position = data[position : position + step], position + step
        try:
            step = conversation.send(chunk)
        except StopIteration:
            step = None
    return heads[0], parts


def write_stream(head: StreamHead, parts: list[Part]) -> Iterator[bytes]:
    """The bytes of head and records, piece by piece: what ``read_stream`` reads."""
    yield head.pack()
    for record, header, payload in parts:
        yield record.pack() + (b"" if header is None else header.pack()) + payload
