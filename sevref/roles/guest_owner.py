"""The guest owner: decides which platform to trust, checks what was launched, then gives up a secret.

It holds the keys of the session and talks to nobody but the hypervisor, whom it does not trust: every value
that it is handed is a claim until a signature or a MAC has confirmed it.
"""

from __future__ import annotations

from sevref.certs import Chain, ChainResult, Roots, SevCertificate, verify_chain
from sevref.crypto import RandomSource, random_source, require_mac
from sevref.measurement import ApiVersion, MeasurementBlob, launch_measurement
from sevref.policy import Policy
from sevref.status import InputError, SevError, Status
from sevref.transport import (
    SECRET_LIMIT,
    Context,
    Opened,
    PacketHeader,
    SecretEntries,
    Session,
    build_secret_table,
    make_packet,
    pad16,
    secret_trailer,
)


class GuestOwner:
    """One guest owner with one guest at a time: ``open_session``, ``check_measurement``, ``package_secret``.

    ``roots``: AMD's built-in roots (``"amd"``), or the roots of a simulated AMD. ``minimum_api``: oldest firmware (API
    major, minor) that is acceptable. ``allow_debug``: accept a policy under which the hypervisor may read the guest's
    memory. Randomness comes from ``rng``, else from the stream "guest owner" of ``seed``, else from the operating
    system.

        >>> from sevref import GuestOwner, Hypervisor, Machine, Platform, SimulatedAmd, launch_digest
        >>> machine, amd = Machine("milan", seed=b"docs"), SimulatedAmd("milan")
        >>> amd.enrol(machine)
        >>> host, owner = Hypervisor(Platform(machine)), GuestOwner(roots=machine.amd, seed=b"docs")
        >>> host.boot()
        >>> opened = owner.open_session(host.certificates(amd), policy=1)
        >>> guest = host.launch(bytes(4096), 1, opened.godh, opened.session)
        >>> owner.check_measurement(guest.measure(), launch_digest(bytes(4096)))
        >>> guest.inject_secret(*owner.package_secret(b"disk key"), gpa=0x1000)
    """

    def __init__(
        self,
        roots: str | Roots | list[Roots] = "amd",
        minimum_api: ApiVersion = (0, 24),
        rng: RandomSource | None = None,
        seed: bytes | None = None,
        allow_debug: bool = False,
    ) -> None:
        self.roots = roots
        self.minimum_api: ApiVersion = (minimum_api[0], minimum_api[1])
        self.allow_debug = allow_debug
        self.chain_result: ChainResult | None = None  #: verdict on the last platform, with every check made
        self._rng = rng or random_source(seed, "guest owner")
        self._opened: Opened | None = None
        self._accepted: tuple[bytes, ApiVersion] | None = None  # MEASURE and API of the launch that was checked

    def open_session(self, chain: Chain, policy: int) -> Opened:
        """Keys and session for a launch on the platform of ``chain``, under ``policy`` (32 bits, else ``InputError``).

        The hypervisor gets ``godh`` and ``session`` of the result, never the keys. ``SevError``, in this order:
        INVALID_CERTIFICATE, BAD_SIGNATURE or whatever the first failing check of the chain says (``chain_result`` has
        all); POLICY_FAILURE for a policy that ``check_policy`` refuses, and for a platform whose PEK certificate names
        an API older than ``minimum_api`` or than the policy's minimum.
        """
        self._opened = self._accepted = None
        policy = Policy(policy)
        pdh, platform_api = self._trusted_pdh(chain)
        self.check_policy(policy)
        wanted = max(self.minimum_api, policy.api)
        if platform_api < wanted:
            rule = f"the platform's PEK says API {_version(platform_api)}, wanted {_version(wanted)} or later"
            raise SevError(Status.POLICY_FAILURE, rule)
        self._opened = Session.create(pdh, policy, rng=self._rng)
        return self._opened

    def check_policy(self, policy: int) -> None:
        """Refuse a policy under which this owner's guest must not run.

        ``SevError`` POLICY_FAILURE for a policy without NODBG (unless ``allow_debug``) or with bits 15:6 set.
        """
        policy = Policy(policy)
        if not policy.nodbg and not self.allow_debug:
            rule = "the policy lacks NODBG: the hypervisor could read and change the guest's memory"
            raise SevError(Status.POLICY_FAILURE, f"{rule} (allow_debug accepts that)")
        if policy.reserved:
            found = f"found 0x{policy.reserved:04X}"
            raise SevError(Status.POLICY_FAILURE, f"policy bits 15:6 must be zero, {found}")

    def check_measurement(
        self,
        blob: MeasurementBlob | bytes,
        expected_digest: bytes,
        *,
        api: ApiVersion = (0, 24),
        build: int = 15,
    ) -> None:
        """Accept the launch whose LAUNCH_MEASURE output is ``blob`` (48 bytes), or raise ``SevError``.

        ``expected_digest`` is the digest of what should have been loaded (``launch_digest``, 32 bytes); ``api`` and
        ``build`` are the hypervisor's claim about the firmware, which the measurement confirms from API 0.17 on.
        BAD_MEASUREMENT if the measurement is not the one expected or no session is open, POLICY_FAILURE if it is but
        ``api`` is older than ``minimum_api``. ``InputError`` for other sizes.
        """
        self._accepted = None
        if self._opened is None:
            raise SevError(Status.BAD_MEASUREMENT, "no session is open: no TIK to check a measurement with")
        if not isinstance(blob, MeasurementBlob):
            blob = MeasurementBlob.parse(blob, where="launch measurement")
        opened = self._opened
        measure = launch_measurement(
            opened.tik, api, build, policy=opened.policy, digest=expected_digest, nonce=blob.mnonce
        )
        rule = (
            f"the launch measurement does not fit API {_version(api)} build {build}, policy 0x{opened.policy:X} "
            f"and launch digest {expected_digest.hex()}: something else was loaded, the firmware is of another "
            "version or build, the policy differs, or the guest was not launched with this session"
        )
        require_mac(measure, blob.measure, rule)
        if tuple(api) < self.minimum_api:
            rule = f"the guest runs under API {_version(api)}, wanted {_version(self.minimum_api)} or later"
            raise SevError(Status.POLICY_FAILURE, rule)
        self._accepted = measure, api

    def package_secret(self, secret: bytes | SecretEntries) -> tuple[PacketHeader, bytes]:
        """Header and payload for LAUNCH_SECRET, readable only by the guest whose measurement was accepted.

        ``secret`` is GUID -> data (or pairs), which become a secret table, or bytes as they are; both are padded with
        zeros to a multiple of 16. ``SevError`` BAD_MEASUREMENT unless the last ``check_measurement`` succeeded;
        ``InputError`` for no bytes or more than 16384. SEV API 55766, "LAUNCH_SECRET".
        """
        if self._opened is None or self._accepted is None:
            raise SevError(Status.BAD_MEASUREMENT, "no launch measurement was accepted: the secret stays here")
        plaintext = pad16(secret) if isinstance(secret, bytes) else build_secret_table(secret)
        if not 0 < len(plaintext) <= SECRET_LIMIT:
            raise InputError("secret", f"1 to {SECRET_LIMIT} bytes", f"{len(plaintext)} bytes")
        measure, api = self._accepted
        return make_packet(
            self._opened.tek,
            self._opened.tik,
            Context.SECRET,
            plaintext,
            iv=self._rng.draw(16, "IV"),
            trailer=secret_trailer(measure, api),
        )

    def _trusted_pdh(self, chain: Chain) -> tuple[SevCertificate, ApiVersion]:
        """The PDH of a chain that verifies, and the API version that its PEK certificate names."""
        self.chain_result = result = verify_chain(chain, roots=self.roots)
        for check in result.checks:
            if not check.ok:
                link = f"{check.subject} (by {check.issuer})" if check.issuer else check.subject
                rule = f"the platform's chain does not verify: {link}, {check.check}: {check.detail}"
                raise SevError(check.status, rule)
        if not result.valid or chain.pek is None or chain.pdh is None:
            rule = "the platform's chain does not verify down to a PDH"
            raise SevError(Status.INVALID_CERTIFICATE, rule)
        return chain.pdh, (chain.pek.api_major, chain.pek.api_minor)


def _version(api: ApiVersion) -> str:
    return "{}.{}".format(*api)
