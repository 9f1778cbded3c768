"""The parties together: AMD certifies the chip, the owners decide, the hypervisor carries, the guest gets its secret."""

import random

import pytest

from sevref import (
    GENOA_1_55_25,
    SPEC_0_24,
    Algo,
    Chain,
    GuestOwner,
    GuestState,
    Hypervisor,
    InputError,
    Machine,
    Platform,
    PlatformOwner,
    Policy,
    PrivateKey,
    Profile,
    SevCertificate,
    SevError,
    SimulatedAmd,
    Usage,
    launch_digest,
    verify_attestation,
    verify_chain,
)
from sevref import Status as S
from sevref.boot import build_firmware, build_vmsa, parse_footer
from sevref.certs import new_certificate, sign_certificate, validate
from sevref.machine import VmrunFailed
from sevref.transport import DISK_KEY_GUID, parse_secret_table

MIB = 1 << 20
PAGE = 4096


class Stage:
    """One platform that AMD has certified, its hypervisor, and AMD."""

    def __init__(
        self, generation: str = "milan", profile: Profile = SPEC_0_24, es: bool = False, name: str = "A"
    ) -> None:
        self.machine = Machine(generation, seed=b"stage", name=name, dram_size=16 * MIB)
        self.amd = SimulatedAmd(generation)
        self.amd.enrol(self.machine)
        self.platform = Platform(self.machine, profile)
        self.host = Hypervisor(self.platform)
        self.host.boot(es)

    def owner(self, **settings: object) -> GuestOwner:
        return GuestOwner(roots=self.machine.amd, seed=b"owner", **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("es", [False, True], ids=["sev", "sev-es"])
@pytest.mark.parametrize(
    ("generation", "profile"), [("milan", SPEC_0_24), ("naples", SPEC_0_24), ("genoa", GENOA_1_55_25)]
)
def test_a_disk_key_reaches_a_measured_guest(generation: str, profile: Profile, es: bool) -> None:
    stage = Stage(generation, profile, es)
    host, (api_major, api_minor, build) = stage.host, profile.api_version
    platform_owner = PlatformOwner(seed=b"po")
    stage.platform.pek_cert_import(platform_owner.sign_csr(stage.platform.pek_csr()), platform_owner.oca)

    chain = host.certificates(stage.amd)
    result = verify_chain(chain, roots=stage.machine.amd)
    assert result.valid and result.generation == generation and chain.oca == platform_owner.oca

    image, policy = build_firmware(), Policy.make("NODBG", "NOKS", *(["ES"] if es else []), api=(0, 24))
    vmsas = [build_vmsa(0xFFFFFFF0), build_vmsa(0x80B004)] if es else []
    owner = stage.owner()
    opened = owner.open_session(chain, policy)
    vm = host.launch(image, policy, opened.godh, opened.session, vmsas=vmsas)
    with pytest.raises(VmrunFailed):
        vm.vcpu()
    blob = vm.measure()
    owner.check_measurement(blob, launch_digest(image, vmsas), api=(api_major, api_minor), build=build)
    header, payload = owner.package_secret({DISK_KEY_GUID: b"correct horse battery staple"})
    area = parse_footer(image).secret_area()
    vm.inject_secret(header, payload, area.base)
    vm.finish()

    vcpu = vm.vcpu()
    assert parse_secret_table(vcpu.read(area.base, area.size)) == [(DISK_KEY_GUID, b"correct horse battery staple")]
    assert vcpu.read(vm.image_gpa, len(image)) == image
    assert b"horse" not in vm.seen_by_host(area.base, area.size)
    assert b"horse" not in stage.machine.dram.read(0, 16 * MIB)
    assert vm.seen_by_host(vm.image_gpa, len(image)) != image

    report = vm.attest(b"0123456789abcdef")
    assert chain.pek is not None
    verify_attestation(report, chain.pek)
    assert report.launch_digest == launch_digest(image, vmsas) and report.policy == policy
    assert stage.platform.guest_status(vm.handle).state is GuestState.RUNNING
    assert {exchange.status for exchange in host.log} == {S.SUCCESS} and host.log is stage.platform.log
    vm.stop()
    assert stage.platform.platform_status().guest_count == 0


def test_an_altered_image_gets_no_secret() -> None:
    stage = Stage()
    owner, image = stage.owner(), build_firmware()
    opened = owner.open_session(stage.host.certificates(stage.amd), 1)
    vm = stage.host.launch(image[:-1] + bytes([image[-1] ^ 1]), 1, opened.godh, opened.session)
    with pytest.raises(SevError) as error:
        owner.check_measurement(vm.measure(), launch_digest(image))
    assert error.value.status is S.BAD_MEASUREMENT
    with pytest.raises(SevError):
        owner.package_secret(b"secret")


def test_a_man_in_the_middle_of_the_session() -> None:
    """The hypervisor changes the policy, or swaps the certificate for its own: the firmware refuses."""
    stage = Stage()
    opened = stage.owner().open_session(stage.host.certificates(stage.amd), 1)
    for policy, godh in (
        (0, opened.godh),
        (3, opened.godh),
        (1, new_certificate(Usage.PDH, Algo.ECDH_SHA256, PrivateKey(7).public, (0, 0))),
    ):
        with pytest.raises(SevError) as error:
            stage.host.launch(build_firmware(), policy, godh, opened.session)
        assert error.value.status is S.BAD_MEASUREMENT
    assert stage.platform.platform_status().guest_count == 0


def test_a_chip_that_amd_did_not_make() -> None:
    stage = Stage()
    with pytest.raises(InputError):
        stage.host.certificates(SimulatedAmd("milan"))
    other = SimulatedAmd("milan")
    other.register(stage.platform.get_id(), PrivateKey(5).public)  # another key under this id
    with pytest.raises(InputError):
        stage.host.certificates(other)


def test_the_unsigned_chain_is_refused() -> None:
    stage = Stage()
    exported = stage.platform.pdh_cert_export()
    with pytest.raises(SevError) as error:
        stage.owner().open_session(exported, 1)
    assert error.value.status is S.INVALID_CERTIFICATE
    assert isinstance(exported, Chain)


def test_a_secret_of_one_launch_does_not_open_in_another() -> None:
    stage = Stage()
    owner, image = stage.owner(), build_firmware()
    opened = owner.open_session(stage.host.certificates(stage.amd), 1)
    first = stage.host.launch(image, 1, opened.godh, opened.session)
    owner.check_measurement(first.measure(), launch_digest(image))
    packet = owner.package_secret(b"for the first launch alone")
    second = stage.host.launch(image, 1, opened.godh, opened.session)  # the same session, image and policy
    second.measure()
    with pytest.raises(SevError) as error:
        second.inject_secret(*packet, 0x10000)
    assert error.value.status is S.BAD_MEASUREMENT
    first.inject_secret(*packet, 0x10000)


# ---------------------------------------------------------------------------------------------- hypervisor


def test_placement() -> None:
    stage = Stage()
    image = build_firmware(0x20000)
    vm = stage.host.launch(image, 0, ram_size=0x8001)
    assert (vm.ram_size, vm.image_gpa, vm.image_size) == (0x9000, 0xFFFE0000, 0x20000)
    assert vm.paddr(0) == vm.ram_paddr and vm.paddr(0x8FFF) == vm.ram_paddr + 0x8FFF
    assert vm.paddr(0xFFFE0000) == vm.image_paddr and vm.paddr(0xFFFFFFFF) == vm.image_paddr + 0x1FFFF
    assert vm.ram_paddr % PAGE == vm.image_paddr % PAGE == 0
    for gpa in (-1, 0x9000, 0xFFFDFFFF, 1 << 32):
        with pytest.raises(InputError):
            vm.paddr(gpa)
    nested = vm.nested()
    assert (
        len(nested) == 9 + 32
        and nested[0x8000] == vm.ram_paddr + 0x8000
        and nested[0xFFFFF000] == vm.image_paddr + 0x1F000
    )
    other = stage.host.launch(image, 0)
    assert not set(nested.values()) & set(other.nested().values())
    assert other.asid != vm.asid


def test_two_guests_do_not_read_each_other() -> None:
    stage = Stage()
    image = random.Random(5).randbytes(0x2000)
    guests = [stage.host.launch(image, 0, ram_size=0x1000) for _ in range(2)]
    for vm in guests:
        vm.measure()
        vm.finish()
    assert guests[0].seen_by_host(guests[0].image_gpa, 64) != guests[1].seen_by_host(guests[1].image_gpa, 64)
    assert all(vm.vcpu().read(vm.image_gpa, 0x2000) == image for vm in guests)
    spy = stage.machine.vcpu(guests[1].asid, nested=guests[0].nested())  # the host maps one guest's pages to the other
    assert spy.read(guests[0].image_gpa, 0x2000) != image


@pytest.mark.parametrize("image", [b"", bytes(1), bytes(4095), bytes(4097)])
def test_images_that_are_no_firmware(image: bytes) -> None:
    stage = Stage()
    with pytest.raises(InputError):
        stage.host.launch(image, 0)
    assert stage.platform.platform_status().guest_count == 0


def test_running_out() -> None:
    stage = Stage()
    with pytest.raises(SevError) as error:
        stage.host.allocate(16 * MIB)
    assert error.value.status is S.RESOURCE_LIMIT
    machine = Machine(seed=b"few", dram_size=4 * MIB, max_asid=3, min_sev_asid=2)
    host = Hypervisor(Platform(machine))
    host.boot(es=True)
    assert [host.pick_asid(True), host.pick_asid(False), host.pick_asid(False)] == [1, 2, 3]
    for es in (True, False):
        with pytest.raises(SevError) as error:
            host.pick_asid(es)
        assert error.value.status is S.RESOURCE_LIMIT
    host.release_asid(2)
    assert host.pick_asid(False) == 2


def test_an_asid_is_reused_after_a_flush() -> None:
    stage = Stage()
    vm = stage.host.launch(build_firmware(), 0)
    vm.measure()
    vm.finish()
    vm.stop()
    with pytest.raises(SevError) as error:
        stage.platform.activate(stage.platform.launch_start(0), vm.asid)
    assert error.value.status is S.DFFLUSH_REQUIRED
    assert stage.host.launch(build_firmware(), 0).asid == vm.asid
    assert [e.message for e in stage.platform.log].count("DF_FLUSH") == 2


def test_a_launch_that_fails_leaves_nothing_behind() -> None:
    stage = Stage()
    before = stage.platform.platform_status().guest_count
    failures = {
        "a VMSA without ES": ({"policy": 0, "vmsas": (bytes(4096),)}, S.UNSUPPORTED),
        "ES on a platform without": ({"policy": 4}, S.UNSUPPORTED),
        "more memory than there is": ({"policy": 0, "ram_size": 1 << 40}, S.RESOURCE_LIMIT),
    }
    for arguments, status in list(failures.values()) * 80:  # 80 MiB, if the memory of each were lost
        with pytest.raises(SevError) as error:
            stage.host.launch(build_firmware(), **arguments)
        assert error.value.status is status
    assert stage.platform.platform_status().guest_count == before
    vm = stage.host.launch(build_firmware(), 0)
    assert stage.platform.guest_status(vm.handle).asid == vm.asid


# ------------------------------------------------------------------------------------------- platform owner


def test_what_an_owner_signs() -> None:
    stage = Stage()
    owner = PlatformOwner(seed=b"x")
    csr = stage.platform.pek_csr()
    signed = owner.sign_csr(csr)
    assert csr.unsigned and signed.body() == csr.body()
    assert (signed.sig1_usage, signed.sig1_algo, signed.sig2_usage) == (0x1001, 2, 0x1000)
    validate(signed, owner.oca.signing_key())
    validate(owner.oca, owner.oca.signing_key())
    assert (owner.oca.api_major, owner.oca.api_minor, owner.oca.pubkey_usage) == (0, 0, 0x1001)
    assert PlatformOwner(seed=b"x").oca == owner.oca != PlatformOwner(seed=b"y").oca
    assert PlatformOwner(seed=b"x", name="another").oca != owner.oca != PlatformOwner().oca


def test_what_an_owner_does_not_sign() -> None:
    stage = Stage()
    owner = PlatformOwner(seed=b"x")
    csr = stage.platform.pek_csr()
    chain = stage.platform.pdh_cert_export()
    assert chain.pek is not None and chain.cek is not None
    old = SevCertificate.parse(csr.pack())
    old.version = 2
    half = SevCertificate.parse(csr.pack())
    sign_certificate(half, PrivateKey(3), Usage.CEK, Algo.ECDSA_SHA256)
    other = SevCertificate.parse(csr.pack())
    other.pubkey_algo = 0x102
    for bad in (old, half, other, chain.pek, chain.cek, owner.oca):
        with pytest.raises(InputError):
            owner.sign_csr(bad)


def test_two_platforms_of_one_owner_are_one_domain() -> None:
    owner = PlatformOwner(seed=b"x")
    chains = []
    for name in ("A", "B"):
        stage = Stage(name=name)
        stage.platform.pek_cert_import(owner.sign_csr(stage.platform.pek_csr()), owner.oca)
        chains.append(stage.host.certificates(stage.amd))
        assert verify_chain(chains[-1], roots=stage.machine.amd).valid
    assert chains[0].oca == chains[1].oca and chains[0].pek != chains[1].pek
