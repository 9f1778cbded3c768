"""The guest owner's refusals: each of them by name, and that nothing else is refused."""

from collections.abc import Callable

import pytest

from sevref.certs import Chain, Roots, amd_roots, simulated_roots
from sevref.crypto import PrivateKey, SeededRandom
from sevref.measurement import MeasurementBlob, launch_measurement
from sevref.roles.guest_owner import GuestOwner
from sevref.status import InputError, SevError, Status
from sevref.transport import PacketHeader, open_packet, parse_secret_table

DIGEST = bytes(range(32))
DISK = "736869e5-84f0-4973-92ec-06879ce3da0b"
MNONCE = bytes(range(16))


def owner_of(**how: object) -> GuestOwner:
    return GuestOwner(**{"roots": simulated_roots("milan"), "seed": b"x", **how})


def refusal(call: Callable[..., object], *args: object, **how: object) -> tuple[str, str]:
    with pytest.raises(SevError) as caught:
        call(*args, **how)
    return caught.value.status.name, caught.value.rule


class Guest:
    """What the firmware knows of a launch: enough to measure it and to open a secret."""

    def __init__(self, owner: GuestOwner, chain: Chain, key: PrivateKey, policy: int = 1) -> None:
        opened = owner.open_session(chain, policy)
        self.channel, self.policy = opened.session.open(key, opened.godh, policy), policy

    def measure(self, **changes: object) -> MeasurementBlob:
        how = {"api": (0, 24), "build": 15, "policy": self.policy, "digest": DIGEST, "nonce": MNONCE, **changes}
        return MeasurementBlob(measure=launch_measurement(self.channel.tik, **how), mnonce=how["nonce"])

    def secret(self, header: PacketHeader, payload: bytes, trailer: bytes) -> bytes:
        return open_packet(self.channel.tek, self.channel.tik, 1, header, payload, trailer=trailer)


# ---------------------------------------------------------------------------------------------- platform


def test_a_verified_platform_gets_a_session(chain: Chain, pdh_key: PrivateKey) -> None:
    owner = owner_of()
    opened = owner.open_session(chain, 1)
    channel = opened.session.open(pdh_key, opened.godh, 1)
    assert (channel.tek, channel.tik) == (opened.tek, opened.tik)
    assert owner.chain_result is not None and owner.chain_result.valid


def test_a_seed_makes_it_reproducible(chain: Chain) -> None:
    one, same, other = (owner_of(seed=seed).open_session(chain, 1) for seed in (b"x", b"x", b"y"))
    assert one.session.pack() == same.session.pack() != other.session.pack()
    given = owner_of(rng=SeededRandom(b"x", "guest owner")).open_session(chain, 1)
    assert given.session.pack() == one.session.pack()
    assert GuestOwner(roots=simulated_roots("milan")).open_session(chain, 1).tek != one.tek


@pytest.mark.parametrize(
    ("place", "field", "status"),
    [
        ("ask", "modulus", "BAD_SIGNATURE"),
        ("cek", "api_minor", "BAD_SIGNATURE"),
        ("oca", "api_minor", "BAD_SIGNATURE"),
        ("pek", "api_minor", "BAD_SIGNATURE"),
        ("pdh", "api_minor", "BAD_SIGNATURE"),
        ("pdh", "sig1_usage", "INVALID_CERTIFICATE"),
    ],
)
def test_a_broken_link_gets_no_session(chain: Chain, place: str, field: str, status: str) -> None:
    cert = getattr(chain, place)
    setattr(cert, field, getattr(cert, field) ^ 4)
    owner = owner_of()
    found, rule = refusal(owner.open_session, chain, 1)
    assert found == status
    assert "the platform's chain does not verify" in rule and place.upper() in rule and "signature" in rule
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"


@pytest.mark.parametrize("place", ["cek", "oca", "pek", "pdh"])
def test_a_missing_certificate_gets_no_session(chain: Chain, place: str) -> None:
    setattr(chain, place, None)
    found, rule = refusal(owner_of().open_session, chain, 1)
    assert found == "INVALID_CERTIFICATE" and place.upper() in rule and "missing" in rule


@pytest.mark.parametrize("roots", ["amd", amd_roots("milan"), simulated_roots("genoa"), []])
def test_an_untrusted_root_gets_no_session(chain: Chain, roots: str | Roots) -> None:
    assert refusal(owner_of(roots=roots).open_session, chain, 1)[0] == "INVALID_CERTIFICATE"


def test_one_of_several_roots_will_do(chain: Chain) -> None:
    assert owner_of(roots=[simulated_roots("genoa"), simulated_roots("milan")]).open_session(chain, 1)


def test_the_pdh_of_another_platform_gets_no_session(chain: Chain, chain_of: Callable[..., Chain]) -> None:
    """The man in the middle offers his own PDH below the victim's chain."""
    stranger = chain_of(pdh_key=PrivateKey(99)).pdh
    assert stranger is not None
    stranger.sig1_usage, stranger.sig1_algo, stranger.sig1 = 0x1000, 0, bytes(512)
    chain.pdh = stranger
    found, rule = refusal(owner_of().open_session, chain, 1)
    assert found == "INVALID_CERTIFICATE" and "PDH" in rule


@pytest.mark.parametrize(
    ("policy", "debug", "word"),
    [(0, False, "NODBG"), (0x18000006, False, "NODBG"), (0x41, False, "15:6"), (0x8001, False, "15:6"),
     (0, True, None), (1, False, None), (0x3F, False, None), (0x40, True, "15:6")],
)  # fmt: skip
def test_policies(chain: Chain, policy: int, debug: bool, word: str | None) -> None:
    owner = owner_of(allow_debug=debug)
    if word is None:
        assert owner.open_session(chain, policy).policy == policy
    else:
        found, rule = refusal(owner.open_session, chain, policy)
        assert found == "POLICY_FAILURE" and word in rule


@pytest.mark.parametrize(
    ("pek", "minimum", "policy", "opens"),
    [
        ((0, 24), (0, 24), 1, True),
        ((0, 23), (0, 24), 1, False),
        ((1, 0), (0, 24), 1, True),
        ((0, 255), (1, 0), 1, False),
        ((0, 17), (0, 16), 1, True),
        ((0, 17), (0, 16), 0x11000001, True),  # the policy wants 0.17
        ((0, 17), (0, 16), 0x12000001, False),  # the policy wants 0.18
    ],
)
def test_platforms_older_than_asked(
    chain_of: Callable[..., Chain], pek: tuple[int, int], minimum: tuple[int, int], policy: int, opens: bool
) -> None:
    owner = owner_of(minimum_api=minimum)
    if opens:
        assert owner.open_session(chain_of(api=pek), policy)
    else:
        found, rule = refusal(owner.open_session, chain_of(api=pek), policy)
        assert found == "POLICY_FAILURE" and "PEK" in rule and "API" in rule


def test_the_default_minimum_is_0_24(chain_of: Callable[..., Chain]) -> None:
    assert refusal(owner_of().open_session, chain_of(api=(0, 23)), 1)[0] == "POLICY_FAILURE"


# ---------------------------------------------------------------------------------------------- measurement


def test_the_expected_launch_is_accepted_and_gets_its_secret(chain: Chain, pdh_key: PrivateKey) -> None:
    owner = owner_of()
    guest = Guest(owner, chain, pdh_key)
    blob = guest.measure()
    owner.check_measurement(blob, DIGEST)
    owner.check_measurement(blob.pack(), DIGEST, api=(0, 24), build=15)
    header, payload = owner.package_secret({DISK: b"key"})
    assert len(payload) % 16 == 0 and header.flags == 0
    table = guest.secret(header, payload, blob.measure)
    assert [(str(guid), data) for guid, data in parse_secret_table(table)] == [(DISK, b"key")]
    header, payload = owner.package_secret(b"raw")
    assert guest.secret(header, payload, blob.measure) == b"raw" + bytes(13)
    other, _ = owner.package_secret(b"raw")
    assert other.iv != header.iv


@pytest.mark.parametrize(
    "change",
    [{"api": (0, 23)}, {"api": (1, 24)}, {"build": 14}, {"policy": 3}, {"digest": bytes(32)}, {"api": (0, 16)}],
    ids=str,
)
def test_any_other_launch_is_refused(chain: Chain, pdh_key: PrivateKey, change: dict[str, object]) -> None:
    owner = owner_of()
    guest = Guest(owner, chain, pdh_key)
    found, rule = refusal(owner.check_measurement, guest.measure(**change), DIGEST)
    assert found == "BAD_MEASUREMENT"
    assert "API 0.24 build 15" in rule and "policy 0x1" in rule and DIGEST.hex() in rule
    assert guest.channel.tik.hex() not in rule
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"


@pytest.mark.parametrize("byte", range(48))
def test_every_byte_of_the_measurement_counts(chain: Chain, pdh_key: PrivateKey, byte: int) -> None:
    owner = owner_of()
    data = bytearray(Guest(owner, chain, pdh_key).measure().pack())
    data[byte] ^= 1
    assert refusal(owner.check_measurement, bytes(data), DIGEST)[0] == "BAD_MEASUREMENT"


def test_a_launch_by_somebody_else_is_refused(chain: Chain, pdh_key: PrivateKey) -> None:
    """The hypervisor replaces GODH and session by its own: the measurement is then under another TIK."""
    owner, attacker = owner_of(), owner_of(seed=b"attacker")
    owner.open_session(chain, 1)
    blob = Guest(attacker, chain, pdh_key).measure()
    assert refusal(owner.check_measurement, blob, DIGEST)[0] == "BAD_MEASUREMENT"


def test_a_later_refusal_takes_the_acceptance_back(chain: Chain, pdh_key: PrivateKey) -> None:
    owner = owner_of()
    guest = Guest(owner, chain, pdh_key)
    owner.check_measurement(guest.measure(), DIGEST)
    owner.package_secret(b"secret")
    refusal(owner.check_measurement, guest.measure(), bytes(32))
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"
    owner.check_measurement(guest.measure(), DIGEST)
    owner.open_session(chain, 1)
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"


def test_nothing_without_a_session() -> None:
    owner = owner_of()
    assert refusal(owner.check_measurement, bytes(48), DIGEST)[0] == "BAD_MEASUREMENT"
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"


def test_running_firmware_older_than_asked_is_refused(chain: Chain, pdh_key: PrivateKey) -> None:
    """The PEK may be newer than the firmware that launched the guest; the measurement says which that is."""
    owner = owner_of()
    guest = Guest(owner, chain, pdh_key)
    found, rule = refusal(owner.check_measurement, guest.measure(api=(0, 22)), DIGEST, api=(0, 22))
    assert found == "POLICY_FAILURE" and "0.22" in rule
    assert refusal(owner.package_secret, b"secret")[0] == "BAD_MEASUREMENT"


def test_before_api_0_17(chain_of: Callable[..., Chain], pdh_key: PrivateKey) -> None:
    owner = owner_of(minimum_api=(0, 16))
    guest = Guest(owner, chain_of(api=(0, 16)), pdh_key)
    old = guest.measure(api=(0, 16), build=1)
    owner.check_measurement(old, DIGEST, api=(0, 16), build=1)
    header, payload = owner.package_secret(b"secret")
    assert guest.secret(header, payload, b"").startswith(b"secret")
    owner.check_measurement(guest.measure(api=(0, 17)), DIGEST, api=(0, 17))
    header, payload = owner.package_secret(b"secret")
    with pytest.raises(SevError) as caught:
        guest.secret(header, payload, b"")
    assert caught.value.status == Status.BAD_MEASUREMENT


@pytest.mark.parametrize("size", [0, 47, 49])
def test_blobs_of_another_size(chain: Chain, size: int) -> None:
    owner = owner_of()
    owner.open_session(chain, 1)
    with pytest.raises(InputError, match="launch measurement"):
        owner.check_measurement(bytes(size), DIGEST)
    with pytest.raises(InputError, match="digest"):
        owner.check_measurement(bytes(48), bytes(size))


def test_limits_of_a_secret(chain: Chain, pdh_key: PrivateKey) -> None:
    owner = owner_of()
    owner.check_measurement(Guest(owner, chain, pdh_key).measure(), DIGEST)
    assert len(owner.package_secret(bytes(16384))[1]) == 16384
    assert len(owner.package_secret({DISK: bytes(16384 - 40)})[1]) == 16384
    for secret in (b"", bytes(16385), {DISK: bytes(16384 - 39)}):
        with pytest.raises(InputError, match="secret"):
            owner.package_secret(secret)


def test_the_owner_shows_no_key(chain: Chain) -> None:
    owner = owner_of()
    opened = owner.open_session(chain, 1)
    for text in (repr(owner), str(owner), repr(opened)):
        assert opened.tik.hex() not in text and opened.tek.hex() not in text
