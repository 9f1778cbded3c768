"""The hardware around the AMD-SP: DRAM behind the encryption engine, address map, cores, flash, fuses, power.

Three views of memory, and no fourth: ``Machine.dram`` is what a hypervisor (or a probe on the bus) sees, raw bytes and
so a guest's ciphertext; ``Machine.vcpu`` is what a running guest sees; ``Machine.umc`` is the memory controller itself,
which only the firmware uses. What is AMD's and what is a model here follows the source notes of ``sevref.memory``.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sevref.crypto import RandomSource, random_source
from sevref.generations import generation as generation_row
from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.certs import Roots
    from sevref.memory import Engine, KeySlot

PAGE = 0x1000
#: key id of plain accesses, and of host accesses with the C-bit
NONE, HOST = 0, 1023
ASEG = (0xA0000, 0xBFFFF)
FLASH_SIZE = 0x8000


class VmrunFailed(InputError):
    """A guest access that the hardware would not make: the ASID is not valid on the core, or a page is not mapped."""


@dataclass(frozen=True)
class AddressMap:
    """Physical addresses: DRAM as (start, size) regions in bytes, legacy SMM ranges as inclusive (first, last)."""

    dram: tuple[tuple[int, int], ...]
    aseg: tuple[int, int] = ASEG
    tseg: tuple[int, int] | None = None
    c_bit: int = 51
    key_id_bits: tuple[int, int] = (46, 55)
    maximum: int = 0x3FFC_FFFF_FFFF

    @property
    def c_mask(self) -> int:
        return 1 << self.c_bit

    @property
    def key_id_mask(self) -> int:
        """Address bits that carry an ASID inside the chip; software must leave them clear (the C-bit apart)."""
        low, high = self.key_id_bits
        return ((1 << high - low + 1) - 1 << low) & ~self.c_mask


class Dram:
    """The memory cells: a byte array for each region. Addresses are physical, without the C-bit."""

    def __init__(self, regions: tuple[tuple[int, int], ...]) -> None:
        # Anonymous pages: a page of DRAM costs nothing until it is touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._regions = [(start, memoryview(mmap.mmap(-1, size, flags=flags))) for start, size in regions]

    def view(self, address: int, size: int) -> memoryview:
        """Writable view of ``size`` bytes inside one region. ``InputError`` outside DRAM."""
        for start, cells in self._regions:
            if start <= address and address + size <= start + len(cells):
                return cells[address - start : address - start + size]
        raise InputError("physical address", "a range inside one DRAM region", f"0x{address:X}, {size} bytes")

    def read(self, address: int, size: int) -> bytes:
        """``size`` raw bytes at ``address``: a guest's private memory reads as ciphertext."""
        return bytes(self.view(address, size))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put raw bytes at ``address``, past every key."""
        self.view(address, len(data))[:] = data


class MemoryController:
    """The engine's key slots, and access to DRAM through them (key id 0 = none, 1.. = ASIDs, 1023 = host)."""

    def __init__(self, dram: Dram, engine: Engine) -> None:
        self.dram, self.engine = dram, engine
        self._slots: dict[int, KeySlot] = {}

    def install(self, key_id: int, seed: bytes) -> None:
        """Load the 32-byte VEK seed into a slot; the slot keeps it until the next install or a power cycle."""
        self._slots[key_id] = self.engine.new_key(seed)

    def _key(self, key_id: int) -> KeySlot | None:
        if key_id == NONE:
            return None
        if key_id not in self._slots:
            self._slots[key_id] = self.engine.host_key() if key_id == HOST else self.engine.new_key(bytes(32))
        return self._slots[key_id]

    def read(self, key_id: int, address: int, size: int) -> bytes:
        """``size`` bytes at any alignment, decrypted with the slot's key."""
        key, low = self._key(key_id), address & ~15
        if key is None:
            return self.dram.read(address, size)
        blocks = self.dram.read(low, (address + size + 15 & ~15) - low)
        return self.engine.decrypt(key, low, blocks)[address - low : address - low + size]

    def write(self, key_id: int, address: int, data: bytes) -> None:
        """Write at any alignment: covering blocks are decrypted, merged and encrypted with the same key."""
        key, low = self._key(key_id), address & ~15
        if key is None:
            self.dram.write(address, data)
            return
        end = address + len(data) + 15 & ~15
        if low != address or end != address + len(data):
            merged = bytearray(self.read(key_id, low, end - low))
            merged[address - low : address - low + len(data)] = data
            data = bytes(merged)
        self.dram.write(low, self.engine.encrypt(key, low, data))

    def encrypt_in_place(self, source_key_id: int, key_id: int, address: int, size: int) -> None:
        """Re-encrypt a 16-byte aligned range from one slot's key to another's, without a copy of the range."""
        view, source, key = self.dram.view(address, size), self._key(source_key_id), self._key(key_id)
        if source is not None:
            self.engine.decrypt_into(source, address, view)
        if key is not None:
            self.engine.encrypt_into(key, address, view)


class Machine:
    """One socket of one server.

    ``generation`` names the product line; ``seed`` makes everything random reproducible (None: the operating
    system's randomness) and ``name`` labels this machine's streams; ``dram_size`` is in bytes, from address 0.
    ``chip_key`` is the 32-byte chip unique secret of the fuses; ``roots`` are the AMD roots whose hash is fused
    (default: the simulated AMD with its published test keys; ``root_hash`` overrides the fused hash alone). ASIDs from
    1 to ``min_sev_asid`` - 1 are for SEV-ES guests, the rest up to ``max_asid`` for plain SEV.
    """

    def __init__(
        self,
        generation: str = "milan",
        *,
        seed: bytes | None = None,
        name: str = "platform A",
        dram_size: int = 64 << 20,
        address_map: AddressMap | None = None,
        ccxs: int = 1,
        cores_per_ccx: int = 8,
        max_asid: int = 509,
        min_sev_asid: int = 100,
        chip_key: bytes | None = None,
        roots: Roots | None = None,
        rng: RandomSource | None = None,
        engine: str | None = None,
        memory_encryption: bool = True,
        activate_ex: bool = True,
        root_hash: bytes | None = None,
        store_secret: bytes | None = None,
    ) -> None:
        self.generation = generation_row(generation)
        self.name, self.seed = name, seed
        self.map = address_map or AddressMap(((0, dram_size),))
        if any(size <= 0 or size % PAGE for _, size in self.map.dram):
            raise InputError("dram_size", "a positive multiple of 4096 bytes", dram_size)
        if not 1 <= min_sev_asid <= max_asid + 1:
            raise InputError("min_sev_asid", f"1 to {max_asid + 1} (max_asid + 1)", min_sev_asid)
        self.ccxs, self.cores_per_ccx = ccxs, cores_per_ccx
        self.max_asid, self.min_sev_asid = max_asid, min_sev_asid
        self.memory_encryption, self.activate_ex = memory_encryption, activate_ex
        self._root_hash = root_hash
        self._store_secret = store_secret
        self.rng = rng or random_source(seed, name)
        self._hardware = random_source(seed, f"{name}, hardware")
        self._chip_key = self._hardware.draw(32, "chip unique key") if chip_key is None else chip_key
        if len(self._chip_key) != 32:
            raise InputError("chip_key", "32 bytes", f"{len(self._chip_key)} bytes")
        self._roots = roots
        self._engine_preset = engine or self.generation.engine
        self.dram = Dram(self.map.dram)
        self.flash = bytearray(b"\xff" * FLASH_SIZE)
        self._on_power_up: list[Callable[[], None]] = []
        self.power_cycle()

    def __repr__(self) -> str:
        size = sum(size for _, size in self.map.dram) >> 20
        return f"Machine({self.generation.name}, {self.name!r}, {size} MiB DRAM, {self.ccxs} CCX)"

    @property
    def amd(self) -> Roots:
        """The AMD root whose hash is in this chip's fuses: what a verifier of this machine must trust."""
        if self._roots is None:
            from sevref.certs import simulated_roots

            self._roots = simulated_roots(self.generation.name)
        return self._roots

    def fused_chip_key(self) -> bytes:
        """The chip unique key (32 bytes). Only the AMD-SP can read these fuses."""
        return self._chip_key

    @property
    def root_hash(self) -> bytes:
        """Hash of the only ARK that this chip accepts, in its fuses."""
        return self.amd.root_hash if self._root_hash is None else self._root_hash

    @classmethod
    def recorded(cls, name: str = "A", **changes: Any) -> Machine:
        """The machine under the recorded traces of Genoa 1.55.25 (not AMD's: the recording's own stand-in).

        256 MiB of DRAM whose last 16 MiB are TSEG, two core complexes of 16 APIC ids each, ASIDs 1-15 for SEV-ES and
        16-1006 for SEV, the recording's own memory engine, and a chip unique key of bytes 01 to 20 (hex)."""
        settings: dict[str, Any] = {
            "address_map": AddressMap(((0, 256 << 20),), tseg=(0x0F00_0000, 0x0FFF_FFFF)),
            "ccxs": 2,
            "cores_per_ccx": 16,
            "max_asid": 1006,
            "min_sev_asid": 16,
            "chip_key": bytes(range(1, 33)),
            "engine": "recorded-traces",
        }
        return cls("genoa", seed=b"", name=name, **{**settings, **changes})

    def fused_store_secret(self) -> bytes:
        """What the keys of the persistent store derive from: the chip unique key, unless the machine says otherwise."""
        return self._chip_key if self._store_secret is None else self._store_secret

    # -- power

    def power_cycle(self) -> None:
        """Reset: memory keys, tweak constants and every volatile state are lost; DRAM cells and flash stay."""
        from sevref.memory import Engine

        self.umc = MemoryController(
            self.dram,
            Engine.preset(
                self._engine_preset,
                boot_seed=self._hardware.draw(32, "boot seed of the memory engine"),
                c_bit=self.map.c_bit,
            ),
        )
        self.wbinvd_done = [False] * (self.ccxs * self.cores_per_ccx)
        self.valid_asids: dict[int, frozenset[int]] = {}
        for reset in self._on_power_up:
            reset()

    def on_power_up(self, reset: Callable[[], None]) -> None:
        """Register what else a reset clears (the AMD-SP's volatile state)."""
        self._on_power_up.append(reset)

    # -- cores

    def ccx_of(self, core: int) -> int:
        """Core complex of a core; APIC ids count the cores in order."""
        return core // self.cores_per_ccx

    def wbinvd(self, cores: list[int] | None = None) -> None:
        """Execute WBINVD on ``cores`` (default: all): sets their WBINVD_DONE flags. There are no caches to flush."""
        for core in range(len(self.wbinvd_done)) if cores is None else cores:
            self.wbinvd_done[core] = True

    # -- memory as software sees it

    def host_read(self, address: int, size: int) -> bytes:
        """Read by the hypervisor's cores: with the C-bit through the host key, without it raw."""
        return self.umc.read(HOST if address & self.map.c_mask else NONE, address & ~self.map.c_mask, size)

    def host_write(self, address: int, data: bytes) -> None:
        """Write by the hypervisor's cores, as ``host_read``."""
        self.umc.write(HOST if address & self.map.c_mask else NONE, address & ~self.map.c_mask, data)

    def vcpu(self, asid: int, *, nested: Mapping[int, int] | None = None, core: int = 0) -> VCpu:
        """A virtual CPU that runs with ``asid`` on ``core``. ``nested`` maps guest page addresses to host ones
        (multiples of 4096; None: identity). ``VmrunFailed`` unless the firmware made the ASID valid there."""
        return VCpu(self, asid, nested, core)


class VCpu:
    """What a guest sees: its guest-physical memory, private (C=1, through its key) or shared (C=0)."""

    def __init__(self, machine: Machine, asid: int, nested: Mapping[int, int] | None, core: int) -> None:
        self._machine, self.asid, self._nested, self._core = machine, asid, nested, core
        self._require_valid()

    def _require_valid(self) -> None:
        ccx = self._machine.ccx_of(self._core)
        if ccx not in self._machine.valid_asids.get(self.asid, frozenset()):
            raise VmrunFailed(f"VMRUN on core {self._core}", "an ASID valid on that core", f"ASID {self.asid}")

    def _spans(self, gpa: int, size: int) -> list[tuple[int, int]]:
        spans = []
        while size:
            page, offset = gpa & ~(PAGE - 1), gpa & PAGE - 1
            part = min(size, PAGE - offset)
            if self._nested is not None and page not in self._nested:
                raise VmrunFailed("nested page table", f"an entry for guest page 0x{page:X}", "none")
            base = page if self._nested is None else self._nested[page]
            spans.append((base + offset, part))
            gpa, size = gpa + part, size - part
        return spans

    def read(self, gpa: int, size: int, *, private: bool = True) -> bytes:
        """``size`` bytes at guest-physical ``gpa``; ``private`` is the C-bit of the guest's own page table."""
        self._require_valid()
        key = self.asid if private else NONE
        return b"".join(self._machine.umc.read(key, address, part) for address, part in self._spans(gpa, size))

    def write(self, gpa: int, data: bytes, *, private: bool = True) -> None:
        """Write at guest-physical ``gpa``, as ``read``."""
        self._require_valid()
        for address, part in self._spans(gpa, len(data)):
            self._machine.umc.write(self.asid if private else NONE, address, data[:part])
            data = data[part:]
