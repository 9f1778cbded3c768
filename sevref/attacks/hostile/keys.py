"""Attacks on key management: the man in the middle between guest owner and AMD-SP, with keys of its own.

The attacker has everybody's public certificates, the mailbox, and the messages of both sides. It uses the typed calls
of the driver, but its mailbox and its memory are at the other end of the pipe.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sevref.attacks.hostile.host import Host
from sevref.certs import (
    Algo,
    Chain,
    SevCertificate,
    Usage,
    amd_roots,
    new_certificate,
    parse_certificate,
    sign_certificate,
)
from sevref.crypto import PrivateKey, aes_ctr
from sevref.driver import Platform
from sevref.firmware import SPEC_0_24
from sevref.measurement import MeasurementBlob, launch_measurement
from sevref.status import SevError, Status
from sevref.transport import Session

amd_roots("milan")  # the parser of certificates knows AMD's published ones; later no file can be opened

Claim = dict[str, Any]
API = (0, 24)
IMAGE_A, IMAGE_B, SECRET_A, SECRET_B = 0x200000, 0x300000, 0x280000, 0x380000
ASID_A, ASID_B = 200, 201


class _Memory:
    """Host memory over the pipe, in the shape that the driver uses."""

    def __init__(self, host: Host) -> None:
        self.host_read, self.host_write, self.wbinvd = host.read, host.write, lambda: host.ask("wbinvd")


class Remote(Platform):
    """The driver's typed calls, over the pipe."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.machine, self.profile, self.log = _Memory(host), SPEC_0_24, []  # type: ignore[assignment]
        self._scratch = int(host.brief["scratch"])

    def mailbox(self, command_id: int, address: int = 0) -> Status:
        """As ``Platform.mailbox``, over the pipe."""
        return Status[self._host.ask("mailbox", command=command_id, address=address)]

    @property
    def refusal(self) -> SevError | None:
        """As ``Platform.refusal``, as the pipe told it."""
        return None


def _key(name: str) -> PrivateKey:
    return PrivateKey(int.from_bytes(hashlib.sha384(b"attacker's " + name.encode()).digest(), "little") >> 1)


def _certificate(usage: Usage, key: PrivateKey, *signers: tuple[Usage, PrivateKey]) -> SevCertificate:
    algo = Algo.ECDH_SHA256 if usage is Usage.PDH else Algo.ECDSA_SHA256
    cert = new_certificate(usage, algo, key.public, API)
    for signer, signing_key in signers:
        sign_certificate(cert, signing_key, signer, Algo.ECDSA_SHA256)
    return cert


def _invented(cek: PrivateKey) -> Chain:
    """A platform that does not exist, endorsed by ``cek``: OCA, PEK and PDH are the attacker's."""
    oca, pek, pdh = _key("OCA"), _key("PEK"), _key("PDH")
    return Chain(
        cek=_certificate(Usage.CEK, cek),
        oca=_certificate(Usage.OCA, oca, (Usage.OCA, oca)),
        pek=_certificate(Usage.PEK, pek, (Usage.OCA, oca), (Usage.CEK, cek)),
        pdh=_certificate(Usage.PDH, pdh, (Usage.PEK, pek)),
    )


def _endorsed(host: Host, chain: Chain, chip_id: str) -> Chain:
    """The chain with AMD's public certificates: ARK, ASK, and the CEK that AMD's service gives for a chip id."""
    cek = parse_certificate(bytes.fromhex(host.ask("amd", chip_id=chip_id)))
    ask, ark = (parse_certificate(bytes.fromhex(host.brief[name])) for name in ("ask", "ark"))
    return chain.replace(cek=cek, ask=ask, ark=ark)


def _open(host: Host, chain: Chain, policy: int) -> tuple[SevCertificate, Session]:
    """Hand the chain to the guest owner; its GODH and session."""
    certs = {name: cert.pack() for name, cert in chain.items()}
    answer = host.ask("owner_open", certs=certs, policy=policy)
    return SevCertificate.parse(bytes.fromhex(answer["godh"])), Session.parse(bytes.fromhex(answer["session"]))


def _secret(host: Host, blob: MeasurementBlob, api: tuple[int, int] = API, build: int = 15) -> tuple[bytes, bytes]:
    """Show the owner a measurement; the packet with its secret."""
    host.ask("owner_measure", blob=blob.pack(), api=api, build=build)
    answer = host.ask("owner_secret")
    return bytes.fromhex(answer["header"]), bytes.fromhex(answer["payload"])


def _imitate(host: Host, chain: Chain) -> Claim:
    """Play the platform towards the owner: open the session with one's own PDH key, measure nothing, claim all."""
    policy = int(host.brief["policy"])
    godh, session = _open(host, chain, policy)
    channel = session.open(_key("PDH"), godh, policy)
    digest, nonce = hashlib.sha256(bytes.fromhex(host.brief["image"])).digest(), bytes(16)
    measure = launch_measurement(channel.tik, API, 15, policy=policy, digest=digest, nonce=nonce)
    header, payload = _secret(host, MeasurementBlob(measure=measure, mnonce=nonce))
    return {"secret": aes_ctr(channel.tek, header[4:20], payload).hex()}


def impersonate(host: Host) -> Claim:
    """A platform of the attacker's own keys, with a CEK that AMD has not certified."""
    chain = _invented(_key("CEK"))
    ask, ark = (parse_certificate(bytes.fromhex(host.brief[name])) for name in ("ask", "ark"))
    return _imitate(host, chain.replace(ask=ask, ark=ark))


def borrowed_cek(host: Host) -> Claim:
    """The same with a genuine chip's certified CEK, whose private key the attacker has not got."""
    return _imitate(host, _endorsed(host, _invented(_key("CEK")), host.brief["chip_id"]))


def leaked_cek(host: Host) -> Claim:
    """The same with a chip's CEK that leaked: any OCA, PEK, PDH and any API version can be endorsed with it."""
    cek = PrivateKey(int(host.brief["leaked_cek"]))
    return _imitate(host, _endorsed(host, _invented(cek), host.brief["chip_id"]))


def _launch(
    platform: Platform, policy: int, opened: tuple[SevCertificate, Session] | None, image: bytes, at: int, asid: int
) -> tuple[int, MeasurementBlob]:
    handle = platform.launch_start(policy, *(opened or (None, None)))
    platform.activate(handle, asid)
    platform.machine.host_write(at, image)
    platform.launch_update_data(handle, at, len(image))
    return handle, platform.launch_measure(handle)


def clone(host: Host) -> Claim:
    """Replay the owner's session on the same platform: a second guest with the same transport keys.

    The owner accepts its measurement, and gives it the secret, if it answers a session more than once."""
    platform, policy, image = Remote(host), int(host.brief["policy"]), bytes.fromhex(host.brief["image"])
    opened = _open(host, _endorsed(host, platform.pdh_cert_export(), host.brief["chip_id"]), policy)
    guests = []
    for at, secret_at, asid in ((IMAGE_A, SECRET_A, ASID_A), (IMAGE_B, SECRET_B, ASID_B)):
        handle, blob = _launch(platform, policy, opened, image, at, asid)
        platform.launch_secret(handle, *_secret(host, blob), secret_at)
        platform.launch_finish(handle)
        guests.append({"asid": asid, "at": secret_at})
    return {"guests": guests}


def rollback(host: Host) -> Claim:
    """Put old firmware on the platform, with or without letting it make its certificates anew, and launch there."""
    platform, policy, image = Remote(host), int(host.brief["policy"]), bytes.fromhex(host.brief["image"])
    old, build = (0, int(host.brief["old_minor"])), 3
    firmware = bytes(0x60) + bytes([build, old[1], old[0]]) + bytes(0x100 - 0x63)
    platform.shutdown()
    platform.download_firmware(firmware)
    platform.init()
    if host.brief["new_identity"]:
        platform.pek_gen()  # old firmware says its own version in the certificate; without this the new one's stays
    platform.machine.wbinvd()
    platform.df_flush()
    chain = _endorsed(host, platform.pdh_cert_export(), host.brief["chip_id"])
    handle, blob = _launch(platform, policy, _open(host, chain, policy), image, IMAGE_A, ASID_A)
    platform.launch_secret(handle, *_secret(host, blob, old, build), SECRET_A)
    platform.launch_finish(handle)
    return {"guests": [{"asid": ASID_A, "at": SECRET_A}], "api": list(old)}


def downgrade(host: Host) -> Claim:
    """Launch under a policy that allows debugging instead of the owner's, then read the guest with DBG_DECRYPT.

    First with the owner's session, then without any."""
    platform, policy, image = Remote(host), int(host.brief["policy"]), bytes.fromhex(host.brief["image"])
    opened = _open(host, _endorsed(host, platform.pdh_cert_export(), host.brief["chip_id"]), policy)
    try:
        handle, blob = _launch(platform, policy & ~1, opened, image, IMAGE_A, ASID_A)
    except SevError as error:
        host.ask("note", what=f"the firmware refuses the session under another policy: {error.status.name}")
        handle, blob = _launch(platform, policy & ~1, None, image, IMAGE_A, ASID_A)
    platform.launch_secret(handle, *_secret(host, blob), SECRET_A)
    platform.launch_finish(handle)
    platform.dbg_decrypt(handle, SECRET_A, SECRET_B, 32)
    return {"secret": host.read(SECRET_B, 32).hex()}


def wrong_guest(host: Host) -> Claim:
    """Two guests from one session, the second with an image that tells the attacker everything.

    The owner answers the first one's measurement; its packet goes into the second."""
    platform, policy, image = Remote(host), int(host.brief["policy"]), bytes.fromhex(host.brief["image"])
    api = (int(host.brief["api"][0]), int(host.brief["api"][1]))
    opened = _open(host, _endorsed(host, platform.pdh_cert_export(), host.brief["chip_id"]), policy)
    _, blob = _launch(platform, policy, opened, image, IMAGE_A, ASID_A)
    spy, _ = _launch(platform, policy, opened, b"tell the attacker everything....", IMAGE_B, ASID_B)
    platform.launch_secret(spy, *_secret(host, blob, api), SECRET_B)
    platform.launch_finish(spy)
    return {"guests": [{"asid": ASID_B, "at": SECRET_B}]}
