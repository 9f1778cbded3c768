"""SEV's primitives: published vectors, AMD's byte orders, edges of key and nonce candidates, random streams."""

import hashlib
import json
import random

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from sevref import crypto
from sevref.crypto import Point, PrivateKey, ReplayRandom, RsaPrivate, RsaPublic, SeededRandom
from sevref.status import InputError, SevError, Status
from support import vectors

P = int("fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff", 16)
N = int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
B = int("b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef", 16)
G = Point(
    int("aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7", 16),
    int("3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f", 16),
)
SECRET = 0x5EC2E75EC2E75EC2E7


def number(text: str) -> int:
    return int(text.replace(" ", ""), 16)


# -- KDF, CTR, HMAC

KDF = [  # key, label, context, bytes, output
    ("00" * 16, "sev-kek", "", 16, "fdae67eacd10f95890b0c3c1a972c47e"),
    ("00" * 16, "sev-kik", "", 16, "69927695894789631b5ab0e56051c242"),
    ("00" * 16, "sev-master-secret", "00" * 16, 16, "ab4d269fcc62bedb4511d56c386ce706"),
    ("ece8897db98c428ab49517ae5fbea5d6", "sev-kek", "", 16, "47318d9d7baab23cbc62102dccfd8ee0"),
    ("ece8897db98c428ab49517ae5fbea5d6", "sev-kik", "", 16, "9c85ebbb6af45fdee524dc0ab0230234"),
    (bytes(range(48)).hex(), "sev-master-secret", bytes(range(16)).hex(), 40, "4052f08fce443ce0bd049784b485d72e6f985964cf9c2d175673b738f60f4ef342f3c3876c09ca83"),
    # a label that is counted with its terminating zero byte, and a 256-bit output
    (bytes(range(32)).hex(), "sev-vm-encryption-key-0\0", "00000000", 32, "56cf6eb7e76b8dacd67c747bfad45e8057e83258fc2e3b07d7090b6140d20697"),
    (bytes(range(32)).hex(), "sev-vm-encryption-key-0\0", "0c000000", 32, "974e1af4a3e8abfbc7ce8ffec8b8d79c2a37ca630a541953eb2eede09bea1c23"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "label", "context", "size", "out"), KDF)
def test_kdf(key: str, label: str, context: str, size: int, out: str) -> None:
    found = crypto.kdf(bytes.fromhex(key), label.encode(), bytes.fromhex(context), size)
    assert found.hex() == out


def test_kdf_is_not_the_usual_big_endian_form() -> None:
    assert crypto.kdf(bytes(16), b"sev-master-secret", bytes(16)).hex() != "f59381edcaa1a33dee5d2aa45cce3fee"


@pytest.mark.parametrize("group", ["kdf", "aes128ctr"])
def test_symmetric_vectors(group: str) -> None:
    found = [v for v in json.loads(vectors("transport.json").read_text())["vectors"] if v["group"] == group]
    assert len(found) == {"kdf": 8, "aes128ctr": 4}[group]
    for vector in found:
        inputs, outputs = vector["inputs"], vector["outputs"]
        if group == "kdf":
            key, context = bytes.fromhex(inputs["key"]), bytes.fromhex(inputs["context"])
            out = crypto.kdf(key, inputs["label_ascii"].encode(), context, inputs["out_len"]).hex()
            assert out == outputs["out"] if "out" in outputs else out != outputs["must_not_equal"]
        else:
            key, iv, plain, cipher = (
                bytes.fromhex(x) for x in (inputs["key"], inputs["iv"], inputs["plaintext"], outputs["ciphertext"])
            )
            assert crypto.aes_ctr(key, iv, plain) == cipher
            assert crypto.aes_ctr(key, iv, cipher) == plain


def test_ctr_counts_all_128_bits_big_endian() -> None:
    """Key and IV of SP 800-38A F.5.1, and the carry out of the last byte of an IV of all ones."""
    key, iv = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert crypto.aes_ctr(key, iv, bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")).hex() == (
        "874d6191b620e3261bef6864990db6ce"
    )
    key = bytes(range(16))
    assert crypto.aes_ctr(key, b"\xff" * 16, bytes(32))[16:] == crypto.aes_ctr(key, bytes(16), bytes(16))
    assert crypto.aes_ctr(key, bytes(15) + b"\xff", bytes(32))[16:] == crypto.aes_ctr(
        key, bytes(14) + b"\1\0", bytes(16)
    )
    for bad in (key[:15], key + key):
        with pytest.raises(InputError, match="16 bytes"):
            crypto.aes_ctr(bad, bytes(16), b"x")
    with pytest.raises(InputError, match="16 bytes"):
        crypto.aes_ctr(key, bytes(15), b"x")


def test_wrapping_of_session_migrate() -> None:
    """TEK || TIK is one 32-byte stream; its MAC and the policy's are whole HMAC-SHA-256 tags."""
    tek, tik = "c04fbb1039c13c23c008564c1c4c3b0b", "5a08481dc5ae97b99ea19ec14af7416a"
    kek, kik = bytes.fromhex("47318d9d7baab23cbc62102dccfd8ee0"), bytes.fromhex("9c85ebbb6af45fdee524dc0ab0230234")
    iv = bytes.fromhex("8d7fba6a644692495edd3957154eb017")
    wrapped = crypto.aes_ctr(kek, iv, bytes.fromhex(tek + tik))
    assert wrapped.hex() == "225fcaa0989b2604822b65e77616ba8fe2d274bac4ca21e1663c623fbddf1e75"
    assert crypto.hmac_sha256(kik, wrapped).hex() == "330929cfc5391d00fc96e67344d0cf38c0ed72846b6dd93109ef19bfb7892dc6"
    policy_mac = crypto.hmac_sha256(bytes.fromhex(tik), bytes.fromhex("23000011"))
    assert policy_mac.hex() == "d46b57e0f40beaa46ad94b62423c2d433b559b150c85df3a5fa3bd51f9223353"


@pytest.mark.parametrize("position", [0, 7, 8, 15, 16, 31])
def test_a_mac_is_compared_to_its_last_byte(position: int) -> None:
    mac = bytes(range(32))
    crypto.require_mac(mac, bytes(mac), "same")
    wrong = bytearray(mac)
    wrong[position] ^= 1
    for found in (bytes(wrong), mac[:position], mac + b"\0"):
        with pytest.raises(SevError, match="the rule") as caught:
            crypto.require_mac(mac, found, "the rule")
        assert caught.value.status is Status.BAD_MEASUREMENT


# -- P-384


def test_curve() -> None:
    assert (crypto.P384_P, crypto.P384_N, crypto.P384_B) == (P, N, B)
    assert PrivateKey(1).public == G
    assert PrivateKey(N - 1).public == Point(G.x, P - G.y)
    assert G.valid and Point(G.x, P - G.y).valid


@pytest.mark.parametrize(
    "point",
    [
        Point(0, 0),
        Point(G.x, G.y ^ 1),
        Point(G.x + 1, G.y),
        Point(G.x + P, G.y),
        Point(G.x, G.y + P),
        Point(G.x, G.y - P),
        Point(G.x, -G.y),
        Point(P, G.y),
        Point(G.y, G.x),
    ],
)
def test_points_that_are_none(point: Point) -> None:
    assert not point.valid
    with pytest.raises(SevError) as caught:
        crypto.ecdh(7, point)
    assert caught.value.status is Status.INVALID_CERTIFICATE
    r, s = crypto.ecdsa_sign(PrivateKey(1), b"m")
    assert crypto.ecdsa_verify(G, b"m", r, s)
    assert not crypto.ecdsa_verify(point, b"m", r, s)


# Wycheproof ecdh_secp384r1: d, peer's x and y, Z
ECDH = [
    (
        "a2b6442a37f8a3759d2cb91df5eca75b14f5a6766da8035cc1943b15a8e4ebb6025f373be334080f22ab821a3535a6a7",
        "490e96d17f4c6ceccd45def408cea33e9704a5f1b01a3de2eaaa3409fd160d78d395d6b3b003d71fd1f590fad95bf1c9",
        "d8665efc2070d059aa847125c2f707435955535c7c5df6d6c079ec806dce6b6849d337140db7ca50616f9456de1323c4",
        "00" * 48,
    ),
    (
        "a2b6442a37f8a3759d2cb91df5eca75b14f5a6766da8035cc1943b15a8e4ebb6025f373be334080f22ab821a3535a6a7",
        "6039917aef03e2cc8ee437362882fff8fc4e1bd26a976950b8f49ee805ead13064346e3dedae226f878638010765b8f3",
        "024cece86e410dcede120def625150d2942bca8991d1d1db946ef1def4092dfa6f68a880da0e05148bc95fd1cb24f90b",
        "00" * 45 + "010000",
    ),
    (
        "766e61425b2da9f846c09fc3564b93a6f8603b7392c785165bf20da948c49fd1fb1dee4edd64356b9f21c588b75dfd81",
        "790a6e059ef9a5940163183d4a7809135d29791643fc43a2f17ee8bf677ab84f791b64a6be15969ffa012dd9185d8796",
        "d9b954baa8a75e82df711b3b56eadff6b0f668c3b26b4b1aeb308a1fcc1c680d329a6705025f1c98a0b5e5bfcb163caa",
        "6461defb95d996b24296f5a1832b34db05ed031114fbe7d98d098f93859866e4de1e229da71fef0c77fe49b249190135",
    ),
]


@pytest.mark.parametrize(("d", "x", "y", "z"), ECDH)
def test_ecdh_gives_48_bytes_with_leading_zeros(d: str, x: str, y: str, z: str) -> None:
    peer = Point(number(x), number(y))
    assert crypto.ecdh(number(d), peer).hex() == z
    assert crypto.ecdh(PrivateKey(number(d)), tuple(peer)).hex() == z
    assert crypto.ecdh(number(d), Point(peer.x, P - peer.y)).hex() == z  # -Q: the same X
    library = ec.derive_private_key(number(d), ec.SECP384R1())
    public = ec.EllipticCurvePublicNumbers(peer.x, peer.y, ec.SECP384R1()).public_key()
    assert crypto.ecdh(library, public).hex() == z


def test_keys_of_the_wrong_kind() -> None:
    for value in (0, N, N + 1, -1):
        with pytest.raises(InputError, match="not shown"):
            PrivateKey(value)
    with pytest.raises(InputError, match="str"):
        crypto.as_point("key")


def test_private_keys_are_in_no_repr() -> None:
    key = PrivateKey(SECRET)
    assert repr(key).startswith("PrivateKey(public x=")
    for text in (repr(key), str(key), repr([key])):
        assert "5ec2e7" not in text.lower() and str(SECRET) not in text
    with pytest.raises(InputError) as caught:
        PrivateKey(N + SECRET)
    assert f"{N + SECRET:x}" not in str(caught.value) and str(N + SECRET) not in str(caught.value)
    rsa_key = RsaPrivate(10007, 10009)
    assert repr(rsa_key) == "RsaPrivate(27 bits)"


# RFC 6979, A.2.6: curve NIST P-384
RFC_D = "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA 9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5"
RFC_X = "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E 06AAE5286B300C64DEF8F0EA9055866064A254515480BC13"
RFC_Y = "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9 F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720"
RFC = [  # hash, message, k, r, s
    (
        "sha256",
        b"sample",
        "180AE9F9AEC5438A44BC159A1FCB277C7BE54FA20E7CF404 B490650A8ACC414E375572342863C899F9F2EDF9747A9B60",
        "21B13D1E013C7FA1392D03C5F99AF8B30C570C6F98D4EA8E 354B63A21D3DAA33BDE1E888E63355D92FA2B3C36D8FB2CD",
        "F3AA443FB107745BF4BD77CB3891674632068A10CA67E3D4 5DB2266FA7D1FEEBEFDC63ECCD1AC42EC0CB8668A4FA0AB0",
    ),
    (
        "sha384",
        b"sample",
        "94ED910D1A099DAD3254E9242AE85ABDE4BA15168EAF0CA8 7A555FD56D10FBCA2907E3E83BA95368623B8C4686915CF9",
        "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA7 3D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
        "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526 203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
    ),
    (
        "sha256",
        b"test",
        "0CFAC37587532347DC3389FDC98286BBA8C73807285B184C 83E62E26C401C0FAA48DD070BA79921A3457ABFF2D630AD7",
        "6D6DEFAC9AB64DABAFE36C6BF510352A4CC27001263638E5 B16D9BB51D451559F918EEDAF2293BE5B475CC8F0188636B",
        "2D46F3BECBCC523D5F1A1256BF0C9B024D879BA9E838144C 8BA6BAEB4B53B47D51AB373F9845C0514EEFB14024787265",
    ),
    (
        "sha384",
        b"test",
        "015EE46A5BF88773ED9123A5AB0807962D193719503C527B 031B4C2D225092ADA71F4A459BC0DA98ADB95837DB8312EA",
        "8203B63D3C853E8D77227FB377BCF7B7B772E97892A80F36 AB775D509D7A5FEB0542A7F0812998DA8F1DD3CA3CF023DB",
        "DDD0760448D42D8A43AF45AF836FCE4DE8BE06B485E9B61B 827C2F13173923E06A739F040649A667BF3B828246BAA5A5",
    ),
]


@pytest.mark.parametrize(("hash_name", "message", "k", "r", "s"), RFC)
def test_deterministic_ecdsa(hash_name: str, message: bytes, k: str, r: str, s: str) -> None:
    key = PrivateKey(number(RFC_D))
    assert key.public == Point(number(RFC_X), number(RFC_Y))
    digest = hashlib.new(hash_name, message).digest()
    assert crypto.rfc6979_nonce(key.d, digest, hash_name)() == number(k)
    assert crypto.ecdsa_sign(key, message, hash_name) == (number(r), number(s))
    assert crypto.ecdsa_verify(key.public, message, number(r), number(s), hash_name)


def test_the_next_rfc6979_candidate_differs() -> None:
    candidates = crypto.rfc6979_nonce(number(RFC_D), hashlib.sha256(b"sample").digest(), "sha256")
    found = [candidates() for _ in range(4)]
    assert found[0] == number(RFC[0][2]) and len(set(found)) == 4 and all(0 < k < N for k in found)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, N - 1), st.binary(max_size=80), st.sampled_from(["sha256", "sha384"]))
def test_ecdsa_against_the_library(d: int, message: bytes, hash_name: str) -> None:
    key, hash_ = PrivateKey(d), {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name]
    library = ec.derive_private_key(d, ec.SECP384R1())
    r, s = decode_dss_signature(library.sign(message, ec.ECDSA(hash_)))
    assert crypto.ecdsa_verify(key.public, message, r, s, hash_name)
    try:
        theirs = library.sign(message, ec.ECDSA(hash_, deterministic_signing=True))
    except UnsupportedAlgorithm:
        return
    assert crypto.ecdsa_sign(key, message, hash_name) == decode_dss_signature(theirs)


def test_ecdsa_verify_refuses() -> None:
    key = PrivateKey(number(RFC_D))
    _, message, _, r_text, s_text = RFC[0]
    r, s = number(r_text), number(s_text)
    assert crypto.ecdsa_verify(key.public, message, r, N - s)  # ECDSA itself accepts the mirrored s
    for bad_r, bad_s in (
        (0, s),
        (r, 0),
        (N, s),
        (r, N),
        (r + N, s),
        (r, s + N),
        (-r, s),
        (s, r),
        (r ^ 1, s),
        (r, s ^ 1),
    ):
        assert not crypto.ecdsa_verify(key.public, message, bad_r, bad_s)
    assert not crypto.ecdsa_verify(key.public, message + b"!", r, s)
    assert not crypto.ecdsa_verify(key.public, message, r, s, "sha384")
    assert not crypto.ecdsa_verify(G, message, r, s)


# -- private keys and nonces as the firmware draws them


def chunks(*values: int) -> ReplayRandom:
    return ReplayRandom(value.to_bytes(48, "little") for value in values)


@pytest.mark.parametrize("refused", [N - 1, N, N + 1, 2**384 - 1])
def test_private_key_candidates_above_n_minus_2_are_drawn_again(refused: int) -> None:
    rng = chunks(refused, refused, 5, 6)
    assert crypto.draw_private(rng, "PDH key").d == 5
    assert rng.left == 1


@pytest.mark.parametrize("taken", [1, 2, 0x1234 << 300, N - 2])
def test_private_key_is_the_candidate_little_endian(taken: int) -> None:
    rng = chunks(taken, 6)
    assert crypto.draw_private(rng, "PDH key").d == taken
    assert rng.left == 1


def test_a_private_key_candidate_of_zero_is_a_hardware_error() -> None:
    rng = chunks(N, 0, 5)
    with pytest.raises(SevError, match="PDH key") as caught:
        crypto.draw_private(rng, "PDH key")
    assert caught.value.status is Status.HWERROR_PLATFORM and rng.left == 1


@pytest.mark.parametrize("refused", [0, N + 1, 2**384 - 1])
def test_nonce_candidates_zero_and_above_n_are_drawn_again(refused: int) -> None:
    rng = chunks(refused, refused, 5, 6)
    assert crypto.drawn_nonce(rng, "nonce")() == 5
    assert rng.left == 1


@pytest.mark.parametrize("taken", [1, 0x1234 << 300, N - 2, N - 1])
def test_nonce_is_the_candidate_little_endian(taken: int) -> None:
    assert crypto.drawn_nonce(chunks(taken), "nonce")() == taken


def test_a_nonce_candidate_of_n_is_a_hardware_error() -> None:
    rng = chunks(0, N, 5)
    with pytest.raises(SevError) as caught:
        crypto.drawn_nonce(rng, "nonce")()
    assert caught.value.status is Status.HWERROR_PLATFORM and rng.left == 1


def test_signature_with_a_given_nonce() -> None:
    """k = 1 gives r = x(G) and s = e + r d: a published point and schoolbook arithmetic."""
    d, message = 12345, b"body of a certificate"
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    r, s = crypto.ecdsa_sign(PrivateKey(d), message, nonce=lambda: 1)
    assert (r, s) == (G.x % N, (e + G.x * d) % N)
    assert crypto.ecdsa_verify(PrivateKey(d).public, message, r, s)


def test_a_nonce_that_gives_s_zero_is_drawn_again() -> None:
    message = b"m"
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    d = -e * pow(G.x, -1, N) % N  # e + r d = 0 for k = 1
    nonces = iter([1, 2])
    r, s = crypto.ecdsa_sign(PrivateKey(d), message, nonce=lambda: next(nonces))
    assert r == PrivateKey(2).public.x % N and s
    assert crypto.ecdsa_verify(PrivateKey(d).public, message, r, s)


# -- RSA-PSS


@pytest.fixture(scope="module", params=[2048, 1027, 1025])
def rsa_key(request: pytest.FixtureRequest) -> RsaPrivate:
    bits = request.param
    numbers = rsa.generate_private_key(65537, bits).private_numbers()
    return RsaPrivate(numbers.p, numbers.q)


@pytest.mark.parametrize("hash_name", ["sha256", "sha384"])
def test_pss_signature_is_what_the_library_accepts(rsa_key: RsaPrivate, hash_name: str) -> None:
    hash_ = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name]
    public = rsa_key.public
    library = rsa.RSAPublicNumbers(65537, public.n).public_key()
    size = (public.n.bit_length() + 7) // 8
    for salt_size in (0, 20, hash_.digest_size):
        salt = random.Random(salt_size).randbytes(salt_size)
        signature = crypto.rsa_pss_sign(rsa_key, b"certificate", salt, hash_name)
        scheme = padding.PSS(padding.MGF1(hash_), salt_size)
        library.verify(signature.to_bytes(size, "big"), b"certificate", scheme, hash_)
        assert crypto.rsa_pss_verify(public, b"certificate", signature, hash_name)
        strict = crypto.rsa_pss_verify(public, b"certificate", signature, hash_name, any_salt=False)
        assert strict is (salt_size == hash_.digest_size)
        assert signature == crypto.rsa_pss_sign(rsa_key, b"certificate", salt, hash_name)
        other = "sha384" if hash_name == "sha256" else "sha256"
        assert not crypto.rsa_pss_verify(public, b"certificate", signature, other)
        for wrong in (signature ^ 1, signature + public.n, 0, -1, 1 << 5000):
            assert not crypto.rsa_pss_verify(public, b"certificate", wrong, hash_name)
        assert not crypto.rsa_pss_verify(public, b"certificatf", signature, hash_name)


def test_pss_of_the_library_verifies_here(rsa_key: RsaPrivate) -> None:
    d = pow(65537, -1, (rsa_key.p - 1) * (rsa_key.q - 1))
    n = rsa_key.p * rsa_key.q
    numbers = rsa.RSAPrivateNumbers(
        rsa_key.p,
        rsa_key.q,
        d,
        rsa.rsa_crt_dmp1(d, rsa_key.p),
        rsa.rsa_crt_dmq1(d, rsa_key.q),
        rsa.rsa_crt_iqmp(rsa_key.p, rsa_key.q),
        rsa.RSAPublicNumbers(65537, n),
    )
    signature = numbers.private_key().sign(b"m", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert crypto.rsa_pss_verify(rsa_key.public, b"m", int.from_bytes(signature, "big"), "sha256", any_salt=False)
    assert rsa_key.raw(int.from_bytes(b"\x02" * 100, "big")) == pow(int.from_bytes(b"\x02" * 100, "big"), d, n)


@pytest.mark.parametrize("key", [RsaPublic(15, 3, 4), RsaPublic(1 << 2047, 65537, 2048), RsaPublic(0, 3, 0)])
def test_keys_that_the_library_refuses_verify_nothing(key: RsaPublic) -> None:
    assert not crypto.rsa_pss_verify(key, b"m", 1, "sha256")
    good = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    for e in (0, 1, 2, 65536):
        assert not crypto.rsa_pss_verify(RsaPublic(good, e, 2048), b"m", 1, "sha256")


# -- random streams


def test_seeded_stream() -> None:
    """SHA-256(seed || label || counter as u64 little-endian), counter from 0."""
    blocks = [hashlib.sha256(b"\x01\x02" + b"platform A" + bytes([i]) + bytes(7)).digest() for i in range(3)]
    assert blocks[0].hex() == "a69059fc1cd96145e2093c293cc750c3db4d40db472c63736b9d8caa282c06a4"
    assert SeededRandom(b"\x01\x02", "platform A").draw(96) == b"".join(blocks)
    rng = SeededRandom(b"\x01\x02", "platform A")
    parts = [rng.draw(n) for n in (1, 0, 30, 2, 40, 23)]
    assert b"".join(parts) == b"".join(blocks)


def test_streams_of_two_parties_are_independent() -> None:
    a, b = (SeededRandom(bytes(32), label) for label in ("platform A", "guest owner"))
    first = b.draw(48)
    a.draw(1000)
    again = SeededRandom(bytes(32), "guest owner")
    assert again.draw(48) == first != SeededRandom(bytes(32), "platform A").draw(48)
    assert again.draw(48) == b.draw(48)


def test_random_source() -> None:
    assert crypto.random_source(b"s", "x").draw(8) == SeededRandom(b"s", "x").draw(8)
    assert crypto.random_source(b"", "x").draw(8) == SeededRandom(b"", "x").draw(8)  # an empty seed is a seed
    source = crypto.random_source(None, "x")
    assert len(source.draw(48)) == 48 and source.draw(48) != source.draw(48)


def test_replay() -> None:
    rng = ReplayRandom([b"ab", b"cde"])
    assert rng.left == 2
    with pytest.raises(InputError, match=r"random draw nonce: expected 3 bytes, found a recorded chunk of 2"):
        rng.draw(3, "nonce")
    assert rng.left == 2  # a wrong size takes nothing
    assert (rng.draw(2), rng.draw(3)) == (b"ab", b"cde")
    with pytest.raises(InputError, match=r"random draw key: expected another recorded chunk, found none left"):
        rng.draw(1, "key")
    assert rng.left == 0


def test_replay_does_not_show_its_chunks() -> None:
    with pytest.raises(InputError) as caught:
        ReplayRandom([b"secret"]).draw(3)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(ReplayRandom([b"secret"]))
