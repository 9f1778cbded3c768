"""Each kind of mistake, with an observed value that is computed here and not by the code that searches."""

import base64
import bz2
import gzip
import hashlib
import lzma

import pytest

from sevref.boot import SNP_SECTIONS, Guest, Image, KernelHashes, build_firmware, predict
from sevref.boot.explain import Owner, explain, read_digest, read_measurement
from sevref.boot.mistakes import Files
from sevref.measurement import launch_measurement
from sevref.status import InputError

LINE = " a  b\tc "
FIRMWARE = build_firmware(0x2000, sections=SNP_SECTIONS)
IMAGE = Image(FIRMWARE)
GUIDS = "d82dd09720bd944caa78e7714d36ab2a", "31f7ba442f3ad74b9af141e29169781d", "3794e74dd2ab7f42b835d5b172d2045b"


def sha(data):
    return hashlib.sha256(data).digest()


def sev(kernel, initrd, line):
    """The launch digest under plain SEV, from the sheet: the image, then 176 bytes."""
    table = bytes.fromhex("06d63894224fc94cb479a793d411fd21a800")
    for guid, data in zip(GUIDS, (line, initrd, kernel), strict=True):
        table += bytes.fromhex(guid + "3200") + sha(data)
    return sha(FIRMWARE + table + bytes(8))


def linux(**fields):
    """A file that looks like a Linux kernel: the setup header's magic, and what a boot loader has filled in."""
    data = bytearray(hashlib.shake_256(b"linux").digest(0x4000))
    data[0x202:0x206] = b"HdrS"
    for place, value in fields.items():
        offset = int(place[1:], 16)
        data[offset : offset + len(value)] = value
    return bytes(data)


def search(folder, digest, *, kernel=b"kernel", initrd=b"initrd", also=()):
    for name, data in ("kernel", kernel), ("initrd", initrd):
        (folder / name).write_bytes(data)
    guest = Guest(IMAGE, mode="sev", kernel=KernelHashes.of(folder / "kernel", folder / "initrd", LINE))
    assert predict(guest).digest == sev(kernel, initrd, LINE.encode() + b"\0")
    files = Files(folder / "kernel", folder / "initrd", LINE.encode(), (), also)
    return explain(guest, read_digest(digest.hex(), 32), files=files)


@pytest.mark.parametrize(
    "hashed, words",
    [
        (b" a  b\tc ", "without the final zero byte"),
        (b" a  b\tc \0\0", "with two final zero bytes"),
        (b" a  b\tc \n\0", "with a newline at its end"),
        (b" a  b\tc \n", "with a newline instead of the zero byte"),
        (b" a  b\tc \r\n\0", "with a newline of Windows at its end"),
        (b" a  b\tc  \0", "with a space at its end"),
        (b"  a  b\tc \0", "with a space at its beginning"),
        (b" a  b\tc\0", "without white space at its end"),
        (b"a  b\tc \0", "without white space at its beginning"),
        (b"a  b\tc\0", "without white space around it (as virtee/sev and snpguest have it)"),
        (b" a  b\tc", "without white space at its end, nor the zero byte"),
        (b" a b\tc \0", "with single spaces only"),
        (b"a b c\0", "with single spaces only, none around it"),
        (b" a  b c \0", "with tabs as spaces"),
        (b'" a  b\tc "\0', "in double quotes"),
        (b"' a  b\tc '\0", "in single quotes"),
        (b"\0", "empty"),
        (b"", "empty, without the zero byte"),
        (b" \0a\0 \0 \0b\0\t\0c\0 \0\0\0", "in UTF-16"),
    ],
)
def test_command_lines(tmp_path, hashed, words):
    assert search(tmp_path, sev(b"kernel", b"initrd", hashed)).matches == [f"command line {words}"]


@pytest.mark.parametrize(
    "given, hashed, words",
    [
        ("a\n", b"a\0", "without white space at its end"), ('"a b"', b"a b\0", "without its quotes"),
        ("a\\b", b"ab\0", "with backslashes taken away"), ("a\u00e4", b"a\xe4\0", "in Latin-1"),
    ],
)  # fmt: skip
def test_more_command_lines(given, hashed, words):
    guest = Guest(IMAGE, mode="sev", kernel=KernelHashes.of(b"k", None, given))
    found = explain(guest, read_digest(sev(b"k", b"", hashed).hex(), 32), files=Files(cmdline=given.encode()))
    assert found.matches == [f"command line {words}"]


ZERO = {
    "video mode": {"x1FA": bytes(2)}, "loader id": {"x210": bytes(1)}, "initrd address and size": {"x218": bytes(8)},
    "heap end": {"x224": bytes(2)}, "command-line pointer": {"x228": bytes(4)}, "setup_data link": {"x250": bytes(8)},
}  # fmt: skip
FILES = {
    "kernel and initrd swapped": (b"initrd", b"kernel"),
    "no initrd": (b"kernel", b""),
    "the kernel file was empty": (b"", b"initrd"),
    "the kernel given as initrd too": (b"kernel", b"kernel"),
    "the initrd given as kernel too": (b"initrd", b"initrd"),
}


@pytest.mark.parametrize("words", FILES)
def test_files(tmp_path, words):
    found = search(tmp_path, sev(*FILES[words], LINE.encode() + b"\0"))
    assert found.matches == [words]
    assert found.difference == "step 1 (kernel hashes): digest_after: what entered has other bytes"


def test_kernel_hashes_off(tmp_path):
    assert search(tmp_path, sha(FIRMWARE)).matches == ["kernel hashes are off: nothing of the kernel is measured"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("part", ["kernel", "initrd"])
def test_compressed(tmp_path, pack, part):
    plain = {"kernel": b"kernel", "initrd": b"initrd"}
    given = plain | {part: pack(plain[part])}
    found = search(tmp_path, sev(plain["kernel"], plain["initrd"], LINE.encode() + b"\0"), **given)
    assert found.matches == [f"{part} not compressed"]


@pytest.mark.parametrize("level", [9, 1])
def test_not_compressed(tmp_path, level):
    disk = bytes(range(256)) * 40 + hashlib.shake_256(b"x").digest(3000) * 3
    digest = sev(b"kernel", gzip.compress(disk, level, mtime=0), LINE.encode() + b"\0")
    words = f"initrd compressed with gzip -{level} (zlib's, no name, no time)"
    assert search(tmp_path, digest, initrd=disk).matches == [words]


@pytest.mark.parametrize(
    "broken", [b"\x1f\x8b", gzip.compress(b"x" * 999, mtime=0)[:-9], b"BZh9" + bytes(9), b"\xfd7zXZ\0" + bytes(9)]
)
def test_broken_archives_are_passed_over(tmp_path, broken):
    assert search(tmp_path, bytes(32), initrd=broken).matches == []


@pytest.mark.parametrize("field", ZERO)
def test_setup_header(tmp_path, field):
    digest = sev(linux(**ZERO[field]), b"initrd", LINE.encode() + b"\0")
    assert search(tmp_path, digest, kernel=linux()).matches == [f"kernel with the {field} zero"]


def test_setup_header_of_a_boot_loader(tmp_path):
    clean = linux(**{key: value for one in ZERO.values() for key, value in one.items()})
    found = search(tmp_path, sev(clean, b"initrd", LINE.encode() + b"\0"), kernel=linux())
    assert found.matches == ["kernel with every field zero that a boot loader fills in"]
    found = search(tmp_path, sev(linux(x210=b"\xb0"), b"initrd", LINE.encode() + b"\0"), kernel=linux())
    assert found.matches == ["kernel with loader id 0xB0"]


def test_other_files(tmp_path):
    (tmp_path / "newer").write_bytes(b"newer")
    for parts, words in ((b"newer", b"initrd"), "kernel: newer"), ((b"kernel", b"newer"), "initrd: newer"):
        found = search(tmp_path, sev(*parts, LINE.encode() + b"\0"), also=[tmp_path / "newer"])
        assert found.matches == [words]
    found = search(tmp_path, sev(b"newer", b"initrd", b"\0"), also=[tmp_path / "newer"])
    assert found.matches == ["command line empty and kernel: newer"]


# ---------------------------------------------------------------------------------------------- processors and settings


def find(observed, **believed):
    guest = Guest(IMAGE, **believed)
    digest = predict(guest._replace(**observed)).digest
    return explain(guest, read_digest(digest.hex(), len(digest))).matches


PAGES = bytes([1]) * 4096, bytes([2]) * 4096


@pytest.mark.parametrize(
    "believed, observed, words",
    [
        ({"mode": "seves"}, {"vcpus": 512}, "vCPUs: 512"),
        ({"mode": "seves", "vcpus": 2}, {"vcpus": 1}, "vCPUs: 1"),
        ({"vcpu_sig": 0x800F12}, {"vcpu_sig": 0}, "CPU: RDX is 0"),
        ({"vcpu_sig": 1}, {"vcpu_sig": 0x830F10}, "CPU: EPYC-Rome"),
        ({}, {"vmsa_gpa": 0xFFFFFFFFFF000}, "address of the VMSAs: 52 bits wide"),
        ({"features": 1}, {"features": 1 | 1 << 63}, "guest features: bit 63 (reserved) set"),
        ({"features": 0x21}, {"features": 0x20}, "guest features: bit 0 (SNPActive) clear"),
        ({"features": 3}, {"features": 0}, "guest features: 0x0 (none)"),
        ({"vmm": "ec2"}, {"vmm": "ec2-rdx0"}, "virtual machine manager: ec2-rdx0 (sev-snp-measure up to 0.0.12 and virtee/sev: RDX is 0)"),
        ({}, {"vmm": "krun"}, "virtual machine manager: krun (as virtee/sev has it; not verified by a run)"),
        ({"mode": "seves"}, {"mode": "sev"}, "kind of guest: sev"),
        ({"mode": "sev"}, {"mode": "seves"}, "kind of guest: seves"),
        ({"mode": "seves", "vcpus": 2, "vmsas": PAGES}, {"vmsas": PAGES[::-1]}, "register pages: the two files swapped"),
        ({"mode": "seves", "vcpus": 2, "vmsas": PAGES}, {"vmsas": PAGES[:1] * 2}, "register pages: the boot processor's for all"),
        ({"mode": "seves", "vcpus": 2, "vmsas": PAGES}, {"vmsas": PAGES[1:] * 2}, "register pages: the other processors' for all"),
        ({"ovmf_hash": bytes(48)}, {"ovmf_hash": None}, "firmware: its pages, not the given hash"),
    ],
)  # fmt: skip
def test_settings(believed, observed, words):
    assert find(observed, **believed) == [words]


def test_svsm():
    svsm = Image(build_firmware(0x2000, sections=[(0, 0x1000, 1)], svsm_entry=0x10), "SVSM")
    believed = {"mode": "snp:svsm", "svsm": svsm, "vars_size": 0x10000, "vcpu_sig": 0x800F12}
    assert find({"vars_size": 0x84000}, **believed) == ["VARS image: 540672 bytes"]
    assert find({"fpu": "peer-svsm"}, **believed) == ["FPU fields of the register pages: peer-svsm"]
    assert find({"mode": "snp", "svsm": None}, **believed) == ["kind of guest: snp"]


# ---------------------------------------------------------------------------------------------- the owner's side

OWNER = Owner(b"T" * 16, (0, 24), 15, 0x0100_0001, b"E" * 16)
NONCE = bytes(range(16))


def measured(owner, digest):
    value = launch_measurement(owner.tik, owner.api, owner.build, policy=owner.policy, digest=digest, nonce=NONCE)
    return base64.b64encode(value + NONCE).decode()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"policy": 0x0100_0003}, "policy: 0x1000003 (bit 1 set)"),
        ({"policy": 0x8100_0001}, "policy: 0x81000001 (bit 31 set)"),
        ({"policy": 0x0100_003E}, "policy: 0x100003E"),
        ({"policy": 0x1}, "policy: 0x1 (bit 24 clear)"),
        ({"api": (0, 16)}, "API version: before 0.17, neither version nor build are authenticated"),
        ({"api": (1, 55)}, "API version: 1.55"),
        ({"api": (2, 255)}, "API version: 2.255"),
        ({"build": 0}, "build: 0"),
        ({"build": 255}, "build: 255"),
        ({"tik": b"E" * 16}, "TIK and TEK swapped"),
        ({"tik": bytes(16)}, "TIK of zeros: a launch without a session"),
        ({"api": (1, 50), "build": 3}, "API version: 1.50 and build: 3"),
        ({"policy": 0x0100_0005, "build": 3}, "policy: 0x1000005 (bit 2 set) and build: 3"),
    ],
)
def test_owners_side(change, words):
    guest = Guest(IMAGE, mode="sev")
    found = explain(guest, read_measurement(measured(OWNER._replace(**change), sha(FIRMWARE))), OWNER)
    assert found.matches == [words]


def test_an_snp_digest_where_a_measurement_belongs():
    guest = Guest(IMAGE, mode="seves", vcpus=2, vcpu_sig=0x800F12)
    digest = predict(guest._replace(mode="snp")).digest
    found = explain(guest, read_measurement(base64.b64encode(digest).decode()), OWNER)
    assert found.matches == ["kind of guest: snp and the value is the launch digest of an SNP guest"]


def test_the_key_is_in_no_repr():
    assert "T" * 16 not in repr(OWNER) and "54" * 16 not in repr(OWNER)
    assert repr(OWNER) == "Owner(api=(0, 24), build=15, policy=0x1000001)"


@pytest.mark.parametrize(
    "text, words",
    [
        (lambda d: "0x" + d.hex(), None),
        (lambda d: d.hex().upper(), None),
        (lambda d: base64.b64encode(d).decode(), None),
        (lambda d: base64.b64encode(d.hex().encode()).decode(), "base64 of hex text, not of the bytes"),
        (lambda d: base64.b64encode(b"0x" + d.hex().encode()).decode(), "base64 of hex text, not of the bytes"),
        (lambda d: d[::-1].hex(), "its bytes in reverse order"),
        (lambda d: (d + bytes(16)).hex(), "a launch digest and a nonce"),
    ],
)
def test_readings_of_a_digest(text, words):
    found = explain(Guest(IMAGE, mode="sev"), read_digest(text(sha(FIRMWARE)), 32))
    assert found.as_configured == (words is None)
    assert found.matches == ([] if words is None else [f"the value is {words}"])


@pytest.mark.parametrize("text", ["", "!", "abc", "z-" * 32])
def test_unreadable(text):
    with pytest.raises(InputError, match="observed digest: expected hex or base64"):
        read_digest(text, 32)


def test_progress_comes_to_its_end():
    seen = []
    explain(Guest(IMAGE, mode="seves"), read_digest("00" * 32, 32), progress=lambda *now: seen.append(now))
    assert len(seen) > 5 and seen[-1][0] == seen[-1][1]
    assert all(done > 0 for done, _ in seen) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_only_linux_kernels_have_a_setup_header(tmp_path):
    other = linux(x202=b"hdrs")
    digest = sev(other[:0x210] + b"\0" + other[0x211:], b"initrd", LINE.encode() + b"\0")
    assert search(tmp_path, digest, kernel=other).matches == []
