"""A platform to push around: command buffers as literal bytes, recorded randomness, a look at everything observable.

Offsets and ids stand here as the fact sheets have them; nothing is read from the tables of the code under test.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sevref import GENOA_1_55_25, SPEC_0_24, Machine, Platform, Profile, SeededRandom, SevCertificate
from sevref import Session as SessionData
from sevref import Status as S
from sevref.machine import AddressMap

PROFILES = {"spec": SPEC_0_24, "genoa": GENOA_1_55_25}

# ids (sheet 10, section 1.1)
INIT, SHUTDOWN, PLATFORM_RESET, PLATFORM_STATUS = 0x01, 0x02, 0x03, 0x04
PEK_GEN, PEK_CSR, PEK_CERT_IMPORT, PDH_CERT_EXPORT = 0x05, 0x06, 0x07, 0x08
PDH_GEN, DF_FLUSH, DOWNLOAD_FIRMWARE, GET_ID = 0x09, 0x0A, 0x0B, 0x0C
INIT_EX, NOP, RING_BUFFER = 0x0D, 0x0E, 0x0F
DECOMMISSION, ACTIVATE, DEACTIVATE, GUEST_STATUS, COPY, ACTIVATE_EX = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25
LAUNCH_START, LAUNCH_UPDATE_DATA, LAUNCH_UPDATE_VMSA, LAUNCH_MEASURE = 0x30, 0x31, 0x32, 0x33
LAUNCH_SECRET, LAUNCH_FINISH, ATTESTATION = 0x34, 0x35, 0x36
SEND_START, SEND_UPDATE_DATA, SEND_UPDATE_VMSA, SEND_FINISH, SEND_CANCEL = 0x40, 0x41, 0x42, 0x43, 0x44
RECEIVE_START, RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA, RECEIVE_FINISH = 0x50, 0x51, 0x52, 0x53
DBG_DECRYPT, DBG_ENCRYPT, SWAP_OUT, SWAP_IN = 0x60, 0x61, 0x70, 0x71

# exact size, padded size, class of the buffers (sheet 10, sections 1.1 and 1.4, and the tables of the other sheets)
BUFFERS = {
    INIT: (0x14, 24, "in"),
    PLATFORM_STATUS: (0x0C, 12, "out"),
    PEK_CSR: (0x0C, 16, "io+L"),
    PEK_CERT_IMPORT: (0x1C, 32, "in"),
    PDH_CERT_EXPORT: (0x1C, 32, "io+L"),
    DOWNLOAD_FIRMWARE: (0x0C, 16, "in"),
    GET_ID: (0x0C, 16, "io+L"),
    INIT_EX: (0x24, 40, "in"),
    RING_BUFFER: (0x28, 40, "in"),
    DECOMMISSION: (4, 4, "in"),
    ACTIVATE: (8, 8, "in"),
    DEACTIVATE: (4, 4, "in"),
    GUEST_STATUS: (0x0D, 16, "io"),
    COPY: (0x18, 24, "in"),
    ACTIVATE_EX: (0x18, 24, "in"),
    LAUNCH_START: (0x24, 40, "io"),
    LAUNCH_UPDATE_DATA: (0x14, 24, "in"),
    LAUNCH_UPDATE_VMSA: (0x14, 24, "in"),
    LAUNCH_MEASURE: (0x14, 24, "io+L"),
    LAUNCH_SECRET: (0x34, 56, "in"),
    LAUNCH_FINISH: (4, 4, "in"),
    ATTESTATION: (0x24, 40, "io+L"),
    SEND_START: (0x44, 72, "io+L"),
    SEND_UPDATE_DATA: (0x34, 56, "io+L"),
    SEND_UPDATE_VMSA: (0x34, 56, "io+L"),
    SEND_FINISH: (4, 4, "in"),
    SEND_CANCEL: (4, 4, "in"),
    RECEIVE_START: (0x24, 40, "io"),
    RECEIVE_UPDATE_DATA: (0x34, 56, "in"),
    RECEIVE_UPDATE_VMSA: (0x34, 56, "in"),
    RECEIVE_FINISH: (4, 4, "in"),
    DBG_DECRYPT: (0x1C, 32, "in"),
    DBG_ENCRYPT: (0x1C, 32, "in"),
    SWAP_OUT: (0x28, 40, "io+L"),
    SWAP_IN: (0x20, 32, "in"),
}
NO_BUFFER = (SHUTDOWN, PLATFORM_RESET, PEK_GEN, PDH_GEN, DF_FLUSH, NOP)
COMMANDS = (*BUFFERS, *NO_BUFFER)

CERT, CHAIN, SESSION, REPORT = 2084, 6252, 0x80, 0xD0
CHIP_KEY = bytes(range(32))
MIB = 1 << 20
DRAM = 4 * MIB
TMR = 2 * MIB
# where the tests put things
BUF, OUT, OUT2, CERT_AT, SESSION_AT, GUEST_AT, HEAD_AT, DATA_AT = (
    0x1000,
    0x2000,
    0x4000,
    0x8000,
    0x9000,
    0x10000,
    0x20000,
    0x21000,
)
ES, PLAIN = 5, 200  # an ASID for an SEV-ES guest, one for a plain guest (min_sev_asid 100, max_asid 509)
NODBG, NOKS, POLICY_ES = 1, 2, 4


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


# -- command buffers


def init_buf(options: int = 0, reserved: int = 0, tmr: int = 0, length: int = 0) -> bytes:
    return u32(options) + u32(reserved) + u64(tmr) + u32(length)


def csr_buf(paddr: int = OUT, length: int = CERT) -> bytes:
    return u64(paddr) + u32(length)


def import_buf(
    pek: int = CERT_AT, pek_len: int = CERT, oca: int = OUT2, oca_len: int = CERT, reserved: int = 0
) -> bytes:
    return u64(pek) + u32(pek_len) + u32(reserved) + u64(oca) + u32(oca_len)


def export_buf(
    pdh: int = OUT, pdh_len: int = CERT, certs: int = OUT2, certs_len: int = CHAIN, reserved: int = 0
) -> bytes:
    return u64(pdh) + u32(pdh_len) + u32(reserved) + u64(certs) + u32(certs_len)


def id_buf(paddr: int = OUT, length: int = 64) -> bytes:
    return u64(paddr) + u32(length)


def status_buf(handle: int, policy: int = 0, asid: int = 0, state: int = 0) -> bytes:
    return u32(handle) + u32(policy) + u32(asid) + bytes([state])


def start_buf(
    policy: int = 0,
    handle: int = 0,
    cert: int = 0,
    cert_len: int = 0,
    session: int = 0,
    session_len: int = 0,
    reserved: int = 0,
) -> bytes:
    return u32(handle) + u32(policy) + u64(cert) + u32(cert_len) + u32(reserved) + u64(session) + u32(session_len)


def update_buf(handle: int, paddr: int = GUEST_AT, length: int = 4096, reserved: int = 0) -> bytes:
    return u32(handle) + u32(reserved) + u64(paddr) + u32(length)


def measure_buf(handle: int, paddr: int = OUT, length: int = 0x30, reserved: int = 0) -> bytes:
    return u32(handle) + u32(reserved) + u64(paddr) + u32(length)


def secret_buf(
    handle: int,
    hdr: int = HEAD_AT,
    hdr_len: int = 0x34,
    guest: int = GUEST_AT,
    guest_len: int = 64,
    trans: int = DATA_AT,
    trans_len: int | None = None,
    reserved: int = 0,
) -> bytes:
    trans_len = guest_len if trans_len is None else trans_len
    return (
        u32(handle) + u32(reserved) + u64(hdr) + u32(hdr_len) + u32(reserved)
        + u64(guest) + u32(guest_len) + u32(reserved) + u64(trans) + u32(trans_len)
    )  # fmt: skip


def attest_buf(
    handle: int, paddr: int = OUT, nonce: bytes = b"N" * 16, length: int = REPORT, reserved: int = 0
) -> bytes:
    return u32(handle) + u32(reserved) + u64(paddr) + nonce + u32(length)


def init_ex_buf(
    length: int = 0x24,
    options: int = 0,
    tmr: int = 0,
    tmr_len: int = 0,
    reserved: int = 0,
    nv: int = 0,
    nv_len: int = 0,
) -> bytes:
    return u32(length) + u32(options) + u64(tmr) + u32(tmr_len) + u32(reserved) + u64(nv) + u32(nv_len)


def send_start_buf(handle: int, pdh: int = CERT_AT, session: int = SESSION_AT, session_len: int = SESSION) -> bytes:
    return u32(handle) + u32(0) + u64(pdh) + u32(CERT) + bytes(36) + u64(session) + u32(session_len)


def debug_buf(handle: int, source: int = GUEST_AT, target: int = DATA_AT, length: int = 4096) -> bytes:
    return u32(handle) + u32(0) + u64(source) + u64(target) + u32(length)


def swap_buf(handle: int, source: int, target: int, entry: int = HEAD_AT, flags: int = 0) -> bytes:
    return u32(handle) + u32(flags) + u64(source) + u64(target) + u64(entry)


class Recorder:
    """A random source that remembers the sizes and names of its draws; ``script`` is handed out first."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.sizes: list[int] = []
        self.chunks: list[bytes] = []
        self.last: list[bytes] = []  # what the last call of ``taken`` was about
        self.script: list[bytes] = []

    def draw(self, size: int, what: str = "") -> bytes:
        self.sizes.append(size)
        chunk = self.script.pop(0) if self.script else self.source.draw(size, what)
        assert len(chunk) == size, f"{what}: scripted {len(chunk)} bytes, {size} wanted"
        self.chunks.append(chunk)
        return chunk

    def taken(self) -> list[int]:
        """Sizes since the last call."""
        sizes, self.sizes = self.sizes, []
        self.last, self.chunks = self.chunks, []
        return sizes


@functools.cache
def saved_flash(profile: str) -> bytes:
    """Flash with an identity: an INIT with it draws nothing and is quick."""
    rig = Rig(profile, flash=None)
    assert rig.run(INIT, init_buf()) == S.SUCCESS
    return bytes(rig.machine.flash)


@dataclass
class Rig:
    """A machine with its platform, in state UNINIT. ``flash`` None: an empty store."""

    profile: str | Profile = "spec"
    flash: bytes | None = b"saved"
    machine_args: dict[str, Any] = field(default_factory=dict)
    version: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        self.rng = Recorder(SeededRandom(b"tests", "platform"))
        args = {"address_map": AddressMap(((0, DRAM),)), "chip_key": CHIP_KEY, "seed": b"rig", "cores_per_ccx": 2}
        self.machine = Machine(rng=self.rng, **{**args, **self.machine_args})
        profile = PROFILES[self.profile] if isinstance(self.profile, str) else self.profile
        self.platform = Platform(self.machine, profile, version=self.version)
        if self.flash == b"saved":
            self.flash = saved_flash(self.profile if isinstance(self.profile, str) else "spec")
        if self.flash is not None:
            self.machine.flash[:] = self.flash
        self.answer = b""

    # The white box: reached into only where no command can bring about what a test needs.
    @property
    def firmware(self) -> Any:
        return self.platform._firmware

    # -- commands

    def run(self, command: int, buffer: bytes = b"", at: int = BUF) -> S:
        """Place ``buffer`` at ``at``, ring the mailbox; ``answer`` is what lies there afterwards."""
        self.put(at, buffer)
        status = self.platform.mailbox(command, at)
        self.answer = self.get(at, len(buffer))
        return status

    def ok(self, command: int, buffer: bytes = b"", at: int = BUF) -> bytes:
        status = self.run(command, buffer, at)
        assert status == S.SUCCESS, f"0x{command:02X}: {status.name}: {self.firmware.refusal}"
        return self.answer

    def put(self, at: int, data: bytes) -> None:
        if data:
            self.machine.dram.write(at, data)

    def get(self, at: int, size: int) -> bytes:
        return self.machine.dram.read(at, size) if size else b""

    # -- ways into a state

    def init(self, es: bool = False, flush: bool = True) -> Rig:
        self.ok(INIT, init_buf(1, 0, TMR, MIB) if es else init_buf())
        if flush:
            self.flush()
        self.rng.taken()
        return self

    def flush(self) -> None:
        self.machine.wbinvd()
        self.ok(DF_FLUSH)

    def start(self, policy: int = 0, **fields: int) -> int:
        return int.from_bytes(self.ok(LAUNCH_START, start_buf(policy, **fields))[:4], "little")

    def owner(self, policy: int) -> Any:
        """Guest owner's side of a session for this platform; certificate and session are put into memory."""
        opened = SessionData.create(self.chain()[0], policy, rng=SeededRandom(b"owner", "guest owner"))
        self.put(CERT_AT, opened.godh.pack())
        self.put(SESSION_AT, opened.session.pack())
        return opened

    def start_with(self, opened: Any, policy: int | None = None) -> int:
        policy = int(opened.policy) if policy is None else policy
        return self.start(policy, cert=CERT_AT, cert_len=CERT, session=SESSION_AT, session_len=SESSION)

    def activate(self, handle: int, asid: int = PLAIN) -> int:
        self.ok(ACTIVATE, u32(handle) + u32(asid))
        return asid

    def guest(self, state: int, *, bound: bool = True, policy: int = 0) -> int:
        """A guest in ``state`` (number of sheet 20, section 2.2). States 4 and 6 write to CERT_AT and SESSION_AT."""
        if state == 5:
            self.owner(policy)
            session = start_buf(policy, 0, CERT_AT, CERT, SESSION_AT, SESSION)
            handle = int.from_bytes(self.ok(RECEIVE_START, session)[:4], "little")
        else:
            handle = self.start(policy)
        if bound:
            self.activate(handle, ES if policy & POLICY_ES else PLAIN)
        if state in (2, 3, 4, 6):
            self.ok(LAUNCH_MEASURE, measure_buf(handle))
        if state in (3, 4, 6):
            self.ok(LAUNCH_FINISH, u32(handle))
        if state in (4, 6):
            self.put(CERT_AT, self.chain()[0].pack())
            self.ok(SEND_START, send_start_buf(handle))
        if state == 6:
            self.ok(SEND_FINISH, u32(handle))
        return handle

    # -- what can be seen

    def status(self) -> bytes:
        return self.ok(PLATFORM_STATUS, bytes(12))

    @property
    def state(self) -> int:
        return self.status()[2]

    def guest_info(self, handle: int) -> tuple[int, int, int]:
        """(state, ASID, policy)."""
        answer = self.ok(GUEST_STATUS, status_buf(handle))
        return answer[12], int.from_bytes(answer[8:12], "little"), int.from_bytes(answer[4:8], "little")

    def chain(self) -> tuple[SevCertificate, SevCertificate, SevCertificate, SevCertificate]:
        """(PDH, PEK, OCA, CEK) as exported."""
        self.ok(PDH_CERT_EXPORT, export_buf())
        certs = self.get(OUT2, CHAIN)
        parts = [self.get(OUT, CERT), *(certs[i : i + CERT] for i in range(0, CHAIN, CERT))]
        pdh, pek, oca, cek = map(SevCertificate.parse, parts)
        return pdh, pek, oca, cek

    def observe(self, handles: Iterable[int] = range(1, 6)) -> dict[str, object]:
        """Everything a host can see: memory, flash, flush flags, status of the platform and of guests. The last page
        of DRAM is the observer's own and left out."""
        *others, (start, size) = self.machine.map.dram
        at = start + size - 0x1000
        seen: dict[str, object] = {
            "dram": [self.get(*region) for region in [*others, (start, size - 0x1000)]],
            "flash": bytes(self.machine.flash),
            "wbinvd": list(self.machine.wbinvd_done),
            "asids": dict(self.machine.valid_asids),
        }
        self.put(at, bytes(16))
        self.platform.mailbox(PLATFORM_STATUS, at)
        seen["platform"] = self.get(at, 12)
        for handle in handles:
            self.put(at, status_buf(handle) + bytes(3))
            status = self.platform.mailbox(GUEST_STATUS, at)
            seen[f"guest {handle}"] = (status, self.get(at, 13))
        return seen


def refused(rig: Rig, command: int, buffer: bytes, status: S, at: int = BUF) -> None:
    """The command answers ``status``, draws nothing and leaves everything as it was."""
    rig.put(at, buffer)
    before = rig.observe()
    rig.rng.taken()
    found = rig.platform.mailbox(command, at)
    assert found == status, f"0x{command:02X}: {found.name}, expected {status.name} ({rig.firmware.refusal})"
    assert rig.rng.taken() == []
    after = rig.observe()
    assert {key for key in before if before[key] != after[key]} == set()
