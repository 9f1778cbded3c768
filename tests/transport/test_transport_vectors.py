"""Known answers of transport.json: key derivation, sessions, MACs and packets, each against the published or
independently computed value, and what a change in transit does to sessions and packets."""

import json

import pytest

from sevref.certs import SevCertificate
from sevref.crypto import P384_P, Point, aes_ctr, ecdh, hmac_sha256, kdf
from sevref.measurement import launch_measurement
from sevref.policy import Policy
from sevref.status import SevError, Status
from sevref.transport import (
    PacketHeader,
    PacketMacInput,
    PolicyMacInput,
    Session,
    key_wrap_keys,
    make_packet,
    master_secret,
    open_packet,
    packet_mac,
    secret_trailer,
)
from support import vectors

VECTORS = {v["id"]: v for v in json.loads(vectors("transport.json").read_text())["vectors"]}
COUNTS = {
    "aes128ctr": 4, "kdf": 8, "ecdh": 6, "keys": 1, "session": 5, "policy_mac": 7, "measure": 3, "packet": 12,
    "tamper": 38,
}  # fmt: skip
KEYS = VECTORS["keys"]["outputs"]
h = bytes.fromhex


def group(name: str) -> list[str]:
    return [id for id, v in VECTORS.items() if v["group"] == name]


def private(party: str) -> int:
    return int(KEYS[party]["d_be"], 16)


def certificate(party: str) -> SevCertificate:
    return SevCertificate.parse(h(KEYS[party]["cert"]))


def migrate_keys() -> dict[str, bytes]:
    return {name: h(KEYS[name]) for name in ("tek", "tik", "nonce", "wrap_iv")}


def test_the_file_is_complete() -> None:
    assert {name: len(group(name)) for name in COUNTS} == COUNTS
    assert sum(COUNTS.values()) == len(VECTORS) == 84


@pytest.mark.parametrize("id", group("aes128ctr"))
def test_aes_ctr(id: str) -> None:
    inputs = VECTORS[id]["inputs"]
    ciphertext = h(VECTORS[id]["outputs"]["ciphertext"])
    assert aes_ctr(h(inputs["key"]), h(inputs["iv"]), h(inputs["plaintext"])) == ciphertext
    assert aes_ctr(h(inputs["key"]), h(inputs["iv"]), ciphertext) == h(inputs["plaintext"])


@pytest.mark.parametrize("id", group("kdf"))
def test_kdf(id: str) -> None:
    inputs, outputs = VECTORS[id]["inputs"], VECTORS[id]["outputs"]
    key = h(inputs["key"])
    found = kdf(key, inputs["label_ascii"].encode(), h(inputs["context"]), inputs["out_len"])
    assert len(found) == inputs["out_len"]
    if "must_not_equal" in outputs:  # the usual big-endian counter and length
        assert found != h(outputs["must_not_equal"])
        message = h("00000001") + b"sev-master-secret\0" + bytes(16) + h("00000080")
        assert hmac_sha256(key, message)[:16] == h(outputs["must_not_equal"])
        return
    assert found == h(outputs["out"])
    if "mac_input" in outputs:
        assert hmac_sha256(key, h(outputs["mac_input"]))[: inputs["out_len"]] == h(outputs["out"])


@pytest.mark.parametrize("id", [id for id in group("ecdh") if id != "ecdh-negated-y"])
def test_ecdh_and_key_schedule(id: str) -> None:
    inputs, outputs = VECTORS[id]["inputs"], VECTORS[id]["outputs"]
    peer = Point(int(inputs["peer_x_be"], 16), int(inputs["peer_y_be"], 16))
    assert h(inputs["peer_qx_cert_le72"]) == peer.x.to_bytes(72, "little")
    z = ecdh(int(inputs["private_be"], 16), peer)
    assert z == h(outputs["z_be48"])
    ms = master_secret(z, h(inputs["nonce"]))
    assert ms == h(outputs["master_secret"])
    assert key_wrap_keys(ms) == (h(outputs["kek"]), h(outputs["kik"]))


def test_the_sign_of_the_peers_y_is_invisible() -> None:
    inputs, outputs = VECTORS["ecdh-negated-y"]["inputs"], VECTORS["ecdh-negated-y"]["outputs"]
    x, y, negated = (int(inputs[name], 16) for name in ("peer_x_be", "peer_y_be", "peer_y_negated_be"))
    assert negated == P384_P - y
    for peer in (Point(x, y), Point(x, negated), SevCertificate.parse(h(outputs["cert_with_negated_y"]))):
        assert ecdh(private("receiver"), peer) == h(outputs["z_be48"])


@pytest.mark.parametrize("party", ["sender", "receiver", "guest_owner"])
def test_fixed_keys_and_their_certificates(party: str) -> None:
    expected = Point(int(KEYS[party]["x_be"], 16), int(KEYS[party]["y_be"], 16))
    cert = certificate(party)
    assert cert.public_point == expected
    assert cert.pack() == h(KEYS[party]["cert"])
    generator = Point(
        0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
        0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
    )  # FIPS 186-4: its multiple's X is what ecdh gives
    assert ecdh(private(party), generator) == expected.x.to_bytes(48, "big")


def test_session_from_a_given_shared_secret() -> None:
    """virtee/sev's published session starts at Z."""
    vector = VECTORS["session-virtee-zero"]
    inputs, outputs = vector["inputs"], vector["outputs"]
    ms = master_secret(h(inputs["z"]), h(inputs["nonce"]))
    assert ms == h(outputs["master_secret"])
    assert key_wrap_keys(ms) == (h(outputs["kek"]), h(outputs["kik"]))
    names = ("tek", "tik", "nonce", "wrap_iv")
    session = Session.wrap(ms, inputs["policy_u32"], **{name: h(inputs[name]) for name in names})
    for name in ("wrap_tk", "wrap_mac", "policy_mac"):
        assert getattr(session, name) == h(outputs[name]), name
    assert session.pack() == h(outputs["session"])


@pytest.mark.parametrize("id", [id for id in group("session") if id != "session-virtee-zero"])
def test_session_is_built_and_opened(id: str) -> None:
    inputs, outputs = VECTORS[id]["inputs"], VECTORS[id]["outputs"]
    policy, keys = inputs["policy_u32"], migrate_keys()
    session = Session.build(private(inputs["local"]), certificate(inputs["peer"]), policy, **keys)
    assert session.pack() == h(outputs["session"])
    assert ecdh(private(inputs["local"]), certificate(inputs["peer"])) == h(outputs["z_be48"])

    received = Session.parse(h(outputs["session"]))
    channel = received.open(private(inputs["peer"]), certificate(inputs["local"]), policy)
    assert (channel.tek, channel.tik) == (keys["tek"], keys["tik"])
    assert (channel.ms, channel.nonce) == (h(outputs["master_secret"]), keys["nonce"])
    assert key_wrap_keys(channel.ms) == (h(outputs["kek"]), h(outputs["kik"]))


@pytest.mark.parametrize("id", group("policy_mac"))
def test_policy_mac(id: str) -> None:
    inputs, expected = VECTORS[id]["inputs"], h(VECTORS[id]["outputs"]["policy_mac"])
    covered = PolicyMacInput(policy=Policy(inputs["policy_u32"])).pack()
    assert covered == h(inputs["policy_bytes"])
    assert hmac_sha256(h(inputs["tik"]), covered) == expected
    some = {"tek": bytes(16), "nonce": bytes(16), "wrap_iv": bytes(16)}
    session = Session.wrap(bytes(16), inputs["policy_u32"], tik=h(inputs["tik"]), **some)
    assert session.policy_mac == expected


@pytest.mark.parametrize("id", group("measure"))
def test_measure(id: str) -> None:
    inputs = VECTORS[id]["inputs"]
    api = (inputs.get("api_major", 0), inputs.get("api_minor", 16))  # the old form names no version
    found = launch_measurement(
        h(inputs["tik"]),
        api,
        inputs.get("build", 1),
        policy=inputs["policy_u32"],
        digest=h(inputs["launch_digest"]),
        nonce=h(inputs["mnonce"]),
    )
    assert found == h(VECTORS[id]["outputs"]["measure"])


# ---------------------------------------------------------------------------------------------- packets

PLAINTEXTS = {  # by the formulas in the vectors' descriptions
    "packet-data-4096": bytes((7 * i + (i >> 8)) % 256 for i in range(4096)),
    "packet-vmsa-ctx3": bytes((13 * i + 5 * (i >> 8) + 1) % 256 for i in range(4096)),
    "packet-vmsa-ctx2": bytes((13 * i + 5 * (i >> 8) + 1) % 256 for i in range(4096)),
}


def packet(id: str) -> tuple[bytes, PacketHeader, bytes, bytes]:
    """Plaintext, header, ciphertext and trailer of a packet vector."""
    inputs, outputs = VECTORS[id]["inputs"], VECTORS[id]["outputs"]
    plaintext = PLAINTEXTS[id] if id in PLAINTEXTS else h(inputs["plaintext"])
    data = (
        h(outputs["ciphertext"]) if "ciphertext" in outputs else aes_ctr(h(inputs["tek"]), h(inputs["iv"]), plaintext)
    )
    return plaintext, PacketHeader.parse(h(outputs["header"])), data, h(inputs.get("measure", ""))


@pytest.mark.parametrize("id", group("packet"))
def test_packet_is_made(id: str) -> None:
    inputs, outputs = VECTORS[id]["inputs"], VECTORS[id]["outputs"]
    plaintext, _, data, trailer = packet(id)
    made, ciphertext = make_packet(
        h(inputs["tek"]), h(inputs["tik"]), inputs["context"], plaintext,
        iv=h(inputs["iv"]), flags=inputs["flags"], trailer=trailer,
    )  # fmt: skip
    assert made.pack() == h(outputs["header"])
    assert made.mac == h(outputs["mac"])
    assert ciphertext == data
    size = len(plaintext)
    covered = PacketMacInput(
        context=inputs["context"], flags=inputs["flags"], iv=h(inputs["iv"]), guest_len=size, trans_len=size, data=data
    )  # fmt: skip
    assert covered.pack()[:29] == h(outputs["mac_input_prefix"])
    assert covered.pack()[29:] == data


@pytest.mark.parametrize("id", group("packet"))
def test_packet_is_opened(id: str) -> None:
    inputs = VECTORS[id]["inputs"]
    plaintext, header, data, trailer = packet(id)
    args = (h(inputs["tek"]), h(inputs["tik"]), inputs["context"], header, data)
    if inputs["flags"] & 1:
        with pytest.raises(SevError) as caught:
            open_packet(*args, trailer=trailer)
        assert caught.value.status == Status.UNSUPPORTED
    else:
        assert open_packet(*args, trailer=trailer) == plaintext


def test_pre_0_17_secret_has_no_measure_in_its_mac() -> None:
    measure = h(VECTORS["packet-secret-16"]["inputs"]["measure"])
    assert secret_trailer(measure, (0, 16)) == b""
    assert secret_trailer(measure, (0, 17)) == secret_trailer(measure, (1, 0)) == measure
    inputs = VECTORS["packet-secret-pre-0.17"]["inputs"]
    _, header, data, _ = packet("packet-secret-pre-0.17")
    with pytest.raises(SevError) as caught:
        open_packet(h(inputs["tek"]), h(inputs["tik"]), 1, header, data, trailer=secret_trailer(measure, (0, 17)))
    assert caught.value.status == Status.BAD_MEASUREMENT


# ---------------------------------------------------------------------------------------------- tampering


# Lengths in the command buffer are refused by the commands, before a session or packet is looked at.
LENGTHS = ["tamper-session_len", "tamper-cert_len", "tamper-pkt_len_mismatch", "tamper-pkt_len_unaligned"]


def tampered(what: str) -> list[str]:
    return [id for id in group("tamper") if what in VECTORS[id]["base"] and id not in LENGTHS]


def test_length_cases_are_the_commands() -> None:
    assert {VECTORS[id]["expect"]["status"] for id in LENGTHS} == {"INVALID_LENGTH"}
    assert (len(tampered("session")), len(tampered("packet"))) == (26, 8)


@pytest.mark.parametrize("id", tampered("session"))
def test_tampered_session(id: str) -> None:
    vector = VECTORS[id]
    base, mutation, expected = vector["base"], vector["mutation"], vector["expect"]["status"]
    buffers = {
        "session": bytearray(h(VECTORS[base["session"]]["outputs"]["session"])),
        "pdh_cert": bytearray(h(KEYS["sender"]["cert"])),
    }
    policy, api, times = base["policy_u32"], (0, 24), 1
    if mutation == "issue twice":
        times = 2
    elif mutation != "none":
        if "replace" in mutation:
            images = {
                "ecdh-negated-y.cert_with_negated_y": VECTORS["ecdh-negated-y"]["outputs"]["cert_with_negated_y"],
                "keys.guest_owner.cert": KEYS["guest_owner"]["cert"],
            }
            buffers[mutation["buffer"]][:] = h(images[mutation["replace"]])
        elif "buffer" in mutation:
            buffers[mutation["buffer"]][mutation["offset"]] ^= mutation["xor"]
        elif mutation.get("field") == "policy":
            policy ^= mutation["xor"]
        else:
            api = tuple(mutation["receiver_api"])
    for _ in range(times):
        session, cert = Session.parse(buffers["session"]), SevCertificate.parse(buffers["pdh_cert"])
        try:
            channel = session.open(private(base["local"]), cert, policy, api=api)
            assert (channel.tek, channel.tik) == (h(KEYS["tek"]), h(KEYS["tik"]))
            found = "SUCCESS"
        except SevError as error:
            found = error.status.name
            for word in ("WRAP_MAC", "POLICY_MAC"):
                if word in vector["failing_check"]:
                    assert word in error.rule
        assert found == expected


@pytest.mark.parametrize("id", tampered("packet"))
def test_tampered_packet(id: str) -> None:
    vector = VECTORS[id]
    mutation, base, expected = vector["mutation"], vector["base"], vector["expect"]["status"]
    plaintext, header, data, _ = packet(base["packet"])
    buffers = {"header": bytearray(header.pack()), "data": bytearray(data)}
    size = 48
    if isinstance(mutation, dict) and "buffer" in mutation:
        buffers[mutation["buffer"]][mutation["offset"]] ^= mutation["xor"]
    elif isinstance(mutation, dict):
        size = mutation["guest_len"]
        assert mutation["trans_len"] == size
    for _ in range(2 if mutation == "deliver twice" else 1):
        try:
            header = PacketHeader.parse(buffers["header"])
            found = open_packet(h(KEYS["tek"]), h(KEYS["tik"]), 2, header, bytes(buffers["data"][:size]))
            assert found == plaintext
            assert expected == "SUCCESS"
        except SevError as error:
            assert error.status.name == expected


@pytest.mark.parametrize(
    ("change", "status"),
    [("flags bit 0", "BAD_MEASUREMENT"), ("flags bit 31", "BAD_MEASUREMENT"), ("iv", "BAD_MEASUREMENT"),
     ("mac", "BAD_MEASUREMENT"), ("payload", "BAD_MEASUREMENT"), ("shortened", "BAD_MEASUREMENT"),
     ("other session", "BAD_MEASUREMENT"), ("other measurement", "BAD_MEASUREMENT"),
     ("as a data packet", "BAD_MEASUREMENT"), ("replayed", None)],
)  # fmt: skip
def test_tampered_secret(change: str, status: str | None) -> None:
    """Sheet 30, section 10.3, column LAUNCH_SECRET."""
    inputs = VECTORS["packet-secret-sevctl-1"]["inputs"]
    plaintext, header, data, trailer = packet("packet-secret-sevctl-1")
    tek, tik, context = h(inputs["tek"]), h(inputs["tik"]), 1
    match change:
        case "flags bit 0":
            header.flags ^= 1
        case "flags bit 31":
            header.flags ^= 1 << 31
        case "iv":
            header.iv = header.iv[:-1] + bytes([header.iv[-1] ^ 1])
        case "mac":
            header.mac = header.mac[:-1] + bytes([header.mac[-1] ^ 1])
        case "payload":
            data = data[:-1] + bytes([data[-1] ^ 1])
        case "shortened":
            data = data[:48]
        case "other session":
            tik = h(KEYS["tik"])
        case "other measurement":
            trailer = trailer[:-1] + bytes([trailer[-1] ^ 1])
        case "as a data packet":
            context, trailer = 2, b""
    if status is None:
        assert open_packet(tek, tik, context, header, data, trailer=trailer) == plaintext
        assert open_packet(tek, tik, context, header, data, trailer=trailer) == plaintext
        return
    with pytest.raises(SevError) as caught:
        open_packet(tek, tik, context, header, data, trailer=trailer)
    assert caught.value.status.name == status


def test_a_wrong_tek_is_not_noticed() -> None:
    """The MAC covers the ciphertext only (sheet 30, section 5.10)."""
    inputs = VECTORS["packet-secret-sevctl-1"]["inputs"]
    plaintext, header, data, trailer = packet("packet-secret-sevctl-1")
    found = open_packet(bytes(16), h(inputs["tik"]), 1, header, data, trailer=trailer)
    assert len(found) == len(plaintext) and found != plaintext


def test_lengths_are_under_the_mac() -> None:
    _, header, data, _ = packet("packet-data-48")
    args = (h(KEYS["tik"]), 2, 0, header.iv)
    assert packet_mac(*args, 48, 48, data) == header.mac
    assert packet_mac(*args, 32, 48, data) != header.mac
