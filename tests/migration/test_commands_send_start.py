"""SEND_START: every check of sheet 30, 5.2 to 5.2.3 and 10.2, the order, effects and draws, in both profiles."""

import dataclasses
import functools
import hmac
import json

import pytest

from firmware.kit import CERT_AT, SEND_CANCEL, SEND_START, SESSION_AT, Rig, refused, u32
from migration.ladder import ASEG, FAR, OUTSIDE, climb, outside, send_start_buf
from sevref import Algo, PlatformOwner, PrivateKey, Session, SimulatedAmd, Usage
from sevref import Status as S
from sevref.certs import new_certificate, simulated_roots
from support import vectors

PROFILES = ["spec", "genoa"]
PLAT, AMD = 0x30000, 0x34000
SEV, DOMAIN, NOSEND = 32, 16, 8
TOO_NEW = {"spec": 25 << 24, "genoa": 1 << 16 | 56 << 24}  # one minor version above the profile's own
SLOT1, SLOT2 = 0x414, 0x61C
CERT = 2084


@functools.cache
def certificates(profile: str, owned: bool = False) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]:
    """(flash, PDH, PEK, OCA, signed CEK, ASK, ARK) of the rig's platform; its owner is itself or somebody outside."""
    rig = Rig(profile).init()
    if owned:
        owner = PlatformOwner(seed=b"another owner")
        rig.platform.pek_cert_import(owner.sign_csr(rig.platform.pek_csr()), owner.oca)
    amd = SimulatedAmd("milan", seed=b"amd")
    amd.enrol(rig.machine)
    pdh, pek, oca, cek = rig.chain()
    signed = amd.certify(rig.platform.get_id(), cek)
    ask, ark = amd.roots.ask.pack(), amd.roots.ark.pack()
    return bytes(rig.machine.flash), pdh.pack(), pek.pack(), oca.pack(), signed.pack(), ask, ark


class Sender:
    """A platform with guests of several policies; the receiver's certificates are its own."""

    def __init__(self, profile: str, policy: int, state: int = 3) -> None:
        self.profile = profile
        self.rig = Rig(profile).init()
        _, *self.certs = certificates(profile)
        self.place()
        self.handle = self.rig.guest(state, policy=policy)
        self.good = {
            "handle": self.handle, "plat": PLAT, "plat_len": 6252, "amd": AMD, "amd_len": 3200, "policy": 0xFFFFFFFF,
        }  # fmt: skip
        self.rig.rng.taken()

    def place(self, **changed: bytes) -> None:
        """The certificates, some of them replaced, into memory."""
        parts = dict(zip(("pdh", "pek", "oca", "cek", "ask", "ark"), self.certs, strict=True)) | changed
        self.rig.put(CERT_AT, parts["pdh"])
        self.rig.put(PLAT, parts["pek"] + parts["oca"] + parts["cek"])
        self.rig.put(AMD, parts["ask"] + parts["ark"])

    def flip(self, name: str, *offsets: int) -> bytes:
        data = bytearray(self.certs[("pdh", "pek", "oca", "cek", "ask", "ark").index(name)])
        for offset in offsets:
            data[offset] ^= 1
        return bytes(data)

    def answers(self, status: S, **changed: bytes) -> None:
        self.place(**changed)
        if status is S.SUCCESS:
            self.rig.ok(SEND_START, send_start_buf(**self.good))
            self.rig.ok(SEND_CANCEL, u32(self.handle))
        else:
            refused(self.rig, SEND_START, send_start_buf(**self.good), status)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("policy", [SEV | DOMAIN, SEV, DOMAIN, 0], ids=["both", "sev", "domain", "neither"])
def test_order_of_the_arguments(profile: str, policy: int) -> None:
    """Rows 2, 4, 5, then lengths and addresses in the order of 5.2.1 a, b, 5.2.2 a, b, or row 10."""
    sender = Sender(profile, policy)
    rig, out = sender.rig, outside(profile)
    launching = rig.start(NOSEND)
    nosend = rig.guest(3, policy=NOSEND | policy, bound=False)
    rungs = [
        ({"handle": 77}, S.INVALID_GUEST),
        ({"handle": 0}, S.INVALID_GUEST),
        ({"handle": launching}, S.INVALID_GUEST_STATE),
        ({"handle": nosend}, S.POLICY_FAILURE),
    ]
    if policy:
        rungs += [({"plat_len": n}, S.INVALID_LENGTH) for n in (0, 6251, 6253)]
    rungs += [({"pdh_len": n}, S.INVALID_LENGTH) for n in (0, 2083, 2085)]
    if policy & SEV:
        rungs += [({"amd_len": n}, S.INVALID_LENGTH) for n in (0, 1408, 1663, 3199, 3201)]
    if policy:
        rungs += [({"plat": OUTSIDE}, out), ({"plat": FAR}, S.INVALID_ADDRESS)]
    rungs += [({"pdh": OUTSIDE}, out), ({"pdh": ASEG}, S.INVALID_ADDRESS)]
    if policy & SEV:
        rungs += [({"amd": OUTSIDE}, out), ({"amd": FAR}, S.INVALID_ADDRESS)]
    if profile == "spec":  # row 12a comes after the draws under Genoa: see below
        rungs += [({"session": FAR}, S.INVALID_ADDRESS), ({"session": OUTSIDE}, S.INVALID_ADDRESS)]
    for first in rungs:  # plat before pdh before amd, each with the other status behind it
        if "plat" in first[0]:
            other = {"pdh": FAR if first[1] is out else OUTSIDE, "amd": FAR if first[1] is out else OUTSIDE}
            refused(rig, SEND_START, send_start_buf(**{**sender.good, **other, **first[0]}), first[1])
    answer = climb(rig, SEND_START, send_start_buf, sender.good, rungs)
    assert answer == send_start_buf(**{**sender.good, "policy": policy})
    assert rig.rng.taken() == [16, 16, 16, 16]
    assert rig.guest_info(sender.handle)[0] == 4


@pytest.mark.parametrize("profile", PROFILES)
def test_platform_state(profile: str) -> None:
    rig = Rig(profile)
    refused(rig, SEND_START, send_start_buf(77, session_len=0), S.INVALID_PLATFORM_STATE)
    rig.init()
    refused(rig, SEND_START, send_start_buf(77, session_len=0), S.INVALID_PLATFORM_STATE)  # INIT


@pytest.mark.parametrize("profile", PROFILES)
def test_asking_for_the_length(profile: str) -> None:
    """Row 3: after the handle, before state and policy; SESSION_LEN alone is written back."""
    sender = Sender(profile, NOSEND, state=1)
    rig = sender.rig
    refused(rig, SEND_START, send_start_buf(77, session_len=0), S.INVALID_GUEST)
    for wrong in (0, 0x7F, 0x81):
        assert rig.run(SEND_START, u32(1) + bytes(60) + u32(wrong)) == S.INVALID_LENGTH
        assert rig.answer == u32(1) + bytes(60) + u32(0x80)
    assert rig.run(SEND_START, u32(1) + bytes(60) + u32(0x80)) == S.INVALID_GUEST_STATE
    assert rig.rng.taken() == []


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("state", [1, 2, 4, 5, 6])
def test_only_a_running_guest_is_sent(profile: str, state: int) -> None:
    sender = Sender(profile, 0, state)
    sender.place()
    refused(sender.rig, SEND_START, send_start_buf(**sender.good), S.INVALID_GUEST_STATE)


def test_a_guest_without_asid_is_sent() -> None:
    rig = Sender("spec", 0).rig
    unbound = rig.guest(3, bound=False)
    rig.ok(SEND_START, send_start_buf(unbound))


# flaws of one certificate: one that gives BAD_SIGNATURE, one that gives INVALID_CERTIFICATE where there is an easy one
BODY = 0x200  # an unused byte of the public key's area: signed


@pytest.mark.parametrize("profile", PROFILES)
def test_order_of_the_platform_chain(profile: str) -> None:
    """5.2.1 c to h, then row 7, then 5.2.2: each broken certificate wins over every later one."""
    sender = Sender(profile, SEV | DOMAIN)
    other_oca, other_pek = (certificates(profile, owned=True)[index] for index in (3, 2))
    genoa_ark = simulated_roots("genoa").ark.pack()
    slot = sender.certs[1][SLOT1 : SLOT1 + 4]
    cek_slot, oca_slot = (SLOT1, SLOT2) if slot == u32(0x1004) else (SLOT2, SLOT1)
    assert sender.certs[1][cek_slot : cek_slot + 4] == u32(0x1004)
    assert sender.certs[1][oca_slot : oca_slot + 4] == u32(0x1001)
    bad, invalid = S.BAD_SIGNATURE, S.INVALID_CERTIFICATE
    flip = sender.flip
    steps: list[tuple[str, S, bytes]] = [
        ("ask", invalid, sender.certs[4][:0x38] + u32(1600 * 8) * 2 + sender.certs[4][0x40:]),  # c: too large
        ("ark", bad, flip("ark", 0x440 + 10)),  # d: its own signature
        ("ark", invalid, genoa_ark),  # d: another root
        ("ask", bad, flip("ask", 0x440 + 10)),  # e
        ("cek", bad, flip("cek", BODY)),  # f
        ("cek", invalid, flip("cek", SLOT1 + 1)),  # f: no slot by the ASK
        ("pek", bad, flip("pek", BODY)),  # g
        ("pek", invalid, flip("pek", cek_slot + 1)),
        ("pdh", bad, flip("pdh", BODY)),  # h
        ("pdh", invalid, flip("pdh", SLOT1 + 1)),
        ("oca", bad, flip("oca", BODY)),  # 5.2.2 c, reached because 5.2.1 does not look at the OCA
        ("oca", invalid, flip("oca", SLOT1 + 1)),
        ("pek", bad, flip("pek", oca_slot + 8)),  # 5.2.2 d: r of the OCA's signature
        ("oca", S.POLICY_FAILURE, flip("oca", 0x823)),  # f: filler that no signature covers
    ]
    rank = ["c", "d", "d", "e", "f", "f", "g", "g", "h", "h", "oc", "oc", "od", "of"]
    for index, (name, status, data) in enumerate(steps):
        sender.answers(status, **{name: data})
        for later in range(index + 1, len(steps)):
            other, _, changed = steps[later]
            if other != name and rank[later] != rank[index]:
                sender.answers(status, **{other: changed, name: data})
    assert other_oca != sender.certs[2] and other_pek != sender.certs[1]
    sender.answers(S.SUCCESS)


@pytest.mark.parametrize("profile", PROFILES)
def test_version_of_the_receiver(profile: str) -> None:
    """Row 7 stands between the two chains, and exists only under POLICY.SEV."""
    sender = Sender(profile, SEV | DOMAIN | TOO_NEW[profile])
    sender.answers(S.POLICY_FAILURE)
    sender.answers(S.POLICY_FAILURE, oca=sender.flip("oca", BODY))
    sender.answers(S.BAD_SIGNATURE, pdh=sender.flip("pdh", BODY))
    Sender(profile, DOMAIN | TOO_NEW[profile]).answers(S.SUCCESS)
    Sender(profile, TOO_NEW[profile]).answers(S.SUCCESS)
    Sender(profile, SEV | DOMAIN | TOO_NEW[profile] - (1 << 24)).answers(S.SUCCESS)


@pytest.mark.parametrize("profile", PROFILES)
def test_another_owners_platform(profile: str) -> None:
    """A valid chain under another OCA: POLICY.SEV does not mind, DOMAIN does, last of all."""
    _, *others = certificates(profile, owned=True)
    theirs = dict(zip(("pdh", "pek", "oca", "cek"), others, strict=False))
    Sender(profile, SEV).answers(S.SUCCESS, **theirs)
    Sender(profile, 0).answers(S.SUCCESS, **theirs)
    for policy in (DOMAIN, SEV | DOMAIN):
        sender = Sender(profile, policy)
        sender.answers(S.POLICY_FAILURE, **theirs)
        sender.answers(
            S.BAD_SIGNATURE, **{**theirs, "pdh": theirs["pdh"][:BODY] + b"x" + theirs["pdh"][BODY + 1 :]}
        )  # a bad signature wins


SAME = S.SUCCESS
# sheet 30, 10.2: (certificate, offset) -> SEV, DOMAIN without SEV, neither
BY_POLICY: list[tuple[str, int, S, S, S]] = [
    ("pdh", 0x000, S.BAD_SIGNATURE, S.BAD_SIGNATURE, S.INVALID_CERTIFICATE),
    ("pdh", 0x004, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),
    ("pdh", 0x008, S.BAD_SIGNATURE, S.BAD_SIGNATURE, S.INVALID_CERTIFICATE),
    ("pdh", 0x014, S.BAD_SIGNATURE, S.BAD_SIGNATURE, S.INVALID_CERTIFICATE),
    ("pdh", 0x05C, S.BAD_SIGNATURE, S.BAD_SIGNATURE, S.INVALID_CERTIFICATE),
    ("pdh", BODY, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),
    ("pdh", SLOT1 + 8, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),  # r
    ("pdh", SLOT1 + 8 + 72, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),  # s
    ("pdh", SLOT1, S.INVALID_CERTIFICATE, S.INVALID_CERTIFICATE, SAME),  # usage of the slot
    ("pdh", SLOT2, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),  # the unused slot, half invalid
    ("pdh", SLOT1 + 200, SAME, SAME, SAME),  # behind r and s
    ("pdh", SLOT2 + 100, SAME, SAME, SAME),  # data of the unused slot
    ("pek", BODY, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),
    ("pek", 0x005, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),  # its API version is signed
    ("pek", 0x014, S.BAD_SIGNATURE, S.BAD_SIGNATURE, SAME),
    ("oca", 0x014, SAME, S.INVALID_CERTIFICATE, SAME),  # key off the curve
    ("oca", BODY, SAME, S.BAD_SIGNATURE, SAME),
    ("oca", SLOT1 + 8, SAME, S.BAD_SIGNATURE, SAME),
    ("oca", 0x823, SAME, S.POLICY_FAILURE, SAME),
    ("cek", BODY, S.BAD_SIGNATURE, SAME, SAME),
    ("cek", SLOT1 + 8, S.BAD_SIGNATURE, SAME, SAME),
    ("ask", 0x440 + 10, S.BAD_SIGNATURE, SAME, SAME),
    ("ask", 0x100, S.BAD_SIGNATURE, SAME, SAME),
    ("ask", 0x38, S.INVALID_CERTIFICATE, SAME, SAME),  # a size field
    ("ark", 0x440 + 10, S.BAD_SIGNATURE, SAME, SAME),
    ("ark", 0x38, S.INVALID_CERTIFICATE, SAME, SAME),
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("column", "policy"), [(0, SEV), (1, DOMAIN), (2, 0)], ids=["sev", "domain", "neither"])
def test_what_the_policy_makes_of_a_changed_certificate(profile: str, column: int, policy: int) -> None:
    sender = Sender(profile, policy)
    for name, offset, *statuses in BY_POLICY:
        sender.answers(statuses[column], **{name: sender.flip(name, offset)})
    # either signature of the PEK
    slots = {int.from_bytes(sender.certs[1][at : at + 4], "little"): at for at in (SLOT1, SLOT2)}
    for usage, answers in {0x1004: (S.BAD_SIGNATURE, SAME, SAME), 0x1001: (SAME, S.BAD_SIGNATURE, SAME)}.items():
        sender.answers(answers[column], pek=sender.flip("pek", slots[usage] + 8))


@pytest.mark.parametrize("profile", PROFILES)
def test_any_key_will_do_without_sev_and_domain(profile: str) -> None:
    """10.2, "PDH replaced by an attacker key": NOT detected, and the session opens for that key alone."""
    key = PrivateKey(0x5EED)
    cert = new_certificate(Usage.PDH, Algo.ECDH_SHA256, key.public, (0, 0))
    for policy in (SEV, DOMAIN):
        sender = Sender(profile, policy)
        sender.answers(S.INVALID_CERTIFICATE, pdh=cert.pack())  # without a signature by the PEK (5.2.3 row 4)
        sender.answers(S.BAD_SIGNATURE, pdh=cert.pack()[:SLOT1] + sender.certs[0][SLOT1:])
    sender = Sender(profile, 0)
    sender.place(pdh=cert.pack())
    sender.rig.ok(SEND_START, send_start_buf(sender.handle))
    assert sender.rig.rng.taken() == [16] * 4
    session = Session.parse(sender.rig.get(SESSION_AT, 128))
    assert session.open(key, sender.rig.chain()[0], 0).tek == sender.rig.rng.last[0]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("at", "status"), [(FAR, S.INVALID_ADDRESS), (OUTSIDE, None), (ASEG, S.INVALID_ADDRESS)])
def test_a_session_that_cannot_be_written(profile: str, at: int, status: S | None) -> None:
    """Row 12a: the guest is left RUNNING, POLICY unwritten; under Genoa the four draws are used up."""
    sender = Sender(profile, 0)
    sender.place()
    rig, before = sender.rig, sender.rig.observe()
    buffer = send_start_buf(sender.handle, session=at, policy=0x1234)
    rig.rng.taken()
    assert rig.run(SEND_START, buffer) == (status or outside(profile)) and rig.answer == buffer
    assert rig.rng.taken() == ([] if profile == "spec" else [16] * 4)
    after = rig.observe()
    before["dram"] = after["dram"]  # the command buffer
    assert before == after
    assert rig.firmware.guests[sender.handle].tek == bytes(16)


def test_the_vectors_sessions() -> None:
    """SESSION of the sheet's vectors, byte for byte, from the fixed keys and draws."""
    found = {v["id"]: v for v in json.loads(vectors("transport.json").read_text())["vectors"]}
    keys = found["keys"]["outputs"]
    names = ("session-migrate", "session-migrate-es", "session-self")
    for profile in PROFILES:
        for name in names:
            given, expected = found[name]["inputs"], found[name]["outputs"]
            rig = Rig(profile).init(es=True)
            key = PrivateKey(int(keys[given["local"]]["d_be"], 16))
            identity = rig.firmware.identity
            # the vectors' policies also ask for API 1.17, which a guest launched without a session may do
            handle = rig.guest(3, policy=given["policy_u32"] & ~SEV, bound=False)
            guest = rig.firmware.guests[handle]
            rig.firmware.identity = dataclasses.replace(identity, pdh_key=key)
            rig.put(CERT_AT, bytes.fromhex(keys[given["peer"]]["cert"]))
            guest.policy = type(guest.policy)(given["policy_u32"] & ~SEV)
            rig.rng.script = [bytes.fromhex(given[part]) for part in ("tek", "tik", "nonce", "wrap_iv")]
            rig.ok(SEND_START, send_start_buf(handle))
            session = rig.get(SESSION_AT, 128)
            wanted = bytes.fromhex(expected["session"])
            assert session[:0x60] == wanted[:0x60]  # POLICY_MAC covers POLICY.SEV, which the vectors set
            tik = bytes.fromhex(given["tik"])
            assert session[0x60:] == hmac.digest(tik, u32(given["policy_u32"] & ~SEV), "sha256")
            assert wanted[0x60:] == hmac.digest(tik, u32(given["policy_u32"]), "sha256")


@pytest.mark.parametrize("profile", PROFILES)
def test_cancel_and_start_again_has_new_keys(profile: str) -> None:
    sender = Sender(profile, 0)
    sessions = []
    for _ in range(2):
        sender.place()
        sender.rig.ok(SEND_START, send_start_buf(sender.handle))
        sessions.append((sender.rig.get(SESSION_AT, 128), tuple(sender.rig.firmware.guests[sender.handle].tek)))
        sender.rig.ok(SEND_CANCEL, u32(sender.handle))
        guest = sender.rig.firmware.guests[sender.handle]
        assert (guest.tek, guest.tik, guest.ms, guest.nonce) == (bytes(16),) * 4
    assert sessions[0][0][:16] != sessions[1][0][:16] and sessions[0][1] != sessions[1][1]
