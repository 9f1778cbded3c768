"""What each bit of the policy forbids: every command, asked of real platforms, under every policy.

The guest's own platform has neighbours that differ in owner, API version and SEV-ES; one receiver is no platform.
A column is one guest's life under one policy; what cannot be asked because something before it was refused has no cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from sevref.certs import Algo, Chain, SevCertificate, Usage, new_certificate, sign_certificate
from sevref.crypto import PrivateKey, SeededRandom, draw_private
from sevref.driver import Platform
from sevref.firmware import SPEC_0_24
from sevref.machine import Machine
from sevref.policy import BITS, Policy
from sevref.roles import PlatformOwner, SimulatedAmd
from sevref.show import widgets
from sevref.show.html import Showable
from sevref.show.matrix import Matrix, Reply, ask, matrix
from sevref.show.widgets import Panel, panel
from sevref.status import Status
from sevref.transport import Context, PacketHeader, Session, make_packet

SEED = b"sevref.show.policies"
PAGE, MEMORY, HOST = 0x1000, 0x100000, 0x110000
#: name of a platform -> owner, API version and build, initialised with SEV-ES
_PLATFORMS = {
    "own": ("Example", (0, 24, 15), True),
    "same owner": ("Example", (0, 24, 15), True),
    "other owner": ("Other", (0, 24, 15), True),
    "API 0.17": ("Example", (0, 17, 48), True),
    "no SEV-ES": ("Example", (0, 24, 15), False),
}
NEIGHBOURS = tuple(_PLATFORMS)[1:]
#: the columns of the notebook's matrix
POLICIES: dict[str, Policy] = {
    "no bit": Policy(0),
    **{name: Policy.make(name) for name, _ in BITS.values()},
    "API 0.24": Policy.make(api=(0, 24)),
    "SEV, API 0.24": Policy.make("SEV", api=(0, 24)),
    "API 0.25": Policy.make(api=(0, 25)),
    "bit 6": Policy(1 << 6),
}


@lru_cache
def _prepared(name: str) -> tuple[bytes, Chain]:
    """Flash and complete chain of a platform after its owner took it over."""
    owner, version, _ = _PLATFORMS[name]
    platform = Platform(_machine(name), version=version)
    platform.init()
    one = PlatformOwner(name=owner, seed=SEED)
    platform.pek_cert_import(one.sign_csr(platform.pek_csr()), one.oca)
    amd = SimulatedAmd("milan", seed=SEED + name.encode())
    amd.enrol(platform.machine)
    chain = platform.pdh_cert_export().replace(cek=amd.certify(platform.get_id()), ask=amd.roots.ask, ark=amd.roots.ark)
    return bytes(platform.machine.flash), chain


@lru_cache
def attackers_key() -> tuple[PrivateKey, SevCertificate]:
    """A P-384 key that anybody can make, and its certificate of PDH form, which claims to be signed by a PEK."""
    key = draw_private(SeededRandom(SEED, "anybody"), "a key of one's own")
    cert = new_certificate(Usage.PDH, Algo.ECDH_SHA256, key.public, (0, 24))
    sign_certificate(cert, key, Usage.PEK, Algo.ECDSA_SHA256)
    return key, cert


def _machine(name: str) -> Machine:
    return Machine("milan", seed=SEED, name=name, dram_size=8 << 20)


def _boot(name: str, strict: bool = False) -> Platform:
    _, version, es = _PLATFORMS[name]
    machine = _machine(name)
    machine.flash[:] = _prepared(name)[0]
    platform = Platform(machine, replace(SPEC_0_24, strict_policy=strict), version=version)
    platform.init(es)
    machine.wbinvd()
    platform.df_flush()
    return platform


@dataclass
class Column:
    """One guest's life under one policy; ``replies`` has an entry for everything that could be asked."""

    policy: Policy
    replies: dict[str, Reply] = field(default_factory=dict)

    def _ask(self, row: str, action: Callable[[], Any]) -> bool:
        self.replies[row] = ask(action)
        return self.replies[row].status is Status.SUCCESS

    def run(self) -> dict[str, Reply]:
        """Everything, in order."""
        p, policy = _boot("own"), self.policy
        chain = _prepared("own")[1]
        assert chain.pdh is not None
        opened = Session.create(chain.pdh, policy, rng=SeededRandom(SEED, "guest owner"))
        tek, tik = opened.tek, opened.tik
        if self._ask("LAUNCH_START: with a session", lambda: p.launch_start(policy, opened.godh, opened.session)):
            handle = 1
        else:  # the rest with a guest that has no session
            handle, tek, tik = p.launch_start(policy), bytes(16), bytes(16)
        self._ask("LAUNCH_START: no session", lambda: p.launch_start(policy))
        self._ask("LAUNCH_START: strict_policy", lambda: _boot("own", strict=True).launch_start(policy))
        self._ask("LAUNCH_START: no SEV-ES here", lambda: _boot("no SEV-ES").launch_start(policy))
        self._ask("LAUNCH_START: shared key", lambda: p.launch_start(policy, handle=handle))
        low = self._ask("ACTIVATE: ASID 5", lambda: p.activate(handle, 5))
        self._ask("ACTIVATE: ASID 105", lambda: p.activate(handle, 105))
        asid = 5 if low else 105
        self._launch(p, handle, tek, tik)
        p.machine.vcpu(asid).write(MEMORY, b"the guest's own data".ljust(64, b"."))
        self._memory(p, handle)
        self._send(p, handle)
        return self.replies

    def _launch(self, p: Platform, handle: int, tek: bytes, tik: bytes) -> None:
        self._ask("LAUNCH_UPDATE_DATA", lambda: p.launch_update_data(handle, MEMORY, PAGE))
        self._ask("LAUNCH_UPDATE_VMSA", lambda: p.launch_update_vmsa(handle, MEMORY + PAGE))
        measure = b""

        def measured() -> None:
            nonlocal measure
            measure = p.launch_measure(handle).measure

        self._ask("LAUNCH_MEASURE", measured)
        secret = make_packet(tek, tik, Context.SECRET, bytes(64), iv=bytes(16), trailer=measure)
        self._ask("LAUNCH_SECRET", lambda: p.launch_secret(handle, *secret, MEMORY))
        self._ask("LAUNCH_FINISH", lambda: p.launch_finish(handle))
        self._ask("ATTESTATION", lambda: p.attestation(handle, bytes(16)))

    def _memory(self, p: Platform, handle: int) -> None:
        entry = b""

        def swap_out() -> None:
            nonlocal entry
            entry = p.swap_out(handle, MEMORY, HOST)

        self._ask("SWAP_OUT", swap_out)
        self._ask("SWAP_IN", lambda: p.swap_in(handle, HOST, MEMORY, entry))
        self._ask("COPY", lambda: p.copy(handle, MEMORY, MEMORY + 2 * PAGE, PAGE))
        self._ask("DBG_DECRYPT", lambda: p.dbg_decrypt(handle, MEMORY, HOST, PAGE))
        self._ask("DBG_ENCRYPT", lambda: p.dbg_encrypt(handle, HOST, MEMORY, PAGE))

    def _send(self, p: Platform, handle: int) -> None:
        """To every neighbour and to a key of anybody's; the guest goes in the end to the first."""
        targets = {name: _prepared(name)[1] for name in NEIGHBOURS}
        # the best that it can do: a genuine platform's certificates around a PDH of its own
        targets["anybody's key"] = targets[NEIGHBOURS[0]].replace(pdh=attackers_key()[1])
        for name, chain in targets.items():
            if self._ask(f"SEND_START: {name}", partial(p.send_start, handle, chain)):
                p.send_cancel(handle)
        for name in (*NEIGHBOURS[1:], NEIGHBOURS[0]):
            if self.replies[f"SEND_START: {name}"].status is Status.SUCCESS:
                self._receive(p, handle, name, full=name == NEIGHBOURS[0])

    def _receive(self, p: Platform, handle: int, name: str, *, full: bool) -> None:
        to, mine = _boot(name), _prepared("own")[1].pdh
        assert mine is not None
        policy, session = p.send_start(handle, _prepared(name)[1])
        received = self._ask(f"RECEIVE_START: {name}", lambda: to.receive_start(policy, mine, session))
        if not (full and received):
            p.send_cancel(handle)
            return
        to.activate(1, 5 if policy.es else 105)
        packets: list[tuple[PacketHeader, bytes]] = []
        if self._ask("SEND_UPDATE_DATA", lambda: packets.append(p.send_update_data(handle, MEMORY, PAGE))):
            self._ask("RECEIVE_UPDATE_DATA", lambda: to.receive_update_data(1, *packets[-1], MEMORY))
        if self._ask("SEND_UPDATE_VMSA", lambda: packets.append(p.send_update_vmsa(handle, MEMORY + PAGE))):
            self._ask("RECEIVE_UPDATE_VMSA", lambda: to.receive_update_vmsa(1, *packets[-1], MEMORY + PAGE))
        self._ask("RECEIVE_FINISH", lambda: to.receive_finish(1))
        p.send_finish(handle)


def policy_matrix(policies: dict[str, Policy] | None = None) -> Matrix:
    """The matrix of commands against policies (default: ``POLICIES``)."""
    policies = POLICIES if policies is None else policies
    cells, order = {}, dict.fromkeys(Column(Policy.make("ES")).run())
    for name, policy in policies.items():
        for row, reply in Column(policy).run().items():
            cells[row, name] = reply
    return matrix(cells, "Commands against policies", order, policies)


def policy_panel() -> Panel:
    """Every bit of the policy as a switch. Controls: the names of the bits, ``reserved`` (bit 6), ``api`` (minor)."""
    controls = {name: widgets.tick(name, tooltip=meaning) for name, meaning in BITS.values()}
    controls["NODBG"].value = True
    controls["reserved"] = widgets.tick("bit 6", tooltip="reserved: must be zero")
    versions = [("none", (0, 0)), ("0.17", (0, 17)), ("0.24", (0, 24)), ("0.25", (0, 25))]
    controls["api"] = widgets.choice("API minimum", versions, (0, 0))

    def compute(values: dict[str, Any]) -> Showable:
        names = [name for name, _ in BITS.values() if values[name]]
        policy = Policy(Policy.make(*names, api=values["api"]) | (1 << 6 if values["reserved"] else 0))
        shown = policy_matrix({"no bit": Policy(0), "chosen": policy})
        differ = [row for row in shown.rows if shown.status(row, "no bit") != shown.status(row, "chosen")]
        title = f"{policy}: {len(differ)} of {len(shown.rows)} answers differ from those without any bit"
        return matrix(shown.cells, title, differ or shown.rows, shown.columns)

    return panel(controls, compute, "The policy, bit by bit", "Rows are those in which the policy makes a difference.")
