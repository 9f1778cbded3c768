"""The attacks: who makes them, what they get, where they were published, what stops them, and what is model.

Publications marked (K) are known from the literature and were not read again for this catalogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sevref.attacks import victim as v
from sevref.attacks.victim import World
from sevref.boot.digest import PageInfo, PageType
from sevref.measurement import AttestationReport

Judge = Callable[[World, dict[str, Any]], bool]

SOFTWARE = "hypervisor: software on the host"
OWN = "hypervisor, on memory of its own"
MODULE = "hypervisor, and a memory module that lies about its size"
BUS = "somebody with a device on the memory bus"


@dataclass(frozen=True)
class Attack:
    """One attack. ``function`` is in ``sevref.attacks.hostile.<module>``; ``judge`` decides at the victim's side."""

    id: str
    function: str
    title: str
    attacker: str
    published: str
    stops: str
    judge: Judge
    label: str = "the effect is published; machine and victim are our model"
    module: str = "memory"
    alias: bool = False
    bus: bool = False
    kernel_size: int = 0
    harmless: bool = False  #: shows an effect that harms nobody by itself


# -- judges: each compares the claim with what the victim knows or reads


def _reads(world: World, gpa: int, size: int) -> bytes:
    return world.vcpu.read(gpa, size)


def _secret_page(world: World, claim: dict[str, Any]) -> bool:
    known = set(_blocks(world.victim.secret))
    return any(known & set(_blocks(bytes.fromhex(page))) for page in claim["pages"])


def _blocks(data: bytes) -> list[bytes]:
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def _constants(world: World, claim: dict[str, Any]) -> bool:
    truth = world.machine.umc.engine.constants
    found = {int(bit): bytes.fromhex(value) for bit, value in claim["constants"].items()}
    return bool(truth) and found == {bit: t for bit, t in truth.items() if bit in found}


def _one_constant(world: World, claim: dict[str, Any]) -> bool:
    truth = world.machine.umc.engine.constants.get(claim["bit"])
    return claim["hits"] == 1 and truth is not None and claim["constant"] == truth.hex()


def _predicted(world: World, claim: dict[str, Any]) -> bool:
    return all(_reads(world, int(gpa), 16).hex() == block for gpa, block in claim["predicted"].items())


def _permuted(world: World, claim: dict[str, Any]) -> bool:
    image, platform = bytes(range(256)), world.platform
    if world.machine.rmp is not None:  # SNP has another launch: compare its digests of two pages in either order
        pages = [image.ljust(v.PAGE, b"\0"), bytes(v.PAGE)]
        return _snp_digest(pages, [0, v.PAGE]) == _snp_digest(pages, [v.PAGE, 0])
    report: AttestationReport = platform.attestation(claim["handle"], bytes(16))
    asid = platform.guest_status(claim["handle"]).asid
    inside = world.machine.vcpu(asid).read(claim["base"], len(image))
    return bool(report.launch_digest == hashlib.sha256(image).digest()) and inside != image


def _snp_digest(pages: list[bytes], addresses: list[int]) -> bytes:
    digest = bytes(48)
    for page, gpa in zip(pages, addresses, strict=True):
        contents = hashlib.sha384(page).digest()
        info = PageInfo(digest_cur=digest, contents=contents, page_type=PageType.NORMAL, gpa=gpa)
        digest = hashlib.sha384(info.pack()).digest()
    return digest


def _moved(world: World, claim: dict[str, Any]) -> bool:
    truth = hashlib.sha256(world.victim.secret).hexdigest()
    return claim["by_hand"] != truth and claim["by_firmware"] == truth and bool(claim["raw_differs"])


def _pin(world: World, claim: dict[str, Any]) -> bool:
    return bool(claim["pin"] == world.victim.pin)


ATTACKS: dict[str, Attack] = {
    attack.function: attack
    for attack in (
        Attack(
            "E1", "determinism", "Equal plaintext at one place, equal ciphertext", SOFTWARE,
            "basis of CipherLeaks, Li et al. 2021", "ciphertext hiding, against software",
            lambda world, claim: bool(claim["equal"] and claim["differs"]), harmless=True,
        ),
        Attack(
            "E2", "address_dependence", "Equal plaintext at two places, different ciphertext", SOFTWARE,
            "AMD, Memory Encryption white paper 2016", "nothing: this is the tweak at work",
            lambda world, claim: claim["in_one"] == 256 and claim["in_both"] == 512, harmless=True,
        ),
        Attack(
            "E3", "plain_reads", "Read the victim's memory", SOFTWARE,
            "AMD, Memory Encryption white paper 2016", "the key of the ASID", _secret_page,
            label="AMD documents it",
        ),
        Attack(
            "E4", "fault", "One flipped ciphertext bit: a faulty RSA signature, and the key", SOFTWARE,
            "Buhren et al. 2017 (K)", "SEV-SNP: the host cannot write to a guest's page",
            lambda world, claim: claim["factor"] in (v.P, v.Q),
        ),
        Attack(
            "E4 registers", "registers", "Change the registers of a stopped virtual CPU", SOFTWARE,
            "AMD, SEV-ES white paper 2017", "SEV-ES: encrypted registers with a checksum out of the host's reach",
            lambda world, claim: claim["rax"] != 0,
        ),
        Attack(
            "E5", "recover_constants", "XE gives its tweak constants away", OWN,
            "Du et al. 2017, Wilke et al. 2020", "XEX, or 128-bit constants per boot and XEX", _constants,
            label="measured by its authors on Zen 1 parts; the engine here is built from their table",
        ),
        Attack(
            "E6", "move_blocks", "Swap two blocks: the guest reads a known difference", SOFTWARE,
            "Du et al. 2017; for I/O buffers Li et al. 2019", "unknown constants; SEV-SNP: no write access", _predicted,
            label="measured by its authors on Zen 1 parts; the engine here is built from their table",
        ),
        Attack(
            "E7", "markers", "Data that equals its own tweak marks where the victim keeps it", SOFTWARE,
            "Du et al. 2017", "unknown constants; ciphertext hiding",
            lambda world, claim: claim["found"] == world.nested[v.REQUEST],
            label="measured by its authors on Zen 1 parts; the engine here is built from their table",
        ),
        Attack(
            "E8", "guess_constant", "Guess a tweak constant of 16 bits", OWN,
            "Wilke et al. 2020, for 32 bits: about 30 minutes a bit with hardware",
            "constants of 128 bits: 2^128 guesses", _one_constant,
            label="our toy: no processor has constants of period 2",
        ),
        Attack(
            "E9", "known_text", "Known text in memory is an encryption oracle", SOFTWARE,
            "Wilke et al. 2020 (SEVurity); turned into code execution there",
            "unknown constants; SEV-SNP: no write access", lambda world, claim: bool(claim["granted"]),
            label="measured by its authors on Zen 1 parts; the kernel text here is random bytes", kernel_size=1 << 20,
        ),
        Attack(
            "E12", "replay", "Put an old block back: endless tries for a PIN", SOFTWARE,
            "Hetzelt and Buhren 2017 (K)", "SEV-SNP: the host cannot write to a guest's page", _pin,
        ),
        Attack(
            "E12 page", "replay_page", "Put an old page back", SOFTWARE,
            "Hetzelt and Buhren 2017 (K)", "SEV-SNP: the host cannot write to a guest's page", _pin,
        ),
        Attack(
            "E12 registers", "registers_replay", "Put old registers back", SOFTWARE,
            "AMD, SEV-ES white paper 2017", "SEV-ES: the checksum fits the newest registers only",
            lambda world, claim: claim["first"] == claim["again"],
        ),
        Attack(
            "E13", "remap", "Swap two entries of the nested page table: the victim serves its secret", SOFTWARE,
            "SEVered, Morbitzer et al. 2018 (K)", "SEV-SNP: a page has one owner and one guest address",
            lambda world, claim: claim["page"] == world.victim.secret.hex(),
        ),
        Attack(
            "E14", "raw_move", "Move a page without the firmware: noise; with COPY: it works", SOFTWARE,
            "KVM pins the pages of SEV guests for this reason", "the tweak", _moved,
            label="follows from the tweak; COPY as AMD's API describes it", harmless=True,
        ),
        Attack(
            "E15", "side_channel", "Read a constant-time ladder's exponent off its ciphertext", SOFTWARE,
            "Li et al. 2022 (K), after CipherLeaks 2021", "ciphertext hiding, against software",
            lambda world, claim: claim["exponent"] == world.victim.exponent,
        ),
        Attack(
            "E15 dictionary", "dictionary", "Look the secret's ciphertext up among known ones", SOFTWARE,
            "CipherLeaks, Li et al. 2021, for registers; Li et al. 2022 (K) for memory",
            "ciphertext hiding, against software", _pin,
        ),
        Attack(
            "E15 registers", "registers_dictionary", "Look a register's ciphertext up among known ones", SOFTWARE,
            "CipherLeaks, Li et al. 2021", "register protection (SEV-SNP guests); ciphertext hiding", _pin,
        ),
        Attack(
            "E16", "firmware_oracle", "Let the firmware encrypt guesses at the secret's address", SOFTWARE,
            "Heracles 2025 (K), with SNP's PAGE_MOVE", "guest policy bit 25: no page moves", _pin,
            label="the model uses SEV's COPY in the place of PAGE_MOVE: derived by us",
        ),
        Attack(
            "E17", "alias", "Two addresses, one cell: replay past every check", MODULE,
            "BadRAM 2024", "boot firmware that looks for aliases (ALIAS_CHECK_COMPLETE)", _pin, alias=True,
        ),
        Attack(
            "E17 bus", "interposer", "Replay on the memory bus", BUS,
            "Battering RAM 2025, TEE.fail 2025 (K)", "nothing here: it would take freshness", _pin, bus=True,
        ),
        Attack(
            "E18", "crossline", "Start a virtual machine with the victim's ASID", SOFTWARE,
            "CrossLine, Li et al. 2021", "SEV-SNP: a register page belongs to one ASID", _secret_page,
            label="the real attack has a few accesses before the crash; the model does not crash",
        ),
        Attack(
            "E20", "permute", "Launch the measured blocks at other addresses", SOFTWARE,
            "undeSErVed trust, Wilke et al. 2021", "SEV-SNP: the launch digest covers each page's address", _permuted,
            label="the effect is published; under SNP only the digests are compared, there is no SNP launch in it",
        ),
    )
}  # fmt: skip
