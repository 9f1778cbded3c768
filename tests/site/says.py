"""What panels have to answer: for each notebook's panels the moves of a reader, and the words that the fact sheets give.

A move is (label of a control, value, words of the answer, rows of its tables). Values as in ``lab.Panel.set``; a row is
named by its first cell. Where a sheet is behind the words it stands beside them: 20 §5.4 is sheet 20, section 5.4.
"""

from typing import NamedTuple


class Move(NamedTuple):
    """``words``: one text or several, all in the answer. ``rows``: first cell -> words of that row, None: no such row."""

    label: str
    value: bool | int | str
    words: str | tuple[str, ...] = ()
    rows: dict[str, str | None] = {}


M = Move
FAILS, PASSES = "checks fail", "checks pass"
OWNER_ACCEPTS = "the guest owner accepts the measurement"
ACCEPTED = ("LAUNCH_START: SUCCESS", OWNER_ACCEPTS)
ARRIVED, UNNOTICED = (
    "the guest arrived as it was sent",
    "the firmware noticed nothing, and the guest is not what was sent",
)
WORKS, STOPPED = "it works: nobody stops it", "stopped:"
PREDICTED, OTHER = "the predicted guest", "another guest than the predicted one"
SAME, MOVED = "✓ the same", "✗ other"

#: 50 §2.9: a signature is looked for by usage and algorithm, then verified; a key off the curve is no signing key
FLIP = [
    M("flip that bit", False, PASSES),
    M("flip that bit", True, FAILS, {"PEK": "BAD_SIGNATURE (0x0A)"}),
    M("certificate", "PDH", (FAILS, "byte 0x020 of the PDH was flipped"), {"PDH": "BAD_SIGNATURE (0x0A)"}),
    M("byte offset", "=1044", (FAILS, "byte 0x414"), {"PDH": "INVALID_CERTIFICATE (0x06)"}),
    M("bit", 1, (FAILS, "bit 1 of byte 0x414"), {"PDH": "BAD_SIGNATURE (0x0A)"}),  # usage 0x1000 with an algorithm
    M("bit", "=0", (FAILS, "bit 0 of byte 0x414"), {"PDH": "INVALID_CERTIFICATE (0x06)"}),
    M("byte offset", "=2084", ("input cannot be used", "expected 0 to 2083", "found 2084")),
    M("byte offset", "=0", (FAILS, "byte 0x000 of the PDH was flipped: field version")),
]
#: 30 §2: the order of the checks, and what none of them covers
MIDDLE = [
    M("change", "WRAP_MAC", ("BAD_MEASUREMENT (0x0B)", "LAUNCH_START")),
    M("change", "POLICY_MAC", "BAD_MEASUREMENT (0x0B)"),
    M("change", "POLICY", "BAD_MEASUREMENT (0x0B)", {"0x00000001 (NODBG, API >= 0.0)": "0x00000000"}),
    M("bit", 3, "BAD_MEASUREMENT (0x0B)", {"0x00000001 (NODBG, API >= 0.0)": "0x00000009 (NODBG NOSEND"}),
    M("bit", "=1", "BAD_MEASUREMENT (0x0B)", {"0x00000001 (NODBG, API >= 0.0)": "0x00000003 (NODBG NOKS"}),
    M("byte of that field", "=4", ("input cannot be used", "expected 0 to 3", "found 4")),
    M("byte of that field", "=0", "BAD_MEASUREMENT (0x0B)"),
    M("change", "GODH: usage", "INVALID_CERTIFICATE (0x06)"),
    M("change", "GODH: QY", "INVALID_CERTIFICATE (0x06)"),
    M("change", "GODH: signature slots", ACCEPTED),
    M("change", "GODH: -Q for Q", ACCEPTED),
    M("change", "GODH: another key", "BAD_MEASUREMENT (0x0B)"),
    M("change", "attacker's GODH and session", ("LAUNCH_START: SUCCESS", "BAD_MEASUREMENT (0x0B)", "guest owner")),
]
#: 20 §3.5: version, policy, digest and MNONCE are under the HMAC; 20 §3.1 rows 9 and 14
MEASUREMENT = [
    M(
        "change the image",
        True,
        "BAD_MEASUREMENT (0x0B)",
        {"launch digest": "✗ differ", "launch measurement": "✗ differ"},
    ),
    M("byte of the image", "=8191", "BAD_MEASUREMENT (0x0B)", {"launch digest": "✗ differ"}),
    M("byte of the image", 8190, "BAD_MEASUREMENT (0x0B)", {"launch digest": "✗ differ"}),
    M("change the image", False, OWNER_ACCEPTS, {"launch digest": "✓ equal", "launch measurement": "✓ equal"}),
    M("change MNONCE", True, "BAD_MEASUREMENT (0x0B)", {"launch digest": "✓ equal", "launch measurement": "✗ differ"}),
    M("change MNONCE", False, OWNER_ACCEPTS),
    M("claimed version", "0.17 build 48", "BAD_MEASUREMENT (0x0B)", {"launch measurement": "✗ differ"}),
    M("firmware", "0.17 build 48", OWNER_ACCEPTS),
    M("firmware", "0.24 build 15", "BAD_MEASUREMENT (0x0B)"),
    M("claimed version", "the real one", OWNER_ACCEPTS),
    M("given policy", "no bit set: debugging allowed", ("BAD_MEASUREMENT (0x0B)", "LAUNCH_START")),
    M("given policy", "the owner's", OWNER_ACCEPTS),
    M("owner's policy", "NODBG, API 0.25 or later", ("POLICY_FAILURE (0x07)", "guest owner")),
]
#: 20 §3.6: length, state and MAC, in this order; COMPRESSED is looked at after the MAC
SECRET = [
    M("case", "before LAUNCH_MEASURE", ("INVALID_GUEST_STATE (0x02)", "LAUNCH_SECRET")),
    M("case", "after LAUNCH_FINISH", ("INVALID_GUEST_STATE (0x02)", "it is RUNNING")),
    M("case", "replay into a second launch", "BAD_MEASUREMENT (0x0B)"),
    M("case", "another image was loaded", ("BAD_MEASUREMENT (0x0B)", "guest owner")),
    M("case", "the same packet twice", "LAUNCH_SECRET: SUCCESS", {"the hypervisor": "ciphertext"}),
    M("case", "flip a bit of FLAGS", "BAD_MEASUREMENT (0x0B)"),
    M("bit", 5, ("BAD_MEASUREMENT (0x0B)", "bit 5 of byte 0 of FLAGS")),
    M("bit", "=2", ("BAD_MEASUREMENT (0x0B)", "bit 2 of byte 0 of FLAGS")),
    M("byte", "=3", ("BAD_MEASUREMENT (0x0B)", "bit 2 of byte 3 of FLAGS")),
    M("byte", "=31", ("input cannot be used", "expected 0 to 3 in this case", "found 31")),
    M("case", "flip a bit of MAC", ("BAD_MEASUREMENT (0x0B)", "bit 2 of byte 31 of MAC")),
    M("case", "flip a bit of the payload", ("BAD_MEASUREMENT (0x0B)", "bit 2 of byte 31 of the payload")),
    M("case", "as intended", "LAUNCH_SECRET: SUCCESS", {"the guest's vCPU": "disk key of the walkthrough"}),
]
#: 20 §5.3 and 5.4, 10 §6.2: which step makes an ASID dirty, and what cleans it
LIFE = [
    M(
        "step",
        10,
        "ACTIVATE_EX B with ASID 201, on core 2: SUCCESS",
        {"CCX 0": "active held", "CCX 1": "active pending"},
    ),
    M("guest shown", "B", "ACTIVATE_EX B with ASID 201, on core 2: SUCCESS"),
    M("step", 13, "ACTIVATE B with ASID 200: DFFLUSH_REQUIRED", {"CCX 0": "dirty clean", "CCX 1": "dirty clean"}),
    M("step", 15, "WBINVD on CCX 0 and 1", {"CCX 0": "flushable pending", "CCX 1": "flushable pending"}),
    M("step", "=3", "WBINVD on CCX 0; DF_FLUSH: WBINVD_REQUIRED", {"CCX 0": "clean clean", "CCX 1": "dirty dirty"}),
    M("step", "=1", "INIT: SUCCESS", {"CCX 0": "dirty dirty", "CCX 1": "dirty dirty"}),
]
#: 30 §6 and 9: a MAC covers the packet and neither its address nor its place among the others
TRANSIT = [
    M(
        "page",
        3,
        UNNOTICED,
        {"0": "page 3: only the guest may read this no", "3": "page 0: only the guest may read this no"},
    ),
    M("page", "=2", UNNOTICED, {"2": "page 3: only the guest may read this no"}),
    M("in the middle", "drop a page", (UNNOTICED, "4 of 5 records"), {"2": "(noise) no"}),
    M("in the middle", "deliver a page twice", (ARRIVED, "6 of 5 records")),
    M("in the middle", "reverse the order", (ARRIVED, "misses nothing")),
    M(
        "in the middle",
        "deliver an older copy of page 0 last",
        UNNOTICED,
        {"0": "page 0: as it was some time ago..... no"},
    ),
    M("in the middle", "page 0 of another SEND_START", "BAD_MEASUREMENT (0x0B)", {"0": "(noise) no"}),
    M("in the middle", "flip a bit: FLAGS: COMPRESSED", ("UNSUPPORTED (0x15)", "RECEIVE_UPDATE_DATA")),
    M("in the middle", "flip a bit: IV", "BAD_MEASUREMENT (0x0B)"),
    M("in the middle", "call a data packet a VMSA", ("UNSUPPORTED (0x15)", "RECEIVE_UPDATE_VMSA")),
    M("in the middle", "nothing", (ARRIVED, "misses nothing")),
]
#: 20 §2.6: who enforces which bit. Rows are named by what is asked; the first answer is that without any bit
POLICY = [
    M("NODBG", False, "0 of 32 answers differ", {"DBG_DECRYPT": "✓ ok ✓ ok"}),
    M("NODBG", True, "", {"DBG_DECRYPT": "✓ ok ✗ policy failure", "DBG_ENCRYPT": "✓ ok ✗ policy failure"}),
    M("NOKS", True, "", {"LAUNCH_START: shared key": "✓ ok ✗ policy failure"}),
    M("NOKS", False, "", {"LAUNCH_START: shared key": None}),
    M("ES", True, "", {"LAUNCH_START: no SEV-ES here": "✗ unsupported", "LAUNCH_UPDATE_VMSA": "✗ unsupported ✓ ok"}),
    M("ES", False, "", {"LAUNCH_UPDATE_VMSA": None}),
    M("NOSEND", True, "", {"SEND_START: same owner": "✓ ok ✗ policy failure"}),
    M("NOSEND", False, "", {"SEND_START: same owner": None}),
    M("DOMAIN", True, "", {"SEND_START: other owner": "✓ ok ✗ policy failure", "SEND_START: same owner": None}),
    M("DOMAIN", False, "", {"SEND_START: other owner": None}),
    M("SEV", True, "", {"SEND_START: anybody's key": "✓ ok ✗ bad signature", "SEND_START: API 0.17": None}),
    M("API minimum", "0.24", "", {"SEND_START: API 0.17": "✓ ok ✗ policy failure"}),
    M(
        "API minimum",
        "0.25",
        "",
        {"LAUNCH_START: with a session": "✗ policy failure", "LAUNCH_START: no session": None},
    ),
    M("API minimum", "none", "", {"LAUNCH_START: with a session": None}),
    M("bit 6", True, "", {"LAUNCH_START: with a session": "✓ ok ✗ policy failure"}),
]
#: 20 §2.2, 2.3 and 5.1
RUN = [
    M("step", 10, ("LAUNCH_UPDATE_DATA: INVALID_GUEST_STATE", "needs guest state LUPDATE, it is LSECRET")),
    M("step", "=5", ("LAUNCH_UPDATE_DATA: INACTIVE", "not bound to an ASID")),
    M("step", "=1", ("LAUNCH_START: INVALID_PLATFORM_STATE", "INIT or WORKING, it is UNINIT")),
    M("step", "=18", ("DECOMMISSION: ACTIVE", "still bound to ASID")),
    M("step", 17, ("SEND_CANCEL: INVALID_GUEST_STATE", "it is SENT")),
]
#: 20 §6.1 and 3.1
WHY = [
    M("status", "POLICY_FAILURE", "DBG_DECRYPT: 1 of 10 rules", {"6": "NODBG"}),
    M("command", "LAUNCH_START", "LAUNCH_START: 6 of", {"14": "bits 15:6 must be zero"}),
    M("command", "NOP", "NOP never answers POLICY_FAILURE"),
    M("status", "any status", "NOP: "),
    M("command", "all commands", ("input cannot be used", "expected a command, a status, or both")),
    M("status", "ALREADY_OWNED", "1 rule of 1 command", {"PEK_CERT_IMPORT": "owner"}),
]
#: 60: blocks are encrypted one by one; a tweak makes equal ones differ. AES-128 under 00 01 ... 0f of zeros is FIPS 197's
ENGINE = [
    M("contents", "zeros", ("256 blocks, 1 different", "c6a13b37878f5b826f4f8162a1c8d879")),
    M("contents", "two values in turn", "256 blocks, 2 different"),
    M("page of memory", "=7", "from 0x7000"),
    M("page of memory", "=4096", ("input cannot be used", "expected 0 to 4095", "found 4096")),
    M("page of memory", "=8", ("256 blocks, 2 different", "from 0x8000")),
    M("another guest's key", True, "256 blocks, 2 different"),
    M("the next page too", True, "512 blocks, 2 different"),
    M("engine", "XEX, constants of Zen 1", "512 blocks, 512 different"),
]
#: 60: what stops which attack
ATTACK = [
    M("protection", "SNP", STOPPED),
    M("protection", "SEV-ES", WORKS),
    M("attack", "E4 registers: Change the registers of a stopped virtual CPU", (STOPPED, "SEV-ES")),
    M("protection", "SEV", WORKS),
    M("processor", "Naples (7251)", (WORKS, "Naples (xe-zen1), SEV")),
    M("attack", "E3: Read the victim's memory", "noise, or nothing to use"),
    M("protection", "SNP", ("input cannot be used", "expected one that Naples (7251) has: SEV or SEV-ES")),
]
#: 70: what enters a digest, and in which step
DIGEST = [
    M("vCPUs", 5, (OTHER, "13 steps"), {"firmware": SAME}),
    M("vCPUs", "=4", (PREDICTED, "12 steps")),
    M("CPU model", "EPYC-Rome", OTHER, {"vmsa 0": MOVED, "firmware": SAME}),
    M("CPU model", "EPYC-Milan", PREDICTED),
    M("FPU fields", "legacy", OTHER, {"vmsa 0": MOVED}),
    M("FPU fields", "init2", PREDICTED),
    M("SEV_FEATURES", "DebugSwap added", OTHER, {"vmsa 0": MOVED}),
    M("SEV_FEATURES", "none asked for", PREDICTED),
    M("command line", "a space at its end", OTHER, {"section KERNEL_HASHES": MOVED, "vmsa 0": SAME}),
    M("kernel hashes on", False, OTHER, {"section KERNEL_HASHES": "ZERO"}),
    M("kernel hashes on", True, OTHER, {"section KERNEL_HASHES": "NORMAL"}),
    M("command line", "as written", PREDICTED),
    M("newer firmware", True, OTHER, {"firmware": MOVED, "vmsa 0": SAME}),
    M("newer firmware", False, PREDICTED),
    M("VMM", "ec2", OTHER, {"firmware": SAME}),
    M("kind of guest", "SEV", (OTHER, "2 steps"), {"firmware": SAME, "vmsa 0": None}),
]

#: notebook -> its panels in their order; test_lab.py sees to it that none is missing, nor any control of one
SAYS = {
    "01-platform-identity.ipynb": [FLIP],
    "03-key-transport.ipynb": [MIDDLE],
    "04-launch-and-measurement.ipynb": [MEASUREMENT],
    "05-secret-injection.ipynb": [SECRET],
    "06-running.ipynb": [LIFE],
    "07-migration.ipynb": [TRANSIT],
    "09-debugging-and-policy.ipynb": [POLICY],
    "10-the-state-machine.ipynb": [RUN, WHY],
    "11-memory-encryption.ipynb": [ENGINE],
    "12-attack-lab.ipynb": [ATTACK],
    "13-why-does-my-measurement-not-match.ipynb": [DIGEST],
}
