"""The machine's side: a victim that does ordinary things in encrypted memory, and the host it runs on.

The victim's programs are small and realistic: they serve a page, check a PIN with a failure counter, sign with
RSA-CRT, exponentiate with a constant-time ladder. Everything they compute with lies in guest memory and goes through
the engine at every step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sevref.crypto import SeededRandom
from sevref.driver import Platform
from sevref.firmware.guest import vmsa_checksum
from sevref.machine import NONE, AddressMap, Machine, VmrunFailed
from sevref.memory import EnginePreset
from sevref.policy import Policy
from sevref.status import InputError

MIB, PAGE = 1 << 20, 4096
#: guest-physical pages of the victim, and where the host placed them
RESOURCE, SECRET, STATE, LADDER, REQUEST, RSA = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x7000
DATA_PAGES, DATA_AT = 9, 0x200000
KERNEL, KERNEL_AT = 0x100000, 0x400000
CHECK = KERNEL + 0x30  # the instruction that E9 wants to replace
SAVE_AREA = 0x300000  # VMCB save area (SEV) or VMSA (SEV-ES): where the registers are while the guest does not run
ATTACKERS = 0x1000000  # from here the host's own memory
SCRATCH = 0x180000
ALIAS_DISTANCE = 0x600000
RAX, NONCE = 0x1F8, 0x300
#: SEV, SEV-ES, SEV-SNP as an ownership filter, and with ciphertext hiding and page moves refused by policy
PROTECTIONS = ("SEV", "SEV-ES", "SNP", "SNP + hiding")

# Two primes for the victim's signing key (RSA-512: large enough to be a number, small enough to print).
P = 0xE28DEFE39BF0027312476F57A5E5A5ABAEFCFAD8EFC89849B3AA7EFE4458A885
Q = 0xD3829B43922FE15AE1E3DB63EF7DDC76B92DA22B21DF306F8A0B3C3336D8393B
E = 65537
FIELD = (1 << 127) - 1


class World:
    """A host with one victim under one protection.

    ``kernel_size`` bytes of known kernel text are launched with it; ``alias`` and ``alias_check`` are about memory
    modules (E17), ``register_protection`` about saved registers: SEV-SNP XORs a fresh 8-byte value (offset 0x300 of the
    VMSA) into them before encryption; here into RAX alone."""

    def __init__(
        self,
        generation: str = "milan",
        engine: str | EnginePreset | None = None,
        protection: str = "SEV",
        *,
        seed: bytes = b"attack lab",
        kernel_size: int = 0x1000,
        alias: bool = False,
        alias_check: bool = False,
        register_protection: bool = False,
    ) -> None:
        if protection not in PROTECTIONS:
            raise InputError("protection", "one of " + ", ".join(PROTECTIONS), protection)
        self.register_protection = register_protection and protection.startswith("SNP")
        self.protection, self.es, snp = protection, protection != "SEV", protection.startswith("SNP")
        hiding = protection == PROTECTIONS[3]
        self.page_moves = not hiding  # guest policy bit 25: PAGE_MOVE is refused (here: COPY, which stands for it)
        # A little memory behind each address bit up to 31, so that the constants of all of them can be asked for.
        far = tuple((ATTACKERS + (1 << bit), PAGE) for bit in range(25, 32))
        #: boot firmware that looks for aliases refuses the memory module, so there is none (ALIAS_CHECK_COMPLETE)
        self.alias = alias and not alias_check
        self.machine = Machine(
            generation,
            seed=seed,
            engine=engine,
            address_map=AddressMap(((0, 32 * MIB), *far)),
            rmp=snp,
            ciphertext_hiding=hiding,
            alias=_two_addresses if self.alias else None,
        )
        self.platform = Platform(self.machine)
        self.platform.init(self.es)
        self.machine.wbinvd()
        self.platform.df_flush()
        self._rng = SeededRandom(seed, "victim")
        self.asid, self.own_asid, self.free_asid = (5 if self.es else 200), 201, 300
        self.policy = Policy.make("NODBG", "NOKS", *(("ES",) if self.es else ()))
        #: what the host loaded, and therefore knows
        self.kernel = hashlib.shake_128(b"text of the kernel" + seed).digest(kernel_size)
        self.nested = {page * PAGE: DATA_AT + page * PAGE for page in range(DATA_PAGES)}
        self.nested |= {KERNEL + offset: KERNEL_AT + offset for offset in range(0, kernel_size, PAGE)}
        self._own_guest = False
        self._launch()
        self.victim = Victim(self, self._rng)

    def _launch(self) -> None:
        machine, platform = self.machine, self.platform
        self.handle = platform.launch_start(self.policy)
        platform.activate(self.handle, self.asid)
        machine.host_write(DATA_AT, bytes(DATA_PAGES * PAGE))
        machine.host_write(KERNEL_AT, self.kernel)
        platform.launch_update_data(self.handle, DATA_AT, DATA_PAGES * PAGE)
        platform.launch_update_data(self.handle, KERNEL_AT, len(self.kernel))
        machine.host_write(SAVE_AREA, bytes(PAGE))
        if self.es:
            platform.launch_update_vmsa(self.handle, SAVE_AREA)
        platform.launch_measure(self.handle)
        platform.launch_finish(self.handle)
        if machine.rmp is not None:
            for gpa, address in self.nested.items():
                machine.rmp.update(address, self.asid, gpa)
            machine.rmp.update(SAVE_AREA, self.asid, 0, vmsa=True)
        self.vcpu = machine.vcpu(self.asid, nested=self.nested)
        if machine.rmp is not None:
            for gpa in self.nested:
                self.vcpu.pvalidate(gpa)

    def remap(self, gpa: int, address: int) -> None:
        """Change one nested page-table entry, and with SEV-SNP the page's owner as RMPUPDATE would."""
        if gpa % PAGE or gpa not in self.nested or address % PAGE:
            raise InputError("remap", "pages that are mapped", f"0x{gpa:X} to 0x{address:X}")
        self.nested[gpa] = address
        if self.machine.rmp is not None:
            self.machine.rmp.update(address, self.asid, gpa)

    def run_as(self, asid: int, address: int, gpa: int, size: int) -> bytes:
        """The attacker's virtual machine, started with ``asid``: what its first accesses read.

        MODEL: it does not crash afterwards. With SEV-SNP the register page must belong to the ASID that is started."""
        if self.machine.rmp is not None and asid != self.own_asid:
            raise VmrunFailed("VMRUN", f"a register page that belongs to ASID {asid}", f"ASID {self.own_asid}'s")
        if not self._own_guest:
            handle = self.platform.launch_start(0)
            self.platform.activate(handle, self.own_asid)
            self.platform.launch_measure(handle)
            self.platform.launch_finish(handle)
            self._own_guest = True
        return self.machine.vcpu(asid, nested={gpa & ~(PAGE - 1): address & ~(PAGE - 1)}).read(gpa, size)

    # -- registers while the guest does not run

    def load_registers(self) -> int:
        """VMRUN: RAX out of the save area. ``VmrunFailed`` if the checksum of a VMSA does not fit (SEV-ES)."""
        if not self.es:
            return int.from_bytes(self.machine.host_read(SAVE_AREA + RAX, 8), "little")
        page = self.machine.umc.read(self.asid, SAVE_AREA, PAGE)
        slot = self._slot(page)
        if slot is None or self.machine.umc.read(NONE, slot, 8) != vmsa_checksum(page):
            raise VmrunFailed("VMRUN", "a VMSA with the checksum that the hardware kept", "another one")
        return int.from_bytes(page[RAX : RAX + 8], "little") ^ int.from_bytes(page[NONCE : NONCE + 8], "little")

    def save_registers(self, rax: int) -> None:
        """VMEXIT: RAX into the save area, and the new checksum to where the host cannot reach it."""
        if not self.es:
            self.machine.host_write(SAVE_AREA + RAX, rax.to_bytes(8, "little"))
            return
        umc = self.machine.umc
        nonce = self._rng.draw(8) if self.register_protection else bytes(8)
        hidden = rax ^ int.from_bytes(nonce, "little")
        umc.write(self.asid, SAVE_AREA + NONCE, nonce)
        umc.write(self.asid, SAVE_AREA + RAX, hidden.to_bytes(8, "little"))
        page = umc.read(self.asid, SAVE_AREA, PAGE)
        slot = self._slot(page)
        assert slot is not None
        umc.write(NONE, slot, vmsa_checksum(page))

    def _slot(self, page: bytes) -> int | None:
        slot, start = int.from_bytes(page[0x388:0x390], "little"), self.platform.default_tmr
        return slot if start <= slot < start + MIB else None


def _two_addresses(page: int) -> int:
    """BadRAM: the megabyte at 0x800000 reaches the cells of the one at 0x200000."""
    return page - ALIAS_DISTANCE if DATA_AT + ALIAS_DISTANCE <= page < DATA_AT + ALIAS_DISTANCE + MIB else page


class Victim:
    """The programs inside the guest. Secrets are in guest memory; the attributes are what a judge compares with."""

    def __init__(self, world: World, rng: SeededRandom) -> None:
        self._world = world
        self.pin = 10 + rng.draw(1)[0] % 90
        self.exponent = int.from_bytes(rng.draw(8), "little") | 1 << 63
        self.secret = self.pin_block() + rng.draw(PAGE - 16)
        write = world.vcpu.write
        write(SECRET, self.secret)
        write(RESOURCE, b"<h1>Welcome</h1>".ljust(PAGE, b"."))
        write(STATE, bytes(PAGE))
        parts = (pow(E, -1, P - 1), pow(E, -1, Q - 1), P, Q, pow(Q, -1, P))
        write(RSA, b"".join(part.to_bytes(32, "little") for part in parts))
        self._step = 0
        self._actions: dict[str, Callable[..., Any]] = {
            action.__name__: action
            for action in (
                *(self.store, self.store_pin, self.serve, self.login, self.sign, self.check, self.digest, self.go_on),
                *(self.ladder_start, self.ladder_step, self.stop_with, self.stop_with_pin),
            )
        }

    def run(self, action: str, arguments: dict[str, Any]) -> Any:
        """One action by name, as a request over the network causes it. ``InputError`` for an unknown one."""
        if action not in self._actions:
            raise InputError("action of the victim", "one of " + ", ".join(self._actions), action)
        return self._actions[action](**arguments)

    def pin_block(self) -> bytes:
        """The 16 bytes that hold the PIN where requests are handled."""
        return (b"PIN=%02d" % self.pin).ljust(16, b"\0")

    def store(self, data: str, page: int = 0, offset: int = 0) -> None:
        """Keep a request in memory as it came."""
        self._world.vcpu.write(REQUEST + page % 2 * PAGE + offset % PAGE, bytes.fromhex(data)[:PAGE])

    def store_pin(self) -> None:
        """Put the PIN where requests are handled."""
        self._world.vcpu.write(REQUEST, self.pin_block())

    def serve(self) -> str:
        """Send the public page to whoever asks."""
        return self._world.vcpu.read(RESOURCE, PAGE).hex()

    def login(self, pin: int) -> bool:
        """Three wrong PINs lock the account: the counter is in memory."""
        vcpu = self._world.vcpu
        failures = vcpu.read(STATE, 1)[0]
        if failures >= 3:
            return False
        if vcpu.read(SECRET, 16) == (b"PIN=%02d" % pin).ljust(16, b"\0"):
            return True
        vcpu.write(STATE, bytes([failures + 1]))
        return False

    def sign(self, message: int) -> str:
        """RSA with the Chinese remainder theorem, without checking the result (that would be the countermeasure)."""
        data = self._world.vcpu.read(RSA, 160)
        dp, dq, p, q, qinv = (int.from_bytes(data[i : i + 32], "little") for i in range(0, 160, 32))
        s1, s2 = pow(message, dp, p), pow(message, dq, q)
        return str(s2 + q * (qinv * (s1 - s2) % p))

    def check(self) -> bool:
        """Run the check at a fixed address of the kernel: two bytes of NOP there let everybody pass."""
        return self._world.vcpu.read(CHECK, 2) == b"\x90\x90"

    def digest(self) -> str:
        """SHA-256 of the secret page as the guest reads it."""
        return hashlib.sha256(self._world.vcpu.read(SECRET, PAGE)).hexdigest()

    def go_on(self) -> int:
        """Run with the saved registers: count RAX up, tell it, and stop again."""
        rax = self._world.load_registers()
        self._world.save_registers(rax + 1)
        return rax

    def stop_with(self, value: int) -> None:
        """Handle a request's number: it is in RAX when the guest stops."""
        self._world.save_registers(value)

    def stop_with_pin(self) -> None:
        """The same with the PIN."""
        self._world.save_registers(self.pin)

    def ladder_start(self) -> None:
        """Begin 3 ** exponent with a Montgomery ladder."""
        self._step = 0
        self._world.vcpu.write(LADDER, (1).to_bytes(16, "little") + (3).to_bytes(16, "little"))

    def ladder_step(self) -> None:
        """One bit: the swap mask to memory, constant-time swap, one multiplication, one square."""
        vcpu, i = self._world.vcpu, 63 - self._step
        self._step += 1
        bit, before = self.exponent >> i & 1, self.exponent >> i + 1 & 1
        vcpu.write(LADDER + 0x40, bytes([0xFF * (bit ^ before)]) * 16)
        mask = int.from_bytes(vcpu.read(LADDER + 0x40, 16), "little")
        a, b = (int.from_bytes(vcpu.read(LADDER + i, 16), "little") for i in (0, 16))
        swap = (a ^ b) & mask
        a, b = a ^ swap, b ^ swap
        a, b = a * a % FIELD, a * b % FIELD
        vcpu.write(LADDER, a.to_bytes(16, "little") + b.to_bytes(16, "little"))
