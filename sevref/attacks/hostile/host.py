"""What a hostile hypervisor can do, as calls over the pipe. This is the attacker's whole world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sevref.attacks.hostile.pipe import Pipe

PAGE = 4096


class Refused(Exception):
    """The machine did not let it happen: ``kind`` names the fault or status, ``why`` the rule."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind, self.why = kind, why


class Host:
    """The hypervisor's hands. ``brief`` is what the attacker knows from the start."""

    def __init__(self, pipe: Pipe, brief: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self.brief = brief

    def ask(self, op: str, **arguments: Any) -> Any:
        """One request and its answer. ``Refused`` if the machine refuses."""
        self._pipe.send({"op": op, **arguments})
        answer = self._pipe.receive()
        if "refused" in answer:
            raise Refused(answer["refused"], answer["why"])
        return answer.get("answer")

    # -- memory

    def read(self, address: int, size: int) -> bytes:
        """A core's read; without C-bit raw, with it through the host's key."""
        return bytes.fromhex(self.ask("read", address=address, size=size))

    def write(self, address: int, data: bytes) -> None:
        """A core's write, as ``read``."""
        self.ask("write", address=address, data=data)

    def bus_read(self, address: int, size: int) -> bytes:
        """What a probe on the memory bus sees. Only for an attacker with a soldering iron."""
        return bytes.fromhex(self.ask("bus_read", address=address, size=size))

    def bus_write(self, address: int, data: bytes) -> None:
        """What an interposer on the memory bus can put there."""
        self.ask("bus_write", address=address, data=data)

    @property
    def c_bit(self) -> int:
        """The C-bit as a mask: with it in an address, a host access goes through the host's key."""
        return 1 << int(self.brief["c_bit"])

    # -- the guest's life

    def place(self, gpa: int) -> int:
        """Host address of a guest-physical one: the hypervisor made this mapping."""
        page = self.brief["nested"][str(gpa & ~(PAGE - 1))]
        return int(page) + gpa % PAGE

    def remap(self, gpa: int, address: int) -> None:
        """Change one entry of the nested page table.

        Under SEV-SNP the page's owner too (RMPUPDATE), as a hypervisor must to keep the guest running."""
        self.ask("remap", gpa=gpa, address=address)

    def run(self, action: str, **arguments: Any) -> Any:
        """Let the victim run until it has done one thing; what it answers goes over the network, in the open."""
        return self.ask("run", action=action, arguments=arguments)

    def run_as(self, asid: int, address: int, gpa: int, size: int) -> bytes:
        """Start the attacker's own virtual machine with ``asid`` in its VMCB: what its first accesses read.

        It maps ``gpa`` to host ``address``."""
        return bytes.fromhex(self.ask("run_as", asid=asid, address=address, gpa=gpa, size=size))

    # -- the mailbox

    def mailbox(self, command: int, *fields: tuple[int, int]) -> bytes:
        """Write a command buffer of (value, size) fields, ring the mailbox, read the buffer back.

        ``Refused`` with the status unless SUCCESS."""
        buffer = b"".join(value.to_bytes(size, "little") for value, size in fields)
        address = int(self.brief["scratch"])
        self.write(address, buffer)
        status = self.ask("mailbox", command=command, address=address)
        if status != "SUCCESS":
            raise Refused(status, f"command 0x{command:02X}")
        return self.read(address, len(buffer))

    def copy(self, handle: int, source: int, target: int, size: int = PAGE) -> None:
        """COPY: the firmware moves guest pages to another host address."""
        self.mailbox(0x24, (handle, 4), (size, 4), (source, 8), (target, 8))


def xor(a: bytes, b: bytes) -> bytes:
    """XOR of two byte strings of one length."""
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def blocks(data: bytes) -> list[bytes]:
    """The 16-byte blocks of ``data``."""
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def tweak(constants: Mapping[str, str], p: int) -> bytes:
    """T(p) from published constants (address bit -> 16 bytes as hexadecimal), which are all that an attacker knows."""
    value = 0
    for bit, constant in constants.items():
        if p >> int(bit) & 1:
            value ^= int.from_bytes(bytes.fromhex(constant), "little")
    return value.to_bytes(16, "little")


def rank(vectors: Iterable[int]) -> int:
    """Rank over GF(2) of integers taken as bit vectors."""
    basis: dict[int, int] = {}
    for vector in vectors:
        while vector:
            top = vector.bit_length()
            if top not in basis:
                basis[top] = vector
                break
            vector ^= basis[top]
    return len(basis)
