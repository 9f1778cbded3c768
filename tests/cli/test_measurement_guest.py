"""``sevref measurement`` with kernel, vCPUs, what the host says, secrets and ``--explain``.

Expected measurements are sevctl's published ones (vectors, ``launch_measure``).
"""

import base64
import hashlib
import json

import pytest

from sevref.boot import build_firmware, build_vmsa
from sevref.transport import PacketHeader, open_packet, parse_secret_table
from support import vectors

pytestmark = pytest.mark.vectors
DATA = {one["id"]: one for one in json.loads(vectors("launch-digest.json").read_text())["launch_measure"]}
EL9 = vectors("ovmf", "ovmf_el9_amdsev_suffix.bin")
CMDLINE = "foo bar baz fake kernel=cmdline"
DISK = "736869e5-84f0-4973-92ec-06879ce3da0b"
TEK = bytes(range(16))


def blob_of(vector):
    return base64.b64encode(bytes.fromhex(vector["blob_hex"])).decode()


def options(vector, **changes):
    values = {"api-major": vector["api_major"], "api-minor": vector["api_minor"], "build-id": vector["build"],
              "policy": vector["policy"], "firmware": EL9}  # fmt: skip
    values.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", value)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of the published tests: TIK, kernel, initrd, register pages."""
    monkeypatch.chdir(tmp_path)
    tik = bytes.fromhex(DATA["sevctl-kernel"]["tik_hex"])
    boot = build_vmsa(vcpu_sig=0xA00F11, fpu="legacy")
    other = build_vmsa(0x0080B004, vcpu_sig=0xA00F11, fpu="legacy")
    for name, data in {
        "tik": tik, "tk": TEK + tik, "kernel": b"fake vmlinuz\n", "initrd": b"fake initrd\n", "vmsa0": boot, "vmsa1": other,
        "secret": b"MY-LUKS-PASSPHRASE", "short": bytes(4095),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    assert {hashlib.sha256(page).hexdigest() for page in (boot, other)} == {
        page["sha256"]
        for page in json.loads(vectors("launch-digest.json").read_text())["vmsa_pages"]
        if page["id"] in ("qemu-bsp-legacy-milan", "qemu-ap-legacy-milan")
    }
    return tmp_path


BOOT = ["--kernel", "kernel", "--initrd", "initrd", "--cmdline", CMDLINE]
PAGES = ["--num-cpus", 4, "--vmsa-cpu0", "vmsa0", "--vmsa-cpu1", "vmsa1"]
MILAN = ["--num-cpus", 4, "--cpu-family", 25, "--cpu-model", 1, "--cpu-stepping", 1]
GUESTS = {"sevctl-firmware-only": [], "sevctl-kernel": BOOT, "sevctl-seves-4cpu": PAGES}


@pytest.mark.parametrize("name", GUESTS)
def test_build_and_verify(cli, files, name):
    vector = DATA[name]
    words = [*options(vector), *GUESTS[name], "--tik", "tik"]
    built = cli("measurement", "build", *words, "--nonce", vector["mnonce_hex"], "--json")
    assert json.loads(built.out) == {"measurement": blob_of(vector), "digest": vector["launch_digest"]}
    done = cli("measurement", "verify", "--measurement", blob_of(vector), *words, "--json")
    assert done.code == 0 and json.loads(done.out)["match"] is True
    other = blob_of(DATA["sevctl-given-digest"])
    assert cli("measurement", "verify", "--measurement", other, *words).code == 1


def test_register_pages_are_built(cli, files):
    vector = DATA["sevctl-seves-4cpu"]
    words = ["measurement", "verify", "--measurement", blob_of(vector), *options(vector), "--tik", "tik"]
    assert cli(*words, *MILAN).code == 0
    assert cli(*words, *MILAN, "--vmsa-fpu", "init2").code == 1
    assert cli(*words, *MILAN[:-1], 2).code == 1


def test_one_vcpu_needs_one_page(cli, files):
    """libvirt's tool stops with an internal error here."""
    words = [*options(DATA["sevctl-seves-4cpu"]), "--tik", "tik", "--nonce", "00" * 16, "--num-cpus", 1]
    one = cli("measurement", "build", *words, "--vmsa-cpu0", "vmsa0")
    assert one.code == 0
    assert cli("measurement", "build", *words, "--vmsa-cpu0", "vmsa0", "--vmsa-cpu1", "vmsa1").out == one.out


def test_pages_without_es_do_not_matter(cli, files):
    vector = DATA["sevctl-firmware-only"]
    done = cli("measurement", "verify", "--measurement", blob_of(vector), *options(vector), *PAGES, "--tik", "tik")
    assert done.code == 0
    assert done.err == "sevref: note: the policy has no ES bit, register pages are not measured\n"


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "--num-cpus: expected a number: the policy asks for SEV-ES"),
        (["--num-cpus", 0], "--num-cpus: expected 1 to"),
        (["--num-cpus", 2], "--vmsa-cpu0: expected a file, or --cpu-family"),
        (["--num-cpus", 2, "--vmsa-cpu0", "vmsa0"], "--vmsa-cpu1: expected a file for 2 vCPUs"),
        (["--num-cpus", 2, "--vmsa-cpu1", "vmsa0"], "--vmsa-cpu0: expected a file beside"),
        ([*PAGES, "--cpu-family", 25], "register pages: expected --vmsa-cpu0 and --vmsa-cpu1, or --cpu-family"),
        (MILAN[:4], "all three"),
        (["--num-cpus", 1, "--vmsa-cpu0", "short"], "register page short: expected 4096 bytes, found 4095 bytes"),
        (["--num-cpus", 1, "--vmsa-cpu0", "nowhere"], "register page nowhere"),
        ([*PAGES, "--initrd", "initrd"], "--initrd: expected --kernel with it"),
        ([*PAGES, "--cmdline", ""], "--cmdline: expected --kernel with it"),
        ([*PAGES, "--kernel", "nowhere"], "kernel nowhere: expected a readable file"),
        ([*PAGES, "--kernel", "kernel", "--cmdline", "\udce4"], "kernel command line: expected text in UTF-8"),
        ([*PAGES, "--inject-secret", "luks-key:secret"], "--inject-secret: expected --secret-header"),
        ([*PAGES, "--secret-qmp", "x"], "--inject-secret: expected a secret"),
        ([*PAGES, "--inject-secret", "luks-key:secret", "--secret-header", "x"], "expected both, found one of them"),
    ],
)  # fmt: skip
def test_refusals(refused, files, words, reason):
    vector = DATA["sevctl-seves-4cpu"]
    base = ["measurement", "verify", "--measurement", blob_of(vector), *options(vector), "--tk", "tk"]
    assert reason in refused(*base, *words)


# ---------------------------------------------------------------------------------------------- what the host says

XML = f"""<?xml version='1.0'?>
<domain type='kvm'>
  <!-- a comment --><name>guest</name><vcpu placement='static' current='4'>8</vcpu>
  <os><type>hvm</type><loader readonly='yes' stateless='yes'>/usr/share/OVMF/{EL9.name}</loader>
  <kernel>kernel</kernel><initrd> initrd </initrd><cmdline>{CMDLINE.replace("foo", "&#102;oo")}</cmdline></os>
  <cpu mode='custom'><model fallback='forbid'>EPYC-Milan</model></cpu>
  <launchSecurity type='sev' kernelHashes='no'><policy>0x0005</policy><policy>3</policy></launchSecurity>
  <devices><os><loader>other</loader></os></devices>
</domain>
"""


def test_domain_xml(cli, files):
    """Everything but the version comes from the XML; the firmware is looked for in our own folder."""
    vector = DATA["sevctl-seves-4cpu"]
    (files / "guest.xml").write_text(XML)
    words = ["--measurement", blob_of(vector), *options(vector, policy=None, firmware=None), "--tik", "tik"]
    words += ["--domain-xml", "guest.xml", "--firmware-dir", EL9.parent]
    assert cli("measurement", "verify", *words).code == 0
    assert cli("measurement", "verify", *words, "--num-cpus", 8).code == 1  # an option comes first


def test_domain_xml_with_kernel_hashes(cli, files):
    vector = DATA["sevctl-kernel"]
    (files / "guest.xml").write_text(XML.replace("'no'", "'yes'").replace("0x0005", "3"))
    words = ["--measurement", blob_of(vector), *options(vector, policy=None), "--tik", "tik"]
    assert cli("measurement", "verify", *words, "--domain-xml", "guest.xml").code == 0


ENTITY = '<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa">]>'
LAUGHS = '<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    "text, reason",
    [
        (XML.replace("<domain", ENTITY + "<domain", 1), "found a DOCTYPE"),
        (XML.replace("<domain", LAUGHS + "<domain", 1).replace("guest<", "&j;<"), "found a DOCTYPE"),
        (XML.replace("<domain", '<!DOCTYPE domain SYSTEM "file:///etc/passwd"><domain', 1), "found a DOCTYPE"),
        (XML.replace("guest<", "&undeclared;<"), "well-formed XML, found undefined entity in line 3"),
        (XML[:-12], "well-formed XML"),
        ("", "well-formed XML"),
        ("\0\xff", "well-formed XML"),
        (XML.replace("<domain", "<network").replace("</domain", "</network"), "root element: expected domain"),
        (XML.replace("type='sev'", "type='sev-snp'"), "see sevref digest"),
        (XML.replace("launchSecurity", "other"), "launchSecurity: expected an element of type sev, found none"),
        (XML.replace("0x0005", "five"), "policy: expected a decimal or 0x number"),
        (XML.replace("0x0005", "0x100000000"), "policy: expected a number of at most 32 bits"),
        (XML.replace("current='4'", "current='-4'"), "current of vcpu"),
        (XML.replace("EPYC-Milan", "Opteron"), "CPU model: expected one of EPYC"),
        (XML.replace("<name>", "<a>" * 70 + "</a>" * 70 + "<name>"), "at most 64 nested elements"),
        (XML + " " * (1 << 20), "at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_bad_xml(refused, files, text, reason):
    (files / "guest.xml").write_bytes(text.encode("latin-1"))
    vector = DATA["sevctl-seves-4cpu"]
    words = [
        "--measurement",
        blob_of(vector),
        *options(vector, policy=None),
        "--tik",
        "tik",
        "--domain-xml",
        "guest.xml",
    ]
    said = refused("measurement", "verify", *words)
    assert reason in said
    assert "guest.xml" in said or reason.startswith("CPU model")


def test_qmp(cli, files):
    vector = DATA["sevctl-seves-4cpu"]
    sev = {"return": {"enabled": True, "api-major": 1, "api-minor": 49, "build-id": 6, "policy": 5,
                      "state": "launch-secret", "handle": 1}}  # fmt: skip
    both = json.dumps(sev) + "\n" + json.dumps({"return": {"data": blob_of(vector)}, "id": "x"}) + "\n"
    (files / "qmp").write_text(both)
    (files / "bare").write_text(json.dumps({"data": blob_of(vector)}))
    words = ["measurement", "verify", "--firmware", EL9, *PAGES, "--tik", "tik"]
    assert cli(*words, "--qmp", "qmp").code == 0
    (files / "first").write_text(json.dumps(sev["return"]))
    assert cli(*words, "--qmp", "first", "--qmp", "bare").code == 0
    assert cli(*words, "--qmp", "qmp", "--build-id", 7).code == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "expected JSON, found nothing"), ("{", "something else at offset 0"), ("[" * 100000, "expected JSON"),
        ("[]", "expected a JSON object, found a list"), ('{"return": {}} x', "something else at offset 15"),
        ('{"error": {"class": "GenericError"}}', "found an error"), ('{"enabled": false}', "runs without SEV"),
        ('{"enabled": true, "sev-type": "sev-snp"}', "no launch measurement"), ('{"data": 1}', "data: expected base64 text"),
        ('{"policy": 4294967296}', "policy: expected a number of 32 bits"), ('{"build-id": true}', "build-id"),
        ('{"api-major": "1"}', "api-major"), ('{"policy": 1}{"policy": 2}', "as said before"), ("\xff", "text in UTF-8"),
        ("{}", "--api-major: expected a value, found none"),
    ],
)  # fmt: skip
def test_bad_qmp(refused, files, text, reason):
    (files / "qmp").write_bytes(text.encode("latin-1"))
    assert reason in refused("measurement", "verify", "--firmware", EL9, *PAGES, "--tik", "tik", "--qmp", "qmp")


# ---------------------------------------------------------------------------------------------- secrets


def opened(vector, header, payload):
    key = bytes.fromhex(vector["tik_hex"])
    measure = bytes.fromhex(vector["measure_hex"])
    table = open_packet(
        TEK, key, 1, PacketHeader.parse(base64.b64decode(header)), base64.b64decode(payload), trailer=measure
    )
    return [(str(guid), data) for guid, data in parse_secret_table(table)]


def test_inject_secret(cli, files):
    vector = DATA["sevctl-seves-4cpu"]
    words = ["measurement", "verify", *options(vector), *PAGES, "--tk", "tk", "--inject-secret", "luks-key:secret"]
    words += ["--inject-secret", "12345678-1234-1234-1234-123456789abc:kernel"]
    words += ["--secret-header", "header", "--secret-payload", "payload", "--secret-qmp", "command"]
    bad = cli(*words, "--measurement", blob_of(DATA["sevctl-kernel"]))
    assert bad.code == 1 and not (files / "header").exists() and not (files / "command").exists()
    done = cli(*words, "--measurement", blob_of(vector), "--json")
    assert done.code == 0 and json.loads(done.out)["files"] == ["header", "payload", "command"]
    expected = [(DISK, b"MY-LUKS-PASSPHRASE"), ("12345678-1234-1234-1234-123456789abc", b"fake vmlinuz\n")]
    assert opened(vector, (files / "header").read_text(), (files / "payload").read_text()) == expected
    command = json.loads((files / "command").read_text())
    assert command["execute"] == "sev-inject-launch-secret"
    arguments = command["arguments"]
    assert opened(vector, arguments["packet-header"], arguments["secret"]) == expected
    assert arguments["gpa"] == 0x80C000
    assert sorted(arguments) == ["gpa", "packet-header", "secret"]


def test_a_secret_larger_than_the_firmwares_area(refused, files):
    vector = DATA["sevctl-seves-4cpu"]
    (files / "secret").write_bytes(bytes(0xC00))
    words = ["measurement", "verify", *options(vector), *PAGES, "--tk", "tk", "--inject-secret", "luks-key:secret"]
    said = refused(*words, "--measurement", blob_of(vector), "--secret-qmp", "command")
    assert "at most 3072 bytes" in said and not (files / "command").exists()


# ---------------------------------------------------------------------------------------------- explain


def test_explain(cli, files):
    vector = DATA["sevctl-seves-4cpu"]
    words = ["measurement", "verify", "--measurement", blob_of(vector), *options(vector), "--tk", "tk", "--explain"]
    wrong = [*MILAN, "--vmsa-fpu", "init2"]
    document = json.loads(cli(*words, *wrong, "--json").out)
    assert (document["match"], document["explanation"]) == (False, ["FPU fields of the register pages: legacy"])
    assert [one for one in document["hypotheses"] if one["match"]] == [
        {"change": "FPU fields of the register pages: legacy", "match": True, "tried": 1}
    ]
    changes = [one["change"] for one in document["hypotheses"]]
    assert {f"vCPUs: {n}" for n in range(1, 513) if n != 4} <= set(changes)
    assert len(set(changes)) == len(changes) > 1500
    assert document["first_difference"] == "step 1 (vmsa 0): digest_after: what entered has other bytes"
    text = cli(*words, *wrong)
    assert text.code == 1 and text.err == ""
    assert "\n  FPU fields of the register pages: legacy\n" in text.out
    same = json.loads(cli(*words, *MILAN, "--json").out)
    assert (same["match"], same["hypotheses"], same["explanation"]) == (True, [], [])


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda m, d, n: n + m, "nonce and measurement swapped"),
        (lambda m, d, n: d + n, "a launch digest given as measurement, with the nonce"),
        (lambda m, d, n: d, "a launch digest given as measurement"),
        (lambda m, d, n: (m + n).hex().encode(), "base64 of hex text, not of the bytes"),
        (lambda m, d, n: d.hex().encode(), "base64 of hex text, not of the bytes, a launch digest given as measurement"),
        (lambda m, d, n: m[::-1] + n, "measurement in reverse byte order"),
    ],
)  # fmt: skip
def test_explain_odd_values(cli, files, change, expected):
    vector = DATA["sevctl-kernel"]
    parts = (bytes.fromhex(vector[name]) for name in ("measure_hex", "launch_digest", "mnonce_hex"))
    text = base64.b64encode(change(*parts)).decode()
    words = [
        "measurement",
        "verify",
        "--measurement",
        text,
        *options(vector),
        *BOOT,
        "--tk",
        "tk",
        "--explain",
        "--json",
    ]
    done = cli(*words)
    assert done.code == 1
    assert json.loads(done.out)["explanation"] == [f"the value is {expected}"]


def test_explain_names_another_firmware(cli, files):
    vector = DATA["sevctl-kernel"]
    (files / "images").mkdir()
    (files / "images" / "good").write_bytes(EL9.read_bytes())
    (files / "images" / "bad").write_bytes(build_firmware(8192))
    (files / "images" / "readme").write_text("not an image")
    words = ["--measurement", blob_of(vector), *options(vector, firmware="images/bad"), *BOOT, "--tk", "tk"]
    done = cli("measurement", "verify", *words, "--explain", "--firmware-dir", "images", "--json")
    assert json.loads(done.out)["explanation"] == ["firmware: images/good"]


def test_explain_names_another_initrd(cli, files):
    vector = DATA["sevctl-kernel"]
    (files / "old").write_bytes(b"older initrd")
    words = [
        "--measurement",
        blob_of(vector),
        *options(vector),
        "--kernel",
        "kernel",
        "--initrd",
        "old",
        "--cmdline",
        CMDLINE,
    ]
    done = cli("measurement", "verify", *words, "--tk", "tk", "--explain", "--also", "initrd", "--json")
    assert json.loads(done.out)["explanation"] == ["initrd: initrd"]


def test_explain_gives_up(cli, files):
    vector = DATA["sevctl-firmware-only"]
    (files / "other").write_bytes(bytes(4096))
    words = ["--measurement", blob_of(vector), *options(vector, firmware="other"), "--tk", "tk", "--explain"]
    done = cli("measurement", "verify", *words)
    assert done.code == 1 and "hypotheses tried, none gives the observed value" in done.out


@pytest.mark.parametrize("text", ["", "####", "AAAA", base64.b64encode(bytes(47)).decode()])
def test_explain_unusable(refused, files, text):
    vector = DATA["sevctl-firmware-only"]
    words = ["measurement", "verify", "--measurement", text, *options(vector), "--tk", "tk", "--explain"]
    assert "--measurement" in refused(*words)


def test_explain_that_the_host_did_measure_the_kernel(cli, files):
    """The XML says that kernel hashes are off, and names kernel, initrd and command line."""
    vector = DATA["sevctl-kernel"]
    (files / "guest.xml").write_text(XML.replace("0x0005", "3"))
    words = ["--measurement", blob_of(vector), *options(vector, policy=None), "--tk", "tk", "--domain-xml", "guest.xml"]
    done = cli("measurement", "verify", *words, "--explain", "--json")
    assert json.loads(done.out)["explanation"] == ["kernel: kernel and initrd: initrd"]


def test_explain_on_a_terminal_shows_a_bar(cli, files, monkeypatch):
    """It stands on standard error and is taken away at the end; elsewhere there is none."""
    import sys

    from sevref.cli.explaining import Bar

    vector = DATA["sevctl-kernel"]
    words = ["measurement", "verify", "--measurement", blob_of(vector), *options(vector), "--tk", "tk", "--explain"]
    quiet = cli(*words)
    assert (quiet.code, quiet.err) == (1, "")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        bar = Bar()
        assert bar.wanted
        bar(1, 4)
        bar(1, 4)
        bar(4, 4)
        bar.clear()
        assert sys.stderr.isatty()
        shown = cli(*words, "--json")
    frames = shown.err.split("\r")
    assert frames[1].startswith("searching [") and frames[-1] == "" and set(frames[-2]) == {" "}
    assert len(set(frames)) > 5 and "100%" in shown.err
    json.loads(shown.out)
