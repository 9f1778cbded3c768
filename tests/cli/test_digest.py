"""``sevref digest``: sev-snp-measure's options, defaults and output, and what is beyond them."""

import base64
import hashlib
import json
import subprocess
import sys

import pytest

from sevref.boot import build_firmware
from support import vectors

OVMF = vectors("ovmf", "ovmf_AmdSev_suffix.bin")
NO_KERNEL = vectors("ovmf", "ovmf_OvmfX64_suffix.bin")
EL9 = vectors("ovmf", "ovmf_el9_amdsev_suffix.bin")
SVSM = ["--ovmf", vectors("ovmf", "svsm_ovmf_suffix.bin"), "--svsm", vectors("ovmf", "svsm_suffix.bin")]
DATA = json.loads(vectors("launch-digest.json").read_text())
EXPECTED = {v["id"]: v["expected"] for kind in ("vectors", "extra_vectors") for v in DATA[kind]}
TRACES = {trace["vector"].split()[0]: trace["steps"] for trace in DATA["traces"]}
SEED = EXPECTED["ld-01"]
SEV_ES = ["--mode", "seves", "--vcpu-type", "EPYC-Milan", "--ovmf", EL9]
SNP = ["--mode", "snp", "--vcpu-type", "EPYC-v4", "--ovmf", OVMF]
EMPTY = ["--kernel", "/dev/null", "--initrd", "/dev/null", "--append", ""]

pytestmark = pytest.mark.vectors

CASES = {
    "ld-01": ["--mode", "snp:ovmf-hash", "--ovmf", OVMF],
    "ld-02": [*SNP, *EMPTY, "--vcpus", 1, "--guest-features", "0x21", "--snp-ovmf-hash", SEED],
    "ld-03": [*SNP, *EMPTY, "--vcpus", 1, "--snp-ovmf-hash", SEED],
    "ld-05": [
        *SNP,
        "--kernel",
        "/dev/null",
        "--append",
        "console=ttyS0 loglevel=7",
        "--vcpus",
        1,
        "--guest-features",
        33,
    ],
    "ld-08": [*SNP, *EMPTY, "--vcpus", 1, "--vmm-type", "ec2", "--guest-features", "0x21"],
    "ld-25": [*SNP, *EMPTY, "--vcpus", 1, "--vmm-type", "ec2-rdx0"],
    "ld-11": ["--mode", "snp", "--ovmf", OVMF, *EMPTY, "--vcpus", 4, "--vmm-type", "gce"],
    "ld-15": [*SNP, *EMPTY, "--vcpus", 4],
    "ld-19": ["--mode", "seves", "--vcpu-sig", "0x800f12", "--ovmf", OVMF, *EMPTY, "--vcpus", 4],
    "ld-21": ["--mode", "sev", "--ovmf", OVMF, "--kernel", "/dev/null"],
    "ld-22": ["--mode", "sev", "--ovmf", NO_KERNEL],
    "x-01": [
        "--mode",
        "snp",
        "--ovmf",
        OVMF,
        "--vcpu-family",
        23,
        "--vcpu-model",
        49,
        "--vcpu-stepping",
        0,
        "--vcpus",
        2,
    ],
    "x-04": ["--mode", "snp", "--ovmf", OVMF, "--vcpu-type", "EPYC-Turin", "--vcpus", 2],
    "x-11": [*SEV_ES, "--vcpus", 4],
    "x-12": [*SEV_ES, "--vcpus", 4, "--vmsa-fpu", "legacy"],
    "x-15": ["--mode", "snp:svsm", *SVSM, "--vars-size", 540672, "--vcpus", 1, "--vcpu-type", "EPYC-v4", "--as-peer"],
    "x-17": [
        *("--mode", "snp:svsm", *SVSM, "--vars-size", 540672, "--vcpus", 1, "--vcpu-type", "EPYC-v4"),
        *("--vmsa-fpu", "legacy"),
    ],
    "x-18": ["--mode", "snp:svsm", *SVSM, "--vars-size", 540672, "--vcpus", 1, "--vcpu-type", "EPYC-v4"],
}


@pytest.mark.parametrize("vector", CASES)
def test_digest(cli, vector):
    done = cli("digest", *CASES[vector])
    assert done == (0, EXPECTED[vector] + "\n", "")


def test_base64_is_of_the_bytes(cli):
    done = cli("digest", *CASES["ld-22"], "--output-format", "base64")
    assert base64.b64decode(done.out).hex() == EXPECTED["ld-22"]


def test_explicit_numbers_come_before_the_signature_and_that_before_the_name(cli):
    words = [*CASES["x-01"], "--vcpu-sig", 1, "--vcpu-type", "EPYC"]
    assert cli("digest", *words).out.strip() == EXPECTED["x-01"]
    assert cli("digest", *CASES["ld-19"], "--vcpu-type", "EPYC-Turin").out.strip() == EXPECTED["ld-19"]


def test_verbose(cli):
    done = cli("digest", *CASES["ld-15"], "-v")
    assert done.out == f"Calculated SEV_SNP guest measurement: {EXPECTED['ld-15']}\n"
    assert len(done.err.splitlines()) == 8 + 4
    assert done.err.splitlines()[0].split()[:5] == [SEED, "0xFFFFF000", "1", "x", "NORMAL"]


def test_json(cli):
    document = json.loads(cli("digest", *CASES["ld-05"], "--json").out)
    assert document["digest"] == EXPECTED["ld-05"]
    trace = TRACES["ld-05"]
    assert [step["digest_after"] for step in document["steps"]] == [step["ld"] for step in trace]
    kinds = ["NORMAL", "ZERO", "ZERO", "SECRETS", "CPUID", "ZERO", "NORMAL", "ZERO", "VMSA"]
    assert [step["page_type"] for step in document["steps"]] == kinds
    assert [step["gpa"] for step in document["steps"]] == [
        *(0xFFFFF000, 0x800000, 0x80A000, 0x80D000, 0x80E000, 0x80F000, 0x810000, 0x811000, 0xFFFFFFFFF000)
    ]
    assert [step["pages"] for step in document["steps"]] == [1, 9, 3, 1, 1, 1, 1, 15, 1]


def test_json_of_sev_es(cli):
    steps = json.loads(cli("digest", *CASES["ld-19"], "--json").out)["steps"]
    assert [(step["what"], step["gpa"], step["size"]) for step in steps] == [
        ("firmware", 0xFFFFF000, 4096), ("kernel hashes", 0x810C00, 176), *((f"vmsa {i}", None, 4096) for i in range(4)),
    ]  # fmt: skip
    assert steps[0]["digest_after"] == hashlib.sha256(OVMF.read_bytes()).hexdigest()
    assert steps[-1]["digest_after"] == EXPECTED["ld-19"]


def test_another_address_of_the_vmsas(cli):
    """gce-tcb-verifier on Genoa: the last page of 52 address bits; only the last steps differ."""
    steps = json.loads(cli("digest", *CASES["ld-11"], "--vmsa-gpa", "0xFFFFFFFFFF000", "--json").out)["steps"]
    usual = json.loads(cli("digest", *CASES["ld-11"], "--json").out)["steps"]
    assert steps[:-4] == usual[:-4]
    assert steps[-4]["gpa"] == 0xFFFFFFFFFF000
    assert steps[-4]["digest_after"] != usual[-4]["digest_after"]


def test_compare_names_the_first_other_step(cli, tmp_path):
    theirs = tmp_path / "theirs.json"
    theirs.write_text(cli("digest", *CASES["ld-15"], "--json").out)
    same = cli("digest", *CASES["ld-15"], "--compare", theirs)
    assert same.code == 0 and same.out.endswith(f"every step is that of {theirs}\n")
    other = cli("digest", *CASES["ld-15"], "--append", "x", "--compare", theirs, "--json")
    document = json.loads(other.out)
    assert other.code == 1
    assert document["first_difference"] == "step 6 (section KERNEL_HASHES): digest_after: what entered has other bytes"
    fewer = json.loads(cli("digest", *SNP, *EMPTY, "--vcpus", 3, "--compare", theirs, "--json").out)
    assert fewer["first_difference"] == "step 11: vmsa 3 only there"
    without = json.loads(cli("digest", *SNP, "--vcpus", 4, "--compare", theirs, "--json").out)
    assert without["first_difference"] == "step 6 (section KERNEL_HASHES): page_type: ZERO here, NORMAL there"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": 1}', '{"steps": [1]}', "[" * 100000, "\xff"])
def test_compare_with_something_else(refused, tmp_path, text):
    (tmp_path / "record").write_bytes(text.encode("latin-1"))
    assert "record" in refused("digest", *CASES["ld-15"], "--compare", tmp_path / "record")


def test_dump_vmsa(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("digest", *CASES["x-11"], "--dump-vmsa").code == 0
    pages = {page["id"]: page for page in DATA["vmsa_pages"]}
    assert cli("digest", *CASES["x-12"], "--dump-vmsa").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmsa0.bin", "vmsa1.bin", "vmsa2.bin", "vmsa3.bin"]
    digests = [hashlib.sha256((tmp_path / f"vmsa{i}.bin").read_bytes()).hexdigest() for i in range(4)]
    boot, ap = (pages[f"qemu-{role}-legacy-milan"]["sha256"] for role in ("bsp", "ap"))
    assert digests == [boot, ap, ap, ap]


def test_what_a_mode_does_not_measure_is_said(cli):
    done = cli("digest", *CASES["x-18"], *EMPTY)
    assert done.out.strip() == EXPECTED["x-18"]
    assert done.err == "sevref: note: mode snp:svsm measures no kernel, initrd or command line\n"


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--mode", "tdx", "--ovmf", OVMF], "--mode"),
        (["--mode", "snp", "--vcpu-type", "EPYC", "--ovmf", OVMF], "--vcpus: expected a number in mode snp, found none"),
        ([*SNP, "--vcpus", 0], "--vcpus: expected 1 to 65536, found 0"),
        ([*SNP, "--vcpus", "many"], "--vcpus"),
        (["--mode", "snp", "--vcpus", 1, "--ovmf", OVMF], "CPU: expected --vcpu-type, --vcpu-sig or --vcpu-family"),
        (["--mode", "snp", "--vcpus", 1, "--vcpu-type", "epyc", "--ovmf", OVMF], "CPU model: expected one of EPYC, "),
        ([*SNP, "--vcpus", 1, "--vcpu-family", 25], "found no model and no stepping"),
        ([*SNP, "--vcpus", 1, "--vcpu-family", 999, "--vcpu-model", 1, "--vcpu-stepping", 1], "CPU family"),
        ([*SNP, "--vcpus", 1, "--append", "x"], "--append: expected --kernel with it, found none"),
        ([*SNP, "--vcpus", 1, "--initrd", "/dev/null"], "--initrd: expected --kernel with it, found none"),
        ([*SNP, "--vcpus", 1, "--kernel", "nowhere"], "kernel nowhere: expected a readable file"),
        ([*SNP, "--vcpus", 1, "--kernel", "/dev/null", "--append", "\udcff"], "kernel command line: expected text in UTF-8"),
        ([*SNP, "--vcpus", 1, "--vmm-type", "qemu"], "--vmm-type"),
        ([*SNP, "--vcpus", 1, "--snp-ovmf-hash", "00"], "--snp-ovmf-hash: expected 96 hex digits"),
        ([*SNP, "--vcpus", 1, "--guest-features", "-1"], "--guest-features"),
        (["--mode", "sev", "--ovmf", OVMF, "--snp-ovmf-hash", SEED], "hash of the firmware: expected mode snp"),
        (["--mode", "sev", "--ovmf", "nowhere"], "firmware nowhere: expected a readable file, found no such file"),
        (["--mode", "sev", "--ovmf", "/dev/null"], "firmware /dev/null: expected a regular file"),
        (["--mode", "sev", "--ovmf", "/"], "firmware /: expected a readable file, found is a directory"),
        (["--mode", "seves", "--vcpus", 1, "--vmm-type", "ec2", "--ovmf", OVMF], "no other is known to start SEV-ES"),
        (["--mode", "snp", "--vcpus", 1, "--vcpu-type", "EPYC", "--ovmf", EL9], "cannot start as an SNP guest"),
        (["--mode", "sev", "--ovmf", NO_KERNEL, "--kernel", "/dev/null"], "a kernel hashes area, found base 0x0"),
        ([*CASES["x-18"][:2], *SVSM[:2], "--vcpus", 1, "--vcpu-type", "EPYC"], "--svsm: expected an SVSM image"),
        ([*CASES["x-18"][:6], "--vcpus", 1, "--vcpu-type", "EPYC"], "--vars-size or --vars-file"),
        ([*CASES["x-18"][:6], "--vcpus", 1, "--vcpu-type", "EPYC", "--vars-size", 100], "size of the VARS image"),
        ([*CASES["x-18"][:6], "--vcpus", 1, "--vcpu-type", "EPYC", "--vars-size", 1 << 33], "svsm_suffix.bin: size"),
        ([*CASES["x-18"], "--vmm-type", "ec2"], "virtual machine manager in mode snp:svsm: expected QEMU"),
        ([*CASES["x-18"][:2], "--ovmf", OVMF, "--svsm", OVMF, "--vars-size", 4096, "--vcpus", 1, "--vcpu-type", "EPYC"], "SVSM info"),
    ],
)  # fmt: skip
def test_refusals(refused, words, reason):
    assert reason in refused("digest", *words)


def test_a_short_firmware(refused, tmp_path):
    (tmp_path / "short").write_bytes(bytes(49))
    assert "at least 50 bytes" in refused("digest", "--mode", "sev", "--ovmf", tmp_path / "short")


def test_a_firmware_without_a_table(cli, refused, tmp_path):
    """It is measured as it is; only what needs an entry refuses."""
    (tmp_path / "plain").write_bytes(bytes(4096))
    done = cli("digest", "--mode", "sev", "--ovmf", tmp_path / "plain")
    assert done.out.strip() == hashlib.sha256(bytes(4096)).hexdigest()
    assert "reset block" in refused("digest", *SEV_ES[:4], "--vcpus", 1, "--ovmf", tmp_path / "plain")


def test_a_page_and_a_half_is_no_snp_firmware(refused, tmp_path):
    (tmp_path / "odd").write_bytes(bytes(2048) + OVMF.read_bytes())
    assert "a multiple of 4096 bytes, found 6144 bytes" in refused(
        "digest", *SNP[:4], "--vcpus", 1, "--ovmf", tmp_path / "odd"
    )


def test_our_own_firmware(cli, tmp_path):
    (tmp_path / "own").write_bytes(build_firmware())
    done = cli("digest", "--mode", "sev", "--ovmf", tmp_path / "own")
    assert done.out.strip() == hashlib.sha256(build_firmware()).hexdigest()


def test_only_what_is_needed_is_imported():
    code = """
import sys
from sevref.cli import main
assert main(sys.argv[1:]) == 0
print(sorted({name.split(".")[0] for name in sys.modules} & {"numpy", "cryptography", "json", "dataclasses", "pathlib"}))
"""
    words = [str(word) for word in CASES["ld-03"]]
    run = subprocess.run([sys.executable, "-c", code, "digest", *words], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [EXPECTED["ld-03"], "[]"]


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["sev", "seves", "snp"])
@pytest.mark.parametrize("output", ["hex", "base64"])
def test_the_commands_print_the_same(cli, tmp_path, mode, output, capsys, monkeypatch):
    from sevsnpmeasure import cli as theirs

    (tmp_path / "kernel").write_bytes(b"kernel")
    words = ["--mode", mode, "--vcpus", "2", "--vcpu-type", "EPYC-Milan-v2", "--kernel", str(tmp_path / "kernel")]
    words += ["--ovmf", str(vectors("ovmf", "ovmf_AmdSev_suffix.bin")), "--append", "ä b ", "--output-format", output]
    monkeypatch.setattr("sys.argv", ["sev-snp-measure", *words])
    theirs.main()
    expected = capsys.readouterr().out
    done = cli("digest", *words)
    assert (done.code, done.out, done.err) == (0, expected, "")
    text = expected.strip()
    assert len(base64.b64decode(text) if output == "base64" else bytes.fromhex(text)) == (48 if mode == "snp" else 32)


# ---------------------------------------------------------------------------------------------- explain


def test_explain(cli):
    done = cli("digest", *CASES["ld-15"], "--explain", EXPECTED["ld-03"])
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[0] == EXPECTED["ld-15"]
    assert (
        "\n  vCPUs: 1\nfirst step that differs (prediction here, observed there): step 9: vmsa 1 only here\n"
        in done.out
    )
    document = json.loads(cli("digest", *CASES["ld-15"], "--explain", EXPECTED["ld-14"], "--json").out)
    assert document["match"] is False
    assert document["explanation"] == ["guest features: 0x21 (Linux 6.6 and 6.7, where the processor has DebugSwap)"]
    assert {"change": "vCPUs: 512", "match": False, "tried": 1} in document["hypotheses"]


@pytest.mark.parametrize("form", [lambda d: d, str.upper, lambda d: base64.b64encode(bytes.fromhex(d)).decode()])
def test_explain_the_right_value(cli, form):
    done = cli("digest", *CASES["ld-15"], "--explain", form(EXPECTED["ld-15"]), "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert (document["match"], document["hypotheses"]) == (True, [])


def test_explain_reads_the_quirk_of_snpguest(cli):
    """It prints base64 of hex text."""
    text = base64.b64encode(EXPECTED["ld-15"].encode()).decode()
    done = cli("digest", *CASES["ld-15"], "--explain", text, "--json")
    assert done.code == 1
    assert json.loads(done.out)["explanation"] == ["the value is base64 of hex text, not of the bytes"]


def test_explain_three_changes_of_cpu_count_model_and_line(cli, tmp_path):
    (tmp_path / "kernel").write_bytes(b"kernel")
    words = ["--mode", "snp", "--ovmf", OVMF, "--kernel", tmp_path / "kernel"]
    other = cli("digest", *words, "--append", "a b", "--vcpus", 9, "--vcpu-type", "EPYC-Rome").out.strip()
    done = cli(
        "digest", *words, "--append", "a b ", "--vcpus", 2, "--vcpu-type", "EPYC-Milan", "--explain", other, "--json"
    )
    expected = "command line without white space at its end and CPU: EPYC-Rome and vCPUs: 9"
    assert json.loads(done.out)["explanation"] == [expected]


@pytest.mark.parametrize(
    "words, reason",
    [
        ([*CASES["ld-15"], "--explain", "?"], "observed digest: expected hex or base64"),
        ([*CASES["ld-15"], "--explain", ""], "observed digest: expected hex or base64"),
        ([*CASES["ld-01"], "--explain", SEED], "--explain: expected a mode of guests, found snp:ovmf-hash"),
        ([*CASES["ld-15"], "--explain", SEED, "--also", "nowhere"], "--also nowhere: expected a readable file"),
        ([*CASES["ld-15"], "--explain", SEED, "--firmware-dir", "nowhere"], "--firmware-dir nowhere: expected a folder"),
        ([*CASES["ld-15"], "--explain", SEED, "--firmware-dir", OVMF], "expected a folder, found not a directory"),
    ],
)  # fmt: skip
def test_explain_refusals(refused, words, reason):
    assert reason in refused("digest", *words)
