"""The stream format, byte for byte, and what is said about streams that are not one."""

import random
import struct
from pathlib import Path

import pytest

from migration.stage import TEXT, TEXT_AT, Stage, image
from sevref import InputError, PacketHeader, SevError
from sevref import Status as S
from sevref.roles.migration import Arrival, begin, packets
from sevref.roles.snapshot import restore
from sevref.roles.stream import ChannelBroken, Kind, Record, StreamHead, read_stream, write_stream

HEAD = 8 + 4 + 4 + 8 + 4 + 4 + 4 + 2084 + 128
IMAGE = 0x8000
IMAGE_AT = (1 << 32) - IMAGE


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage("A")


@pytest.fixture(scope="module")
def stream(stage: Stage) -> bytes:
    vm = stage.guest("ES", vcpus=2)
    head = begin(vm, stage.chain)
    data = head.pack() + b"".join(packets(vm))
    stage.platform.send_cancel(vm.handle)
    return data


def test_every_byte_of_the_head(stage: Stage, stream: bytes) -> None:
    assert HEAD == 2248
    magic, version, policy, ram, size, vmsas, reserved = struct.unpack_from("<8sIIQIII", stream)
    assert (magic, version, policy, reserved) == (b"SEVguest", 1, 0b101, 0)
    assert (ram, size, vmsas) == (0x8000, len(image()), 2) and len(image()) == IMAGE
    assert stage.chain.pdh is not None and stream[0x24 : 0x24 + 2084] == stage.chain.pdh.pack()
    assert any(stream[0x848 : 0x848 + 128]) and len(stream[:HEAD]) == 0x848 + 128


def test_every_record(stream: bytes) -> None:
    """RAM without the shared page, the shared page in clear, the image, two register pages, END with their number."""
    expected = [
        (1, 0x3000, 0x0000),
        (3, 0x1000, 0x3000),
        (1, 0x4000, 0x4000),
        (1, 0x4000, IMAGE_AT),
        (1, 0x4000, IMAGE_AT + 0x4000),
        (2, 0x1000, 0),
        (2, 0x1000, 1),
        (4, 0, 7),
    ]
    at = HEAD
    for kind, length, address in expected:
        assert struct.unpack_from("<IIQ", stream, at) == (kind, length, address)
        at += 16
        if kind == 3:
            assert stream[at : at + 12] == b"for the host"
        if kind in (1, 2):
            assert struct.unpack_from("<I", stream, at) == (0,)  # FLAGS
            at += 52
        at += length
    assert at == len(stream)
    assert TEXT not in stream


def test_there_and_back(stream: bytes) -> None:
    head, parts = read_stream(stream)
    assert b"".join(write_stream(head, parts)) == stream
    assert [record.kind for record, _, _ in parts] == [1, 3, 1, 1, 1, 2, 2, 4]


def put(stream: bytes, offset: int, layout: str, value: object) -> bytes:
    data = bytearray(stream)
    struct.pack_into("<" + layout, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (0x00, "B", 0, "offset 0x0: MAGIC: expected SEVguest, found 004556"),
        (0x08, "I", 2, "offset 0x8: VERSION: expected 1, found 2"),
        (0x10, "Q", 0, "offset 0x10: RAM_SIZE: expected a multiple of 4096 below 4 GiB, found 0"),
        (0x10, "Q", 0x8001, "offset 0x10: RAM_SIZE"),
        (0x10, "Q", 1 << 32, "offset 0x10: RAM_SIZE"),
        (0x10, "Q", (1 << 32) - 4096, "offset 0x18: IMAGE_SIZE: expected room between RAM and 4 GiB"),
        (0x18, "I", 0, "offset 0x18: IMAGE_SIZE"),
        (0x18, "I", 16, "offset 0x18: IMAGE_SIZE"),
        (0x1C, "I", 513, "offset 0x1C: VMSAS: expected at most 512, found 513"),
        (0x20, "I", 1, "offset 0x20: RESERVED: expected zeros, found 01000000"),
        (HEAD, "I", 0, f"offset 0x{HEAD:X}: KIND: expected 1 to 4, found 0"),
        (HEAD, "I", 5, f"offset 0x{HEAD:X}: KIND"),
        (HEAD, "I", 4, f"offset 0x{HEAD + 4:X}: LENGTH: expected 0 at the end, found 12288"),
        (HEAD + 4, "I", 0, f"offset 0x{HEAD + 4:X}: LENGTH: expected a multiple of 16 from 16 to 20480, found 0"),
        (HEAD + 4, "I", 0x5010, f"offset 0x{HEAD + 4:X}: LENGTH"),
        (HEAD + 4, "I", 24, f"offset 0x{HEAD + 4:X}: LENGTH"),
        (HEAD + 8, "Q", 8, f"offset 0x{HEAD + 8:X}: ADDRESS: expected 16-byte aligned"),
        (HEAD + 8, "Q", 0x5010, f"offset 0x{HEAD + 8:X}: ADDRESS"),
        (HEAD + 8, "Q", IMAGE_AT - 16, f"offset 0x{HEAD + 8:X}: ADDRESS"),
        (HEAD + 8, "Q", (1 << 32) - 16, f"offset 0x{HEAD + 8:X}: ADDRESS"),
        (HEAD + 8, "Q", (1 << 64) - 16, f"offset 0x{HEAD + 8:X}: ADDRESS"),
        (-16 + 8, "Q", 6, "END: expected every page of the guest, found 7 of 6 records"),
        (-16 + 8, "Q", 8, "END: expected every page of the guest, found 7 of 8 records"),
    ],
)
def test_malformed(
    stage: Stage, stream: bytes, tmp_path: Path, offset: int, layout: str, value: int, message: str
) -> None:
    path = tmp_path / "guest"
    path.write_bytes(put(stream, offset % len(stream), layout, value))
    guests = stage.guests
    with pytest.raises(InputError) as error:
        restore(stage.host, path)
    assert message in str(error.value) and str(path) in str(error.value)
    assert stage.guests == guests


def test_a_vcpu_that_the_head_does_not_know(stage: Stage, stream: bytes) -> None:
    """Records of vCPUs are numbered from 0; two register pages are announced."""
    record = len(stream) - 16 - (16 + 52 + 4096)
    assert struct.unpack_from("<IIQ", stream, record) == (2, 4096, 1)
    with pytest.raises(InputError, match=rf"offset 0x{record + 8:X}: ADDRESS: expected a vCPU below 2, found 0x2"):
        read_stream(put(stream, record + 8, "Q", 2))


def test_cut_off_anywhere(stage: Stage, stream: bytes, tmp_path: Path) -> None:
    path, guests = tmp_path / "guest", stage.guests
    for size in [
        *range(40),
        *range(0x840, 0x920),
        *range(3000, len(stream), 9001),
        *range(len(stream) - 20, len(stream)),
    ]:
        path.write_bytes(stream[:size])
        with pytest.raises(ChannelBroken, match=r"expected [0-9]+ bytes, found [0-9]+ and the end of the channel"):
            restore(stage.host, path)
    assert stage.guests == guests


def test_more_than_there_should_be(stage: Stage, stream: bytes, tmp_path: Path) -> None:
    path, guests = tmp_path / "guest", stage.guests
    path.write_bytes(stream + b"\0")
    with pytest.raises(InputError, match="expected the end of the file, found more bytes"):
        restore(stage.host, path)
    with pytest.raises(InputError, match="expected the end of the stream, found 1 more bytes"):
        read_stream(stream + b"\0")
    assert stage.guests == guests


def test_an_honest_receiver_counts(stage: Stage, stream: bytes, tmp_path: Path) -> None:
    """A dropped record, and a dropped one that a duplicate makes up for: nobody's MAC notices, the receiver does."""
    path, guests = tmp_path / "guest", stage.guests
    head, parts = read_stream(stream)
    cases = [
        ([*parts[:2], *parts[3:]], "found 6 of 7 records"),
        ([parts[0], *parts[:2], *parts[3:]], "found a stream without guest page 0x4000"),
        ([*parts[:6], parts[5], parts[7]], "found a stream without the registers of vCPU 1"),
    ]
    for changed, message in cases:
        path.write_bytes(b"".join(write_stream(head, changed)))
        with pytest.raises(InputError, match=message):
            restore(stage.host, path)
        assert stage.guests == guests


def test_any_changed_byte_is_refused_or_harmless(stage: Stage, stream: bytes, tmp_path: Path) -> None:
    """One flipped bit: refused, or (bytes that nobody reads, and addresses) a guest whose state is its own business."""
    path, guests = tmp_path / "guest", stage.guests
    rng = random.Random(7)
    for offset in [*range(0x24), *rng.sample(range(0x848, len(stream)), 60)]:
        changed = bytearray(stream)
        changed[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            vm = restore(stage.host, path)
        except (SevError, InputError):
            pass
        else:
            assert HEAD + 16 + 52 + 0x3000 <= offset < HEAD + 16 + 52 + 0x4010, hex(offset)  # the shared page
            vm.stop()
        assert stage.guests == guests


def test_resent_pages_win(stage: Stage, stream: bytes) -> None:
    """Live migration: the same address twice, the later one counts; the firmware minds neither."""
    vm = stage.guest()
    head = begin(vm, stage.chain)
    _, parts = read_stream(head.pack() + b"".join(packets(vm)))
    vm.vcpu().write(TEXT_AT, b"a later word")
    header, data = stage.platform.send_update_data(vm.handle, vm.paddr(0x1000), 4096)
    later = (Record(kind=Kind.DATA, length=4096, address=0x1000), header, data)
    stage.platform.send_cancel(vm.handle)
    arrival = Arrival(stage.host, head)
    for part in [*parts[:-1], later]:
        arrival.put(*part)
    assert arrival.missing(Record(kind=Kind.END, address=len(parts))) == ""
    assert arrival.finish().vcpu().read(TEXT_AT, 12) == b"a later word"
    arrival.vm.stop()
    vm.stop()


def test_no_room(stage: Stage, stream: bytes) -> None:
    """The host's memory does not suffice: the firmware forgets the guest, and everything can be used as before."""
    head = StreamHead.parse(stream[:HEAD])
    guests = stage.guests
    for changes in ({"ram_size": 0x1000000}, {"vmsas": 512, "ram_size": 0xD00000}):
        with pytest.raises(SevError) as error:
            Arrival(stage.host, head.replace(**changes))
        assert error.value.status is S.RESOURCE_LIMIT and stage.guests == guests
    arrival = Arrival(stage.host, head)
    arrival.discard()
    assert stage.guests == guests


def test_wrong_header_size_is_not_ours_to_judge(stage: Stage, stream: bytes) -> None:
    """A record whose packet the firmware refuses leaves the guest memory as it was, and may come again."""
    head, parts = read_stream(stream)
    arrival = Arrival(stage.host, head)
    record, header, data = parts[0]
    before = arrival.vm.seen_by_host(0, 4096)
    assert isinstance(header, PacketHeader)
    with pytest.raises(SevError) as error:
        arrival.put(record, header.replace(iv=bytes(16)), data)
    assert error.value.status is S.BAD_MEASUREMENT and arrival.vm.seen_by_host(0, 4096) == before
    arrival.put(record, header, data)
    assert arrival.vm.seen_by_host(0, 4096) != before
    arrival.discard()
