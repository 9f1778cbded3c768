"""Every command in every state: a guest brought into a state, and for each command a request that is otherwise good.

So a refusal can only be the state's doing, and "ok" is really SUCCESS: packets, sessions and certificates are genuine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from sevref.certs import Chain, SevCertificate
from sevref.crypto import SeededRandom
from sevref.driver import Platform
from sevref.firmware import BY_NAME, GuestState, PlatformState
from sevref.firmware import buffers as b
from sevref.machine import Machine
from sevref.policy import Policy
from sevref.roles import PlatformOwner
from sevref.show.matrix import Matrix, Reply, ask, matrix
from sevref.status import Status
from sevref.transport import Context, Opened, PacketHeader, Session, make_packet

SEED = b"sevref.show.trials"
PAGE = 0x1000
#: an SEV-ES guest, so that the commands for VMSAs have something to act on
POLICY = Policy.make("ES")
MEMORY, HOST, NV = 0x100000, 0x110000, 0x120000
ASID, SPARE = 5, 6
STATES = tuple(state for state in GuestState if state is not GuestState.UNINIT)
#: commands that name a guest that exists
GUEST_COMMANDS = tuple(row.name for row in BY_NAME.values() if row.guest is not None)


@dataclass(frozen=True)
class _Identity:
    """The platform's identity, made once: its flash, its chain, a PEK signed by an owner, an owner's session."""

    flash: bytes
    chain: Chain
    pek: SevCertificate
    oca: SevCertificate
    opened: Opened


def _machine() -> Machine:
    return Machine("milan", seed=SEED, dram_size=8 << 20)


@lru_cache
def _identity() -> _Identity:
    platform = Platform(_machine())
    platform.init()
    owner, chain = PlatformOwner(seed=SEED), platform.pdh_cert_export()
    assert chain.pdh is not None
    opened = Session.create(chain.pdh, POLICY, rng=SeededRandom(SEED, "guest owner"))
    return _Identity(bytes(platform.machine.flash), chain, owner.sign_csr(platform.pek_csr()), owner.oca, opened)


class Trial:
    """A platform in a state and, in WORKING, one guest in a state, bound to an ASID or not.

    A guest in RUPDATE is received with a session of the guest owner's, all others are launched without one (TEK and
    TIK are zero then): the firmware asks neither where a session comes from nor that there is one.
    """

    def __init__(self, platform: PlatformState, guest: GuestState = GuestState.LSECRET, *, bound: bool = True) -> None:
        self.identity = _identity()
        machine = _machine()
        machine.flash[:] = self.identity.flash
        self.platform = Platform(machine)
        self.tek = self.tik = bytes(16)
        self.measure = bytes(32)
        self.handle = 1
        self.entry = bytes(64)
        machine.dram.write(NV, b"\xff" * 0x8000)
        if platform is not PlatformState.UNINIT:
            self.platform.init(es=True)
            machine.wbinvd()
            self.platform.df_flush()
        if platform is PlatformState.WORKING:
            self._bring(guest)
            if not bound:
                self.platform.deactivate(self.handle)

    def _bring(self, state: GuestState) -> None:
        platform, opened = self.platform, self.identity.opened
        if state is GuestState.RUPDATE:
            self.handle = platform.receive_start(POLICY, opened.godh, opened.session)
            self.tek, self.tik = opened.tek, opened.tik
        else:
            self.handle = platform.launch_start(POLICY)
        platform.activate(self.handle, ASID)
        if state is not GuestState.RUPDATE:
            platform.launch_update_data(self.handle, MEMORY, 256)
            platform.launch_update_vmsa(self.handle, MEMORY + PAGE)
        self.entry = platform.swap_out(self.handle, MEMORY, HOST)
        if state not in (GuestState.LUPDATE, GuestState.RUPDATE):
            self.measure = platform.launch_measure(self.handle).measure
        if state in (GuestState.RUNNING, GuestState.SUPDATE, GuestState.SENT):
            platform.launch_finish(self.handle)
        if state in (GuestState.SUPDATE, GuestState.SENT):
            platform.send_start(self.handle, self.identity.chain)
        if state is GuestState.SENT:
            platform.send_finish(self.handle)

    def give(self, command: str) -> Any:
        """Issue the command. ``SevError`` as the firmware answers."""
        return self._requests()[command]()

    def ask(self, command: str) -> Reply:
        """Issue the command; the answer."""
        return ask(partial(self.give, command))

    def _packet(self, context: int, size: int, trailer: bytes = b"") -> tuple[PacketHeader, bytes]:
        return make_packet(self.tek, self.tik, context, bytes(size), iv=bytes(16), trailer=trailer)

    def _requests(self) -> dict[str, Callable[[], Any]]:
        p, h, me = self.platform, self.handle, self.identity
        ring = b.RingBufferBuffer(low_command_paddr=HOST, low_status_paddr=HOST + PAGE, low_size=1)
        return {
            "INIT": p.init,
            "SHUTDOWN": p.shutdown,
            "PLATFORM_RESET": p.platform_reset,
            "PLATFORM_STATUS": p.platform_status,
            "PEK_GEN": p.pek_gen,
            "PEK_CSR": p.pek_csr,
            "PEK_CERT_IMPORT": lambda: p.pek_cert_import(me.pek, me.oca),
            "PDH_CERT_EXPORT": p.pdh_cert_export,
            "PDH_GEN": p.pdh_gen,
            "DF_FLUSH": p.df_flush,
            "DOWNLOAD_FIRMWARE": lambda: p.download_firmware(bytes(0x100)),
            "GET_ID": p.get_id,
            "INIT_EX": lambda: p.init_ex(NV),
            "NOP": p.nop,
            "RING_BUFFER": lambda: p.call("RING_BUFFER", ring),
            "DECOMMISSION": lambda: p.decommission(h),
            "ACTIVATE": lambda: p.activate(h, SPARE),
            "DEACTIVATE": lambda: p.deactivate(h),
            "GUEST_STATUS": lambda: p.guest_status(h),
            "COPY": lambda: p.copy(h, MEMORY, MEMORY + 2 * PAGE, PAGE),
            "ACTIVATE_EX": lambda: p.activate_ex(h, SPARE, [0]),
            "LAUNCH_START": lambda: p.launch_start(POLICY, me.opened.godh, me.opened.session),
            "LAUNCH_UPDATE_DATA": lambda: p.launch_update_data(h, MEMORY, PAGE),
            "LAUNCH_UPDATE_VMSA": lambda: p.launch_update_vmsa(h, MEMORY + PAGE),
            "LAUNCH_MEASURE": lambda: p.launch_measure(h),
            "LAUNCH_SECRET": lambda: p.launch_secret(h, *self._packet(Context.SECRET, 64, self.measure), MEMORY),
            "LAUNCH_FINISH": lambda: p.launch_finish(h),
            "ATTESTATION": lambda: p.attestation(h, bytes(16)),
            "SEND_START": lambda: p.send_start(h, me.chain),
            "SEND_UPDATE_DATA": lambda: p.send_update_data(h, MEMORY, PAGE),
            "SEND_UPDATE_VMSA": lambda: p.send_update_vmsa(h, MEMORY + PAGE),
            "SEND_FINISH": lambda: p.send_finish(h),
            "SEND_CANCEL": lambda: p.send_cancel(h),
            "RECEIVE_START": lambda: p.receive_start(POLICY, me.opened.godh, me.opened.session),
            "RECEIVE_UPDATE_DATA": lambda: p.receive_update_data(h, *self._packet(Context.DATA, PAGE), MEMORY),
            "RECEIVE_UPDATE_VMSA": lambda: p.receive_update_vmsa(h, *self._packet(Context.VMSA, PAGE), MEMORY + PAGE),
            "RECEIVE_FINISH": lambda: p.receive_finish(h),
            "DBG_DECRYPT": lambda: p.dbg_decrypt(h, MEMORY, HOST, PAGE),
            "DBG_ENCRYPT": lambda: p.dbg_encrypt(h, HOST, MEMORY, PAGE),
            "SWAP_OUT": lambda: p.swap_out(h, MEMORY, HOST),
            "SWAP_IN": lambda: p.swap_in(h, HOST, MEMORY, self.entry),
        }


#: what a success of these changes no later answer can tell
_READS = ("PLATFORM_STATUS", "PEK_CSR", "PDH_CERT_EXPORT", "GET_ID", "NOP", "GUEST_STATUS", "ATTESTATION", "COPY")


def _column(commands: tuple[str, ...], build: Callable[[], Trial]) -> dict[str, Reply]:
    """Ask every command. A refusal leaves a trial as it was, so it serves again; most successes do not."""
    found, trial = {}, build()
    for command in commands:
        found[command] = trial.ask(command)
        if found[command].status is Status.SUCCESS and command not in _READS:
            trial = build()
    return found


def platform_matrix() -> Matrix:
    """Every command in every platform state; in WORKING there is a guest in LSECRET, bound."""
    cells = {}
    for state in PlatformState:
        for command, reply in _column(tuple(BY_NAME), partial(Trial, state)).items():
            cells[command, state.name] = reply
    return matrix(cells, "Every command in every state of the platform", BY_NAME)


def guest_matrix(bound: bool) -> Matrix:
    """Every command that names a guest, in every state of that guest, with an ASID or without."""
    cells = {}
    for state in STATES:
        build = partial(Trial, PlatformState.WORKING, state, bound=bound)
        for command, reply in _column(GUEST_COMMANDS, build).items():
            cells[command, state.name] = reply
    title = f"Every guest command in every state of a guest that is {'' if bound else 'not '}bound to an ASID"
    return matrix(cells, title, GUEST_COMMANDS)


def status_tour() -> dict[str, Reply]:
    """One request for each status that neither a state nor a policy gives: what was asked -> the answer."""
    found: dict[str, Reply] = {}
    new, broken = Trial(PlatformState.UNINIT).platform, Trial(PlatformState.UNINIT).platform
    found["INIT with an option that does not exist"] = ask(lambda: new.call("INIT", b.InitBuffer(options=2)))
    broken.machine.flash[200] ^= 1
    found["INIT after a bit of the flash has flipped"] = ask(broken.init)
    found["INIT once more: the flash was erased"] = ask(broken.init)
    plain = Platform(Machine("milan", seed=SEED, dram_size=8 << 20, memory_encryption=False))
    found["INIT with memory encryption switched off"] = ask(plain.init)
    p = Trial(PlatformState.WORKING, GuestState.RUNNING).platform
    second = p.launch_start(POLICY)
    found["ACTIVATE a second guest under the ASID of the first"] = ask(lambda: p.activate(second, ASID))
    p.deactivate(1)
    found["the same after DEACTIVATE of the first, which ran"] = ask(lambda: p.activate(second, ASID))
    found["DF_FLUSH, to be allowed to"] = ask(p.df_flush)
    p.machine.wbinvd()
    found["DF_FLUSH after WBINVD on every core"] = ask(p.df_flush)
    found["ACTIVATE again"] = ask(lambda: p.activate(second, ASID))
    found["DECOMMISSION of guest 77"] = ask(lambda: p.decommission(77))
    found["ACTIVATE_EX with a wrong length"] = ask(lambda: p.call("ACTIVATE_EX", b.ActivateExBuffer(length=0)))
    found["ACTIVATE_EX on a core that does not exist"] = ask(lambda: p.activate_ex(second, ASID, [400]))
    found["command 0x72"] = Reply(p.mailbox(0x72), str(p.refusal and p.refusal.rule))
    while (reply := ask(lambda: p.launch_start(0))).status is Status.SUCCESS:
        pass
    found[f"LAUNCH_START with {p.platform_status().guest_count} guests"] = reply
    return found
