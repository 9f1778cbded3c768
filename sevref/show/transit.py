"""A guest on its way between two platforms, for the notebooks, and the man in the middle of its packets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sevref.boot import build_firmware
from sevref.crypto import SeededRandom
from sevref.driver import Platform
from sevref.machine import PAGE, Machine
from sevref.policy import Policy
from sevref.roles import GuestVm, Hypervisor
from sevref.roles.migration import Arrival, begin, packets
from sevref.roles.stream import Kind, Part, Record, StreamHead, read_stream
from sevref.show import widgets
from sevref.show.explore import flipped
from sevref.show.html import Showable, Stack, answer, statement
from sevref.show.scene import SEED
from sevref.show.table import table
from sevref.show.widgets import Panel, panel
from sevref.status import SevError
from sevref.transport import PacketHeader

RAM, IMAGE_SIZE = 4 * PAGE, PAGE
TEXTS = [f"page {number}: only the guest may read this".encode() for number in range(RAM // PAGE)]
STALE = b"page 0: as it was some time ago".ljust(len(TEXTS[0]), b".")


@dataclass
class Transit:
    """A guest that was taken from platform A (``head``, ``parts``), and the hypervisor of B, which has it not yet."""

    receiver: Hypervisor
    head: StreamHead
    parts: list[Part]
    other: Part  #: page 0 as a packet of another SEND_START of the same guest
    stale: Part  #: page 0 of the same SEND_START, taken before the guest changed it

    @classmethod
    def build_up(cls) -> Transit:
        """Fresh platforms, the same bytes each time. Every page of the guest's RAM has a text."""
        sender, receiver = _host("platform A"), _host("platform B")
        vm = sender.launch(build_firmware(IMAGE_SIZE, secret_area=None, hashes_area=None), Policy(1), ram_size=RAM)
        vm.measure()
        vm.finish()
        for number, text in enumerate(TEXTS):
            vm.vcpu().write(number * PAGE, text.ljust(PAGE, b"\0"))
        target = receiver.platform.pdh_cert_export()
        begin(vm, target)
        other = _page(vm)
        sender.platform.send_cancel(vm.handle)
        head = begin(vm, target)
        vm.vcpu().write(0, STALE)
        stale = _page(vm)
        vm.vcpu().write(0, TEXTS[0])
        _, parts = read_stream(head.pack() + b"".join(packets(vm, packet_size=PAGE)))
        return cls(receiver, head, parts[:-1], other, stale)


def _host(name: str) -> Hypervisor:
    host = Hypervisor(Platform(Machine("milan", seed=SEED, name=name, dram_size=8 << 20)))
    host.boot()
    return host


def _page(vm: GuestVm) -> Part:
    header, data = vm.host.platform.send_update_data(vm.handle, vm.paddr(0), PAGE)
    return Record(kind=Kind.DATA, length=PAGE, address=0), header, data


# ---------------------------------------------------------------------------- the man in the middle


def _changed(part: Part, name: str, rng: SeededRandom) -> Part:
    """One bit of a packet flipped."""
    record, header, data = part
    assert header is not None
    offset = {"FLAGS: COMPRESSED": 0, "FLAGS": 1, "IV": 4, "MAC": 20}.get(name)
    if offset is None:
        return record, header, flipped(data, rng.draw(1, "offset")[0], 0)
    return record, PacketHeader.parse(flipped(header.pack(), offset, 0)), data


def _moved(part: Part, address: int) -> Part:
    return part[0].replace(address=address), part[1], part[2]


_FLIPS = ("FLAGS: COMPRESSED", "FLAGS", "IV", "MAC", "payload")
#: what the man in the middle does: the packets of RAM in order and the number of a page -> what he delivers
_CASES: dict[str, Callable[[Transit, list[Part], int], list[Part]]] = {
    "nothing": lambda _t, parts, _n: parts,
    "drop a page": lambda _t, parts, n: [*parts[:n], *parts[n + 1 :]],
    "drop everything but that page": lambda _t, parts, n: [parts[n]],
    "deliver a page twice": lambda _t, parts, n: [*parts, parts[n]],
    "reverse the order": lambda _t, parts, _n: parts[::-1],
    "exchange the addresses of two pages": lambda _t, parts, n: _exchange(parts, n),
    "deliver an older copy of page 0 last": lambda t, parts, _n: [*parts, t.stale],
    "page 0 of another SEND_START": lambda t, parts, _n: [t.other, *parts[1:]],
    **{
        f"flip a bit: {name}": lambda _t, parts, n, name=name: [  # type: ignore[misc]
            *parts[:n],
            _changed(parts[n], name, SeededRandom(SEED, "attacker")),
            *parts[n + 1 :],
        ]
        for name in _FLIPS
    },
    "call a data packet a VMSA": lambda _t, parts, n: [
        *parts[:n],
        (parts[n][0].replace(kind=Kind.VMSA, address=0), *parts[n][1:]),
        *parts[n + 1 :],
    ],
}


def _exchange(parts: list[Part], n: int) -> list[Part]:
    other = (n + 1) % len(parts)
    changed = list(parts)
    changed[n], changed[other] = _moved(parts[n], other * PAGE), _moved(parts[other], n * PAGE)
    return changed


def packets_in_the_middle() -> Panel:
    """Change what travels from SEND_UPDATE_DATA to RECEIVE_UPDATE_DATA: the answers, and what the guest reads.

    Controls: ``case`` and ``page`` (0-3). The receiving hypervisor is the attacker's: it carries on after a refusal and
    gives RECEIVE_FINISH. Whether an honest one, which counts, would have noticed is said as well.
    """
    controls = {
        "case": widgets.choice("in the middle", list(_CASES), "exchange the addresses of two pages"),
        "page": widgets.slider("page", 1, 0, len(TEXTS) - 1),
    }

    def compute(values: dict[str, Any]) -> Showable:
        transit = Transit.build_up()
        ram = [part for part in transit.parts if part[0].address < RAM]
        image = [part for part in transit.parts if part[0].address >= RAM]
        delivered = [*_CASES[values["case"]](transit, ram, values["page"]), *image]
        if values["case"].startswith("call"):
            transit.head.vmsas = 1
        return _deliver(transit, delivered)

    hint = "No MAC covers the address, the order or the number of packets. What does the guest find?"
    return panel(controls, compute, "The man in the middle of a migration", hint)


def _deliver(transit: Transit, delivered: list[Part]) -> Showable:
    arrival = Arrival(transit.receiver, transit.head)
    rows: list[dict[str, Any]] = []
    refusals: list[SevError] = []
    for part in delivered:
        record = part[0]
        status = "SUCCESS"
        try:
            arrival.put(*part)
        except SevError as error:
            refusals.append(error)
            status = error.status.name
        rows.append({"packet for": f"0x{record.address:X}", "RECEIVE_UPDATE": status})
    missing = arrival.missing(Record(kind=Kind.END, address=len(transit.parts)))
    vcpu = arrival.finish().vcpu()
    found = [vcpu.read(number * PAGE, len(text)) for number, text in enumerate(TEXTS)]
    pages = [
        {"page": number, "the guest reads": _words(data), "as sent": "yes" if data == text else "no"}
        for number, (data, text) in enumerate(zip(found, TEXTS, strict=True))
    ]
    verdict: Showable
    if refusals:
        verdict = answer(refusals[0])
    elif found == TEXTS:
        verdict = statement(True, "the guest arrived as it was sent")
    else:
        verdict = statement(False, "the firmware noticed nothing, and the guest is not what was sent")
    honest = f"An honest receiver misses something: {missing}." if missing else "An honest receiver misses nothing."
    return Stack(verdict, table(pages, honest), table(rows, "What the firmware answered"))


def _words(data: bytes) -> str:
    return data.decode() if data.isascii() and data[:1].isalpha() else f"{data[:12].hex()}... (noise)"
