"""The hardware: three views of memory, what survives a power cycle, which ASIDs may run, what the constructor refuses."""

import random

import pytest

from sevref import AddressMap, InputError, Machine, Platform
from sevref.driver import Platform as DriverPlatform
from sevref.machine import VmrunFailed

MIB = 1 << 20
ASID = 200
C_BIT = 1 << 51
GUEST_AT = 0x100000


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def started(machine: Machine, *, asid: int = ASID, policy: int = 0) -> tuple[DriverPlatform, int]:
    platform = Platform(machine)
    platform.init()
    machine.wbinvd()
    platform.df_flush()
    handle = platform.launch_start(policy)
    platform.activate(handle, asid)
    return platform, handle


def machine(**settings: object) -> Machine:
    return Machine(seed=b"machine", dram_size=4 * MIB, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- the vCPU's view


def test_host_sees_ciphertext_and_guest_sees_plaintext() -> None:
    host = machine()
    platform, handle = started(host)
    data = b"attack at dawn! " * 512
    host.dram.write(GUEST_AT, data)
    platform.launch_update_data(handle, GUEST_AT, len(data))
    cipher = host.dram.read(GUEST_AT, len(data))
    blocks = {cipher[i : i + 16] for i in range(0, len(cipher), 16)}
    assert len(blocks) == 512 and b"attack at dawn! " not in blocks  # every block differs though the plaintext repeats
    assert host.host_read(GUEST_AT, 64) == cipher[:64] != data[:64]
    with pytest.raises(VmrunFailed):  # pending is not enough
        host.vcpu(ASID)
    platform.launch_measure(handle)
    with pytest.raises(VmrunFailed):
        host.vcpu(ASID)
    platform.launch_finish(handle)
    vcpu = host.vcpu(ASID)
    assert vcpu.read(GUEST_AT, len(data)) == data
    assert vcpu.read(GUEST_AT + 5, 3000) == data[5:3005]
    assert vcpu.read(GUEST_AT, len(data), private=False) == cipher
    for other in (ASID + 1, 0, 509, 1023):
        with pytest.raises(VmrunFailed):
            host.vcpu(other)
    platform.deactivate(handle)
    for use in (lambda: vcpu.read(GUEST_AT, 16), lambda: vcpu.write(GUEST_AT, b"x"), lambda: host.vcpu(ASID)):
        with pytest.raises(VmrunFailed):
            use()


def running(**settings: object) -> tuple[Machine, DriverPlatform, int]:
    host = machine(**settings)
    platform, handle = started(host)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    return host, platform, handle


def test_private_writes_and_shared_pages() -> None:
    host, _, _ = running()
    vcpu = host.vcpu(ASID)
    host.dram.write(GUEST_AT, bytes(64))
    vcpu.write(GUEST_AT + 3, b"secret", private=True)
    assert b"secret" not in host.dram.read(GUEST_AT, 64)
    assert vcpu.read(GUEST_AT + 3, 6) == b"secret"
    vcpu.write(GUEST_AT + 0x1000, b"to the host", private=False)
    assert host.dram.read(GUEST_AT + 0x1000, 11) == b"to the host"
    assert vcpu.read(GUEST_AT + 0x1000, 11, private=False) == b"to the host"
    assert vcpu.read(GUEST_AT + 0x1000, 11) != b"to the host"


def test_partial_writes_change_nothing_else() -> None:
    host, _, _ = running()
    vcpu, expected = host.vcpu(ASID), bytearray(noise(256))
    vcpu.write(GUEST_AT, bytes(expected))
    for start, size in ((0, 1), (15, 2), (17, 30), (100, 156), (31, 1), (16, 16)):
        piece = noise(size, start)
        vcpu.write(GUEST_AT + start, piece)
        expected[start : start + size] = piece
        assert vcpu.read(GUEST_AT, 256) == bytes(expected)


def test_nested_page_table() -> None:
    host, _, _ = running()
    nested = {0x0000: 0x103000, 0x1000: 0x101000, 0xFFFF_F000: 0x105000}
    vcpu, data = host.vcpu(ASID, nested=nested), noise(0x1800)
    vcpu.write(0x400, data)
    assert host.umc.read(ASID, 0x103400, 0xC00) == data[:0xC00]  # the two pages are not neighbours in the host
    assert host.umc.read(ASID, 0x101000, 0xC00) == data[0xC00:]
    assert vcpu.read(0x400, 0x1800) == data
    vcpu.write(0xFFFF_F010, b"top")
    assert host.umc.read(ASID, 0x105010, 3) == b"top"
    for gpa, size in ((0x2000, 1), (0x1FFF, 2), (0xFFFF_FFFF, 2)):
        with pytest.raises(VmrunFailed):
            vcpu.read(gpa, size)
    with pytest.raises(VmrunFailed):
        vcpu.write(0x1FF0, bytes(32))
    with pytest.raises(InputError):
        host.vcpu(ASID, nested={0: 1 << 40}).read(0, 1)  # mapped to where no DRAM is


def test_a_page_moved_by_the_host_is_noise() -> None:
    """The key's tweak is the physical address: ciphertext copied elsewhere does not decrypt."""
    host, _, _ = running()
    vcpu, data = host.vcpu(ASID), noise(64)
    vcpu.write(GUEST_AT, data)
    host.dram.write(GUEST_AT + 0x1000, host.dram.read(GUEST_AT, 64))
    assert vcpu.read(GUEST_AT + 0x1000, 64) != data
    host.dram.write(GUEST_AT, host.dram.read(GUEST_AT, 64))
    assert vcpu.read(GUEST_AT, 64) == data


def test_the_wrong_asid_reads_noise() -> None:
    host, platform, _ = running()
    other = platform.launch_start(0)
    platform.activate(other, ASID + 1)
    platform.launch_measure(other)
    platform.launch_finish(other)
    data = noise(4096)
    host.vcpu(ASID).write(GUEST_AT, data)
    wrong = host.vcpu(ASID + 1).read(GUEST_AT, 4096)
    assert wrong not in (data, host.dram.read(GUEST_AT, 4096))
    assert sum(a == b for a, b in zip(wrong, data, strict=True)) < 64
    unused = host.umc.read(300, GUEST_AT, 4096)  # a slot that no guest ever had
    assert unused not in (data, wrong)


def test_the_key_stays_in_its_slot_until_the_next_activate() -> None:
    host, platform, handle = running()
    host.vcpu(ASID).write(GUEST_AT, b"0123456789abcdef")
    platform.deactivate(handle)
    platform.decommission(handle)
    platform.shutdown()
    platform.init()
    assert host.umc.read(ASID, GUEST_AT, 16) == b"0123456789abcdef"
    host.wbinvd()
    platform.df_flush()
    platform.activate(platform.launch_start(0), ASID)
    assert host.umc.read(ASID, GUEST_AT, 16) != b"0123456789abcdef"


def test_power_cycle() -> None:
    host, platform, _ = running()
    vcpu = host.vcpu(ASID)
    vcpu.write(GUEST_AT, b"0123456789abcdef")
    host.host_write(C_BIT | GUEST_AT + 0x1000, b"host's own, SME!")
    cells, flash = host.dram.read(0, 4 * MIB), bytes(host.flash)
    host.power_cycle()
    assert host.dram.read(0, 4 * MIB) == cells and bytes(host.flash) == flash  # cells and flash stay
    assert host.umc.read(ASID, GUEST_AT, 16) != b"0123456789abcdef"
    assert host.host_read(C_BIT | GUEST_AT + 0x1000, 16) != b"host's own, SME!"
    with pytest.raises(VmrunFailed):
        vcpu.read(GUEST_AT, 16)
    assert platform.platform_status().state == 0 and not any(host.wbinvd_done)


def test_asids_are_valid_on_the_chosen_core_complexes_alone() -> None:
    host = machine(ccxs=2, cores_per_ccx=4)
    platform = Platform(host)
    platform.init()
    host.wbinvd()
    platform.df_flush()
    handle = platform.launch_start(0)
    platform.activate_ex(handle, ASID, [5])
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    for core in (0, 3):
        with pytest.raises(VmrunFailed):
            host.vcpu(ASID, core=core)
    for core in (4, 7):
        host.vcpu(ASID, core=core)
    platform.activate_ex(handle, ASID, [0])
    host.vcpu(ASID, core=3)


# ------------------------------------------------------------------------------------------------- memory


def test_dram() -> None:
    host = Machine(seed=b"x", address_map=AddressMap(((0, MIB), (16 * MIB, MIB))))
    for address in (0, MIB - 4, 16 * MIB, 17 * MIB - 4):
        host.dram.write(address, b"four")
        assert host.dram.read(address, 4) == b"four"
    for address, size in ((MIB - 3, 4), (MIB, 1), (16 * MIB - 1, 2), (17 * MIB - 3, 4), (-1, 1), (1 << 60, 1)):
        with pytest.raises(InputError):
            host.dram.read(address, size)
        with pytest.raises(InputError):
            host.dram.write(address, bytes(size))
    view = host.dram.view(0, 8)
    view[:4] = b"live"
    assert host.dram.read(0, 4) == b"live"


def test_host_accesses_with_the_c_bit() -> None:
    host = machine()
    host.host_write(GUEST_AT, b"plain")
    assert host.dram.read(GUEST_AT, 5) == b"plain" == host.host_read(GUEST_AT, 5)
    host.host_write(C_BIT | GUEST_AT + 3, b"under the host's key")
    assert host.host_read(C_BIT | GUEST_AT + 3, 20) == b"under the host's key"
    assert b"host" not in host.dram.read(GUEST_AT, 64)


def test_wbinvd_sets_flags_of_the_cores_named() -> None:
    host = machine(ccxs=2, cores_per_ccx=2)
    host.wbinvd([1, 2])
    assert host.wbinvd_done == [False, True, True, False]
    host.wbinvd()
    assert host.wbinvd_done == [True] * 4
    assert [host.ccx_of(core) for core in range(4)] == [0, 0, 1, 1]


# --------------------------------------------------------------------------------------- making a machine


@pytest.mark.parametrize(
    "settings",
    [
        {"generation": "barcelona"},
        {"dram_size": 0},
        {"dram_size": 4097},
        {"dram_size": -4096},
        {"min_sev_asid": 0},
        {"min_sev_asid": 511},
        {"chip_key": bytes(31)},
        {"engine": "rot13"},
    ],
)
def test_settings_that_make_no_machine(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Machine(**settings)  # type: ignore[arg-type]


def test_seeds() -> None:
    def identity(**settings: object) -> tuple[bytes, bytes]:
        host = Machine(dram_size=2 * MIB, **settings)  # type: ignore[arg-type]
        platform = Platform(host)
        platform.init()
        chain = platform.pdh_cert_export()
        assert chain.pdh is not None and chain.cek is not None
        return platform.get_id(), chain.pdh.pack()

    assert identity(seed=b"1") == identity(seed=b"1")
    assert (
        len(
            {
                part
                for pair in (
                    identity(seed=b"1"),
                    identity(seed=b"2"),
                    identity(seed=b"1", name="platform B"),
                    identity(),
                    identity(),
                )
                for part in pair
            }
        )
        == 10
    )


@pytest.mark.parametrize("generation", ["naples", "rome", "milan", "genoa", "turin"])
def test_generations(generation: str) -> None:
    host = Machine(generation, seed=b"g", dram_size=2 * MIB)
    platform, handle = started(host)
    host.dram.write(GUEST_AT, b"0123456789abcdef")
    platform.launch_update_data(handle, GUEST_AT, 16)
    assert host.dram.read(GUEST_AT, 16) != b"0123456789abcdef" == host.umc.read(ASID, GUEST_AT, 16)
    assert host.amd.generation.name == generation and generation in repr(host)
