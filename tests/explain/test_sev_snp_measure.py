"""sev-snp-measure and we predict the same digests on generated configurations; where the sheets say that it is wrong
our value is another one, and the peer's is to be had by an option."""

import random

import pytest
from sevsnpmeasure.guest import calc_launch_digest, calc_snp_ovmf_hash
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType

from sevref.boot import Guest, Image, KernelHashes, predict, signature_of
from support import peer, vectors

pytestmark = [pytest.mark.peer, pytest.mark.vectors]
MODES = {"sev": SevMode.SEV, "seves": SevMode.SEV_ES, "snp": SevMode.SEV_SNP, "snp:svsm": SevMode.SEV_SNP_SVSM}
VMMS = {"QEMU": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}
LINES = [
    "", " ", "console=ttyS0", " leading", "trailing ", "two  spaces", "tab\there", 'quotes "x y" z', "it's", "back\\slash",
    "line\nbreak", "end\n", "\r\n", "ä ö ü €", "日本語", "🙂", "a" * 4096, "%s %d $HOME `id`", "\x01\x7f",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Empty, small, odd and larger files, by size."""
    folder, rng, found = tmp_path_factory.mktemp("boot"), random.Random(70), {}
    for size in 0, 1, 15, 4096, 70001:
        path = folder / str(size)
        path.write_bytes(rng.randbytes(size))
        found[size] = path
    return list(found.values())


def theirs(guest, kernel, initrd, line, features):
    name = guest.firmware._path
    return calc_launch_digest(
        MODES[guest.mode], guest.vcpus, guest.vcpu_sig, str(name), str(kernel or ""), str(initrd or ""), line or "", features,
        guest.ovmf_hash.hex() if guest.ovmf_hash else "", VMMS[guest.vmm],
        svsm_file=str(guest.svsm._path) if guest.svsm else "", ovmf_vars_size=guest.vars_size,
    )  # fmt: skip


def test_generated_configurations(files):
    """1500 of them; features count in SNP modes only, EC2 and GCE are refused by us for SEV-ES, SVSM is its own test."""
    rng, seen = random.Random(6), {}
    amdsev, plain = (Image(vectors("ovmf", f"ovmf_{name}_suffix.bin")) for name in ("AmdSev", "OvmfX64"))
    el9 = Image(vectors("ovmf", "ovmf_el9_amdsev_suffix.bin"))
    debian = Image(peer("OVMF_CODE.fd"))
    for i in range(1500):
        mode = rng.choice(["sev", "seves", "snp", "snp"])
        firmware = rng.choice(
            [amdsev, amdsev, plain] + ([el9] if mode != "snp" else []) + ([debian] if i % 50 == 0 else [])
        )
        kernel = initrd = line = None
        if firmware in (amdsev, el9) and rng.random() < 0.7:
            kernel = rng.choice(files)
            initrd = rng.choice([None, *files])
            line = rng.choice([None, *LINES])
        vmm = rng.choice(["QEMU", "QEMU", "ec2", "gce"]) if mode == "snp" else "QEMU"
        features = rng.choice([0, 1, 0x21, 1 << 63, rng.getrandbits(64)])
        seed = calc_snp_ovmf_hash(str(firmware._path)) if mode == "snp" and rng.random() < 0.2 else None
        guest = Guest(
            firmware,
            mode=mode,
            vcpus=rng.choice([1, 1, 2, 3, 7, 64]),
            vcpu_sig=rng.choice([0, 0xE12, 0xFFFFFFFF, *CPU_SIGS.values()]),
            vmm=vmm,
            features=features if mode == "snp" else None,
            kernel=KernelHashes.of(kernel, initrd, line) if kernel else None,
            ovmf_hash=seed,
        )
        expected = theirs(guest, kernel, initrd, line, features)
        assert predict(guest).digest == expected, guest
        seen[expected] = guest
    assert len(seen) > 1000
    assert {guest.mode for guest in seen.values()} == {"sev", "seves", "snp"}


def test_svsm():
    """The peer's x87 control word is 0 there; ours is what KVM would set, unless asked for the peer's."""
    firmware, svsm = (Image(vectors("ovmf", f"{name}_suffix.bin")) for name in ("svsm_ovmf", "svsm"))
    for vcpus in 1, 2, 5:
        for model in "EPYC-v4", "EPYC-Genoa":
            how = {
                "mode": "snp:svsm",
                "vcpus": vcpus,
                "vcpu_sig": signature_of(model),
                "svsm": svsm,
                "vars_size": 540672,
            }
            expected = theirs(Guest(firmware, **how), None, None, None, 0x21)  # it ignores the features
            assert predict(Guest(firmware, **how, peer=True)).digest == expected
            assert predict(Guest(firmware, **how, fpu="peer-svsm")).digest == expected
            assert predict(Guest(firmware, **how)).digest != expected
            assert predict(Guest(firmware, **how, fpu="legacy")).digest != expected


def test_features_of_sev_es():
    """The peer ignores them in SEV-ES mode; SEV_FEATURES is in the page, so we do not."""
    firmware = Image(vectors("ovmf", "ovmf_AmdSev_suffix.bin"))
    guest = Guest(firmware, mode="seves", vcpus=2, vcpu_sig=0x800F12, features=0x20)
    expected = theirs(guest, None, None, None, 0x20)
    assert predict(guest._replace(peer=True)).digest == expected == predict(guest._replace(features=0)).digest
    assert predict(guest).digest != expected


@pytest.mark.parametrize("vmm", ["ec2", "gce"])
def test_sev_es_at_clouds(vmm):
    """Nobody documents that these start SEV-ES guests so; the peer computes a value all the same."""
    guest = Guest(Image(vectors("ovmf", "ovmf_AmdSev_suffix.bin")), mode="seves", vcpus=3, vmm=vmm, peer=True)
    assert predict(guest).digest == theirs(guest, None, None, None, 1)
    with pytest.raises(ValueError, match="no other is known to start SEV-ES guests so"):
        predict(guest._replace(peer=False))


def test_two_entries_of_one_guid(tmp_path):
    """QEMU takes the entry nearest to the end of the image, the peer the farthest."""
    image = bytearray(vectors("ovmf", "ovmf_OvmfX64_suffix.bin").read_bytes())
    total = int.from_bytes(image[4096 - 50 : 4096 - 48], "little")
    start = 4096 - 32 - total - 22
    image[start : start + 22] = bytes.fromhex("23c19000 1600 de71f7007e1acb4f890e68c77e2fb44e")
    image[4096 - 50 : 4096 - 48] = (total + 22).to_bytes(2, "little")
    (tmp_path / "twice").write_bytes(image)
    guest = Guest(Image(tmp_path / "twice"), mode="seves", vcpus=2, vcpu_sig=0x800F12)
    once = guest._replace(firmware=Image(vectors("ovmf", "ovmf_OvmfX64_suffix.bin")))
    ours, peers = predict(guest), predict(guest._replace(peer=True))
    assert peers.digest == theirs(guest, None, None, None, 0) != ours.digest
    assert [step.size for step in ours.steps] == [step.size for step in predict(once).steps]


def test_an_application_processor_at_the_reset_vector(tmp_path):
    """On EC2 the peer gives it the boot processor's CS attributes (0x9A), the sheet the others' (0x9B)."""
    image = bytearray(vectors("ovmf", "ovmf_OvmfX64_suffix.bin").read_bytes())
    place = image.index(bytes.fromhex("04b08000"), 3900)
    image[place : place + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / "image").write_bytes(image)
    guest = Guest(Image(tmp_path / "image"), vcpus=2, vmm="ec2", features=1)
    expected = theirs(guest, None, None, None, 1)
    assert predict(guest._replace(peer=True)).digest == expected
    assert predict(guest).digest != expected


def test_every_cpu_type_of_the_peer():
    for name, value in CPU_SIGS.items():
        assert signature_of(name) == value
