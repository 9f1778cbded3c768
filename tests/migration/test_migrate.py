"""A guest moves between two platforms: what arrives, what a broken channel leaves behind, who may receive."""

import socket
import threading

import pytest

from migration.stage import SHARED_AT, TEXT, TEXT_AT, Stage, image, memory
from sevref import GENOA_1_55_25, SPEC_0_24, GuestState, Policy, SevError
from sevref import Status as S
from sevref.machine import VmrunFailed
from sevref.roles.channel import FileChannel, SocketChannel, in_memory, over
from sevref.roles.migration import Incoming, Outgoing, packets, state_of
from sevref.roles.stream import ChannelBroken
from sevref.status import InputError

PROFILES = {"spec": SPEC_0_24, "genoa": GENOA_1_55_25}


@pytest.mark.parametrize("es", [False, True], ids=["sev", "es"])
@pytest.mark.parametrize("profile", PROFILES)
def test_end_to_end(profile: str, es: bool) -> None:
    generation = "genoa" if profile == "genoa" else "milan"
    a, b = (Stage(name, PROFILES[profile], generation=generation) for name in "AB")
    vm = a.guest("SEV", *(["ES"] if es else []), api=(0, 24))
    before, ciphertext = memory(vm), vm.seen_by_host(TEXT_AT - 8, 4096)
    assert TEXT in before[0x1000]
    shown: list[tuple[int, int]] = []
    there: list[tuple[int, int]] = []
    outgoing = Outgoing(vm, roots=a.roots, progress=lambda done, total: shown.append((done, total)))
    incoming = Incoming(b.host, b.chain, progress=lambda done, total: there.append((done, total)))
    in_memory(outgoing.run(), incoming.run())
    arrived = incoming.vm
    assert outgoing.done and arrived is not None
    assert memory(arrived) == before
    assert arrived.shared == {SHARED_AT} and arrived.seen_by_host(SHARED_AT, 12) == b"for the host"
    assert arrived.seen_by_host(TEXT_AT - 8, 4096) != ciphertext  # another memory key, another place
    assert TEXT not in b.machine.dram.read(0, 16 << 20)
    assert state_of(arrived) is GuestState.RUNNING
    assert b.platform.guest_status(arrived.handle).policy == Policy.make(
        "NODBG", "SEV", *(["ES"] if es else []), api=(0, 24)
    )
    assert (a.guests, b.guests) == (0, 1)
    with pytest.raises(VmrunFailed):
        vm.vcpu()
    total = 0x8000 + len(image()) + (0x2000 if es else 0)
    assert shown[-1] == there[-1] == (total, total)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    # RAM: 0-2FFF, the shared page, 4000-7FFF; image: 16 KiB twice; two VMSAs
    assert len(shown) == (7 if es else 5)


def test_registers_arrive_with_a_checksum_of_their_own() -> None:
    """Zero at 0x380 and the receiver's own slot at 0x388, nothing else changed (sheet 30, 5.8 row 11)."""
    a, b = Stage("A"), Stage("B")
    vm = a.guest("ES", vcpus=2)
    incoming = Incoming(b.host, b.chain)
    sent = [a.machine.umc.read(vm.asid, page, 4096) for page in vm.vmsas]
    in_memory(Outgoing(vm).run(), incoming.run())
    assert incoming.vm is not None
    found = [b.machine.umc.read(incoming.vm.asid, page, 4096) for page in incoming.vm.vmsas]
    assert len(found) == 2
    for old, new in zip(sent, found, strict=True):
        assert new[:0x380] == old[:0x380] and new[0x390:] == old[0x390:]
        assert new[0x380:0x388] == bytes(8)
    assert found[0][0x388:0x390] != found[1][0x388:0x390]


@pytest.fixture(scope="module")
def pair() -> tuple[Stage, Stage]:
    return Stage("A"), Stage("B")


def carried(a: Stage, b: Stage) -> int:
    vm = a.guest("ES")
    incoming = Incoming(b.host, b.chain)
    size = in_memory(Outgoing(vm).run(), incoming.run())
    assert incoming.vm is not None
    incoming.vm.stop()
    return size


def test_a_break_at_any_byte_is_followed_by_a_second_try(pair: tuple[Stage, Stage]) -> None:
    """The guest runs on the sender, or waits complete on the receiver; never in two places; and then it moves."""
    a, b = pair
    size = carried(a, b)
    offer = 0x20B4 + 2 * 1600
    head = offer + 0x8C8
    edges = [0, 1, 8, offer - 1, offer, offer + 1, offer + 8, head - 1, head, head + 1]
    edges += [head + 16, head + 17, head + 16 + 52, head + 16 + 53, head + 16 + 52 + 0x3000]
    edges += [*range(head + 5000, size - 110, 7919), *range(size - 113, size)]
    end = size - 3 * 32  # END has been sent; RECEIVED, GO and RUNNING follow
    guests = a.guests, b.guests
    for limit in edges:
        vm = a.guest("ES")
        before = memory(vm)
        outgoing, incoming = Outgoing(vm), Incoming(b.host, b.chain)
        with pytest.raises(ChannelBroken):
            in_memory(outgoing.run(), incoming.run(), limit=limit)
        assert not outgoing.done
        if limit < end + 32:  # the sender has not read RECEIVED
            assert state_of(vm) is GuestState.RUNNING and memory(vm) == before, limit
            assert incoming.vm is None
        else:
            assert state_of(vm) is GuestState.SENT, limit
            assert (incoming.vm is None) == (limit < end + 64), limit
        if limit < end:
            assert b.guests == guests[1], limit  # nothing is left of it
        in_memory(outgoing.run(), incoming.run())
        assert outgoing.done and incoming.vm is not None and memory(incoming.vm) == before, limit
        assert (a.guests, b.guests) == (guests[0], guests[1] + 1), limit
        incoming.vm.stop()
    assert len(edges) > 120


def test_a_complete_guest_whose_go_is_lost_waits_and_does_not_run(pair: tuple[Stage, Stage]) -> None:
    a, b = pair
    size = carried(a, b)
    vm = a.guest("ES")
    outgoing, incoming = Outgoing(vm), Incoming(b.host, b.chain)
    with pytest.raises(ChannelBroken):
        in_memory(outgoing.run(), incoming.run(), limit=size - 40)  # in the middle of GO
    handle = b.platform.guest_status(1).handle
    assert state_of(vm) is GuestState.SENT and b.platform.guest_status(handle).state is GuestState.RUPDATE
    carried_again = in_memory(outgoing.run(), incoming.run())
    assert carried_again == 0x20B4 + 2 * 1600 + 2 * 32  # the offer, GO, RUNNING: nothing of the guest was sent again
    assert incoming.vm is not None and outgoing.done
    incoming.vm.stop()


def test_a_receiver_that_lost_the_guest(pair: tuple[Stage, Stage]) -> None:
    """SEND_FINISH cannot be taken back: the sender says so and keeps the guest SENT."""
    a, b = pair
    vm = a.guest()
    outgoing, incoming = Outgoing(vm), Incoming(b.host, b.chain)
    probe = a.guest()
    probe_in = Incoming(b.host, b.chain)
    size = in_memory(Outgoing(probe).run(), probe_in.run())
    with pytest.raises(ChannelBroken):
        in_memory(outgoing.run(), incoming.run(), limit=size - 40)
    incoming.discard()
    with pytest.raises(InputError, match=r"TRANSFER of the offer: expected .* which was sent"):
        in_memory(outgoing.run(), incoming.run())
    assert state_of(vm) is GuestState.SENT
    vm.stop()
    assert probe_in.vm is not None
    probe_in.vm.stop()


def test_a_new_attempt_of_a_sender_that_took_its_guest_back(pair: tuple[Stage, Stage]) -> None:
    """RECEIVED never reached the sender: the waiting copy is forgotten, the guest comes anew with other keys."""
    a, b = pair
    size = carried(a, b)
    vm = a.guest("ES")
    outgoing, incoming = Outgoing(vm), Incoming(b.host, b.chain)
    with pytest.raises(ChannelBroken):
        in_memory(outgoing.run(), incoming.run(), limit=size - 70)  # RECEIVED is on its way
    assert state_of(vm) is GuestState.RUNNING
    waiting = b.guests
    vm.vcpu().write(TEXT_AT, b"new")
    in_memory(outgoing.run(), incoming.run())
    assert b.guests == waiting and incoming.vm is not None
    assert incoming.vm.vcpu().read(TEXT_AT, 3) == b"new"
    incoming.vm.stop()


def test_over_tcp(pair: tuple[Stage, Stage]) -> None:
    a, b = pair
    vm = a.guest("SEV")
    before = memory(vm)
    outgoing, incoming = Outgoing(vm, roots=a.roots), Incoming(b.host, b.chain)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            over(incoming.run(), SocketChannel(connection))

    thread = threading.Thread(target=receive)
    thread.start()
    with listener, socket.create_connection(listener.getsockname(), timeout=20) as connection:
        over(outgoing.run(), SocketChannel(connection))
        thread.join(20)
    assert incoming.vm is not None and memory(incoming.vm) == before
    incoming.vm.stop()


def test_a_tcp_connection_that_is_cut(pair: tuple[Stage, Stage]) -> None:
    a, _ = pair
    vm = a.guest()
    near, far = socket.socketpair()
    with near:
        far.sendall(Incoming(a.host, a.chain).offer()[:500])
        far.close()
        with pytest.raises(ChannelBroken, match=r"receiver's side, offset 0x8: offer: expected 8364 bytes, found 492"):
            over(Outgoing(vm).run(), SocketChannel(near))
    assert state_of(vm) is GuestState.RUNNING
    vm.stop()


def test_a_full_disk(pair: tuple[Stage, Stage]) -> None:
    """``write`` fails: the same as a broken channel."""
    a, b = pair
    vm = a.guest()

    class Full(FileChannel):
        def __init__(self) -> None:
            self.left = 3000
            self.data = Incoming(b.host, b.chain).offer()

        def read(self, size: int) -> bytes:
            part, self.data = self.data[:size], self.data[size:]
            return part

        def write(self, data: bytes) -> None:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")

    with pytest.raises(ChannelBroken, match="No space left on device"):
        over(Outgoing(vm).run(), Full())
    assert state_of(vm) is GuestState.RUNNING
    vm.stop()


# ------------------------------------------------------------------------------------------ who may receive


def test_the_receivers_refusal_reaches_the_sender() -> None:
    """A receiver without SEV-ES refuses at RECEIVE_START; the guest runs on where it was (sheet 30, 5.2 and 5.7)."""
    a, b = Stage("A"), Stage("B", es=False)
    vm = a.guest("ES")
    outgoing, incoming = Outgoing(vm), Incoming(b.host, b.chain)
    with pytest.raises(SevError) as refusal:
        in_memory(outgoing.run(), incoming.run())
    assert refusal.value.status is S.UNSUPPORTED
    told = Outgoing(vm).run()
    answers = Incoming(b.host, b.chain).run()
    step = next(answers)
    assert isinstance(step, bytes)
    with pytest.raises(SevError, match=r"UNSUPPORTED.*the receiving platform refused the guest"):
        _sender_alone(told, answers, step)
    assert state_of(vm) is GuestState.RUNNING and b.guests == 0


def _sender_alone(sender, receiver, offer):  # type: ignore[no-untyped-def]
    """Carry both sides by hand; what the receiver raises stays with the receiver."""
    inbox, outbox = bytearray(offer), bytearray()
    step, want = next(sender), next(receiver)
    over_there = False
    while True:
        if isinstance(step, int):
            while len(inbox) < step and not over_there:
                try:
                    if isinstance(want, int):
                        data, outbox = bytes(outbox[:want]), outbox[want:]
                        want = receiver.send(data)
                    else:
                        inbox += want
                        want = next(receiver)
                except SevError:
                    over_there = True
            data, inbox = bytes(inbox[:step]), inbox[step:]
            step = sender.send(data)
        else:
            outbox += step
            step = next(sender)


def test_certificates_of_the_receiver_are_checked_twice() -> None:
    """By the hypervisor if it wants to, and by the firmware if POLICY.SEV wants it to."""
    a, b = Stage("A"), Stage("B")
    forged = b.chain.replace(cek=b.platform.pdh_cert_export().cek)  # without AMD's signature
    vm, guarded = a.guest(), a.guest("SEV")
    start = len(a.host.log)
    with pytest.raises(SevError, match="the receiver's chain does not verify: CEK, signature"):
        in_memory(Outgoing(vm, roots=a.roots).run(), Incoming(b.host, forged).run())
    assert "SEND_START" not in [exchange.message for exchange in a.host.log[start:]]
    with pytest.raises(SevError) as refusal:
        in_memory(Outgoing(guarded).run(), Incoming(b.host, forged).run())
    assert (refusal.value.command, refusal.value.status) == ("SEND_START", S.INVALID_CERTIFICATE)
    incoming = Incoming(b.host, forged)
    in_memory(Outgoing(vm).run(), incoming.run())  # neither: nobody minds
    assert incoming.vm is not None


def test_another_generation_does_not_receive() -> None:
    a, b = Stage("A"), Stage("B", generation="genoa")
    vm = a.guest("SEV")
    with pytest.raises(SevError) as refusal:
        in_memory(Outgoing(vm).run(), Incoming(b.host, b.chain).run())
    assert (refusal.value.command, refusal.value.status) == ("SEND_START", S.INVALID_CERTIFICATE)


def test_nosend_stays(pair: tuple[Stage, Stage]) -> None:
    a, b = pair
    vm = a.guest("NOSEND")
    with pytest.raises(SevError) as refusal:
        in_memory(Outgoing(vm).run(), Incoming(b.host, b.chain).run())
    assert refusal.value.status is S.POLICY_FAILURE and state_of(vm) is GuestState.RUNNING
    vm.stop()


def test_packet_size(pair: tuple[Stage, Stage]) -> None:
    a, b = pair
    vm = a.guest()
    incoming = Incoming(b.host, b.chain)
    shown: list[int] = []
    in_memory(Outgoing(vm, packet_size=4096, progress=lambda done, _: shown.append(done)).run(), incoming.run())
    assert len(shown) == 8 + len(image()) // 4096
    assert incoming.vm is not None
    for wrong in (0, 100, 0x5000, -4096):
        with pytest.raises(InputError, match="packet size"):
            next(packets(incoming.vm, packet_size=wrong))
    incoming.vm.stop()
