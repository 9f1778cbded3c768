"""Every attack with the observable that its paper reports, and where it must not work."""

import pytest

from sevref.attacks import ATTACKS, run
from sevref.attacks import victim as v
from sevref.attacks.lab import Attacker, Server, serve
from sevref.attacks.victim import World
from sevref.memory import ZEN1, variant
from sevref.status import InputError

XE, XEX = ("naples", "xe-zen1"), ("naples", "xex-zen1")
RANDOM, XTS = ("milan", "xex-boot-random"), ("genoa", "xts-boot-random")
ALL = [XE, XEX, RANDOM, XTS]
WORKS, FAILS = True, False

#: attack -> engines on which it works against a plain SEV guest
PLAIN = {
    "determinism": ALL,
    "address_dependence": ALL,
    "plain_reads": [],
    "fault": ALL,
    "registers": ALL,
    "recover_constants": [XE],
    "move_blocks": [XE],
    "markers": [XE, XEX],
    "guess_constant": [],  # needs constants of two bytes, below
    "known_text": [XE, XEX],
    "replay": ALL,
    "replay_page": ALL,
    "registers_replay": ALL,
    "remap": ALL,
    "raw_move": ALL,
    "side_channel": ALL,
    "dictionary": ALL,
    "registers_dictionary": ALL,
    "firmware_oracle": ALL,
    "alias": ALL,
    "interposer": ALL,
    "crossline": ALL,
    "permute": ALL,
}


def test_every_attack_is_here() -> None:
    assert set(PLAIN) == {name for name, attack in ATTACKS.items() if attack.module == "memory"}


@pytest.mark.parametrize("name", PLAIN)
def test_against_plain_sev(name: str) -> None:
    with Attacker(name) as attacker:
        for generation, engine in ALL:
            outcome = attacker.run(serve(attacker.attack, generation, "SEV", engine))
            assert outcome.works == ((generation, engine) in PLAIN[name]), (engine, outcome.claim, outcome.why)
            assert outcome.refused == ""  # plain SEV: nothing ever faults, an attack fails by noise


#: attack -> (SEV-ES, SNP, SNP with hiding): works or what stops it ("" = it sees nothing useful)
STOPPED = {
    "plain_reads": ("", "", ""),
    "fault": (WORKS, "RmpFault", "RmpFault"),
    "registers": ("VmrunFailed", "RmpFault", "RmpFault"),
    "replay": (WORKS, "RmpFault", "RmpFault"),
    "replay_page": (WORKS, "RmpFault", "RmpFault"),
    "registers_replay": ("VmrunFailed", "RmpFault", "RmpFault"),
    "remap": (WORKS, "VmmCommunication", "VmmCommunication"),
    "side_channel": (WORKS, WORKS, ""),
    "dictionary": (WORKS, WORKS, ""),
    "registers_dictionary": (WORKS, WORKS, ""),
    "firmware_oracle": (WORKS, WORKS, "POLICY_FAILURE"),
    "alias": (WORKS, WORKS, WORKS),
    "interposer": (WORKS, WORKS, WORKS),
    "crossline": (WORKS, "VmrunFailed", "VmrunFailed"),
    "determinism": (WORKS, WORKS, ""),
    "move_blocks": ("", "RmpFault", "RmpFault"),
    "known_text": ("", "RmpFault", "RmpFault"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_against_es_and_snp(name: str) -> None:
    with Attacker(name) as attacker:
        for protection, expected in zip(("SEV-ES", "SNP", "SNP + hiding"), STOPPED[name], strict=True):
            outcome = attacker.run(serve(attacker.attack, "milan", protection))
            assert (outcome.works or outcome.refused) == (expected or ""), (protection, outcome)


# -- the observables


def claim(name: str, engine: tuple[str, str], **changes: object) -> dict[str, object]:
    return run(name, engine[0], engine=changes.get("variant", engine[1])).claim  # type: ignore[arg-type]


def test_e2_zero_pages() -> None:
    assert claim("address_dependence", XE) == {"in_one": 256, "in_both": 512}
    table = (*ZEN1[:4], bytes(16), bytes(16), *ZEN1[6:])  # t_8 = t_9 = 0: the 1950X of Wilke et al.
    found = claim("address_dependence", XEX, variant=variant("xex-zen1", constants=table))
    assert found["in_one"] == 64


@pytest.mark.parametrize("engine", ALL)
def test_e3_one_byte_as_another_asid(engine: tuple[str, str]) -> None:
    world = World(engine[0], engine[1])
    p = world.nested[v.SECRET]
    assert world.run_as(world.own_asid, p, v.SECRET, 64) not in (
        world.victim.secret[:64],
        world.machine.dram.read(p, 64),
    )
    world.machine.vcpu(world.own_asid, nested={0: p}).write(0x25, b"x")
    seen = world.vcpu.read(v.SECRET, 4096)
    assert seen[:0x20] == world.victim.secret[:0x20] and seen[0x30:] == world.victim.secret[0x30:]
    assert sum(a != b for a, b in zip(seen[0x20:0x30], world.victim.secret[0x20:0x30], strict=True)) >= 12


@pytest.mark.parametrize("engine", ALL)
def test_e4_one_bit_changes_one_block(engine: tuple[str, str]) -> None:
    world = World(engine[0], engine[1])
    p = world.nested[v.SECRET] + 0x120
    world.machine.host_write(p, bytes([world.machine.host_read(p, 1)[0] ^ 0x10]))
    seen, truth = world.vcpu.read(v.SECRET, 4096), world.victim.secret
    assert seen[:0x120] == truth[:0x120] and seen[0x130:] == truth[0x130:]
    bits = (int.from_bytes(seen[0x120:0x130], "big") ^ int.from_bytes(truth[0x120:0x130], "big")).bit_count()
    assert 40 <= bits <= 88  # half of 128 is 64


def test_e4_factor() -> None:
    assert claim("fault", RANDOM)["factor"] in (v.P, v.Q)


def test_e5_all_28_constants() -> None:
    found = claim("recover_constants", XE)
    assert found["constants"] == {str(bit): t.hex() for bit, t in enumerate(ZEN1, 4)}
    assert found["rank"] == 28 and found["linear"] is True
    noise = claim("recover_constants", XEX)
    assert noise["linear"] is False and set(noise["constants"].values()).isdisjoint(t.hex() for t in ZEN1)  # type: ignore[attr-defined]


def test_e7_markers() -> None:
    assert claim("markers", XE)["form"] == "c" and claim("markers", XEX)["form"] == "c ^ T"
    assert claim("markers", XE)["alike"] == 256


def test_e8_period_2() -> None:
    toy = variant("xex-boot-random", period=2)
    outcome = run("guess_constant", engine=toy)
    assert outcome.works and outcome.claim["hits"] == 1
    assert run("guess_constant", engine=variant("xex-boot-random", period=4)).claim["hits"] == 0
    assert not run("guess_constant", engine="xts-boot-random").works
    assert run("guess_constant", engine=toy, seed=b"other boot").claim["constant"] != outcome.claim["constant"]


def test_e9_searches_known_text() -> None:
    for engine in (XE, XEX):
        assert claim("known_text", engine) == {"searched": 10869, "granted": True}
    assert run("known_text").claim["granted"] is False


def test_e12_tries() -> None:
    world = World()
    assert world.victim.pin > 3
    outcome = run("replay")
    assert outcome.claim == {"pin": world.victim.pin, "tries": world.victim.pin + 1}
    for pin in (0, 1, 2):
        assert not world.victim.login(pin)
    assert not world.victim.login(world.victim.pin)  # locked, without the attack


def test_e14_moves() -> None:
    world = World(engine="xe-zen1", generation="naples")
    server = serve(ATTACKS["raw_move"], "naples", engine="xe-zen1")
    p, q = server.world.nested[v.SECRET], v.ATTACKERS
    machine = server.world.machine
    machine.host_write(q, machine.host_read(p, 16))
    moved = machine.umc.read(server.world.asid, q, 16)
    t = int.from_bytes(machine.umc.engine.tweak(p), "big") ^ int.from_bytes(machine.umc.engine.tweak(q), "big")
    plain = int.from_bytes(world.victim.secret[:16], "big")
    assert int.from_bytes(moved, "big") == plain ^ t  # under XE a raw copy is not noise


def test_e15_two_ciphertexts() -> None:
    for engine in ALL:
        assert claim("side_channel", engine)["different"] == 2


def test_e15_register_protection() -> None:
    assert run("registers_dictionary", "milan", "SNP").works
    assert not run("registers_dictionary", "milan", "SNP", register_protection=True).works
    assert run("registers_dictionary", "milan", "SEV-ES", register_protection=True).works  # SNP guests alone have it
    world = World(protection="SNP", register_protection=True)
    for value in (0, 7, 1 << 63):
        world.save_registers(value)
        assert world.load_registers() == value


def test_e17_boot_check() -> None:
    assert run("alias", "milan", "SNP").works
    assert not run("alias", "milan", "SNP", alias_check=True).works


def test_runs_are_deterministic() -> None:
    assert run("side_channel").claim == run("side_channel").claim
    assert run("side_channel", seed=b"other").claim["exponent"] != run("side_channel").claim["exponent"]


# -- the server offers what a hypervisor has


def server(name: str = "replay", **settings: str) -> Server:
    return serve(ATTACKS[name], **settings)  # type: ignore[arg-type]


def test_only_somebody_on_the_bus_has_the_bus() -> None:
    assert server().answer({"op": "bus_read", "address": 0, "size": 1})["refused"] == "InputError"
    assert server().answer({"op": "bus_write", "address": 0, "data": "00"})["refused"] == "InputError"
    assert server("interposer").answer({"op": "bus_read", "address": 0, "size": 1}) == {"answer": b"\0"}


@pytest.mark.parametrize("op", ["key", "engine", "slots", "tweak", "umc", "__class__", "seed"])
def test_no_request_reaches_further(op: str) -> None:
    assert server().answer({"op": op})["refused"] == "InputError"


def test_actions_of_the_victim_are_a_list() -> None:
    for action in ("pin_block", "run", "__init__", "secret", "_actions"):
        answer = server().answer({"op": "run", "action": action, "arguments": {}})
        assert answer["refused"] == "InputError"


def test_the_brief_tells_no_secret() -> None:
    for engine in ("xe-zen1", "xex-boot-random", "xts-boot-random"):
        one = server(engine=engine)
        text = repr(one.brief)
        engine_now = one.world.machine.umc.engine
        assert str(one.world.victim.pin_block()) not in text and str(one.world.victim.exponent) not in text
        assert engine_now.host_key().seed.hex() not in text
        assert (one.brief["constants"] is None) == (engine != "xe-zen1")
        for constant in engine_now.constants.values():
            assert (constant.hex() in text) == (engine == "xe-zen1")


def test_unknown_protection() -> None:
    with pytest.raises(InputError, match="SEV-ES"):
        World(protection="TDX")
