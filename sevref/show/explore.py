"""The walkthrough's widgets: change something, and see who notices and with which status.

Every answer is the real one: certificates go through ``verify_chain``, everything else through the mailbox of a
platform that is built afresh for each answer.
"""

from __future__ import annotations

from typing import Any

from sevref.boot import build_firmware
from sevref.certs import Algo, Chain, Roots, SevCertificate, Usage, new_certificate, verify_chain
from sevref.crypto import P384_P, Point, SeededRandom, draw_private
from sevref.measurement import launch_digest, launch_measurement, measure_input
from sevref.policy import Policy
from sevref.show import widgets
from sevref.show.bytemap import byte_map
from sevref.show.chain import chain_picture
from sevref.show.html import Showable, Stack, answer, statement
from sevref.show.scene import NODBG, SEED, Scene
from sevref.show.sequence import sequence
from sevref.show.table import table, verdict_cell
from sevref.show.widgets import Panel, panel
from sevref.status import InputError, SevError, Status
from sevref.transport import DISK_KEY_GUID, PacketHeader, Session, parse_secret_table

PLACES = ("ark", "ask", "cek", "oca", "pek", "pdh")
RAM, SECRET_GPA, IMAGE_SIZE = 0x10000, 0x8000, 0x2000
IMAGE = build_firmware(IMAGE_SIZE)
SECRET = b"disk key of the walkthrough"
VERSIONS = {"0.24 build 15": (0, 24, 15), "0.17 build 48": (0, 17, 48), "0.16 build 5": (0, 16, 5)}
POLICIES = [
    ("NODBG", NODBG),
    ("NODBG NOKS", int(Policy.make("NODBG", "NOKS"))),
    ("NODBG NOSEND", int(Policy.make("NODBG", "NOSEND"))),
    ("NODBG ES", int(Policy.make("NODBG", "ES"))),
    ("NODBG, API 0.25 or later", int(Policy.make("NODBG", api=(0, 25)))),
    ("no bit set: debugging allowed", 0),
]


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    """``data`` with one bit changed. ``InputError`` for an offset outside."""
    if not 0 <= offset < len(data):
        raise InputError("offset", f"0 to {len(data) - 1}", offset)
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


# ---------------------------------------------------------------------------- certificates


def flip_a_bit(chain: Chain, roots: str | Roots | list[Roots] = "amd") -> Panel:
    """Flip any bit of any certificate of ``chain`` and see which checks of ``verify_chain`` fail, with which status.

    Controls: ``certificate`` ("ark" to "pdh", those present), ``offset`` in bytes, ``bit`` 0-7, ``flip`` (off: the
    chain as it is).
    """
    present = [place for place in PLACES if getattr(chain, place) is not None]
    sizes = [len(getattr(chain, place).pack()) for place in present]
    first = "pek" if "pek" in present else present[0]
    controls = {
        "certificate": widgets.choice("certificate", [(place.upper(), place) for place in present], first),
        "offset": widgets.number("byte offset", 0x20, 0, max(sizes) - 1, "0x014 to 0x043: the key's X coordinate"),
        "bit": widgets.slider("bit", 0, 0, 7),
        "flip": widgets.tick("flip that bit", True),
    }

    def compute(values: dict[str, Any]) -> Showable:
        place, offset = values["certificate"], values["offset"]
        before = getattr(chain, place)
        if not values["flip"]:
            return _verdict(verify_chain(chain, roots=roots), "nothing was changed")
        after = type(before).parse(flipped(before.pack(), offset, values["bit"]), where=place.upper())
        name = next(row.name for row in after.describe() if row.offset <= offset < row.offset + row.size)
        what = f"bit {values['bit']} of byte 0x{offset:03X} of the {place.upper()} was flipped: field {name}"
        shown = _verdict(verify_chain(chain.replace(**{place: after}), roots=roots), what)
        return Stack(shown, byte_map(after, f"{place.upper()} as changed", diff=before, fields=False))

    return panel(controls, compute, "Flip a bit", "Try a key, a signature, a reserved byte, an unused slot.")


def _verdict(result: Any, what: str) -> Stack:
    failed = [check for check in result.checks if not check.ok]
    if failed:
        rows = [
            {"certificate": c.subject, "signed by": c.issuer, "check": c.check, "status": c.status, "why": c.detail}
            for c in failed
        ]
        words = f"{len(failed)} of {len(result.checks)} checks fail"
        return Stack(statement(False, words, [what]), table(rows, "What fails"), chain_picture(result))
    lines = [what, *result.warnings]
    return Stack(statement(True, f"all {len(result.checks)} checks pass", lines), chain_picture(result))


# ---------------------------------------------------------------------------- the session


#: what can be flipped on the way: label -> (part, offset in it, bytes)
_FLIPS = {
    "NONCE": ("session", 0x00, 16),
    "WRAP_TK": ("session", 0x10, 32),
    "WRAP_IV": ("session", 0x30, 16),
    "WRAP_MAC": ("session", 0x40, 32),
    "POLICY_MAC": ("session", 0x60, 32),
    "POLICY": ("policy", 0x00, 4),
    "GODH: version": ("godh", 0x000, 4),
    "GODH: API version": ("godh", 0x004, 2),
    "GODH: usage": ("godh", 0x008, 4),
    "GODH: algorithm": ("godh", 0x00C, 4),
    "GODH: QX": ("godh", 0x014, 48),
    "GODH: QY": ("godh", 0x05C, 48),
    "GODH: reserved bytes": ("godh", 0x0A4, 880),
    "GODH: signature slots": ("godh", 0x414, 1040),
}
_NOTHING, _MINUS, _OTHER, _OWN = "nothing", "GODH: -Q for Q", "GODH: another key", "attacker's GODH and session"


def man_in_the_middle(policy: int = NODBG) -> Panel:
    """Change what travels from the guest owner to LAUNCH_START and see what the firmware answers.

    Controls: ``target`` ("nothing", a field of the session, "POLICY", a part of the GODH certificate, or one of three
    replacements), ``byte`` inside that field, ``bit`` 0-7. Where LAUNCH_START accepts, the launch goes on to
    LAUNCH_MEASURE, and the guest owner says whether the measurement verifies.
    """
    controls = {
        "target": widgets.choice("change", [_NOTHING, *_FLIPS, _MINUS, _OTHER, _OWN], "NONCE"),
        "byte": widgets.number("byte of that field", 0, 0, max(size for _, _, size in _FLIPS.values()) - 1),
        "bit": widgets.slider("bit", 0, 0, 7),
    }

    def compute(values: dict[str, Any]) -> Showable:
        scene = Scene.build_up()
        opened = scene.open_session(policy)
        sent = {"godh": opened.godh.pack(), "session": opened.session.pack(), "policy": policy.to_bytes(4, "little")}
        got = sent | _attack(scene, values["target"], values["byte"], values["bit"], sent, policy)
        for name in sent:
            if got[name] != sent[name]:
                scene.say("hypervisor", "hypervisor", f"changes {name}")
        godh, session = SevCertificate.parse(got["godh"]), Session.parse(got["session"])
        changed = [_difference(name, got[name], sent[name]) for name in sent if got[name] != sent[name]]
        try:
            vm = scene.hypervisor.launch(IMAGE, int.from_bytes(got["policy"], "little"), godh, session, ram_size=RAM)
        except SevError as error:
            return Stack(answer(error), *changed, sequence(scene.log))
        accepted = statement(True, "LAUNCH_START: SUCCESS", ["The firmware noticed nothing."])
        blob = vm.measure()
        scene.say("hypervisor", "guest owner", "measurement")
        found = _owners_verdict(scene, blob, launch_digest(IMAGE), scene.api, scene.build)
        return Stack(accepted, found, *changed, sequence(scene.log))

    hint = "Every session field fails somewhere. Which changes does the firmware not notice, and who does?"
    return panel(controls, compute, "The man in the middle", hint)


def _attack(scene: Scene, target: str, byte: int, bit: int, sent: dict[str, bytes], policy: int) -> dict[str, bytes]:
    """The parts that the man in the middle replaces."""
    if target in _FLIPS:
        part, offset, size = _FLIPS[target]
        if not 0 <= byte < size:
            raise InputError(f"byte of {target}", f"0 to {size - 1}", byte)
        return {part: flipped(sent[part], offset + byte, bit)}
    rng = SeededRandom(SEED, "attacker")
    if target == _MINUS:
        x, y = SevCertificate.parse(sent["godh"]).public_point
        return {"godh": _godh(Point(x, P384_P - y))}
    if target == _OTHER:
        return {"godh": _godh(draw_private(rng, "attacker's key").public)}
    if target == _OWN:
        assert scene.chain.pdh is not None
        own = Session.create(scene.chain.pdh, policy, rng=rng)
        return {"godh": own.godh.pack(), "session": own.session.pack()}
    return {}


def _godh(point: Point) -> bytes:
    return new_certificate(Usage.PDH, Algo.ECDH_SHA256, point, (0, 0)).pack()


def _difference(name: str, after: bytes, before: bytes) -> Showable:
    if name == "policy":
        values = (Policy(int.from_bytes(data, "little")) for data in (before, after))
        return table([dict(zip(("as sent", "as received"), map(str, values), strict=True))], "POLICY")
    layout = Session if name == "session" else SevCertificate
    return byte_map((after, layout), f"{layout.__name__} as received", diff=before, fields=False)


def _owners_verdict(scene: Scene, blob: Any, digest: bytes, api: tuple[int, int], build: int) -> Showable:
    """What the guest owner says to a measurement."""
    try:
        scene.owner.check_measurement(blob, digest, api=api, build=build)
    except SevError as error:
        scene.refused("guest owner", "compares", error)
        return answer(error, "guest owner")
    scene.say("guest owner", "guest owner", "compares", Status.SUCCESS)
    return statement(True, "the guest owner accepts the measurement", where="guest owner")


# ---------------------------------------------------------------------------- the measurement


def measurement_explorer() -> Panel:
    """Change image, policy, firmware version or nonce: the measurement that comes out, and what the owner says.

    Controls: ``change_image`` and ``offset`` (one byte of the image is changed before LAUNCH_UPDATE_DATA), ``policy``
    (the owner's) and ``given`` (the hypervisor's, "same" or another), ``firmware`` and ``claimed`` (the version that
    runs, and the one that the hypervisor names to the owner), ``change_nonce`` (one bit of MNONCE on the way).
    """
    versions = list(VERSIONS)
    controls = {
        "change_image": widgets.tick("change the image", False, "one bit of one byte, before it is loaded"),
        "offset": widgets.slider("byte of the image", 0, 0, IMAGE_SIZE - 1),
        "policy": widgets.choice("owner's policy", POLICIES, NODBG),
        "given": widgets.choice("given policy", [("the owner's", -1), *POLICIES], -1, "to LAUNCH_START"),
        "firmware": widgets.choice("firmware", versions, versions[0]),
        "claimed": widgets.choice("claimed version", ["the real one", *versions], "the real one"),
        "change_nonce": widgets.tick("change MNONCE", False, "one bit, on the way to the owner"),
    }
    hint = "The owner computes the measurement from the image, policy and version that it expects."
    return panel(controls, _measure, "What the measurement covers", hint)


def _measure(values: dict[str, Any]) -> Showable:
    scene = Scene.build_up(VERSIONS[values["firmware"]])
    real = (*scene.api, scene.build)
    major, minor, build = VERSIONS.get(values["claimed"], real)
    loaded = flipped(IMAGE, values["offset"], 0) if values["change_image"] else IMAGE
    given = values["policy"] if values["given"] == -1 else values["given"]
    try:
        opened = scene.open_session(values["policy"])
    except SevError as error:
        return answer(error, "guest owner")
    try:
        vm = scene.hypervisor.launch(loaded, given, opened.godh, opened.session, ram_size=RAM)
    except SevError as error:
        return Stack(answer(error), sequence(scene.log))
    blob = vm.measure()
    if values["change_nonce"]:
        blob = blob.replace(mnonce=flipped(blob.mnonce, 0, 0))
    scene.say("hypervisor", "guest owner", "measurement, MNONCE")
    digest = launch_digest(IMAGE)
    found = _owners_verdict(scene, blob, digest, (major, minor), build)
    expected = launch_measurement(
        opened.tik, (major, minor), build, policy=opened.policy, digest=digest, nonce=blob.mnonce
    )
    rows = [
        _row("launch digest", digest, launch_digest(loaded)),
        _row("launch measurement", expected, blob.measure),
    ]
    covered = measure_input((major, minor), build, opened.policy, digest, blob.mnonce)
    return Stack(
        found,
        table(rows, "Digest and measurement"),
        byte_map(covered, "What the owner puts under the HMAC"),
        sequence(scene.log),
    )


def _row(name: str, expected: bytes, found: bytes) -> dict[str, Any]:
    same = verdict_cell(expected == found, "equal" if expected == found else "differ")
    return {"value": name, "": same, "owner expects": expected, "platform": found}


# ---------------------------------------------------------------------------- the secret


_CASES = (
    "as intended",
    "flip a bit of FLAGS",
    "flip a bit of IV",
    "flip a bit of MAC",
    "flip a bit of the payload",
    "the same packet twice",
    "replay into a second launch",
    "before LAUNCH_MEASURE",
    "after LAUNCH_FINISH",
    "another image was loaded",
)


def secret_explorer() -> Panel:
    """Tamper with the packet of LAUNCH_SECRET, replay it, send it too early or too late.

    Controls: ``case`` (see the list), ``byte`` and ``bit`` for the cases that flip one.
    """
    controls = {
        "case": widgets.choice("case", list(_CASES), "as intended"),
        "byte": widgets.number("byte", 0, 0, 31),
        "bit": widgets.slider("bit", 0, 0, 7),
    }
    hint = "The packet is bound to one launch: its MAC includes the measurement."
    return panel(controls, _inject, "The secret on its way", hint)


def _inject(values: dict[str, Any]) -> Showable:
    case, scene = values["case"], Scene.build_up()
    opened = scene.open_session(NODBG)
    digest = launch_digest(IMAGE)
    loaded = flipped(IMAGE, 0, 0) if case == "another image was loaded" else IMAGE

    def start() -> Any:
        return scene.hypervisor.launch(loaded, NODBG, opened.godh, opened.session, ram_size=RAM)

    def inject(vm: Any) -> None:
        vm.inject_secret(header, payload, SECRET_GPA)

    vm = start()
    blob = vm.measure()
    scene.say("hypervisor", "guest owner", "measurement")
    verdict = _owners_verdict(scene, blob, digest, scene.api, scene.build)
    try:
        header, payload = scene.owner.package_secret([(DISK_KEY_GUID, SECRET)])
    except SevError as error:
        return Stack(verdict, answer(error, "guest owner"), sequence(scene.log))
    scene.say("guest owner", "hypervisor", "secret packet")
    flips: list[Showable] = []
    try:
        header, payload = _tampered(case, header, payload, values["byte"], values["bit"])
        if field := case.partition("flip a bit of ")[2]:
            flips = [statement(None, f"bit {values['bit']} of byte {values['byte']} of {field} was flipped")]
        if case in ("replay into a second launch", "before LAUNCH_MEASURE"):
            scene.say("hypervisor", "hypervisor", "keeps the packet, starts again")
            vm = start()
            if case == "replay into a second launch":
                vm.measure()
        if case == "after LAUNCH_FINISH":
            vm.finish()
        inject(vm)
        if case == "the same packet twice":
            inject(vm)
        vm.finish()
    except SevError as error:
        return Stack(answer(error), *flips, sequence(scene.log))
    return Stack(statement(True, "LAUNCH_SECRET: SUCCESS"), _seen(vm, len(payload)), sequence(scene.log))


def _tampered(case: str, header: PacketHeader, payload: bytes, byte: int, bit: int) -> tuple[PacketHeader, bytes]:
    """Header and payload as the hypervisor passes them on."""
    offset, size = {
        "flip a bit of FLAGS": (0x00, 4),
        "flip a bit of IV": (0x04, 16),
        "flip a bit of MAC": (0x14, 32),
        "flip a bit of the payload": (0, len(payload)),
    }.get(case, (0, 0))
    if not size:
        return header, payload
    if byte >= size:
        raise InputError("byte", f"0 to {size - 1} in this case", byte)
    if case == "flip a bit of the payload":
        return header, flipped(payload, byte, bit)
    return PacketHeader.parse(flipped(header.pack(), offset + byte, bit)), payload


def _seen(vm: Any, size: int) -> Showable:
    """The same place in memory as guest and hypervisor see it."""
    inside = vm.vcpu().read(SECRET_GPA, size)
    (_, secret), *_ = parse_secret_table(inside)
    rows = [
        {"who": "the guest's vCPU", "reads": inside, "which is": secret.decode()},
        {"who": "the hypervisor", "reads": vm.seen_by_host(SECRET_GPA, size), "which is": "ciphertext"},
    ]
    return table(rows, f"Guest memory at 0x{SECRET_GPA:X}, {size} bytes")
