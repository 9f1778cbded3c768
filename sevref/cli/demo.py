"""``sevref demo``: the story in a terminal, from AMD's root key to a guest that moves, is saved and stays unread."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from sevref.boot import build_firmware, cpu_signature, initial_vmsas, parse_footer
from sevref.certs import (
    Algo,
    Chain,
    Roots,
    SevCertificate,
    Usage,
    new_certificate,
    sign_certificate,
    verify_chain,
)
from sevref.cli.common import emit, json_option, seed_bytes
from sevref.cli.steps import Recorder, StoryEnds, Wrong
from sevref.crypto import draw_private, random_source
from sevref.driver import Platform
from sevref.machine import Machine
from sevref.measurement import AttestationReport, launch_digest, verify_attestation
from sevref.policy import Policy
from sevref.roles import GuestOwner, GuestVm, Hypervisor, PlatformOwner, SimulatedAmd
from sevref.roles.channel import in_memory
from sevref.roles.migration import Incoming, Outgoing
from sevref.roles.snapshot import restore, save
from sevref.status import InputError, SevError, Status
from sevref.transport import (
    DISK_KEY_GUID,
    SECRET_TABLE_GUID,
    Opened,
    PacketHeader,
    Session,
    parse_secret_table,
)

#: generation -> family, model and stepping of its processors
PROCESSORS = {"naples": (23, 1, 2), "rome": (23, 49, 0), "milan": (25, 1, 1), "genoa": (25, 17, 0)}
DISK_KEY = b"disk key of the demonstration"
VCPUS = 2
PACKETS = ("SEND_UPDATE_DATA", "SEND_UPDATE_VMSA", "RECEIVE_UPDATE_DATA", "RECEIVE_UPDATE_VMSA")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--generation", choices=PROCESSORS, default="milan", help="product line of the machines (default: %(default)s)"
    )
    parser.add_argument("--es", action="store_true", help="an SEV-ES guest: its registers are measured and encrypted")
    parser.add_argument("--seed", type=seed_bytes, metavar="HEX", help="the same seed tells the same story")
    json_option(parser)
    parser.description = (
        "Simulated machines, firmware and parties go through a launch, a migration and a\n"
        "snapshot; then an attacker tries what an attacker can. AMD's keys in it are test keys."
    )
    parser.epilog = "example:\n  sevref demo --generation rome --es --seed 5eed"
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 if every step ended with the status that it should."""
    story = Story(args.generation, args.es, args.seed)
    ok = story.tell()
    document = {"generation": args.generation, "es": args.es, "steps": [asdict(s) for s in story.steps], "ok": ok}
    emit(args, document, story.text(ok))
    return 0 if ok else 1


class Story(Recorder):
    """Plays the story and writes down its steps."""

    def __init__(self, generation: str, es: bool, seed: bytes | None) -> None:
        super().__init__()
        self.generation, self.es, self.seed = generation, es, seed

    def tell(self) -> bool:
        """Whether every step ended as it should; the first that does not is the last."""
        try:
            host, chain = self._platform()
            owner, opened = self._session(chain)
            image = build_firmware(label=b"guest of the demonstration")
            guest = self._launch(host, owner, opened, image)
            packet = self._secret(owner, guest, chain, image)
            receiver, guest = self._migration(guest, image)
            guest = self._snapshot(receiver, guest, image)
            self._debugging(guest)
            self._attacks(host, chain, opened, image, guest, packet)
        except StoryEnds:
            return False
        return True

    def _platform(self) -> tuple[Hypervisor, Chain]:
        self.chapter = f"1. A {self.generation} platform gets its identity and an owner"
        host, amd = self._machine("platform A")
        platform = host.platform
        self.drive(
            platform.platform_status,
            {"PLATFORM_STATUS": lambda s: f"API {s.api_major}.{s.api_minor} build {s.build}, owned by itself"},
        )
        chip_id = self.drive(platform.get_id, {"GET_ID": lambda chip: f"chip {chip.hex()[:16]}..."})
        exported = self.drive(
            platform.pdh_cert_export, {"PDH_CERT_EXPORT": "PDH, PEK, OCA; a CEK without AMD's signature"}
        )
        cek = self.act(
            "AMD", "certify the CEK", lambda: amd.certify(chip_id, exported.cek), "signed by the ASK (test key)"
        )
        owner = PlatformOwner(seed=self.seed)
        csr = self.drive(platform.pek_csr, {"PEK_CSR": "the PEK, to be signed by an owner"})
        pek = self.act(
            "platform owner",
            "sign the PEK",
            lambda: owner.sign_csr(csr),
            f"with OCA {owner.oca.public_point.x >> 320:016x}...",
        )
        self.drive(
            lambda: platform.pek_cert_import(pek, owner.oca), {"PEK_CERT_IMPORT": "the platform has an owner; new PDH"}
        )
        exported = self.drive(platform.pdh_cert_export, {"PDH_CERT_EXPORT": "for the guest owner"})
        return host, exported.replace(cek=cek, ask=amd.roots.ask, ark=amd.roots.ark)

    def _machine(self, name: str) -> tuple[Hypervisor, SimulatedAmd]:
        machine = Machine(self.generation, seed=self.seed, name=name)
        amd = SimulatedAmd(self.generation, seed=self.seed or b"")
        amd.enrol(machine)
        host = Hypervisor(Platform(machine, log=self.log))
        self.drive(lambda: host.boot(self.es), {"INIT": name + (", with SEV-ES" if self.es else "")})
        return host, amd

    def _session(self, chain: Chain) -> tuple[GuestOwner, Opened]:
        self.chapter = "2. The guest owner verifies the platform and opens a session"
        roots = SimulatedAmd(self.generation).roots
        owner = GuestOwner(roots=roots, seed=self.seed)
        self.act(
            "guest owner",
            "verify the chain",
            lambda: _verified(chain, roots),
            lambda checks: f"{checks} checks, PDH to PEK to CEK to ASK to ARK",
        )
        policy = Policy.make("NODBG", "NOKS", "SEV", *(["ES"] if self.es else []), api=(0, 24))
        opened = self.act(
            "guest owner",
            "make a session",
            lambda: owner.open_session(chain, policy),
            "new TEK and TIK, wrapped for the PDH",
        )
        return owner, opened

    def _start(self, host: Hypervisor, opened: Opened, image: bytes) -> GuestVm:
        return host.launch(image, opened.policy, opened.godh, opened.session, vmsas=self._vmsas(image))

    def _vmsas(self, image: bytes) -> list[bytes]:
        if not self.es:
            return []
        return initial_vmsas(image, VCPUS, vcpu_sig=cpu_signature(*PROCESSORS[self.generation]), fpu="legacy")

    def _launch(self, host: Hypervisor, owner: GuestOwner, opened: Opened, image: bytes) -> GuestVm:
        self.chapter = "3. Launch: the guest is encrypted and measured"
        guest = self.drive(lambda: self._start(host, opened, image))
        blob = self.drive(guest.measure, {"LAUNCH_MEASURE": lambda b: f"{b.measure.hex()[:16]}..., fresh nonce"})
        status = self.drive(host.platform.platform_status, {"PLATFORM_STATUS": "the version, which the MAC covers too"})
        expected = launch_digest([image], self._vmsas(image))
        self.act(
            "guest owner",
            "check the measurement",
            lambda: owner.check_measurement(
                blob, expected, api=(status.api_major, status.api_minor), build=status.build
            ),
            f"launch digest {expected.hex()[:16]}... as predicted",
        )
        return guest

    def _secret(self, owner: GuestOwner, guest: GuestVm, chain: Chain, image: bytes) -> tuple[PacketHeader, bytes]:
        self.chapter = "4. A disk key reaches the guest"
        gpa = parse_footer(image).secret_area().base
        packet = self.act(
            "guest owner",
            "package the disk key",
            lambda: owner.package_secret([(DISK_KEY_GUID, DISK_KEY)]),
            lambda packet: f"{len(packet[1])} bytes, bound to this measurement",
        )
        self.drive(lambda: guest.inject_secret(*packet, gpa))
        self.drive(guest.finish, {"LAUNCH_FINISH": "the guest runs"})
        self.act("guest", "read the secret area", lambda: _disk_key(guest, gpa), lambda key: f'"{key.decode()}"')
        self.act(
            "hypervisor",
            "read the same bytes",
            lambda: _ciphertext(guest, gpa),
            lambda data: f"{data.hex()} (ciphertext)",
        )
        report = self.drive(lambda: guest.attest(bytes(range(16))), {"ATTESTATION": "signed by the PEK"})
        self.act(
            "guest owner",
            "verify the report",
            lambda: _attested(report, chain, launch_digest([image], self._vmsas(image))),
            "same launch digest",
        )
        return packet

    def _migration(self, guest: GuestVm, image: bytes) -> tuple[Chain, GuestVm]:
        """The guest leaves platform A for platform B, which owns itself; with B's chain."""
        self.chapter = "5. The guest moves to platform B"
        gpa = parse_footer(image).secret_area().base
        other, amd = self._machine("platform B")
        chip_id = self.drive(other.platform.get_id, {"GET_ID": lambda chip: f"chip {chip.hex()[:16]}..."})
        exported = self.drive(other.platform.pdh_cert_export, {"PDH_CERT_EXPORT": "for the sender"})
        cek = self.act("AMD", "certify the CEK", lambda: amd.certify(chip_id, exported.cek), "of platform B")
        receiver = exported.replace(cek=cek, ask=amd.roots.ask, ark=amd.roots.ark)
        forged = receiver.replace(pdh=_forged_pdh(self.seed))
        self.drive(
            lambda: guest.host.platform.send_start(guest.handle, forged),
            {"SEND_START": "to the PDH of a man in the middle: the policy says SEV"},
            Status.BAD_SIGNATURE,
            "attacker",
        )
        outgoing, incoming = Outgoing(guest, roots=amd.roots), Incoming(other, receiver)
        self.drive(
            lambda: in_memory(outgoing.run(), incoming.run()),
            {
                "SEND_START": "TEK and TIK, new, wrapped for B's PDH",
                "PDH_CERT_EXPORT": "A's PDH, for RECEIVE_START",
                "RECEIVE_START": "a new VEK: the one of A never leaves A",
                "SEND_FINISH": "the guest cannot run on A any more",
                "RECEIVE_FINISH": "the guest runs on B",
            },
            fold=PACKETS,
        )
        assert incoming.vm is not None
        moved = incoming.vm
        self.act("guest", "read the secret area", lambda: _disk_key(moved, gpa), lambda key: f'"{key.decode()}"')
        self.drive(guest.host.flush, {"DF_FLUSH": "A can use the ASID again"})
        return receiver, moved

    def _snapshot(self, own: Chain, guest: GuestVm, image: bytes) -> GuestVm:
        """The guest sleeps in a file while platform B is without power; a new PDH would have ended it."""
        self.chapter = "6. The guest is saved, and survives a power cycle"
        gpa = parse_footer(image).secret_area().base
        platform = guest.host.platform
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "guest"
            self.drive(
                lambda: save(guest, own, file, stop=True),
                {"SEND_START": "to the platform's own PDH", "SEND_FINISH": "the file is complete"},
                fold=PACKETS,
            )
            self.act("hypervisor", "cut the power", platform.machine.power_cycle, "memory keys are gone")
            again = Hypervisor(platform)
            self.drive(lambda: again.boot(self.es), {"INIT": "platform B, with the identity in its flash"})
            back = self.drive(
                lambda: restore(again, file),
                {"RECEIVE_START": "the session in the file", "RECEIVE_FINISH": "the guest runs again"},
                fold=PACKETS,
            )
            self.act("guest", "read the secret area", lambda: _disk_key(back, gpa), lambda key: f'"{key.decode()}"')
            self.drive(platform.pdh_gen, {"PDH_GEN": "a new PDH: no older session opens any more"})
            self.drive(
                lambda: restore(again, file), {"RECEIVE_START": "the same file"}, Status.BAD_MEASUREMENT, "attacker"
            )
        return back

    def _debugging(self, guest: GuestVm) -> None:
        self.chapter = "7. The hypervisor asks for the guest's memory"
        for name in ("dbg_decrypt", "dbg_encrypt"):
            self.drive(
                lambda name=name: getattr(guest.host.platform, name)(
                    guest.handle, guest.ram_paddr, guest.ram_paddr, 4096
                ),  # type: ignore[misc]
                {name.upper(): "the policy says NODBG"},
                Status.POLICY_FAILURE,
                "attacker",
            )

    def _attacks(
        self,
        host: Hypervisor,
        chain: Chain,
        opened: Opened,
        image: bytes,
        guest: GuestVm,
        packet: tuple[PacketHeader, bytes],
    ) -> None:
        self.chapter = "8. What an attacker tried"
        attack, platform = "attacker", host.platform
        gpa = parse_footer(image).secret_area().base
        roots = SimulatedAmd(self.generation).roots
        owner = GuestOwner(roots=roots, rng=random_source(self.seed, "another guest owner"))
        self.act(
            "guest owner",
            "verify the chain",
            lambda: GuestOwner("amd").open_session(chain, opened.policy),
            "trusting AMD's real root: this chain ends in test keys",
            Status.INVALID_CERTIFICATE,
        )
        self.act(
            "guest owner",
            "verify the chain",
            lambda: owner.open_session(chain.replace(pdh=_forged_pdh(self.seed)), opened.policy),
            "the PDH is that of a man in the middle, who has no PEK",
            Status.BAD_SIGNATURE,
        )
        self.drive(
            lambda: platform.launch_start(opened.policy & ~1, opened.godh, opened.session),
            {"LAUNCH_START": "same session, policy without NODBG"},
            Status.BAD_MEASUREMENT,
            attack,
        )
        self.drive(
            lambda: platform.launch_start(opened.policy, opened.godh, _flipped(opened.session)),
            {"LAUNCH_START": "one bit of the wrapped keys flipped"},
            Status.BAD_MEASUREMENT,
            attack,
        )
        self.drive(
            lambda: guest.inject_secret(*packet, gpa),
            {"LAUNCH_SECRET": "into a guest that runs already"},
            Status.INVALID_GUEST_STATE,
            attack,
        )
        self._wrong_image(host, chain, owner)
        self._replay(host, opened, image, packet)
        self.drive(
            lambda: guest.host.platform.launch_start(opened.policy, opened.godh, opened.session),
            {"LAUNCH_START": "the session, replayed on platform B"},
            Status.BAD_MEASUREMENT,
            attack,
        )
        self.act(attack, "overwrite a memory block", lambda: _overwrite(guest, gpa), "of the running guest")
        self.act(
            "guest",
            "read the secret area",
            lambda: _noise(guest, gpa),
            "noise, and nobody noticed: integrity came with SEV-SNP",
        )

    def _wrong_image(self, host: Hypervisor, chain: Chain, owner: GuestOwner) -> None:
        """A back door in the image: the firmware measures it, the owner sees it, the secret stays where it is."""
        good, bad = build_firmware(label=b"guest of the demonstration"), build_firmware(label=b"guest with a back door")
        opened = owner.open_session(chain, Policy.make("NODBG", *(["ES"] if self.es else []), api=(0, 24)))
        guest = self.drive(
            lambda: self._start(host, opened, bad),
            {"LAUNCH_UPDATE_DATA": "an image with a back door"},
            party="attacker",
        )
        blob = self.drive(guest.measure, {"LAUNCH_MEASURE": lambda b: f"{b.measure.hex()[:16]}..."}, party="attacker")
        expected = launch_digest([good], self._vmsas(good))
        self.act(
            "guest owner",
            "check the measurement",
            lambda: owner.check_measurement(blob, expected),
            "not the digest that it predicted",
            Status.BAD_MEASUREMENT,
        )
        self.act(
            "guest owner",
            "package the disk key",
            lambda: owner.package_secret(DISK_KEY),
            "no accepted measurement, no secret",
            Status.BAD_MEASUREMENT,
        )

    def _replay(self, host: Hypervisor, opened: Opened, image: bytes, packet: tuple[PacketHeader, bytes]) -> None:
        """The same session and image once more: all keys are the same, the measurement's nonce is not."""
        guest = self.drive(
            lambda: self._start(host, opened, image), {"LAUNCH_START": "the session once more"}, party="attacker"
        )
        self.drive(guest.measure, {"LAUNCH_MEASURE": "same image, another nonce"}, party="attacker")
        gpa = parse_footer(image).secret_area().base
        self.drive(
            lambda: guest.inject_secret(*packet, gpa),
            {"LAUNCH_SECRET": "the packet of the first launch"},
            Status.BAD_MEASUREMENT,
            "attacker",
        )


def _verified(chain: Chain, roots: Roots) -> int:
    result = verify_chain(chain, roots)
    for check in result.failures:
        raise SevError(check.status, check.detail)
    return len(result.checks)


def _disk_key(guest: GuestVm, gpa: int) -> bytes:
    """What the guest itself finds in its secret area."""
    try:
        table = dict(parse_secret_table(guest.vcpu().read(gpa, 0x100)))
    except InputError as error:
        raise Wrong(str(error)) from None
    if table.get(DISK_KEY_GUID) != DISK_KEY:
        raise Wrong("another disk key, or none")
    return table[DISK_KEY_GUID]


def _ciphertext(guest: GuestVm, gpa: int) -> bytes:
    data = guest.seen_by_host(gpa, 16)
    if data == guest.vcpu().read(gpa, 16):
        raise Wrong("the guest's plaintext")
    return data


def _overwrite(guest: GuestVm, gpa: int) -> None:
    guest.host.platform.machine.dram.write(guest.paddr(gpa), bytes(16))


def _noise(guest: GuestVm, gpa: int) -> None:
    if guest.vcpu().read(gpa, 16) in (bytes(16), SECRET_TABLE_GUID.bytes_le):
        raise Wrong("what the attacker or the owner wrote")


def _attested(report: AttestationReport, chain: Chain, digest: bytes) -> None:
    if verify_attestation(report, chain.pek).launch_digest != digest:
        raise Wrong("another launch digest")


def _forged_pdh(seed: bytes | None) -> SevCertificate:
    """A PDH of the attacker's, signed with a key that is not the platform's PEK."""
    rng = random_source(seed, "attacker")
    pdh = new_certificate(Usage.PDH, Algo.ECDH_SHA256, draw_private(rng, "PDH").public, (0, 24))
    sign_certificate(pdh, draw_private(rng, "PEK"), Usage.PEK, Algo.ECDSA_SHA256)
    return pdh


def _flipped(session: Session) -> Session:
    return session.replace(wrap_tk=bytes([session.wrap_tk[0] ^ 1]) + session.wrap_tk[1:])
