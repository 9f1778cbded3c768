"""Every published launch digest, register page, hash table and trace of the vectors, and every one that must fail."""

import hashlib
import json

import pytest

from sevref.boot import HashTable, Image, KernelHashes, build_svsm_vmsa, build_vmsa, predict, signature_of
from sevref.boot.digest import Guest
from sevref.boot.vmsa import CPU_MODELS
from sevref.status import InputError
from support import vectors

pytestmark = pytest.mark.vectors
DATA = json.loads(vectors("launch-digest.json").read_text())
MODE = {"sev": "sev", "sev-es": "seves", "snp": "snp", "snp-ovmf-hash": "snp:ovmf-hash", "snp-svsm": "snp:svsm"}
VMM = {"qemu": "QEMU", "ec2": "ec2", "gce": "gce"}
# Segments, EFER and so on are in the pages themselves; these are the sheet's section 3.6 in numbers
SIGNATURES = {
    "EPYC": 0x00800F12, "EPYC-v4": 0x00800F12, "EPYC-IBPB": 0x00800F12, "EPYC-Rome": 0x00830F10, "EPYC-Rome-v3": 0x00830F10,
    "EPYC-Milan": 0x00A00F11, "EPYC-Milan-v2": 0x00A00F11, "EPYC-Genoa": 0x00A10F10, "EPYC-Turin": 0x00B00F00,
}  # fmt: skip


class Substitute(Image):
    """A large image of which there are only the digests of its pages and its last page."""

    def __init__(self, name, size):
        super().__init__(bytes(1), name)
        self.size = size
        stem = name.rsplit(".", 1)[0]
        self.tail = vectors("ovmf", f"{stem}_suffix.bin").read_bytes()
        self.pages = vectors("ovmf", f"{stem}.page-sha384.txt").read_text().split()

    def read_at(self, offset, size):
        place = offset - (self.size - 4096)
        assert place >= 0
        return self.tail[place : place + size]

    def blocks(self):
        raise AssertionError("the pages of this image are not there")

    def page_digests(self):
        assert len(self.pages) == self.size // 4096
        return map(bytes.fromhex, self.pages)


def image(name):
    fixture = DATA["fixtures"][name]
    if not fixture["present"]:
        return Substitute(name, fixture["size"])
    data = vectors("ovmf", name)
    assert hashlib.sha256(data.read_bytes()).hexdigest() == fixture["sha256"]
    return Image(data)


def guest_of(vector):
    kernel = None
    if vector.get("kernel_hex") is not None:
        initrd = vector["initrd_hex"]
        kernel = KernelHashes.of(
            bytes.fromhex(vector["kernel_hex"]), None if initrd is None else bytes.fromhex(initrd), vector["cmdline"]
        )
    vmm = VMM[vector.get("vmm", "qemu")]
    if vmm == "ec2" and vector["ec2_rdx"] == "0x0":
        vmm = "ec2-rdx0"
    seed = vector.get("ovmf_hash_seed")
    return Guest(
        image(vector["firmware"]),
        mode=MODE[vector["mode"]],
        vcpus=vector.get("vcpus", 1),
        vcpu_sig=int(vector.get("vcpu_sig", "0"), 16),
        vmm=vmm,
        features=int(vector["vmsa_sev_features"], 16) if "vmsa_sev_features" in vector else None,
        fpu=vector.get("vmsa_fpu", "init2"),
        kernel=kernel,
        ovmf_hash=bytes.fromhex(seed) if seed else None,
        svsm=image(vector["svsm"]) if "svsm" in vector else None,
        vars_size=vector.get("ovmf_vars_size", 0),
    )


def by_id(*kinds):
    return [pytest.param(vector, id=vector["id"]) for kind in kinds for vector in DATA[kind]]


@pytest.mark.parametrize("vector", by_id("vectors", "extra_vectors", "superseded_vectors"))
def test_digest(vector):
    found = predict(guest_of(vector))
    assert found.digest.hex() == vector["expected"]
    assert found.steps[-1].digest_after == found.digest
    if "vcpu_type" in vector:
        assert signature_of(vector["vcpu_type"]) == int(vector["vcpu_sig"], 16)


@pytest.mark.parametrize("vector", by_id("error_vectors"))
def test_what_must_fail(vector):
    reason = "type 0x10" if vector["mode"] == "snp" else "kernel hashes area, found base 0x0"
    with pytest.raises(InputError, match=reason):
        predict(guest_of(vector))


def test_signatures():
    for name, value in SIGNATURES.items():
        assert signature_of(name) == value
    assert set(CPU_MODELS) <= set(SIGNATURES)
    for name in "EPYC-Naples", "epyc", "EPYC-v", "-v4", "", "EPYC-Milan-vx":
        with pytest.raises(InputError, match="CPU model"):
            signature_of(name)


@pytest.mark.parametrize("page", by_id("vmsa_pages"))
def test_register_pages(page):
    expected = bytearray(4096)
    for word in page["nonzero_qwords"]:
        offset = int(word["offset"], 16)
        expected[offset : offset + 8] = bytes.fromhex(word["hex"])
    assert hashlib.sha256(expected).hexdigest() == page["sha256"]
    assert hashlib.sha384(expected).hexdigest() == page["sha384"]
    entry, sig, fpu = int(page["reset_address"], 16), int(page.get("vcpu_sig", "0"), 16), page.get("vmsa_fpu", "init2")
    if page["id"].startswith("svsm"):
        built = build_svsm_vmsa(entry, vcpu_sig=sig, fpu=fpu)
    else:
        features = int(page["sev_features"], 16)
        built = build_vmsa(entry, vcpu_sig=sig, sev_features=features, fpu=fpu, vmm=VMM[page["vmm"]])
    assert built == expected


@pytest.mark.parametrize("table", by_id("hash_tables"))
def test_hash_tables(table):
    hashes = KernelHashes.of(bytes.fromhex(table["kernel_hex"]), bytes.fromhex(table["initrd_hex"]), table["cmdline"])
    assert hashes.table().hex() == table["table_hex"]
    assert len(hashes.table()) == table["table_len"]
    assert HashTable.parse(hashes.table()).kernel.sha256 == hashes.kernel
    page = hashes.page(int(table["snp_page_offset"], 16) + 0x810000)
    assert len(page) == 4096
    assert hashlib.sha384(page).hexdigest() == table["snp_page_sha384"]


NAMES = {1: "SEC_MEM", 2: "SECRETS", 3: "CPUID", 4: "CAA", 16: "KERNEL_HASHES"}


@pytest.mark.parametrize("trace", DATA["traces"], ids=lambda trace: trace["vector"].split()[0])
def test_every_step_of_the_traces(trace):
    vector = next(v for v in DATA["vectors"] if v["id"] == trace["vector"].split()[0])
    steps = predict(guest_of(vector)).steps
    assert len(steps) >= len(trace["steps"])
    for step, expected in zip(steps, trace["steps"], strict=False):
        assert step.digest_after.hex() == expected["ld"]
        words = expected["after"].split()
        if words[0] == "section":
            gpa, size, kind = (int(word.split("=")[1], 0) for word in words[1:])
            assert (step.what, step.gpa, step.pages) == (f"section {NAMES[kind]}", gpa, size // 4096)
        elif words[0] == "deferred":
            assert (step.what, step.gpa) == ("section CPUID, postponed", int(words[2].split("=")[1], 0))
        else:
            assert step.what == {"ovmf": "firmware"}.get(expected["after"], expected["after"])


def test_krun_pages():
    """The only values for krun; the sheet's section 3.7 gives them with a reset address of 0x0080B004."""
    boot = build_vmsa(vmm="krun", sev_features=1, vcpu_sig=0x800F12)
    other = build_vmsa(0x0080B004, vmm="krun", sev_features=1, vcpu_sig=0x800F12)
    assert hashlib.sha256(boot).hexdigest() == "2e34ba6b30c36f8e07af06d7376c2398ecd65a75e2115ae5620fe856685261f0"
    assert hashlib.sha256(other).hexdigest() == "c39c2ba74634ab71a53d82af506a17b168fde79e2b1d32ce08a0299afbb81f05"
    sevctl = build_vmsa(vmm="krun-sevctl", vcpu_sig=0x800F12)
    assert (sevctl[0x330:0x338], sevctl[0x328:0x330], sevctl[0x1D8:0x1E0]) == tuple(
        n.to_bytes(8, "little") for n in (0x7000, 0x8FF0, 0x8FF0)
    )
    ap = build_vmsa(0x0080B004, vmm="krun-sevctl", vcpu_sig=0x800F12)
    assert ap[0x10:0x20].hex() == "00919a00ffff00000010090000000000"
    assert not any(ap[0x178:0x180] + ap[0x330:0x338] + ap[0x328:0x330] + ap[0x1D8:0x1E0])


def test_raw_register_pages_under_snp():
    """GUEST_TSC_SCALE (0x2F0) and GUEST_TSC_OFFSET (0x2F8) of a page count as zero there, and as they are under SEV-ES."""
    page = build_vmsa(vcpu_sig=0x800F12, sev_features=1)
    raw = page[:0x2F0] + b"\1" * 16 + page[0x300:]
    near = page[:0x2E8] + b"\1" + page[0x2E9:]
    guest = Guest(image("ovmf_AmdSev_suffix.bin"), vcpus=1, vcpu_sig=0x800F12)
    assert predict(guest._replace(vmsas=(raw, page))).digest == predict(guest).digest
    assert predict(guest._replace(vmsas=(near, page))).digest != predict(guest).digest
    es = guest._replace(mode="seves", features=1)
    assert predict(es._replace(vmsas=(raw, page))).digest != predict(es).digest
    assert predict(es._replace(vmsas=(page, page))).digest == predict(es).digest
    for short in (page[:-1], b""):
        with pytest.raises(InputError, match="VMSA: expected 4096 bytes"):
            predict(guest._replace(vmsas=(page, short)))
