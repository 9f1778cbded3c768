"""The hardware around the AMD-SP: DRAM behind the encryption engine, address map, cores, flash, fuses, power.

Three views of memory, and no fourth: ``Machine.dram`` is what a hypervisor (or a probe on the bus) sees, raw bytes and
so a guest's ciphertext; ``Machine.vcpu`` is what a running guest sees; ``Machine.umc`` is the memory controller itself,
which only the firmware uses. What is AMD's and what is a model here follows the source notes of ``sevref.memory``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sevref.crypto import RandomSource, random_source
from sevref.dram import HOST as HOST
from sevref.dram import NONE as NONE
from sevref.dram import PAGE as PAGE
from sevref.dram import Alias, Dram
from sevref.dram import MemoryController as MemoryController
from sevref.generations import generation as generation_row
from sevref.rmp import Rmp
from sevref.status import InputError

if TYPE_CHECKING:
    from sevref.caches import Cache
    from sevref.certs import Roots
    from sevref.memory import EnginePreset

ASEG = (0xA0000, 0xBFFFF)
FLASH_SIZE = 0x8000


class VmrunFailed(InputError):
    """A guest access that the hardware would not make: ASID not valid on the core, or page not mapped."""


@dataclass(frozen=True)
class AddressMap:
    """Physical addresses of one machine, in bytes.

    ``dram``: regions as (start, size); ``aseg`` and ``tseg``: SMM ranges as inclusive (first, last); ``c_bit``: number
    of the C-bit; ``key_id_bits``: first and last bit that carries an ASID inside the chip; ``maximum``: highest
    address."""

    dram: tuple[tuple[int, int], ...]
    aseg: tuple[int, int] = ASEG
    tseg: tuple[int, int] | None = None
    c_bit: int = 51
    key_id_bits: tuple[int, int] = (46, 55)
    maximum: int = 0x3FFC_FFFF_FFFF

    @property
    def c_mask(self) -> int:
        """The C-bit as a mask."""
        return 1 << self.c_bit

    @property
    def key_id_mask(self) -> int:
        """Address bits that carry an ASID inside the chip; software must leave them clear (the C-bit apart)."""
        low, high = self.key_id_bits
        return ((1 << high - low + 1) - 1 << low) & ~self.c_mask


class Machine:
    """One socket of one server: DRAM, memory encryption engine, cores, fuses, flash.

    ``generation`` names the product line ("naples" to "turin"); ``seed`` makes everything random reproducible (None:
    the operating system's randomness) and ``name`` labels this machine's streams; ``rng`` replaces the AMD-SP's.
    ``dram_size`` is in bytes, from address 0; ``address_map`` overrides it. ``chip_key`` is the 32-byte chip unique
    secret of the fuses; ``roots`` are the AMD roots whose hash is fused (default: the simulated AMD with its published
    test keys; ``root_hash`` overrides the fused hash alone). ``ccxs`` core complexes have ``cores_per_ccx`` cores each.
    ASIDs from 1 to ``min_sev_asid`` - 1 are for SEV-ES guests, the rest up to ``max_asid`` for plain SEV.
    ``InputError`` for sizes and numbers that do not fit.

    Memory: ``engine`` names a preset of ``sevref.memory`` or is one; ``alias`` as in ``Dram``. ``tsme``: the processor
    uses the host's key whatever the C-bit says. ``rmp``: SEV-SNP's page ownership as a filter (MODEL), and with
    ``ciphertext_hiding`` the host reads FF bytes from pages of guests. ``caches`` puts a cache between cores and DRAM
    (MODEL; otherwise every access goes to DRAM), ``coherent_domains`` keeps it coherent between keys, and ``sp_evicts``
    is whether the AMD-SP writes back the host's lines before it changes guest memory, as Genoa's firmware does. Without
    ``memory_encryption`` INIT answers HWERROR_PLATFORM, without ``activate_ex`` ACTIVATE_EX answers UNSUPPORTED.

        >>> from sevref import Machine
        >>> machine = Machine("milan", seed=b"docs", dram_size=8 << 20)
        >>> machine
        Machine(milan, 'platform A', 8 MiB DRAM, 1 CCX)
        >>> machine.dram.read(0x1000, 4)
        b'\\x00\\x00\\x00\\x00'
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
        engine: str | EnginePreset | None = None,
        alias: Alias | None = None,
        tsme: bool = False,
        rmp: bool = False,
        ciphertext_hiding: bool = False,
        caches: bool = False,
        coherent_domains: bool = False,
        sp_evicts: bool = True,
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
        self.dram = Dram(self.map.dram, alias)
        if ciphertext_hiding and not rmp:
            raise InputError("ciphertext_hiding", "a machine with rmp", "one without")
        self.tsme, self.ciphertext_hiding = tsme, ciphertext_hiding
        self._caches, self._coherent_domains, self._sp_evicts = caches, coherent_domains, sp_evicts
        #: page ownership, None on machines without SEV-SNP
        self.rmp = Rmp() if rmp else None
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
        """Hash of the only ARK that this chip accepts, in its fuses: 32 bytes (Naples) or 48."""
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
        self.cache: Cache | None = None
        if self._caches:
            from sevref.caches import Cache

            self.cache = Cache(self.umc, self._coherent_domains)
            self.umc.snoop = lambda address, size: self.clflush((NONE, HOST), address, size)
            self.umc.evicts = self._sp_evicts
        if self.rmp is not None:
            self.rmp = Rmp()
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
        """Execute WBINVD on ``cores`` (numbers from 0; default: all), which sets their WBINVD_DONE flags.

        The cache, if there is one, is written back and emptied."""
        if self.cache is not None:
            self.cache.write_back_all()
        for core in range(len(self.wbinvd_done)) if cores is None else cores:
            self.wbinvd_done[core] = True

    def clflush(self, key_ids: tuple[int, ...], address: int, size: int) -> None:
        """Write back and drop the cached lines of a range under these key ids; nothing without ``caches``."""
        if self.cache is not None:
            self.cache.flush(key_ids, address, size)

    # -- memory as software sees it

    def host_key_id(self, address: int) -> int:
        """Key id of a host access: the host's (1023) with the C-bit (under TSME always), none (0) without it."""
        return HOST if self.tsme or address & self.map.c_mask else NONE

    def cpu_read(self, key_id: int, address: int, size: int) -> bytes:
        """A core's read under a key id, through the cache if there is one."""
        return (self.umc if self.cache is None else self.cache).read(key_id, address, size)

    def cpu_write(self, key_id: int, address: int, data: bytes) -> None:
        """A core's write, as ``cpu_read``."""
        (self.umc if self.cache is None else self.cache).write(key_id, address, data)

    def host_read(self, address: int, size: int) -> bytes:
        """Read by the hypervisor's cores at a system physical address: with the C-bit through the host key, else raw.

        Under TSME always through the host key. ``InputError`` outside DRAM."""
        key_id, plain = self.host_key_id(address), address & ~self.map.c_mask
        data = self.cpu_read(key_id, plain, size)
        if not self.ciphertext_hiding or self.rmp is None:
            return data
        hidden = bytearray(data)
        for page in range(plain & ~(PAGE - 1), plain + size, PAGE):
            if self.rmp.assigned(page):
                start, end = max(page - plain, 0), min(page + PAGE - plain, size)
                hidden[start:end] = b"\xff" * (end - start)
        return bytes(hidden)

    def host_write(self, address: int, data: bytes) -> None:
        """Write by the hypervisor's cores at a system physical address, as ``host_read``.

        ``RmpFault`` if a page is assigned to a guest, ``InputError`` outside DRAM."""
        key_id, plain = self.host_key_id(address), address & ~self.map.c_mask
        if self.rmp is not None:
            self.rmp.check_host_write(plain, len(data))
        self.cpu_write(key_id, plain, data)

    def vcpu(self, asid: int, *, nested: Mapping[int, int] | None = None, core: int = 0) -> VCpu:
        """A virtual CPU that runs with ``asid`` on ``core``: the guest's own view of memory.

        ``nested`` maps guest page addresses to host ones (multiples of 4096; None: identity). ``VmrunFailed`` unless
        the firmware made the ASID valid there."""
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

    def _spans(self, gpa: int, size: int, private: bool) -> list[tuple[int, int, int]]:
        """Key id, host address and size of each part. The nested table's C-bit counts for shared pages alone."""
        spans, machine = [], self._machine
        while size:
            page, offset = gpa & ~(PAGE - 1), gpa & PAGE - 1
            part = min(size, PAGE - offset)
            if self._nested is not None and page not in self._nested:
                raise VmrunFailed("nested page table", f"an entry for guest page 0x{page:X}", "none")
            entry = page if self._nested is None else self._nested[page]
            base = entry & ~machine.map.c_mask
            if machine.rmp is not None:
                machine.rmp.check_guest(base, self.asid, page, private=private)
            spans.append((self.asid if private else machine.host_key_id(entry), base + offset, part))
            gpa, size = gpa + part, size - part
        return spans

    def read(self, gpa: int, size: int, *, private: bool = True) -> bytes:
        """``size`` bytes at guest-physical ``gpa``; ``private`` is the C-bit of the guest's own page table.

        ``VmrunFailed`` if the ASID is not valid any more or a page is not mapped."""
        self._require_valid()
        spans = self._spans(gpa, size, private)
        return b"".join([self._machine.cpu_read(key, address, part) for key, address, part in spans])

    def write(self, gpa: int, data: bytes, *, private: bool = True) -> None:
        """Write at guest-physical ``gpa``, as ``read``."""
        self._require_valid()
        for key, address, part in self._spans(gpa, len(data), private):
            self._machine.cpu_write(key, address, data[:part])
            data = data[part:]

    def pvalidate(self, gpa: int) -> None:
        """PVALIDATE: the guest accepts the page that is mapped at ``gpa`` (SEV-SNP)."""
        page = gpa & ~(PAGE - 1)
        base = page if self._nested is None else self._nested[page]
        if self._machine.rmp is not None:
            self._machine.rmp.validate(base & ~self._machine.map.c_mask, self.asid, page)
