"""VMSA pages against published ones, and the processor's signature."""

import hashlib
import json

import pytest

from sevref import boot
from sevref.status import InputError
from support import vectors

QEMU_PAGES = [  # of launch-digest.json, "vmsa_pages"
    *(f"qemu-{role}-feat{features}" for role in ("bsp", "ap") for features in ("0x0", "0x1", "0x21")),
    "qemu-bsp-legacy-milan",
    "qemu-ap-legacy-milan",
]
BLOBS = {  # of launch-measure.json: start, family, model, stepping, FPU fields
    "vmsa_qemu_es_init_bsp_fam25_mod1_step1": (0xFFFFFFF0, 25, 1, 1, "legacy"),
    "vmsa_qemu_es_init_ap_fam25_mod1_step1": (0x0080B004, 25, 1, 1, "legacy"),
    "vmsa_snpmeasure_es_bsp_epyc_v4": (0xFFFFFFF0, 23, 1, 2, "init2"),
    "vmsa_snpmeasure_es_ap_epyc_v4": (0x0080B004, 23, 1, 2, "init2"),
    "vmsa_qemu_es_init_bsp_fam23_mod49_step0": (0xFFFFFFF0, 23, 49, 0, "legacy"),
    "vmsa_qemu_es_init_ap_fam23_mod49_step0": (0x0080B004, 23, 49, 0, "legacy"),
}


def page_of(qwords):
    page = bytearray(4096)
    for offset, text in qwords:
        page[int(offset, 16) : int(offset, 16) + 8] = bytes.fromhex(text)
    return bytes(page)


@pytest.mark.vectors
@pytest.mark.parametrize("name", QEMU_PAGES)
def test_published_pages(name):
    document = json.loads(vectors("launch-digest.json").read_text())
    (row,) = (row for row in document["vmsa_pages"] if row["id"] == name)
    page = boot.build_vmsa(
        int(row["reset_address"], 16),
        vcpu_sig=int(row["vcpu_sig"], 16),
        sev_features=int(row["sev_features"], 16),
        fpu=row["vmsa_fpu"],
    )
    assert page == page_of((q["offset"], q["hex"]) for q in row["nonzero_qwords"])
    assert hashlib.sha256(page).hexdigest() == row["sha256"]


@pytest.mark.vectors
@pytest.mark.parametrize("name", BLOBS)
def test_published_blobs(name):
    entry, family, model, stepping, fpu = BLOBS[name]
    blob = json.loads(vectors("launch-measure.json").read_text())["blobs"][name]
    page = boot.build_vmsa(entry, vcpu_sig=boot.cpu_signature(family, model, stepping), fpu=fpu)
    assert page == page_of(blob["data"].items())
    assert hashlib.sha256(page).hexdigest() == blob["sha256"]


def test_one_page_without_vectors():
    """The digest of the boot processor's page that sevctl publishes."""
    page = boot.build_vmsa(vcpu_sig=0x00A00F11, fpu="legacy")
    assert hashlib.sha256(page).hexdigest() == "f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7"


def test_pages_of_a_guest():
    image = boot.build_firmware(4096, reset_address=0x0080B004)
    pages = boot.initial_vmsas(image, 3, vcpu_sig=0x00A00F11, fpu="legacy")
    digests = [hashlib.sha256(page).hexdigest() for page in pages]
    assert digests == [
        "f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7",
        *["bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487"] * 2,
    ]
    assert boot.initial_vmsas(image, 1, vcpu_sig=0, fpu="init2") == [boot.build_vmsa(fpu="init2")]
    default = hashlib.sha256(boot.initial_vmsas(image, 2, vcpu_sig=0x00800F12)[1]).hexdigest()
    assert default == "7ff723da33f39dedbe8336bb697e0a2f76471690074d5902e1a8177cd5312c95"


def test_pages_that_cannot_be():
    image = boot.build_firmware(4096, reset_address=None)
    with pytest.raises(InputError, match="number of vCPUs: expected 1 or more, found 0"):
        boot.initial_vmsas(boot.build_firmware(4096), 0, vcpu_sig=0)
    for vcpus in 1, 2:
        with pytest.raises(InputError, match="expected an SEV-ES reset block, found none"):
            boot.initial_vmsas(image, vcpus, vcpu_sig=0)
    with pytest.raises(InputError, match="fpu: expected one of legacy, init2, peer-svsm, found modern"):
        boot.build_vmsa(fpu="modern")
    for entry in -1, 1 << 32:
        with pytest.raises(InputError, match="entry point"):
            boot.build_vmsa(entry)
    with pytest.raises(InputError, match=r"Vmsa\.sev_features"):
        boot.build_vmsa(sev_features=1 << 64)
    with pytest.raises(InputError, match=r"Vmsa\.rdx"):
        boot.build_vmsa(vcpu_sig=-1)


@pytest.mark.parametrize(
    "family, model, stepping, signature",
    [  # sheet 70, section 3.6
        (23, 1, 2, 0x00800F12),
        (23, 49, 0, 0x00830F10),
        (25, 1, 1, 0x00A00F11),
        (25, 17, 0, 0x00A10F10),
        (26, 0, 0, 0x00B00F00),
        (14, 1, 2, 0x00000E12),
        (15, 0, 0, 0x00000F00),
        (16, 0, 0, 0x00100F00),
        (270, 255, 15, 0x0FFF0FFF),
    ],
)
def test_signatures(family, model, stepping, signature):
    assert boot.cpu_signature(family, model, stepping) == signature


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (271, 0, 0), (25, 256, 0), (25, -1, 0), (25, 1, 16), (25, 1, -1)])
def test_signatures_of_numbers_that_do_not_fit(numbers):
    with pytest.raises(InputError, match=r"CPU (family|model|stepping): expected 0 to"):
        boot.cpu_signature(*numbers)


def test_a_page_parses_and_is_described_completely():
    data = boot.build_vmsa(0x0080B004, vcpu_sig=7)
    page = boot.Vmsa.parse(data)
    assert (page.cs.base, page.rip, page.rdx, page.cs.selector) == (0x00800000, 0xB004, 7, 0xF000)
    assert page.pack() == data
    assert sum(row.size for row in page.describe()) == 4096
