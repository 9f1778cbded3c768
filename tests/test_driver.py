"""The typed calls above the mailbox: what they send, what they return, what they raise, what they record."""

import hashlib
import random

import pytest

from sevref import (
    GENOA_1_55_25,
    SPEC_0_24,
    AddressMap,
    Exchange,
    GuestState,
    InputError,
    Machine,
    Platform,
    PlatformOwner,
    Policy,
    Session,
    SevError,
)
from sevref import Status as S
from sevref.driver import Scratch
from sevref.transport import Context, make_packet

MIB = 1 << 20
GUEST_AT = 0x100000


def platform(es: bool = False, **settings: object) -> Platform:
    made = Platform(Machine(seed=b"driver", dram_size=8 * MIB), **settings)  # type: ignore[arg-type]
    made.init(es)
    made.machine.wbinvd()
    made.df_flush()
    return made


def test_a_whole_launch_with_typed_calls() -> None:
    sp = platform(es=True)
    chain = sp.pdh_cert_export()
    assert chain.pdh is not None and chain.pek is not None and chain.ask is None and chain.ark is None
    assert chain.cek is not None and chain.cek.unsigned
    opened = Session.create(chain.pdh, Policy.make("NODBG", "ES"))
    handle = sp.launch_start(opened.policy, opened.godh, opened.session)
    assert handle == 1
    info = sp.guest_status(handle)
    assert (info.handle, info.policy, info.asid, info.state) == (1, 5, 0, GuestState.LUPDATE)
    sp.activate(handle, 7)
    data, vmsa = random.Random(1).randbytes(8192), random.Random(2).randbytes(4096)
    sp.machine.dram.write(GUEST_AT, data + vmsa)
    sp.launch_update_data(handle, GUEST_AT, 8192)
    sp.launch_update_vmsa(handle, GUEST_AT + 8192)
    blob = sp.launch_measure(handle)
    digest = hashlib.sha256(data + vmsa).digest()
    header, payload = make_packet(opened.tek, opened.tik, Context.SECRET, b"s" * 32, iv=bytes(16), trailer=blob.measure)
    sp.launch_secret(handle, header, payload, GUEST_AT)
    sp.launch_secret(handle, header.pack(), payload, GUEST_AT + 64)
    report = sp.attestation(handle, bytes(range(16)))
    assert (report.launch_digest, report.mnonce, report.policy) == (digest, bytes(range(16)), 5)
    sp.launch_finish(handle)
    assert sp.machine.vcpu(7).read(GUEST_AT + 64, 32) == b"s" * 32
    assert sp.platform_status().guest_count == 1
    sp.deactivate(handle)
    sp.decommission(handle)
    assert sp.guest_status(handle).state is GuestState.UNINIT
    status = sp.platform_status()
    assert (status.api_major, status.api_minor, status.build, status.state, status.config) == (0, 24, 15, 1, 1)
    sp.shutdown()
    assert sp.platform_status().state == 0
    assert [exchange.message for exchange in sp.log][:8] == [
        "INIT", "DF_FLUSH", "PDH_CERT_EXPORT", "LAUNCH_START", "GUEST_STATUS", "ACTIVATE", "LAUNCH_UPDATE_DATA",
        "LAUNCH_UPDATE_VMSA",
    ]  # fmt: skip
    assert {(e.source, e.target, e.status) for e in sp.log} == {("hypervisor", "AMD-SP", S.SUCCESS)}


def test_ownership_with_typed_calls() -> None:
    sp = platform()
    owner = PlatformOwner(seed=b"o")
    sp.pek_cert_import(owner.sign_csr(sp.pek_csr()), owner.oca)
    assert sp.platform_status().owner == 1
    assert sp.pdh_cert_export().oca == owner.oca
    with pytest.raises(SevError) as error:
        sp.pek_cert_import(owner.sign_csr(sp.pek_csr()), owner.oca)
    assert error.value.status is S.ALREADY_OWNED
    sp.pek_gen()
    assert sp.platform_status().owner == 0


def test_a_refusal_names_status_rule_and_command() -> None:
    sp = platform()
    with pytest.raises(SevError) as error:
        sp.launch_measure(7)
    assert error.value.status is S.INVALID_PLATFORM_STATE and error.value.command == "LAUNCH_MEASURE"
    assert "LAUNCH_MEASURE" in str(error.value) and "WORKING" in error.value.rule and "0x01" in str(error.value)
    assert sp.log[-1] == Exchange("hypervisor", "AMD-SP", "LAUNCH_MEASURE", S.INVALID_PLATFORM_STATE, "")
    handle = sp.launch_start(0)
    for call, status, word in (
        (lambda: sp.activate(handle, 99), S.INVALID_ASID, "99"),
        (lambda: sp.activate(77, 100), S.INVALID_GUEST, "77"),
        (lambda: sp.launch_update_data(handle, GUEST_AT, 16), S.INACTIVE, "bound"),
        (lambda: sp.launch_secret(handle, bytes(51), bytes(16), GUEST_AT), S.INVALID_LENGTH, "51"),
        (lambda: sp.launch_start(4), S.UNSUPPORTED, "ES"),
    ):
        with pytest.raises(SevError) as error:
            call()
        assert error.value.status is status and word in error.value.rule


def test_calls_that_cannot_be_made() -> None:
    sp = platform()
    opened = Session.create(sp.pdh_cert_export().pdh, 1)
    for call in (
        lambda: sp.launch_start(1, opened.godh),
        lambda: sp.launch_start(1, None, opened.session),
        lambda: sp.launch_start(1 << 32),
        lambda: sp.launch_start(-1),
        lambda: sp.attestation(1, bytes(15)),
        lambda: sp.activate(-1, 100),
        lambda: sp.guest_status(1 << 32),
        lambda: sp.launch_secret(1, bytes(0x34), bytes(0x20000), GUEST_AT),
    ):
        with pytest.raises(InputError):
            call()
    assert sp.platform_status().guest_count == 0


def test_wrong_sizes_reach_the_firmware() -> None:
    """A certificate or session of another size is the firmware's to refuse."""
    sp = platform()
    opened = Session.create(sp.pdh_cert_export().pdh, 1)
    godh, session = opened.godh.pack(), opened.session.pack()
    for cert, blob in (
        (godh[:-1], session),
        (godh + b"x", session),
        (godh, session[:-1]),
        (godh, session + b"x"),
        (b"", b""),
    ):
        with pytest.raises(SevError) as error:
            sp.launch_start(1, cert, blob)
        assert error.value.status is S.INVALID_LENGTH
    assert sp.launch_start(1, godh, session) == 1


def test_version_and_profile() -> None:
    sp = Platform(Machine(seed=b"v", dram_size=2 * MIB), GENOA_1_55_25, version=(1, 51, 3))
    status = sp.platform_status()
    assert (status.api_major, status.api_minor, status.build) == (1, 51, 3)
    assert Platform(Machine(dram_size=2 * MIB)).profile is SPEC_0_24
    assert "SPEC_0_24" in repr(Platform(Machine(dram_size=2 * MIB)))


def test_default_tmr_and_buffers_stay_clear_of_forbidden_memory() -> None:
    layout = AddressMap(((0, 4 * MIB),), tseg=(3 * MIB, 4 * MIB - 1))
    sp = Platform(Machine(seed=b"t", address_map=layout))
    sp.init(es=True)
    assert sp.default_tmr == MIB and sp.platform_status().config == 1
    with pytest.raises(SevError) as error:
        Platform(Machine(seed=b"t", address_map=layout)).init(es=True, tmr=3 * MIB)
    assert error.value.status is S.INVALID_ADDRESS


def test_scratch_space_is_bounded() -> None:
    scratch = Scratch(Machine(dram_size=2 * MIB), MIB, 64)
    assert scratch.place(bytes(17)) == MIB and scratch.place(bytes(32)) == MIB + 32
    with pytest.raises(InputError):
        scratch.place(b"x")


def test_one_log_for_several_parties() -> None:
    log: list[Exchange] = [Exchange("guest owner", "hypervisor", "hello")]
    sp = Platform(Machine(seed=b"l", dram_size=2 * MIB), log=log)
    sp.init()
    assert [e.message for e in log] == ["hello", "INIT"] and sp.log is log and log[0].status is None


def test_the_mailbox_is_not_logged_and_never_raises() -> None:
    sp = platform()
    before = len(sp.log)
    assert sp.mailbox(0x33, 0) is S.INVALID_PLATFORM_STATE and sp.mailbox(0, 0) is S.INVALID_COMMAND
    assert sp.mailbox(0x0E) is S.SUCCESS and len(sp.log) == before


@pytest.mark.parametrize("apic_id", [-1, 1 << 32])
def test_an_apic_id_is_32_bits(apic_id: int) -> None:
    host = platform()
    guest = host.launch_start(Policy.make("NODBG"))
    commands = len(host.log)
    with pytest.raises(InputError, match="APIC id"):
        host.activate_ex(guest, 101, [0, apic_id])
    assert len(host.log) == commands  # the firmware was not asked
