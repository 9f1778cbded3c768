"""Two platforms, driven at random by what hypervisors can do, against rules that no implementation decides:

- a guest's own data is never found in memory that the hypervisor sees, but for a DBG_DECRYPT that its policy allows;
- no memory key, transport key or private key is found in memory, flash, a ``repr`` or a refusal;
- a command that fails changes nothing and draws nothing (the length reports of the sheets apart);
- the firmware's states and counts are those of a model that follows the sheets' transitions;
- a guest is received only where its policy's API minimum, ES and reserved bits allow it;
- what a receiver's guest reads is bit for bit what the sender's guest had written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firmware.kit import (
    ACTIVATE,
    BUF,
    CERT,
    CERT_AT,
    COPY,
    DATA_AT,
    DBG_DECRYPT,
    DBG_ENCRYPT,
    DEACTIVATE,
    DECOMMISSION,
    DF_FLUSH,
    HEAD_AT,
    INIT,
    LAUNCH_FINISH,
    LAUNCH_MEASURE,
    LAUNCH_SECRET,
    LAUNCH_START,
    LAUNCH_UPDATE_DATA,
    LAUNCH_UPDATE_VMSA,
    MIB,
    OUT,
    PDH_GEN,
    RECEIVE_FINISH,
    RECEIVE_START,
    RECEIVE_UPDATE_DATA,
    RECEIVE_UPDATE_VMSA,
    SEND_CANCEL,
    SEND_FINISH,
    SEND_START,
    SEND_UPDATE_DATA,
    SEND_UPDATE_VMSA,
    SESSION,
    SESSION_AT,
    SHUTDOWN,
    SWAP_IN,
    SWAP_OUT,
    TMR,
    Rig,
    debug_buf,
    init_buf,
    measure_buf,
    secret_buf,
    send_start_buf,
    start_buf,
    swap_buf,
    u32,
    u64,
    update_buf,
)
from sevref import SeededRandom
from sevref import Session as SessionData
from sevref import Status as S
from sevref.machine import AddressMap
from sevref.transport import Context, make_packet

PAGE = 0x1000
LOW = 0x60000
HANDLES = range(1, 7)
GUESTS_AT = 0x30000  # three pages for each handle: two of data, one for a VMSA
VMSA = 2  # its index
LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE, SENT = 1, 2, 3, 4, 5, 6
NODBG, NOKS, ES, NOSEND, RESERVED = 1, 2, 4, 8, 0x40
# Sheet 20, section 2.6: bits 23:16 are the API's major number, 31:24 its minor one.
POLICIES = [0, NODBG, NODBG | ES, ES] * 4
POLICIES += [NODBG | NOKS, NODBG | NOSEND, NODBG | 24 << 24, NODBG | 25 << 24, NODBG | 1 << 16, NODBG | RESERVED]
SECRET_DRAWS = {"VEK", "OEK", "TEK", "TIK", "OCA key", "PEK key", "PDH key"}


class Witness:
    """A random source that hands on another's bytes and remembers those that nobody may see."""

    def __init__(self, source: SeededRandom, secrets: list[bytes]) -> None:
        self.source, self.secrets, self.drawn = source, secrets, 0

    def draw(self, size: int, what: str = "") -> bytes:
        self.drawn += 1
        data = self.source.draw(size, what)
        if what in SECRET_DRAWS:
            self.secrets.append(data)
        return data


@dataclass
class Guest:
    handle: int
    policy: int
    state: int
    asid: int = 0
    active: bool = False  # bound in RUNNING or SUPDATE: a vCPU can run
    pages: dict[int, bytes] = field(default_factory=dict)  # index -> what the guest has there, where that is known
    channel: object = None
    received: bool = False
    measure: bytes = b""
    tek: bytes = bytes(16)
    tik: bytes = bytes(16)
    swapped: list[tuple[int, bytes, bytes, bytes]] = field(default_factory=list)

    def at(self, index: int) -> int:
        return GUESTS_AT + (self.handle - 1) * 4 * PAGE + index * PAGE


@dataclass
class Packet:
    channel: object
    vmsa: bool
    header: bytes
    data: bytes
    plain: bytes


@dataclass
class Transfer:
    channel: object
    policy: int
    pdh: bytes  # the sender's certificate
    session: bytes
    receiver: Side
    receiver_pdh: int  # which of its PDHs


class Side:
    """One platform and what the model knows of it."""

    def __init__(self, name: str, version: tuple[int, int, int], secrets: list[bytes]) -> None:
        chip_key = hashlib.sha256(name.encode()).digest()
        secrets.append(chip_key)
        args = {"address_map": AddressMap(((TMR, MIB), (0, LOW))), "chip_key": chip_key, "seed": name.encode()}
        self.rig = Rig(flash=None, machine_args=args, version=version)
        self.witness = Witness(SeededRandom(b"model", name), secrets)
        self.rig.machine.rng = self.witness
        self.name, self.api = name, version[:2]
        self.pdh = 0  # counts PDHs
        self.forget()

    def forget(self) -> None:
        """After a reset or SHUTDOWN."""
        self.state, self.es, self.flushed = 0, False, False
        self.guests: dict[int, Guest] = {}
        self.dirty: set[int] = set()

    @property
    def wbinvd(self) -> bool:
        return all(self.rig.machine.wbinvd_done)


def unvmsa(page: bytes) -> bytes:
    """A register page without the two words that each platform sets for itself (sheet 20, section 3.4)."""
    return page[:0x380] + page[0x390:]


def with_guests(run: TwoPlatforms) -> bool:
    return any(side.guests for side in run.sides)


class TwoPlatforms(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.secrets: list[bytes] = []
        self.markers: list[bytes] = []
        self.texts: list[str] = []
        self.transfers: list[Transfer] = []
        self.packets: list[Packet] = []
        self.count = 0

    @initialize(
        version=st.sampled_from([(0, 24, 15), (0, 24, 15), (0, 17, 48), (1, 55, 25)]),
        es=st.sampled_from([True, True, False]),
        policy=st.sampled_from(POLICIES),
    )
    def power_on(self, version: tuple[int, int, int], es: bool, policy: int) -> None:
        """Two platforms, and a guest on A unless its policy forbids it."""
        self.sides = [Side("A", (0, 24, 15), self.secrets), Side("B", version, self.secrets)]
        self.init(self.sides[0], True)
        self.init(self.sides[1], es)
        self.launch(0, policy, "session", 0, 5)

    # -- helpers

    def fresh(self, size: int = PAGE) -> bytes:
        """Bytes that occur nowhere else; every block of 16 differs."""
        self.count += 1
        return hashlib.shake_256(self.count.to_bytes(8, "little")).digest(size)

    def command(self, side: Side, command: int, buffer: bytes, legal: bool, report: bytes = b"") -> bool:
        """One command that succeeds if and only if ``legal``. ``report``: the buffer after INVALID_LENGTH."""
        rig = side.rig
        rig.put(BUF, buffer)
        before, drawn = rig.observe(HANDLES), side.witness.drawn
        status = rig.platform.mailbox(command, BUF)
        refusal = rig.platform.refusal
        things = [
            refusal,
            rig.platform,
            rig.firmware,
            rig.firmware.identity,
            rig.machine,
            *rig.firmware.guests.values(),
        ]
        self.texts += [repr(thing) for thing in things] + [str(refusal), str(getattr(refusal, "args", ""))]
        if not report:
            assert (status == S.SUCCESS) == legal, f"{side.name}: 0x{command:02X} {status.name}: {refusal}"
        if status != S.SUCCESS:
            if report:
                assert status == S.INVALID_LENGTH and rig.get(BUF, len(report)) == report
                rig.put(BUF, buffer)
            assert rig.observe(HANDLES) == before, f"{side.name}: 0x{command:02X} {status.name} left something behind"
            assert side.witness.drawn == drawn
        rig.answer = rig.get(BUF, len(buffer))
        return status == S.SUCCESS

    def pick(self, number: int) -> tuple[Side, Guest] | None:
        everything = [(side, guest) for side in self.sides for guest in side.guests.values()]
        return everything[number % len(everything)] if everything else None

    def init(self, side: Side, es: bool) -> None:
        first = side.pdh == 0
        self.command(side, INIT, init_buf(1, 0, TMR, MIB) if es else init_buf(), side.state == 0)
        if side.state == 0:
            side.state, side.es, side.flushed, side.dirty = 1, es, False, set()
            side.pdh += first
            side.rig.machine.wbinvd()
            self.flush(side)

    def flush(self, side: Side) -> None:
        if self.command(side, DF_FLUSH, b"", side.state != 0 and side.wbinvd):
            side.flushed, side.dirty = True, set()

    # -- platform

    @rule(
        which=st.integers(0, 1),
        es=st.booleans(),
        what=st.sampled_from(
            ["INIT"] * 2 + ["PDH_GEN"] * 2 + ["flush"] * 4 + ["WBINVD, flush"] * 4 + ["power", "SHUTDOWN"]
        ),
    )
    def platform(self, which: int, es: bool, what: str) -> None:
        side = self.sides[which]
        if "flush" in what:
            if "WBINVD" in what:
                side.rig.machine.wbinvd()
            self.flush(side)
        elif what == "PDH_GEN":
            side.pdh += self.command(side, PDH_GEN, b"", True)
        else:
            if what == "power":
                side.rig.machine.power_cycle()
            elif what == "SHUTDOWN":
                self.command(side, SHUTDOWN, b"", True)
            if what != "INIT":
                side.forget()
            self.init(side, es)

    # -- launch

    @rule(
        which=st.integers(0, 1),
        policy=st.sampled_from(POLICIES),
        how=st.sampled_from(["session"] * 6 + ["none", "none", "other policy", "flipped"]),
        share=st.sampled_from([0] * 6 + [1, 2]),
        upto=st.sampled_from([5, 5, 5, 4, 3, 2, 1, 0]),
    )
    def launch(self, which: int, policy: int, how: str, share: int, upto: int) -> None:
        side = self.sides[which]
        if len(side.guests) == len(HANDLES):
            return
        lender = side.guests.get(share)
        legal = share == 0 or (lender is not None and lender.policy == policy and not policy & NOKS)
        legal = legal and (side.es or not policy & ES)
        tek = tik = bytes(16)
        buffer = start_buf(policy, share)
        if how != "none":
            # The owner's own keys must not be found either.
            rng = Witness(SeededRandom(self.fresh(16), "owner"), self.secrets)
            opened = SessionData.create(side.rig.chain()[0], policy ^ (how == "other policy"), rng=rng)
            session = bytearray(opened.session.pack())
            session[self.count % SESSION] ^= how == "flipped"
            side.rig.put(CERT_AT, opened.godh.pack())
            side.rig.put(SESSION_AT, bytes(session))
            buffer = start_buf(policy, share, CERT_AT, CERT, SESSION_AT, SESSION)
            tek, tik = opened.tek, opened.tik
            legal = legal and how == "session" and policy_fits(side, policy)
        if self.command(side, LAUNCH_START, buffer, legal):
            handle = int.from_bytes(side.rig.answer[:4], "little")
            assert handle not in side.guests
            side.guests[handle] = Guest(handle, policy, LUPDATE, tek=tek, tik=tik)
            side.state = 2
            for step in (self.activate, self.load, self.measure, self.secret, self.finish)[:upto]:
                step(None, (side, side.guests[handle]))

    def activate(self, number: int | None, chosen: Any = None) -> None:
        if found := chosen or self.pick(number or 0):
            side, guest = found
            asid = guest.handle + (5 if guest.policy & ES else 200)
            legal = guest.state != SENT and guest.asid == 0 and side.flushed and asid not in side.dirty
            if self.command(side, ACTIVATE, u32(guest.handle) + u32(asid), legal):
                guest.asid, guest.active = asid, guest.state in (RUNNING, SUPDATE)

    def load(self, number: int | None, chosen: Any = None) -> None:
        if found := chosen or self.pick(number or 0):
            side, guest = found
            legal = guest.state == LUPDATE and guest.asid != 0
            for index in (0, VMSA):
                page = self.fresh()  # the hypervisor knows it: it loads it
                kept = side.rig.get(guest.at(index), PAGE)
                side.rig.put(guest.at(index), page)
                command, ok = (
                    (LAUNCH_UPDATE_VMSA, legal and bool(guest.policy & ES)) if index else (LAUNCH_UPDATE_DATA, legal)
                )
                if self.command(side, command, update_buf(guest.handle, guest.at(index)), ok):
                    guest.pages[index] = page
                    assert side.rig.get(guest.at(index), PAGE) != page
                else:
                    side.rig.put(guest.at(index), kept)

    def measure(self, number: int | None, chosen: Any = None) -> None:
        if found := chosen or self.pick(number or 0):
            side, guest = found
            if guest.state == LUPDATE:
                self.command(
                    side, LAUNCH_MEASURE, measure_buf(guest.handle, length=0), False, measure_buf(guest.handle)
                )
            if self.command(side, LAUNCH_MEASURE, measure_buf(guest.handle), guest.state == LUPDATE):
                guest.state, guest.measure = LSECRET, side.rig.get(OUT, 32)

    def secret(self, number: int | None, chosen: Any = None) -> None:
        if found := chosen or self.pick(number or 0):
            side, guest = found
            secret = self.fresh(64)
            packet = make_packet(guest.tek, guest.tik, Context.SECRET, secret, iv=bytes(16), trailer=guest.measure)
            side.rig.put(HEAD_AT, packet[0].pack())
            side.rig.put(DATA_AT, packet[1])
            legal = guest.state == LSECRET and guest.asid != 0
            if self.command(side, LAUNCH_SECRET, secret_buf(guest.handle, guest=guest.at(0)), legal):
                self.markers.append(secret[:16])
                if 0 in guest.pages:
                    guest.pages[0] = secret + guest.pages[0][64:]

    def finish(self, number: int | None, chosen: Any = None) -> None:
        if found := chosen or self.pick(number or 0):
            side, guest = found
            if self.command(side, LAUNCH_FINISH, u32(guest.handle), guest.state == LSECRET):
                guest.state, guest.active = RUNNING, guest.asid != 0

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), what=st.integers(0, 8))
    def step(self, number: int, what: int) -> None:
        """One step of a launch, or the end of a receipt, in its turn or not."""
        steps = (self.activate, self.load, self.measure, self.secret, self.finish, self.receive_end)
        steps[what % len(steps)](number)

    # -- running

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), index=st.integers(0, 1), offset=st.integers(0, PAGE - 64))
    def guest_writes(self, number: int, index: int, offset: int) -> None:
        side, guest = self.pick(number) or (self.sides[0], None)
        if guest and guest.active and index in guest.pages:
            data = self.fresh(64)
            side.rig.machine.vcpu(guest.asid).write(guest.at(index) + offset, data)
            page = guest.pages[index]
            guest.pages[index] = page[:offset] + data + page[offset + 64 :]
            self.markers.append(data[16:32])

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), index=st.integers(0, 1), write=st.booleans())
    def debug(self, number: int, index: int, write: bool) -> None:
        side, guest = self.pick(number) or (self.sides[0], None)
        assert guest
        legal = not guest.policy & NODBG and guest.asid != 0
        if write:
            page = self.fresh()
            side.rig.put(DATA_AT, page)
            if self.command(side, DBG_ENCRYPT, debug_buf(guest.handle, DATA_AT, guest.at(index)), legal):
                guest.pages[index] = page
        elif self.command(side, DBG_DECRYPT, debug_buf(guest.handle, guest.at(index)), legal):
            if index in guest.pages:
                assert side.rig.get(DATA_AT, PAGE) == guest.pages[index]
            side.rig.put(DATA_AT, bytes(PAGE))  # permitted: from here on it must not be found again

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), index=st.integers(0, 1))
    def copy(self, number: int, index: int) -> None:
        side, guest = self.pick(number) or (self.sides[0], None)
        assert guest
        buffer = u32(guest.handle) + u32(PAGE) + u64(guest.at(index)) + u64(guest.at(1 - index))
        if self.command(side, COPY, buffer, guest.asid != 0):
            guest.pages.pop(1 - index, None)
            if index in guest.pages:
                guest.pages[1 - index] = guest.pages[index]
                assert side.rig.get(guest.at(0), PAGE) != side.rig.get(guest.at(1), PAGE)

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), index=st.sampled_from([0, 1, VMSA]), back=st.booleans(), flip=st.integers(0, 200))
    def swap(self, number: int, index: int, back: bool, flip: int) -> None:
        side, guest = self.pick(number) or (self.sides[0], None)
        if guest is None or (index == VMSA and VMSA not in guest.pages):
            return
        flags = 4 if index == VMSA else 0
        if not back:
            buffer = swap_buf(guest.handle, guest.at(index), DATA_AT, flags=flags) + bytes(8)
            if self.command(side, SWAP_OUT, buffer, guest.asid != 0) and index in guest.pages:
                guest.swapped.append(
                    (flags, guest.pages[index], side.rig.get(DATA_AT, PAGE), side.rig.get(HEAD_AT, 64))
                )
        elif fitting := [entry for entry in guest.swapped if entry[0] == flags]:
            _, page, data, entry = fitting[-1]
            blob = bytearray(data + entry)
            broken = flip < 64
            blob[-1 - flip % 48] ^= broken << 4  # the tag, the counter or the type, none of which may change
            side.rig.put(DATA_AT, bytes(blob[:PAGE]))
            side.rig.put(HEAD_AT, bytes(blob[PAGE:]))
            buffer = swap_buf(guest.handle, DATA_AT, guest.at(index), flags=flags)
            if self.command(side, SWAP_IN, buffer, guest.asid != 0 and not broken):
                guest.pages[index] = page

    @precondition(with_guests)
    @rule(number=st.integers(0, 11), only=st.integers(0, 2))
    def end(self, number: int, only: int) -> None:
        """DEACTIVATE and DECOMMISSION, or one of the two."""
        side, guest = self.pick(number) or (self.sides[0], None)
        assert guest
        if only != 2 and self.command(side, DEACTIVATE, u32(guest.handle), guest.asid != 0):
            if guest.active:
                side.dirty.add(guest.asid)
            guest.asid, guest.active = 0, False
        if only and self.command(side, DECOMMISSION, u32(guest.handle), guest.asid == 0):
            del side.guests[guest.handle]
            side.state = 2 if side.guests else 1

    # -- migration

    @precondition(with_guests)
    @rule(
        number=st.integers(0, 11),
        own=st.booleans(),
        pages=st.integers(0, 2),
        end=st.sampled_from([0, SEND_FINISH, SEND_CANCEL]),
    )
    def send(self, number: int, own: bool, pages: int, end: int) -> None:
        """SEND_START to the other platform or to this one (a snapshot), some packets, and perhaps the end."""
        side, guest = self.pick(number) or (self.sides[0], None)
        assert guest
        to = side if own else self.sides[1 - self.sides.index(side)]
        side.rig.put(CERT_AT, to.rig.chain()[0].pack())
        if guest.state == RUNNING:
            query, answer = (send_start_buf(guest.handle, session_len=length) for length in (0, SESSION))
            self.command(side, SEND_START, query, False, answer)
        legal = guest.state == RUNNING and not guest.policy & NOSEND
        if self.command(side, SEND_START, send_start_buf(guest.handle), legal):
            assert int.from_bytes(side.rig.answer[4:8], "little") == guest.policy
            guest.state, guest.channel = SUPDATE, object()
            session = side.rig.get(SESSION_AT, SESSION)
            mine = side.rig.chain()[0].pack()
            self.transfers.append(Transfer(guest.channel, guest.policy, mine, session, to, to.pdh))
        for index in (0, 1, VMSA)[: pages + 1]:
            self.send_page(side, guest, index)
        if end and self.command(side, end, u32(guest.handle), guest.state == SUPDATE):
            guest.state, guest.channel = (SENT if end == SEND_FINISH else RUNNING), None

    def send_page(self, side: Side, guest: Guest, index: int) -> None:
        if index not in guest.pages:
            return
        command, ok = (SEND_UPDATE_VMSA, bool(guest.policy & ES)) if index == VMSA else (SEND_UPDATE_DATA, True)
        buffer = secret_buf(guest.handle, guest=guest.at(index), guest_len=PAGE)
        if self.command(side, command, buffer, ok and guest.state == SUPDATE and guest.asid != 0):
            header, data = side.rig.get(HEAD_AT, 0x34), side.rig.get(DATA_AT, PAGE)
            assert data != guest.pages[index]
            self.packets.append(Packet(guest.channel, index == VMSA, header, data, guest.pages[index]))

    @precondition(lambda self: self.transfers)
    @rule(
        number=st.integers(0, 30),
        how=st.sampled_from(["as sent", "as sent", "as sent", "policy", "session"]),
        onto=st.integers(0, 3),
        packets=st.integers(0, 3),
        finish=st.booleans(),
    )
    def receive(self, number: int, how: str, onto: int, packets: int, finish: bool) -> None:
        transfer = self.transfers[-1 - number % min(3, len(self.transfers))]
        side = transfer.receiver if onto else self.sides[number % 2]
        if len(side.guests) == len(HANDLES):
            return
        session = bytearray(transfer.session)
        session[number] ^= how == "session"
        side.rig.put(CERT_AT, transfer.pdh)
        side.rig.put(SESSION_AT, bytes(session))
        policy = transfer.policy ^ (NODBG if how == "policy" else 0)
        genuine = how == "as sent" and side is transfer.receiver and side.pdh == transfer.receiver_pdh
        legal = genuine and policy_fits(side, policy) and (side.es or not policy & ES)
        buffer = start_buf(policy, 0, CERT_AT, CERT, SESSION_AT, SESSION)
        if not self.command(side, RECEIVE_START, buffer, legal):
            return
        handle = int.from_bytes(side.rig.answer[:4], "little")
        assert handle not in side.guests
        guest = side.guests[handle] = Guest(handle, policy, RUPDATE, channel=transfer.channel, received=True)
        side.state = 2
        self.activate(None, (side, guest))
        sent = [packet for packet in self.packets if packet.channel is transfer.channel]
        for packet in sent[:packets]:
            self.receive_packet(side, guest, packet, False)
        if finish:
            self.receive_end(0, (side, guest))

    @precondition(lambda self: self.packets and with_guests(self))
    @rule(number=st.integers(0, 11), which=st.integers(0, 20), flip=st.booleans())
    def receive_any(self, number: int, which: int, flip: bool) -> None:
        side, guest = self.pick(number) or (self.sides[0], None)
        assert guest
        self.receive_packet(side, guest, self.packets[-1 - which % len(self.packets)], flip)

    def receive_packet(self, side: Side, guest: Guest, packet: Packet, flip: bool) -> None:
        data = bytearray(packet.header + packet.data)
        data[(4 + self.count) % len(data) if flip else 4] ^= flip  # FLAGS, IV, MAC or payload
        side.rig.put(HEAD_AT, bytes(data[:0x34]))
        side.rig.put(DATA_AT, bytes(data[0x34:]))
        index = VMSA if packet.vmsa else self.count % 2
        command = RECEIVE_UPDATE_VMSA if packet.vmsa else RECEIVE_UPDATE_DATA
        legal = guest.state == RUPDATE and guest.asid != 0 and guest.channel is packet.channel and not flip
        if self.command(side, command, secret_buf(guest.handle, guest=guest.at(index), guest_len=PAGE), legal):
            guest.pages[index] = packet.plain

    def receive_end(self, number: int, chosen: Any = None) -> None:
        side, guest = chosen or self.pick(number) or (self.sides[0], None)
        assert guest
        if self.command(side, RECEIVE_FINISH, u32(guest.handle), guest.state == RUPDATE):
            guest.state, guest.channel, guest.active = RUNNING, None, guest.asid != 0

    # -- what holds after every step

    @invariant()
    def states_and_counts(self) -> None:
        for side in getattr(self, "sides", []):
            found = side.rig.status()
            assert (found[2], found[8]) == (side.state, len(side.guests))
            if side.state == 0:
                continue
            for handle in HANDLES:
                guest = side.guests.get(handle)
                want = (guest.state, guest.asid, guest.policy) if guest else (0, 0, 0)
                assert side.rig.guest_info(handle) == want, f"{side.name} guest {handle}"

    @invariant()
    def guests_read_what_is_theirs(self) -> None:
        for side in getattr(self, "sides", []):
            for guest in side.guests.values():
                if not guest.active:
                    continue
                vcpu = side.rig.machine.vcpu(guest.asid)
                for index, page in guest.pages.items():
                    found = vcpu.read(guest.at(index), PAGE)
                    assert found == page or (index == VMSA and unvmsa(found) == unvmsa(page))

    @invariant()
    def running_guests_have_their_policy(self) -> None:
        for side in getattr(self, "sides", []):
            for guest in side.guests.values():
                assert side.es or not guest.policy & ES
                assert policy_fits(side, guest.policy) or not guest.received

    @invariant()
    def nothing_leaks(self) -> None:
        for side in getattr(self, "sides", []):
            seen = side.rig.get(0, LOW) + bytes(side.rig.machine.flash)
            for marker in self.markers:
                assert marker not in seen, f"a guest's data in the memory of {side.name}"
            for secret in self.secrets:
                assert secret not in seen and secret[::-1] not in seen, f"a key in the memory of {side.name}"
        text = "\n".join(dict.fromkeys(self.texts)).lower()
        self.texts.clear()
        for secret in self.secrets:
            for form in spellings(secret):
                assert form not in text, "a key in a text"

    def teardown(self) -> None:
        for side in getattr(self, "sides", []):
            tmr = side.rig.get(TMR, MIB)
            assert not any(secret in tmr for secret in [*self.secrets, *self.markers])


def policy_fits(side: Side, policy: int) -> bool:
    """Sheet 30, section 2, steps 6 and 7."""
    return side.api >= (policy >> 16 & 0xFF, policy >> 24) and policy & 0xFFC0 == 0


def spellings(secret: bytes) -> list[str]:
    """How a key would look in a text."""
    both = [secret, secret[::-1]]
    forms = [data.hex() for data in both] + [repr(data)[2:-1].lower() for data in both]
    return forms + [str(int.from_bytes(secret, order)) for order in ("little", "big")]


TwoPlatforms.TestCase.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwoPlatforms = TwoPlatforms.TestCase


def test_the_model_gets_far() -> None:
    """The longest way through the rules once, so that none of them is a rule that never fires."""
    run = TwoPlatforms()

    def then(rule: Any, *arguments: Any) -> None:
        rule(*arguments)
        for check in (run.states_and_counts, run.guests_read_what_is_theirs, run.nothing_leaks):
            check()

    then(run.power_on, (0, 24, 15), True, NODBG | ES)
    sender = run.sides[0].guests[1]
    then(run.guest_writes, 0, 0, 100)
    then(run.copy, 0, 0)
    then(run.swap, 0, 1, False, 200)
    then(run.guest_writes, 0, 1, 0)
    then(run.swap, 0, 1, True, 10)
    assert sender.pages[0] != sender.pages[1]
    then(run.swap, 0, 1, True, 200)
    assert sender.pages[0] == sender.pages[1] and len(run.markers) == 3
    then(run.send, 0, True, 0, SEND_CANCEL)
    assert sender.state == RUNNING and len(run.packets) == 1
    then(run.send, 0, False, 2, SEND_FINISH)
    assert sender.state == SENT and len(run.packets) == 4
    then(run.send, 0, False, 0, 0)
    for how in ("policy", "session", "as sent"):
        then(run.receive, 0, how, 1, 0, False)
    (received,) = run.sides[1].guests.values()
    assert received.state == RUPDATE and received.asid
    for flip in (True, False):
        for which in (0, 1, 2):
            then(run.receive_any, 1, which, flip)
    then(run.receive_any, 1, 3, False)  # a packet of the cancelled session
    assert set(received.pages) >= {VMSA} and received.state == RUPDATE
    then(run.receive_end, 1)
    assert received.state == RUNNING and received.active
    then(run.debug, 0, 0, False)
    then(run.end, 0, 2)
    then(run.end, 0, 0)
    then(run.end, 0, 1)
    then(run.launch, 1, 0, "none", 0, 5)
    then(run.debug, 1, 0, True)
    then(run.debug, 1, 0, False)
    then(run.platform, 1, True, "PDH_GEN")
    then(run.receive, 0, "as sent", 1, 0, False)  # too late: the receiver has another PDH
    assert len(run.secrets) > 15 and not run.sides[0].guests and len(run.sides[1].guests) == 2
    then(run.platform, 1, True, "power")
    assert not run.sides[1].guests
