"""What enters a launch digest, step by step, and a panel that shows which steps another configuration moves."""

from __future__ import annotations

from typing import Any

from sevref.boot import SNP_SECTIONS, Guest, Image, KernelHashes, build_firmware, signature_of
from sevref.boot.digest import Piece, Step, pieces, predict
from sevref.boot.explain import Explanation
from sevref.boot.vmsa import CPU_MODELS
from sevref.show import widgets
from sevref.show.html import BREAK, Html, Showable, Stack, element, escape, statement
from sevref.show.table import Table, code, table, verdict_cell
from sevref.show.widgets import Panel, panel

KERNEL, INITRD = b"kernel of the walkthrough", b"initrd of the walkthrough"
LINE = "root=/dev/vda1 console=ttyS0"
#: what may stand on the command line: label -> text
LINES = {"as written": LINE, "a space at its end": LINE + " ", "a newline at its end": LINE + "\n", "empty": ""}
MODES = {"SEV": "sev", "SEV-ES": "seves", "SEV-SNP": "snp"}
FEATURES = {"none asked for": -1, "0": 0x0, "DebugSwap added": 0x21, "SecureTSC added": 0x201}


def steps_table(guest: Guest, other: Guest | None = None, title: str = "") -> Table:
    """Every step of the guest's launch digest; with ``other`` also whether the same enters there, and what is the
    same of the digest after it. Runs of equal steps (the vCPUs behind the first two) are one row."""
    ours = predict(guest).steps
    parts = _parts(guest)
    theirs = dict(zip(_parts(other), predict(other).steps, strict=True)) if other else {}
    agreed = True
    rows: list[dict[str, Any]] = []
    for i, (step, part) in enumerate(zip(ours, parts, strict=True)):
        if 0 < i < len(ours) - 1 and _is_ap(step) and _is_ap(ours[i - 1]) and _is_ap(ours[i + 1]):
            continue  # between the first and the last of them nothing new is to be seen
        row = {
            "step": step.what,
            "page type": step.page_type if guest.snp or step.page_type != "NORMAL" else "data",
            "address": code(f"0x{step.gpa:X}") if step.gpa is not None else "-",
            "bytes": step.size if step.page_type not in ("ZERO", "SECRETS", "CPUID", "UNMEASURED") else "address only",
            "digest after it": code(step.digest_after.hex()[:16] + " …"),
        }
        if other is not None:
            same = theirs.get(part)
            row["what enters"] = verdict_cell(same is not None, "the same" if same is not None else "other")
            agrees = same is not None and same.digest_after == step.digest_after
            words = "the same" if agrees else "differs from here on" if agreed else "differs"
            row["digest"], agreed = verdict_cell(agrees, words), agreed and agrees
        rows.append(row)
    return table(rows, title or f"What enters the launch digest, {len(ours)} steps")


def _is_ap(step: Step) -> bool:
    return step.what.startswith("vmsa ") and step.what not in ("vmsa 0", "vmsa 1")


def _parts(guest: Guest) -> list[tuple[Any, ...]]:
    """What enters, in a form that can be compared between guests with different image objects."""
    start, found = pieces(guest)
    head: list[tuple[Any, ...]] = [("given hash", start)] if start is not None else []
    return head + [_identity(piece) for piece in found]


def _identity(piece: Piece) -> tuple[Any, ...]:
    content = piece.content
    if isinstance(content, Image):
        content = b"".join(content.page_digests())
    return piece.what, piece.page_type, piece.gpa, piece.pages, content


def explanation_table(found: Explanation, most: int = 12) -> Showable:
    """The outcome of a search: what matches, and how much was tried of each kind (the ``most`` largest kinds)."""
    if found.as_configured:
        return statement(True, "the value is the predicted one", [])
    kinds: dict[str, int] = {}
    for one in found.hypotheses:
        kind = one.change.split(":")[0] if one.tried == 1 else one.change
        kinds[kind] = kinds.get(kind, 0) + one.tried
    rows = [{"tried": what, "hypotheses": count} for what, count in sorted(kinds.items(), key=lambda kind: -kind[1])]
    words = f"{found.tried} hypotheses tried, {len(found.matches) or 'none'} of them gives the observed value"
    lines = [*found.matches, *([f"first step that differs: {found.difference}"] if found.difference else [])]
    return Stack(statement(bool(found.matches), words, lines), table(rows[:most], "What was tried"))


def digest_explorer() -> Panel:
    """Change a guest's configuration and see which steps of the launch digest move.

    Controls: ``mode``, ``vcpus`` (1 to 8), ``cpu``, ``vmm`` (SNP only), ``fpu``, ``features``, ``hashes`` (measured
    direct boot), ``line`` (command line), ``firmware`` (another version of the image).
    """
    controls = {
        "mode": widgets.choice("kind of guest", list(MODES.items()), "snp", "what the processor protects"),
        "vcpus": widgets.slider("vCPUs", 4, 1, 8, "each has a register page, except under plain SEV"),
        "cpu": widgets.choice("CPU model", list(CPU_MODELS), "EPYC-Milan", "its signature is RDX at reset"),
        "vmm": widgets.choice("VMM", ["QEMU", "ec2", "gce"], "QEMU", "SEV-SNP only; others have other pages"),
        "fpu": widgets.choice(
            "FPU fields", ["init2", "legacy"], "init2", "through which of KVM's interfaces it was made"
        ),
        "features": widgets.choice("SEV_FEATURES", list(FEATURES.items()), -1, "what the guest was given"),
        "hashes": widgets.tick("kernel hashes on", True, "measured direct boot"),
        "line": widgets.choice("command line", list(LINES.items()), LINE, "every byte of it counts"),
        "firmware": widgets.tick("newer firmware", False, "one more version of the image"),
    }
    reference = _guest({name: control.value for name, control in controls.items()})

    def compute(values: dict[str, Any]) -> Showable:
        guest = _guest(values)
        digest, usual = predict(guest).digest, predict(reference).digest
        line = element("div", f"digest {escape(digest.hex())}", f"{BREAK};font-family:monospace")
        same = digest == usual
        words = "the predicted guest" if same else "another guest than the predicted one"
        return Stack(statement(same, words, []), Html(line, f"digest {digest.hex()}"), steps_table(guest, reference))

    hint = "Compared with the guest that was predicted: four vCPUs of type EPYC-Milan under QEMU, as SEV-SNP."
    return panel(controls, compute, "Which steps move?", hint)


def _guest(values: dict[str, Any]) -> Guest:
    label = b"firmware of the guest owner, version " + (b"8" if values["firmware"] else b"7")
    return Guest(
        Image(build_firmware(0x4000, label=label, sections=SNP_SECTIONS)),
        mode=values["mode"],
        vcpus=values["vcpus"],
        vcpu_sig=signature_of(values["cpu"]),
        vmm=values["vmm"] if values["mode"] == "snp" else "QEMU",
        features=None if values["features"] < 0 else values["features"],
        fpu=values["fpu"],
        kernel=KernelHashes.of(KERNEL, INITRD, values["line"]) if values["hashes"] else None,
    )
