"""Byte channels for conversations between two hypervisors: in memory, a file, a TCP connection.

A conversation (``sevref.roles.stream``) neither knows nor cares what carries it. A channel that breaks raises
``ChannelBroken`` inside the conversation, which cleans up.
"""

from __future__ import annotations

import socket
from typing import BinaryIO, Protocol

from sevref.roles.stream import ChannelBroken, Conversation


class Channel(Protocol):
    """What carries a conversation, byte by byte, in both directions.

    ``read`` returns fewer bytes than wanted only at the end; ``write`` raises ``OSError`` when nobody listens.
    """

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""

    def write(self, data: bytes) -> object:
        """Send all of ``data``."""


class FileChannel:
    """A file that is open for binary reading or writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""
        return self._file.read(size)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)


class SocketChannel:
    """A connected stream socket. Silence longer than the socket's timeout is a broken channel."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""
        data = bytearray()
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except OSError:
                break
            if not part:
                break
            data += part
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        self._socket.sendall(data)


def over(conversation: Conversation, channel: Channel) -> None:
    """Hold ``conversation`` over a blocking channel until it ends. Raises what the conversation raises."""
    try:
        step = next(conversation)
        while True:
            if isinstance(step, int):
                step = conversation.send(channel.read(step))
                continue
            try:
                channel.write(step)
            except OSError as error:
                broken = ChannelBroken("channel", f"{len(step)} bytes written", error.strerror or str(error))
                step = conversation.throw(broken)
            else:
                step = next(conversation)
    except StopIteration:
        return
    finally:
        conversation.close()


class _End:
    """One end of a channel in memory."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.inbox = bytearray()
        self.step: bytes | int | None = None
        self.error: BaseException | None = None
        self.go(None)

    def go(self, data: bytes | None, broken: bool = False) -> None:
        """Let the conversation take its next step; ``step`` is None when it is over."""
        try:
            if broken:
                self.step = self.conversation.throw(ChannelBroken("channel", "an open channel", "a broken one"))
            else:
                self.step = next(self.conversation) if data is None else self.conversation.send(data)
        except StopIteration:
            self.step = None
        except Exception as error:
            self.step, self.error = None, error


def in_memory(sender: Conversation, receiver: Conversation, *, limit: int | None = None) -> int:
    """Hold both ends of a conversation in one thread; the number of bytes that were carried.

    The ends take turns, the receiver first whenever it can go on, so that little is in flight. After ``limit`` bytes,
    of both directions together, the channel breaks. Raises what an end raised; a refusal before a broken channel.
    """
    ends = _End(receiver), _End(sender)
    carried, broken = 0, False
    while any(end.step is not None for end in ends):
        for end, other in (ends, ends[::-1]):
            if end.step is None:
                continue
            if isinstance(end.step, bytes):
                room = len(end.step) if limit is None else min(len(end.step), limit - carried)
                other.inbox += end.step[:room]
                carried += room
                broken = broken or room < len(end.step) or other.step is None
                end.go(None, broken)
            elif len(end.inbox) >= end.step or broken or other.step is None:
                data, end.inbox = bytes(end.inbox[: end.step]), end.inbox[end.step :]
                end.go(data)
            else:
                continue
            break
        else:  # each waits for the other
            broken = True
    errors = [end.error for end in ends if end.error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, ChannelBroken)):
        raise error
    return carried
