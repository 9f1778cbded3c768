"""``sevref migrate``: a guest moves from one process to another, each with a chip of its own, over loopback TCP."""

from __future__ import annotations

import argparse
import socket
import sys

from sevref.cli.common import emit, integer_of, subcommands
from sevref.cli.guests import Bar, guest_options, host_options, launch, message, powered
from sevref.policy import Policy
from sevref.roles.channel import Channel, SocketChannel, over
from sevref.roles.migration import Incoming, Outgoing
from sevref.roles.stream import ChannelBroken
from sevref.status import InputError, Status

LOOPBACK = "127.0.0.1"
EXAMPLE = """\
The receiver is started first and says on standard error where it listens. Without --seed everything is random. A broken
connection loses nothing: the sender tries again, the receiver waits for it.

example (two terminals; the chips: sevref sp a new, sevref sp b new):
  sevref migrate receive b --port 7777
  sevref migrate send a --port 7777 --message "from a to b" --break-after 100000"""


def configure(parser: argparse.ArgumentParser) -> None:
    commands = subcommands(parser)
    parser.epilog = EXAMPLE
    receive = commands.add_parser("receive", help="wait for a guest, let it run, say what it finds", epilog=EXAMPLE)
    send = commands.add_parser("send", help="launch a guest and send it away", epilog=EXAMPLE)
    for command in receive, send:
        host_options(command)
        command.add_argument("--timeout", type=integer_of(16), default=60, metavar="S", help="seconds of silence")
    receive.add_argument("--port", type=integer_of(16), default=0, help="TCP port on 127.0.0.1 (default: a free one)")
    receive.set_defaults(run=run_receive)
    send.add_argument("--port", type=integer_of(16), required=True, help="where the receiver listens")
    send.add_argument("--attempts", type=integer_of(16), default=3, metavar="N", help="(default: %(default)s)")
    send.add_argument(
        "--break-after",
        type=integer_of(32),
        metavar="N",
        help="cut the first connection after N bytes, to see what follows",
    )
    guest_options(send)
    send.set_defaults(run=run_send)


def run_receive(args: argparse.Namespace) -> int:
    """Offer the chain, receive until a guest runs."""
    with powered(args, "migrate receive") as here:
        incoming = Incoming(here.host, here.chain, progress=Bar("receive"))
        attempts = 0
        with socket.create_server((LOOPBACK, args.port)) as listener:
            _say(f"listening on {LOOPBACK}:{listener.getsockname()[1]}")
            listener.settimeout(args.timeout or None)
            done = False
            while not done:
                done = _receive_once(listener, incoming, args.timeout)
                attempts += 1
        vm = incoming.vm
        assert vm is not None
        info = here.host.platform.guest_status(vm.handle)
        document = {
            "status": Status.SUCCESS.name,
            "policy": int(info.policy),
            "state": info.state.name,
            "attempts": attempts,
            "message": message(vm),
        }
    emit(args, document, f'{document["state"]}, policy {info.policy}; the guest reads: "{document["message"]}"')
    return 0


def _receive_once(listener: socket.socket, incoming: Incoming, timeout: int) -> bool:
    """One connection; whether a guest runs and its sender has been told."""
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        if incoming.vm is not None:  # the sender never came back to hear it
            return True
        raise InputError("sender", f"a connection within {timeout} seconds", "none") from None
    with connection:
        connection.settimeout(timeout or None)
        try:
            over(incoming.run(), SocketChannel(connection))
        except ChannelBroken as error:
            _say(f"the channel broke: {error}; waiting for another attempt")
            return False
    return True


def run_send(args: argparse.Namespace) -> int:
    """Launch a guest, send it, again if the channel breaks."""
    with powered(args, "migrate send") as here:
        vm = launch(here, args)
        outgoing = Outgoing(vm, roots=here.roots, progress=Bar("send"))
        attempts = 0
        while not outgoing.done:
            attempts += 1
            try:
                with socket.create_connection((LOOPBACK, args.port), timeout=args.timeout or None) as connection:
                    channel: Channel = SocketChannel(connection)
                    if args.break_after is not None and attempts == 1:
                        channel = Cut(connection, args.break_after)
                    over(outgoing.run(), channel)
            except ChannelBroken as error:
                if attempts >= args.attempts:
                    raise
                _say(f"the channel broke: {error}; trying again")
    policy = Policy(args.policy)
    document = {"status": Status.SUCCESS.name, "policy": int(policy), "attempts": attempts}
    emit(args, document, f"the guest with policy {policy} runs on the other platform; nothing of it is left here")
    return 0


class Cut(SocketChannel):
    """A connection that ends after ``left`` bytes."""

    def __init__(self, connection: socket.socket, left: int) -> None:
        super().__init__(connection)
        self._connection, self._left = connection, left

    def write(self, data: bytes) -> None:
        super().write(data[: self._left])
        if len(data) > self._left:
            self._connection.close()
            raise ConnectionResetError(104, "the connection was cut (--break-after)")
        self._left -= len(data)


def _say(text: str) -> None:
    print(f"sevref: {text}", file=sys.stderr, flush=True)
