"""AMD's roots rebuilt from numbers, and the simulated AMD's test roots."""

import hashlib
import json

import pytest

from sevref import InputError, SevError
from sevref.certs import AmdCertificate, Usage, amd_roots, simulated_key, simulated_roots, validate_amd
from sevref.certs.roots import simulated_certificate, simulated_signature
from sevref.generations import GENERATIONS
from sevref.resources import data_path
from support import vectors

FILES = {  # KEY_ID and SHA-256 of ARK and ASK, root hash
    "naples": (
        ("1bb987c359494606b174945601c9ea5b", "dedabca561e1dece8cc00b7bda864cf5f20b95017864408cfe18eaee0dce24b9"),
        ("e139970cfc464377ae61b289e2f9e96e", "c6f30cf923f526c3bcd5c8c221db51e0db65911782f046de17a6603131cdfd7f"),
        "8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31",
    ),
    "rome": (
        ("e6002122fb58419399d15fee7b131351", "865977b268c16d5b27772b00aaefb4e737ba9499e818ed8e9f65b0cecefbc529"),
        ("c6cbcf145b3146f498e40ecb4ad4fded", "7754a69407d25540fe3a695be6b02c58a53bffd12594f5c30793d6cb62875706"),
        "3d2c1157c29ef7bd4207fc0c8b08db080e579ceba267f8c93bec8dce73f5a5e2e60d959ac37ea82176c1a0c61ae203ed",
    ),
    "milan": (
        ("94c38e4177d0479292a7ae671d083fb6", "1246469862b78a7a8625579b0378d1f8e975eb8b82a1623b579d7968a5969888"),
        ("73478c05cc174bfeb06e718fa75dc3c8", "c7c73765561c58003a3d09adb2c76993027dd3a1ec4e9be876024c035e015cec"),
        "569da618dfe64015c343db6d975e77b72fdeacd16edd02d9d09b889b8f0f1d91ffa5dfbd86f7ac574a1a7883b7a1e737",
    ),
    "genoa": (
        ("9f9d4a8fe761456599f6946c4c010f3a", "8f4e3fd36589c23f1fe0c8338465bac7e2e066d97fc92f228bbee4fd356fb674"),
        ("acbb4ad21acc436fb3e932f812cd01b0", "c30307e4f594fb6c51fd753ab758eb78ad4bb70d9e4d96690e51c0621901031d"),
        "b66e16ff0ebeed57f0c4dffa154872c4156f2e5b1c2f4e66e58fc37f1d2a60d31a342ecb6430a9b2510a970c75c37926",
    ),
    "turin": (
        ("d05c3a8bde484904b49552422ceb3942", "f6405e5096a6eee1eb7d5df75c49f9b9f7c8357a31c7fff150149d68588a7bf7"),
        ("15051693f7304d65a527b4a7f3f7cb77", "2ee285477f0d5eb94a69029197f4cf58ca82d8e1b9a276da1ac45b0db3f4be56"),
        "712a28007da1097e8c4fd3a2e8655012b27e04042323a0a30e111fc0cf698961040c6fc3ff2053abe70432cfef411a0e",
    ),
}
HASH_AND_ALGO = {"naples": ("sha256", 0x001)} | dict.fromkeys(("rome", "milan", "genoa", "turin"), ("sha384", 0x101))


@pytest.mark.parametrize("name", FILES)
def test_the_numbers_give_amds_files(name):
    roots = amd_roots(name)
    for cert, (key_id, sha256), place in zip((roots.ark, roots.ask), FILES[name][:2], ("ark", "ask"), strict=True):
        data = cert.pack()
        assert hashlib.sha256(data).hexdigest() == cert.sha256 == sha256
        assert cert.key_id.hex() == key_id
        assert cert.certifying_id.hex() == FILES[name][0][0]
        entry = json.loads(data_path("amd_roots.json").read_text())["generations"][name]
        assert entry[place]["sha256"] == sha256 and entry["root_hash"] == FILES[name][2]
        assert cert.pubexp == 65537 and cert.version == 1
    assert roots.name == "amd" and roots.root_hash.hex() == FILES[name][2]
    assert roots.ark.root_hash(roots.generation).hex() == FILES[name][2]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["ark", "ask"])
def test_the_files_themselves(name, place):
    data = vectors("certs", name, f"{place}.cert").read_bytes()
    assert getattr(amd_roots(name), place).pack() == data
    assert AmdCertificate.parse(data) == getattr(amd_roots(name), place)


@pytest.mark.parametrize("roots", [amd_roots, simulated_roots])
@pytest.mark.parametrize("name", FILES)
def test_ark_and_ask_verify(roots, name):
    root = roots(name)
    validate_amd(root.ark, root.ark, 0x00, root.generation, root=root, strict_salt=True)
    validate_amd(root.ask, root.ark, 0x13, root.generation, strict_salt=True)
    assert (root.generation.amd_hash, root.generation.ask_algo) == HASH_AND_ALGO[name]
    key = root.ask.signing_key(root.generation)
    assert (key.usage, key.algo) == (0x13, HASH_AND_ALGO[name][1])
    assert key.pubkey.public == root.ask.public


@pytest.mark.parametrize("name", FILES)
def test_the_other_hash_does_not_verify(name):
    root = amd_roots(name)
    other = GENERATIONS["milan" if name == "naples" else "naples"]
    with pytest.raises(SevError, match="BAD_SIGNATURE"):
        validate_amd(root.ark, root.ark, 0x00, other)


@pytest.mark.parametrize("name", FILES)
def test_simulated_roots_are_test_keys_and_not_amds(name):
    test, real = simulated_roots(name), amd_roots(name)
    assert test.name == "custom"
    assert test.ark.key_id == real.ark.key_id and test.ark.modulus_size == real.ark.modulus_size
    assert test.ask.key_id.startswith(b"TEST-ASK-")
    assert test.root_hash != real.root_hash and test.ark.modulus != real.ark.modulus
    with pytest.raises(SevError, match=r"INVALID_CERTIFICATE.*root hash"):
        validate_amd(test.ark, test.ark, 0x00, test.generation, root=real)
    assert "TEST KEYS, NOT AMD" in json.loads(data_path("test_amd_keys.json").read_text())["about"]


@pytest.mark.parametrize("name", ["naples", "milan"])
def test_the_shipped_test_signatures_are_reproducible(name):
    assert simulated_signature(name, Usage.ARK) == simulated_roots(name).ark.signature
    assert simulated_signature(name, Usage.ASK) == simulated_roots(name).ask.signature


def test_private_numbers_are_in_no_repr():
    key = simulated_key("naples", Usage.ARK)
    assert str(key.p) not in repr(key) and f"{key.p:x}" not in repr(key).lower()
    assert simulated_certificate("naples", Usage.ARK).modulus == key.p * key.q


def test_unknown_generation():
    with pytest.raises(InputError, match="naples, rome, milan, genoa, turin"):
        amd_roots("venice")
