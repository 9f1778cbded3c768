"""Sessions: creation, the order of the checks when one is opened, and what mutation does to them."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from sevref.certs import Algo, SevCertificate, Usage, new_certificate
from sevref.crypto import Point, PrivateKey, ReplayRandom, SeededRandom, hmac_sha256
from sevref.status import InputError, SevError, Status
from sevref.transport import (
    Channel,
    PacketHeader,
    PolicyMacInput,
    Session,
    TransportKeys,
    key_wrap_keys,
    make_packet,
    master_secret,
    open_packet,
)

PLATFORM = PrivateKey(0xA5 << 300 | 0x1234567)  # stands for a platform's PDH key
POLICY = 0x18000007  # API 0.24, ES NOKS NODBG


def pdh_of(key: PrivateKey, usage: int = Usage.PDH, algo: int = Algo.ECDH_SHA256) -> SevCertificate:
    return new_certificate(usage, algo, key.public, (0, 24))


OPENED = Session.create(pdh_of(PLATFORM), POLICY, rng=SeededRandom(b"test", "guest owner"))


def status_of(session: Session, cert: object = None, policy: int = POLICY, **how: object) -> tuple[Status, str]:
    with pytest.raises(SevError) as caught:
        session.open(PLATFORM, OPENED.godh if cert is None else cert, policy, **how)
    return caught.value.status, caught.value.rule


def resealed(policy: int) -> Session:
    """A session whose MACs are right for any policy, however senseless."""
    mac = hmac_sha256(OPENED.tik, PolicyMacInput(policy=policy).pack())
    return OPENED.session.replace(policy_mac=mac)


# ---------------------------------------------------------------------------------------------- creation


def test_layouts() -> None:
    offsets = [(row["name"], row["offset"], row["size"]) for row in Session.table()]
    assert offsets == [
        ("nonce", 0x00, 16), ("wrap_tk", 0x10, 32), ("wrap_iv", 0x30, 16), ("wrap_mac", 0x40, 32),
        ("policy_mac", 0x60, 32),
    ]  # fmt: skip
    assert [(row["name"], row["offset"], row["size"]) for row in PacketHeader.table()] == [
        ("flags", 0x00, 4), ("iv", 0x04, 16), ("mac", 0x14, 32),
    ]  # fmt: skip
    assert (Session.SIZE, PacketHeader.SIZE, TransportKeys.SIZE) == (128, 52, 32)


def test_create_draws_in_order_and_uses_the_bytes_as_drawn() -> None:
    chunks = [bytes([i]) * size for i, size in enumerate((48, 16, 16, 16, 16), start=1)]
    rng = ReplayRandom(chunks)
    opened = Session.create(pdh_of(PLATFORM), POLICY, rng=rng)
    assert rng.left == 0
    assert opened.godh.public_point == PrivateKey(int.from_bytes(chunks[0], "little")).public
    assert (opened.tek, opened.tik, opened.session.nonce, opened.session.wrap_iv) == tuple(chunks[1:])


def test_create_without_a_source_is_fresh_every_time() -> None:
    one, other = (Session.create(pdh_of(PLATFORM), POLICY) for _ in range(2))
    assert len({one.tek, other.tek, one.tik, other.tik, one.session.nonce, other.session.nonce}) == 6
    assert one.godh.public_point != other.godh.public_point


def test_the_godh_certificate() -> None:
    """An unsigned PDH certificate of API 0.0 with both slots empty (sheet 30, section 1.6)."""
    data = OPENED.godh.pack()
    assert len(data) == 2084
    assert data[:0x14].hex() == "0100000000000000031000000300000002000000"
    assert data[0x414:0x41C].hex() == data[0x61C:0x624].hex() == "0010000000000000"
    assert not any(data[0x41C:0x61C]) and not any(data[0x624:])
    other = Session.create(pdh_of(PLATFORM), POLICY, rng=SeededRandom(b"test", "guest owner"), api=(1, 55))
    assert (other.godh.api_major, other.godh.api_minor) == (1, 55)


def test_every_form_of_key_works() -> None:
    library = ec.derive_private_key(PLATFORM.d, ec.SECP384R1())
    for peer in (pdh_of(PLATFORM), PLATFORM.public, tuple(PLATFORM.public), library.public_key()):
        opened = Session.create(peer, POLICY)
        for private in (PLATFORM, PLATFORM.d, library):
            point = opened.godh.public_point
            numbers = ec.EllipticCurvePublicNumbers(point.x, point.y, ec.SECP384R1())
            for godh in (opened.godh, point, numbers.public_key()):
                channel = opened.session.open(private, godh, POLICY)
                assert (channel.tek, channel.tik) == (opened.tek, opened.tik)


@pytest.mark.parametrize("peer", ["PEK usage", "ECDSA", "ECDH SHA-384", "off curve", "zero", "version"])
def test_no_session_for_an_unfit_pdh(peer: str) -> None:
    cert: object = {
        "PEK usage": pdh_of(PLATFORM, usage=Usage.PEK),
        "ECDSA": pdh_of(PLATFORM, algo=Algo.ECDSA_SHA256),
        "ECDH SHA-384": pdh_of(PLATFORM, algo=Algo.ECDH_SHA384),
        "off curve": Point(PLATFORM.public.x, PLATFORM.public.y ^ 1),
        "zero": Point(0, 0),
        "version": pdh_of(PLATFORM).replace(version=2),
    }[peer]
    with pytest.raises(SevError) as caught:
        Session.create(cert, POLICY)
    assert caught.value.status == Status.INVALID_CERTIFICATE


@pytest.mark.parametrize("peer", ["text", 5, None, b"bytes"])
def test_no_session_for_what_is_no_key(peer: object) -> None:
    with pytest.raises(InputError):
        Session.create(peer, POLICY)


def test_arguments_of_the_wrong_size() -> None:
    keys = {"tek": bytes(16), "tik": bytes(16), "nonce": bytes(16), "wrap_iv": bytes(16)}
    for name in ("tek", "tik", "wrap_iv"):
        for size in (15, 17, 0):
            with pytest.raises(InputError):
                Session.build(1, PLATFORM.public, POLICY, **{**keys, name: bytes(size)})
    for policy in (-1, 1 << 32):
        with pytest.raises(InputError):
            Session.create(PLATFORM.public, policy)
        with pytest.raises(InputError):
            OPENED.session.open(PLATFORM, OPENED.godh, policy)
    for size in (127, 129, 0):
        with pytest.raises(InputError):
            Session.parse(bytes(size))


# ---------------------------------------------------------------------------------------------- opening


def test_the_checks_come_in_order() -> None:
    """Sheet 30, section 2: each session below breaks one rule and every later one; the first answers."""
    bad_policy = 0x19000040 | POLICY  # wants 0.25, reserved bit 6
    everything = OPENED.session.replace(wrap_mac=bytes(32), policy_mac=bytes(32))
    assert status_of(everything, pdh_of(PLATFORM, algo=2), bad_policy)[0] == Status.INVALID_CERTIFICATE
    assert status_of(everything, Point(1, 1), bad_policy)[0] == Status.INVALID_CERTIFICATE
    status, rule = status_of(everything, policy=bad_policy)
    assert (status, "WRAP_MAC" in rule) == (Status.BAD_MEASUREMENT, True)
    status, rule = status_of(OPENED.session.replace(policy_mac=bytes(32)), policy=bad_policy)
    assert (status, "POLICY_MAC" in rule) == (Status.BAD_MEASUREMENT, True)
    status, rule = status_of(resealed(bad_policy), policy=bad_policy)
    assert (status, "API 0.25" in rule) == (Status.POLICY_FAILURE, True)
    status, rule = status_of(resealed(bad_policy), policy=bad_policy, api=(0, 25))
    assert (status, "15:6" in rule) == (Status.POLICY_FAILURE, True)


def test_wrong_iv_is_caught_by_the_policy_mac() -> None:
    """WRAP_MAC does not cover WRAP_IV, so the TIK comes out wrong (sheet 30, section 10.1)."""
    status, rule = status_of(OPENED.session.replace(wrap_iv=bytes(16)))
    assert (status, "POLICY_MAC" in rule) == (Status.BAD_MEASUREMENT, True)


@pytest.mark.parametrize(
    ("minimum", "own", "opens"),
    [((0, 0), (0, 0), True), ((0, 24), (0, 24), True), ((0, 24), (0, 23), False), ((1, 0), (0, 255), False),
     ((0, 255), (1, 0), True), ((1, 55), (1, 54), False), ((255, 255), (255, 255), True)],
)  # fmt: skip
def test_api_version_is_compared_major_first(minimum: tuple[int, int], own: tuple[int, int], opens: bool) -> None:
    policy = 1 | minimum[0] << 16 | minimum[1] << 24
    if opens:
        assert resealed(policy).open(PLATFORM, OPENED.godh, policy, api=own).tik == OPENED.tik
    else:
        assert status_of(resealed(policy), policy=policy, api=own)[0] == Status.POLICY_FAILURE


@pytest.mark.parametrize("bit", range(32))
def test_policy_bits(bit: int) -> None:
    """Any bit changed in transit is BAD_MEASUREMENT; authenticated, only bits 15:6 are refused for themselves."""
    assert status_of(OPENED.session, policy=POLICY ^ 1 << bit)[0] == Status.BAD_MEASUREMENT
    policy = 1 << bit
    if 6 <= bit <= 15:
        assert status_of(resealed(policy), policy=policy, api=(255, 255))[0] == Status.POLICY_FAILURE
    else:
        resealed(policy).open(PLATFORM, OPENED.godh, policy, api=(255, 255))


def test_another_platform_or_another_owner_does_not_fit() -> None:
    with pytest.raises(SevError) as caught:
        OPENED.session.open(PrivateKey(7), OPENED.godh, POLICY)
    assert caught.value.status == Status.BAD_MEASUREMENT and "WRAP_MAC" in caught.value.rule
    assert status_of(OPENED.session, pdh_of(PrivateKey(7)))[0] == Status.BAD_MEASUREMENT


def test_a_session_opens_any_number_of_times() -> None:
    channels = [OPENED.session.open(PLATFORM, OPENED.godh, POLICY) for _ in range(2)]
    assert channels[0] == channels[1]
    assert channels[0] == Channel(OPENED.tek, OPENED.tik, channels[0].ms, OPENED.session.nonce)


# ---------------------------------------------------------------------------------------------- mutation


@pytest.mark.parametrize("byte", range(128))
def test_no_flipped_bit_opens(byte: int) -> None:
    for bit in range(8):
        data = bytearray(OPENED.session.pack())
        data[byte] ^= 1 << bit
        assert status_of(Session.parse(data))[0] == Status.BAD_MEASUREMENT


@settings(max_examples=200, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 127), st.integers(1, 255), min_size=1), policy=st.integers(0, 2**32 - 1))
def test_mutated_sessions_never_open(changes: dict[int, int], policy: int) -> None:
    data = bytearray(OPENED.session.pack())
    for position, xor in changes.items():
        data[position] ^= xor
    assert status_of(Session.parse(data), policy=policy)[0] == Status.BAD_MEASUREMENT


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), policy=st.integers(-1, 2**33))
def test_garbage_is_an_input_error_or_a_status(data: bytes, policy: int) -> None:
    with pytest.raises((SevError, InputError)):
        Session.parse(data).open(PLATFORM, OPENED.godh, policy)


# What LAUNCH_START reads of a certificate (sheet 30, section 1.6): version, usage, algorithm, curve, Qx, Qy.
READ = [*range(0x04), *range(0x08, 0xA4)]


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 2083), st.integers(1, 255), min_size=1, max_size=4))
def test_mutated_godh(changes: dict[int, int]) -> None:
    data = bytearray(OPENED.godh.pack())
    for position, xor in changes.items():
        data[position] ^= xor
    cert = SevCertificate.parse(data)
    if any(position in READ for position in changes):
        assert status_of(OPENED.session, cert)[0] == Status.INVALID_CERTIFICATE
    else:
        assert OPENED.session.open(PLATFORM, cert, POLICY).tik == OPENED.tik


# ------------------------------------------------------------------------------- byte order, short MACs, leaks


def test_big_endian_key_derivation_does_not_fit() -> None:
    """A sender whose KDF counts big-endian, as general-purpose libraries do, is refused."""
    z_of_one = PLATFORM.public.x.to_bytes(48, "big")  # own key 1: Z is the peer's X
    nonce, iv = bytes(range(16)), bytes(16)

    def derive(key: bytes, label: bytes, context: bytes, order: str) -> bytes:
        counter, size = (1).to_bytes(4, order), (128).to_bytes(4, order)
        return hmac_sha256(key, counter + label + b"\0" + context + size)[:16]

    me = PrivateKey(1).public
    for order, fits in (("little", True), ("big", False)):
        ms = derive(z_of_one, b"sev-master-secret", nonce, order)
        assert (ms == master_secret(z_of_one, nonce)) is fits
        session = Session.wrap(ms, POLICY, tek=bytes(16), tik=bytes(16), nonce=nonce, wrap_iv=iv)
        if fits:
            assert session.open(PLATFORM, me, POLICY).ms == ms
        else:
            assert status_of(session, me)[0] == Status.BAD_MEASUREMENT
    assert master_secret(z_of_one[::-1], nonce) != master_secret(z_of_one, nonce)


def test_all_32_bytes_of_every_mac_count() -> None:
    for name in ("wrap_mac", "policy_mac"):
        mac = getattr(OPENED.session, name)
        for i in range(32):
            changed = mac[:i] + bytes([mac[i] ^ 1]) + mac[i + 1 :]
            status, rule = status_of(OPENED.session.replace(**{name: changed}))
            assert (status, name.upper() in rule) == (Status.BAD_MEASUREMENT, True)
    header, data = make_packet(OPENED.tek, OPENED.tik, 2, bytes(32), iv=bytes(16))
    for i in range(32):
        changed = header.mac[:i] + bytes([header.mac[i] ^ 1]) + header.mac[i + 1 :]
        with pytest.raises(SevError) as caught:
            open_packet(OPENED.tek, OPENED.tik, 2, header.replace(mac=changed), data)
        assert caught.value.status == Status.BAD_MEASUREMENT


def test_wrap_mac_is_under_kik_and_over_the_ciphertext() -> None:
    channel = OPENED.session.open(PLATFORM, OPENED.godh, POLICY)
    kek, kik = key_wrap_keys(channel.ms)
    assert OPENED.session.wrap_mac == hmac_sha256(kik, OPENED.session.wrap_tk)
    assert kek != kik


def test_keys_are_in_no_repr_and_no_message() -> None:
    channel = OPENED.session.open(PLATFORM, OPENED.godh, POLICY)
    keys = TransportKeys(tek=OPENED.tek, tik=OPENED.tik)
    texts = [repr(OPENED), repr(channel), str(channel), repr(keys), str(keys.describe()[0].text)]
    texts += [status_of(OPENED.session.replace(**{name: bytes(32)}))[1] for name in ("wrap_mac", "policy_mac")]
    for secret in (OPENED.tek, OPENED.tik, channel.ms):
        for text in texts:
            assert secret.hex() not in text and repr(secret)[2:-1] not in text
