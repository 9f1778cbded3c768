"""Migration: a hypervisor sends a guest, another one receives it, and a broken channel loses nothing.

What is said on the channel, receiver first (layouts here and in ``sevref.roles.stream``)::

    receiver  Offer            its certificates, and which guest it still holds from an earlier attempt
    sender    StreamHead, Records, END
    receiver  Note RECEIVED    every packet was accepted; the guest waits in RUPDATE
    sender    Note GO          after SEND_FINISH: the guest cannot run here any more
    receiver  Note RUNNING     after RECEIVE_FINISH

Until it has read RECEIVED the sender can take everything back with SEND_CANCEL. Between RECEIVED and GO the receiver
cannot know whether the guest still runs on the sender, so it keeps the guest and does not start it; the next
conversation settles it. No order of the two commands spares anybody that: the interface gives the receiver nothing that
proves the end, and two live copies are worse than one guest that waits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from enum import IntEnum

from sevref.certs import AmdCertificate, Chain, Roots, SevCertificate, validate, verify_chain
from sevref.firmware import GuestState
from sevref.layout import Layout, nested, raw, u32
from sevref.machine import PAGE
from sevref.policy import Policy
from sevref.roles.guest_owner import GuestOwner
from sevref.roles.hypervisor import FOUR_GIB, GuestVm, Hypervisor
from sevref.roles.stream import Conversation, Kind, Reader, Record, StreamHead
from sevref.status import InputError, SevError, Status
from sevref.transport import Opened, PacketHeader

OFFER_MAGIC, NOTE_MAGIC = b"SEVoffer", b"SEVnote\0"
PACKET_SIZE = 0x4000
AMD_CERT_LIMIT = 1600

#: called with bytes of guest memory done and in all
Progress = Callable[[int, int], None]


class Said(IntEnum):
    """What a ``Note`` says."""

    NOTHING = 0
    RECEIVED = 1
    GO = 2
    RUNNING = 3
    REFUSED = 4


class Note(Layout, size=0x20):
    """Short message in either direction, 32 bytes; integers are little-endian."""

    magic = raw(0x00, 8, "SEVnote and a zero", default=NOTE_MAGIC)
    says = u32(0x08, "1 RECEIVED, 2 GO, 3 RUNNING, 4 REFUSED", names=Said)
    status = u32(0x0C, "REFUSED: status of the receiver's firmware", names=Status)
    transfer = raw(0x10, 16, "NONCE of the SESSION that it is about")


class Offer(Layout, size=0x20B4):
    """The receiver's certificates, 8372 bytes, followed by ASK and ARK if their sizes are not 0."""

    magic = raw(0x00, 8, "SEVoffer", default=OFFER_MAGIC)
    stage = u32(0x08, "of the guest named below: 0 none, 1 RECEIVED, 3 RUNNING", names=Said)
    transfer = raw(0x0C, 16, "NONCE of the SESSION of the last guest that was received")
    ask_size = u32(0x1C, "bytes of ASK behind this structure")
    ark_size = u32(0x20, "bytes of ARK behind the ASK")
    pdh = nested(0x24, SevCertificate, "PDH certificate")
    pek = nested(0x848, SevCertificate, "PEK certificate")
    oca = nested(0x106C, SevCertificate, "OCA certificate")
    cek = nested(0x1890, SevCertificate, "CEK certificate, signed by AMD")


# ---------------------------------------------------------------------------------------------- the sender


def check_receiver(chain: Chain, roots: str | Roots | list[Roots]) -> None:
    """Verify a receiver's chain down to its PDH, whatever the guest's policy demands of the firmware.

    A courtesy of the hypervisor: the guest's owner can rely on POLICY.SEV and POLICY.DOMAIN only. ``SevError`` with the
    status of the first check that fails."""
    for check in verify_chain(chain, roots).failures:
        rule = f"the receiver's chain does not verify: {check.subject}, {check.check}: {check.detail}"
        raise SevError(check.status, rule)


def begin(vm: GuestVm, receiver: Chain) -> StreamHead:
    """SEND_START of a guest for the platform of ``receiver``: the head of its stream. The guest is in SUPDATE then."""
    platform = vm.host.platform
    policy, session = platform.send_start(vm.handle, receiver)
    pdh = platform.pdh_cert_export().pdh
    assert pdh is not None
    return StreamHead(
        policy=policy,
        ram_size=vm.ram_size,
        image_size=vm.image_size,
        vmsas=len(vm.vmsas),
        sender_pdh=pdh,
        session=session,
    )


def packets(vm: GuestVm, *, packet_size: int = PACKET_SIZE, progress: Progress | None = None) -> Iterator[bytes]:
    """Every record of a guest in SUPDATE, END included: RAM, firmware image, then register pages."""
    count, done, total = 0, 0, vm.ram_size + vm.image_size + PAGE * len(vm.vmsas)
    for kind, address, size in pieces(vm, packet_size):
        yield record_of(vm, kind, address, size)
        count, done = count + 1, done + size
        if progress is not None:
            progress(done, total)
    yield Record(kind=Kind.END, address=count).pack()


def record_of(vm: GuestVm, kind: Kind, address: int, size: int) -> bytes:
    """One record: SEND_UPDATE_DATA, SEND_UPDATE_VMSA, or memory that is shared anyway."""
    platform = vm.host.platform
    record = Record(kind=kind, length=size, address=address).pack()
    if kind == Kind.SHARED:
        return record + platform.machine.host_read(vm.paddr(address), size)
    if kind == Kind.VMSA:
        header, data = platform.send_update_vmsa(vm.handle, vm.vmsas[address], size)
    else:
        header, data = platform.send_update_data(vm.handle, vm.paddr(address), size)
    return record + header.pack() + data


def pieces(vm: GuestVm, packet_size: int) -> Iterator[tuple[Kind, int, int]]:
    """(kind, address, size) of what has to be sent: private memory in packets, shared pages one by one, VMSAs."""
    if not 0 < packet_size <= PACKET_SIZE or packet_size % PAGE:
        raise InputError("packet size", f"a multiple of {PAGE} up to {PACKET_SIZE}", packet_size)
    for start, end in (0, vm.ram_size), (vm.image_gpa, FOUR_GIB):
        while start < end:
            if start in vm.shared:
                yield Kind.SHARED, start, PAGE
                start += PAGE
                continue
            size = PAGE
            while size < packet_size and start + size < end and start + size not in vm.shared:
                size += PAGE
            yield Kind.DATA, start, size
            start += size
    for number in range(len(vm.vmsas)):
        yield Kind.VMSA, number, PAGE


class Outgoing:
    """A guest on its way out. ``run`` is the sender's side of a conversation; after a failure it may be run again.

    ``roots``: verify the receiver's chain against them before SEND_START (None: leave it to the firmware). Whatever
    goes wrong before the receiver has everything, the guest runs on here. ``done`` when it runs there."""

    def __init__(
        self,
        vm: GuestVm,
        *,
        roots: str | Roots | list[Roots] | None = None,
        packet_size: int = PACKET_SIZE,
        progress: Progress | None = None,
    ) -> None:
        self.vm, self.done = vm, False
        self._roots, self._packet_size, self._progress = roots, packet_size, progress
        self._transfer = b""  # of the attempt whose SEND_FINISH has been given

    def run(self) -> Conversation:
        """The sender's side of a conversation with ``Incoming.run``.

        ``SevError``: what a firmware, or the check of the receiver's chain, refuses. ``InputError``: what the receiver
        says makes no sense; ``ChannelBroken``: it ends."""
        reader = Reader("receiver's side")
        offer, chain = yield from _read_offer(reader)
        if not self._transfer:
            yield from self._send(reader, chain)
        elif offer.transfer != self._transfer or offer.stage not in (Said.RECEIVED, Said.RUNNING):
            where = reader.where("TRANSFER of the offer")
            raise InputError(where, f"{self._transfer.hex()}, which was sent", "a receiver without that guest")
        yield Note(says=Said.GO, transfer=self._transfer).pack()
        yield from _hear(reader, Said.RUNNING, self._transfer)
        self.done = True
        self.vm.stop()

    def _send(self, reader: Reader, chain: Chain) -> Conversation:
        if self._roots is not None:
            check_receiver(chain, self._roots)
        platform, handle = self.vm.host.platform, self.vm.handle
        head = begin(self.vm, chain)
        try:
            yield head.pack()
            yield from packets(self.vm, packet_size=self._packet_size, progress=self._progress)
            yield from _hear(reader, Said.RECEIVED, head.session.nonce)
        except BaseException:
            platform.send_cancel(handle)
            raise
        platform.send_finish(handle)
        self._transfer = head.session.nonce


def _read_offer(reader: Reader) -> Generator[bytes | int, bytes, tuple[Offer, Chain]]:
    start = yield from reader.take(8, "MAGIC")
    if start != OFFER_MAGIC:
        raise InputError(reader.where("MAGIC", 8), OFFER_MAGIC.decode(), start.hex())
    offer = Offer.parse(start + (yield from reader.take(Offer.SIZE - 8, "offer")))
    amd: list[AmdCertificate | None] = []
    for name, size in ("ASK", offer.ask_size), ("ARK", offer.ark_size):
        if size > AMD_CERT_LIMIT:
            raise InputError(reader.where(f"{name}_SIZE"), f"at most {AMD_CERT_LIMIT} bytes", size)
        data = yield from reader.take(size, name)
        amd.append(AmdCertificate.parse(data, where=reader.where(name, size)) if size else None)
    chain = Chain(pdh=offer.pdh, pek=offer.pek, oca=offer.oca, cek=offer.cek, ask=amd[0], ark=amd[1])
    return offer, chain


def _hear(reader: Reader, says: Said, transfer: bytes, start: bytes = b"") -> Conversation:
    """Read a note that must say ``says`` about ``transfer``. ``SevError`` if it says REFUSED."""
    rest = yield from reader.take(Note.SIZE - len(start), f"note {says.name}")
    note = Note.parse(start + rest)
    if note.magic != NOTE_MAGIC:
        raise InputError(reader.where("MAGIC", Note.SIZE), NOTE_MAGIC.hex(), note.magic.hex())
    if note.says == Said.REFUSED and note.status in set(Status) - {Status.SUCCESS}:
        raise SevError(Status(note.status), "the receiving platform refused the guest")
    if note.says != says:
        raise InputError(reader.where("SAYS", Note.SIZE - 8), f"{says} ({says.name})", note.says)
    if note.transfer != transfer:
        raise InputError(reader.where("TRANSFER", 16), transfer.hex(), note.transfer.hex())


# ---------------------------------------------------------------------------------------------- the receiver


class Arrival:
    """A guest on its way in, on ``host``: RECEIVE_START and ACTIVATE, then ``put`` each record, then ``finish``.

    ``put`` and ``finish`` go straight to the firmware: a hostile hypervisor uses them as well as an honest one.
    ``missing`` is what an honest one looks at, because the firmware does not."""

    def __init__(self, host: Hypervisor, head: StreamHead) -> None:
        self.head, self.host = head, host
        platform = host.platform
        handle = platform.receive_start(head.policy, head.sender_pdh, head.session)
        try:
            self.vm = host.make_room(handle, Policy(head.policy).es, head.ram_size, head.image_size, head.vmsas)
        except BaseException:
            platform.decommission(handle)
            raise
        try:
            platform.activate(handle, self.vm.asid)
        except BaseException:
            platform.decommission(handle)
            self.vm.release()
            raise
        self._pages = set(self.vm.nested())
        self._vcpus = set(range(head.vmsas))
        self._count = 0

    def put(self, record: Record, header: PacketHeader | None, data: bytes) -> None:
        """Give one record to the firmware. ``SevError`` as it answers; nothing has changed then."""
        platform, handle = self.host.platform, self.vm.handle
        if header is None:
            platform.machine.host_write(self.vm.paddr(record.address), data)
            self.vm.shared.update(range(record.address, record.address + len(data), PAGE))
        elif record.kind == Kind.VMSA:
            platform.receive_update_vmsa(handle, header, data, self.vm.vmsas[record.address])
            self._vcpus.discard(record.address)
        else:
            platform.receive_update_data(handle, header, data, self.vm.paddr(record.address))
        if record.kind != Kind.VMSA:
            self._pages.difference_update(range(record.address, record.address + len(data) - PAGE + 1, PAGE))
        self._count += 1

    def missing(self, end: Record) -> str:
        """What has not come although the stream says that this is its end; empty if nothing is missing."""
        if end.address != self._count:
            return f"{self._count} of {end.address} records"
        if self._pages:
            return f"a stream without guest page 0x{min(self._pages):X}"
        return f"a stream without the registers of vCPU {min(self._vcpus)}" if self._vcpus else ""

    def fill(self, reader: Reader, progress: Progress | None = None) -> Conversation:
        """Read and ``put`` records up to END. ``InputError`` unless the guest is complete."""
        done, total = 0, self.head.ram_size + self.head.image_size + PAGE * self.head.vmsas
        while True:
            record, header, data = yield from reader.record(self.head)
            if record.kind == Kind.END:
                break
            self.put(record, header, data)
            done += record.length
            if progress is not None:
                progress(min(done, total), total)
        if missing := self.missing(record):
            raise InputError(reader.where("END", Record.SIZE), "every page of the guest", missing)

    def finish(self) -> GuestVm:
        """RECEIVE_FINISH: the guest runs here."""
        self.host.platform.receive_finish(self.vm.handle)
        return self.vm

    def discard(self) -> None:
        """DEACTIVATE and DECOMMISSION: nothing of the guest is left."""
        self.vm.stop()


class Incoming:
    """Where guests arrive. ``run`` is the receiver's side of a conversation; it may be run again and again.

    ``chain``: this platform's complete chain (``Hypervisor.certificates``). ``vm`` is the guest that runs here, None
    before. A guest that is complete but whose GO has not come is kept until the next conversation."""

    def __init__(self, host: Hypervisor, chain: Chain, *, progress: Progress | None = None) -> None:
        self.host, self.chain = host, chain
        self.vm: GuestVm | None = None
        self._progress = progress
        self._arrival: Arrival | None = None
        self._stage, self._transfer = Said.NOTHING, bytes(16)

    def offer(self) -> bytes:
        """The certificates, and the state of the last guest, as the sender reads them first."""
        chain = self.chain
        ask, ark = (b"" if cert is None else cert.pack() for cert in (chain.ask, chain.ark))
        four = {name: getattr(chain, name) for name in ("pdh", "pek", "oca", "cek")}
        offer = Offer(stage=self._stage, transfer=self._transfer, ask_size=len(ask), ark_size=len(ark), **four)
        return offer.pack() + ask + ark

    def run(self) -> Conversation:
        """The receiver's side of a conversation with ``Outgoing.run``.

        ``SevError``: what the firmware refuses, and the sender is told. ``InputError``: the stream makes no sense, or
        is incomplete; ``ChannelBroken``: it ends. In each case the firmware has forgotten the guest, except one whose
        GO is the only thing that is missing."""
        yield self.offer()
        reader = Reader("migration stream")
        start = yield from reader.take(8, "MAGIC")
        if start != NOTE_MAGIC:
            yield from self._receive(reader, start)
            start = b""
        yield from _hear(reader, Said.GO, self._transfer, start)
        if self._arrival is not None:
            self.vm, self._arrival, self._stage = self._arrival.finish(), None, Said.RUNNING
        if self._stage != Said.RUNNING:
            raise InputError(reader.where("SAYS", Note.SIZE - 8), "GO about a guest that waits here", "none waits")
        yield Note(says=Said.RUNNING, transfer=self._transfer).pack()

    def _receive(self, reader: Reader, start: bytes) -> Conversation:
        head = yield from reader.head(start)
        self.discard()  # the sender begins anew, so it still has the guest that waits here
        try:
            self._arrival = Arrival(self.host, head)
            yield from self._arrival.fill(reader, self._progress)
        except SevError as error:
            self.discard()
            yield Note(says=Said.REFUSED, status=error.status, transfer=head.session.nonce).pack()
            # The sender listens when it has sent everything; closing before would cost it this answer.
            while len((yield PACKET_SIZE)) == PACKET_SIZE:
                pass
            raise
        except BaseException:
            self.discard()
            raise
        self._stage, self._transfer = Said.RECEIVED, head.session.nonce
        yield Note(says=Said.RECEIVED, transfer=self._transfer).pack()

    def discard(self) -> None:
        """Forget a guest that arrived, completely or not, and does not run."""
        if self._arrival is not None:
            self._arrival.discard()
            self._arrival, self._stage, self._transfer = None, Said.NOTHING, bytes(16)


# ---------------------------------------------------------------------------------------------- the guest's owner


class DomainGuestOwner(GuestOwner):
    """A guest owner whose guest may move, but only inside one owner's domain: that of the OCA certificate ``domain``.

    It launches on such a platform only, and only under a policy with DOMAIN and SEV, or with NOSEND. From then on the
    firmware enforces it: SEND_START compares the receiver's OCA with the platform's own. POLICY.SEV is wanted as well,
    because DOMAIN alone proves that the domain's owner signed the receiver's PEK, not that an AMD chip holds it."""

    def __init__(self, domain: SevCertificate, roots: str | Roots | list[Roots] = "amd", **options: object) -> None:
        super().__init__(roots, **options)  # type: ignore[arg-type]
        self.domain = domain

    def check_policy(self, policy: int) -> None:
        """Refuse a policy that lets the guest leave the domain, or that ``GuestOwner.check_policy`` refuses.

        ``SevError`` POLICY_FAILURE."""
        super().check_policy(policy)
        policy = Policy(policy)
        if not policy.nosend and not (policy.domain and policy.sev):
            rule = "the policy has neither NOSEND nor both DOMAIN and SEV: the guest could be sent out of the domain"
            raise SevError(Status.POLICY_FAILURE, rule)

    def open_session(self, chain: Chain, policy: int) -> Opened:
        """As ``GuestOwner.open_session``, for a platform of this owner's domain only.

        Before it, ``SevError`` POLICY_FAILURE for a platform of another domain, and the status of the rule
        (INVALID_CERTIFICATE, BAD_SIGNATURE) if the domain's OCA did not sign the platform's PEK."""
        if chain.oca is None or chain.oca.pack() != self.domain.pack():
            raise SevError(Status.POLICY_FAILURE, "the platform's OCA certificate is not that of the domain")
        if chain.pek is not None:
            validate(chain.pek, self.domain.signing_key())
        return super().open_session(chain, policy)


def state_of(vm: GuestVm) -> GuestState:
    """GUEST_STATUS: the state of a guest."""
    return vm.host.platform.guest_status(vm.handle).state
