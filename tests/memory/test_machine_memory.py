"""The machine around the engine: who uses which key, aliases, TSME, the cache model, the page-ownership filter."""

import random

import pytest

from sevref import InputError, Machine, Platform
from sevref.machine import HOST, VmrunFailed
from sevref.memory import PRESETS
from sevref.rmp import NestedPageFault, RmpFault, VmmCommunication

MIB = 1 << 20
C_BIT = 1 << 51
AT = 0x100000
A, B = 200, 201
TEXT = b"0123456789abcdef" * 4


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def machine(**settings: object) -> Machine:
    return Machine(seed=b"memory", dram_size=4 * MIB, **settings)  # type: ignore[arg-type]


def guest(platform: Platform, asid: int, *, share: int = 0) -> int:
    handle = platform.launch_start(0, handle=share)
    platform.activate(handle, asid)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    return handle


def one_flush(platform: Platform) -> None:
    platform.machine.wbinvd()
    platform.df_flush()


def running(**settings: object) -> tuple[Machine, Platform]:
    host = machine(**settings)
    platform = Platform(host)
    platform.init()
    one_flush(platform)
    guest(platform, A)
    guest(platform, B)
    return host, platform


def blocks(data: bytes) -> list[bytes]:
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def is_noise(found: bytes, *known: bytes) -> bool:
    """No block of ``found`` is a block at the same place of anything known."""
    return all(a != b for one in known for a, b in zip(blocks(found), blocks(one), strict=True))


NAMES = ["xe-zen1", "xex-zen1", "xex-boot-random", "xts-boot-random"]


def test_the_presets_of_these_tests() -> None:
    assert set(NAMES) == set(PRESETS) - {"plain", "recorded-traces"}


# -- wrong key: never a fault, only other data (one row of the sheet's table each)


@pytest.mark.parametrize("engine", NAMES)
def test_who_sees_what(engine: str) -> None:
    host, _ = running(engine=engine)
    victim, other = host.vcpu(A), host.vcpu(B)
    victim.write(AT, TEXT)
    raw = host.dram.read(AT, 64)
    assert host.host_read(AT, 64) == raw  # host, C=0: the ciphertext
    assert is_noise(host.host_read(C_BIT | AT, 64), TEXT, raw)  # host, C=1: noise
    assert victim.read(AT, 64, private=False) == raw  # the guest itself with C=0
    assert is_noise(other.read(AT, 64), TEXT, raw)  # another ASID
    host.host_write(AT, TEXT[::-1])  # host writes, C=0: the guest reads its decryption, noise
    assert host.dram.read(AT, 64) == TEXT[::-1] and is_noise(victim.read(AT, 64), TEXT, TEXT[::-1])
    host.host_write(AT, raw)  # ... unless it is valid ciphertext
    assert victim.read(AT, 64) == TEXT
    host.host_write(C_BIT | AT, TEXT[::-1])  # host writes, C=1
    assert is_noise(victim.read(AT, 64), TEXT, TEXT[::-1])
    assert is_noise(victim.read(AT + 0x1000, 4096), bytes(4096))  # never encrypted: zeros decrypt to noise
    victim.write(AT, TEXT)
    other.write(AT + 16, b"x")  # another ASID writes one byte: one block is lost
    assert blocks(victim.read(AT, 64))[::2] == blocks(TEXT)[::2] and victim.read(AT + 48, 16) == TEXT[48:]
    assert is_noise(victim.read(AT + 16, 16), TEXT[16:32])


def test_keys_belong_to_guests() -> None:
    """Another ASID, the same guest: the same ciphertext. Shared key: the same. Old ASID, new guest: noise."""
    host, platform = running()
    lender = platform.launch_start(0)
    platform.activate(lender, 300)
    platform.launch_measure(lender)
    platform.launch_finish(lender)
    host.vcpu(300).write(AT, TEXT)
    raw = host.dram.read(AT, 64)
    sharer = platform.launch_start(0, handle=lender)
    platform.activate(sharer, 301)
    platform.launch_measure(sharer)
    platform.launch_finish(sharer)
    assert host.vcpu(301).read(AT, 64) == TEXT
    platform.deactivate(lender)
    with pytest.raises(VmrunFailed):
        host.vcpu(300)
    platform.activate(lender, 302)
    assert host.vcpu(302).read(AT, 64) == TEXT
    host.vcpu(302).write(AT, TEXT)
    assert host.dram.read(AT, 64) == raw
    platform.deactivate(lender)
    platform.decommission(lender)
    host.wbinvd()
    platform.df_flush()
    guest(platform, 302)
    assert host.dram.read(AT, 64) == raw and is_noise(host.vcpu(302).read(AT, 64), TEXT, raw)
    assert host.vcpu(301).read(AT, 64) == TEXT  # the guest that shares the key still has it
    host.power_cycle()
    assert is_noise(host.umc.read(301, AT, 64), TEXT, raw)


def test_a_page_launched_twice() -> None:
    host = machine()
    platform = Platform(host)
    platform.init()
    one_flush(platform)
    handle = platform.launch_start(0)
    platform.activate(handle, A)
    host.dram.write(AT, TEXT)
    platform.launch_update_data(handle, AT, 64)
    first = host.dram.read(AT, 64)
    platform.launch_update_data(handle, AT, 64)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    assert host.vcpu(A).read(AT, 64) == first != TEXT


def test_shared_pages_under_the_hosts_key() -> None:
    """Guest C=0 and nested C=1: the host's key. Private pages do not care for the nested table's C-bit."""
    host, _ = running()
    vcpu = host.vcpu(A, nested={0: C_BIT | AT, 0x1000: C_BIT | AT + 0x1000})
    vcpu.write(0, TEXT, private=False)
    assert host.host_read(C_BIT | AT, 64) == TEXT and is_noise(host.dram.read(AT, 64), TEXT)
    vcpu.write(0x1000, TEXT)
    assert host.umc.read(A, AT + 0x1000, 64) == TEXT


def test_tsme() -> None:
    host, _ = running(tsme=True)  # the whole start of two guests went through the host's key
    host.host_write(AT, TEXT)
    assert host.host_read(AT, 64) == host.host_read(C_BIT | AT, 64) == TEXT
    assert is_noise(host.dram.read(AT, 64), TEXT) and host.umc.read(HOST, AT, 64) == TEXT
    host.vcpu(A).write(AT, TEXT)  # guests keep their own keys
    assert host.umc.read(A, AT, 64) == TEXT and is_noise(host.host_read(AT, 64), TEXT, host.dram.read(AT, 64))
    host.vcpu(A).write(AT, TEXT, private=False)
    assert host.host_read(AT, 64) == TEXT


def test_a_launch_under_tsme() -> None:
    host = machine(tsme=True)
    platform = Platform(host)
    platform.init()
    one_flush(platform)
    handle = platform.launch_start(0)
    platform.activate(handle, A)
    host.host_write(AT, noise(4096))
    platform.launch_update_data(handle, AT, 4096)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    assert host.vcpu(A).read(AT, 4096) == noise(4096)


# -- aliases


@pytest.mark.parametrize("engine", NAMES)
def test_alias(engine: str) -> None:
    host, _ = running(engine=engine, alias=lambda page: page & ~MIB if page >= 3 * MIB else page)
    here, there = 2 * MIB, 3 * MIB
    host.vcpu(A).write(here + 0xFF8, TEXT)
    raw = host.dram.read(here + 0xFF8, 64)
    assert host.dram.read(there + 0xFF8, 64) == raw == host.host_read(there + 0xFF8, 64)
    assert is_noise(host.umc.read(A, there + 0x1000, 48), TEXT[8:56])  # the tweak is of the processor's address
    old = host.dram.read(there, 0x2000)
    host.vcpu(A).write(here + 0xFF8, TEXT[::-1])
    host.dram.write(there, old)
    assert host.vcpu(A).read(here + 0xFF8, 64) == TEXT
    with pytest.raises(InputError):
        host.dram.read(4 * MIB - 8, 16)
    with pytest.raises(InputError):
        host.dram.write(4 * MIB - 8, bytes(16))
    assert host.dram.read(there, 0) == b""


def test_a_launch_through_scattered_cells() -> None:
    """Pages in the reverse order of the cells: the firmware's bulk path must still hash and encrypt them in order."""

    def turned(page: int) -> int:
        return 2 * MIB + 0x7000 - (page - 2 * MIB) if 2 * MIB <= page < 2 * MIB + 0x8000 else page

    host, plain = machine(alias=turned), machine()
    found = []
    for one in (host, plain):
        platform = Platform(one)
        platform.init()
        one_flush(platform)
        handle = platform.launch_start(0)
        platform.activate(handle, A)
        one.dram.write(2 * MIB + 0x800, noise(0x4000))
        platform.launch_update_data(handle, 2 * MIB + 0x800, 0x4000)
        found.append(platform.launch_measure(handle).pack())
        platform.launch_finish(handle)
        assert one.vcpu(A).read(2 * MIB + 0x800, 0x4000) == noise(0x4000)
    assert found[0] == found[1]
    assert host.dram.read(2 * MIB + 0x800, 0x4000) == plain.dram.read(2 * MIB + 0x800, 0x4000)


# -- the cache model


def test_caches_hold_plaintext_until_they_are_flushed() -> None:
    host, _ = running(caches=True)
    before = host.dram.read(AT, 64)
    vcpu = host.vcpu(A)
    vcpu.write(AT + 60, b"across two lines")
    assert vcpu.read(AT + 60, 16) == b"across two lines" and host.dram.read(AT, 64) == before
    assert host.host_read(AT, 64) == before  # another key id, another line
    host.clflush((A,), AT, 64)
    assert host.dram.read(AT, 64) != before and host.dram.read(AT + 64, 64) == bytes(64)
    host.wbinvd()
    assert host.dram.read(AT + 64, 64) != bytes(64) and host.umc.read(A, AT + 60, 16) == b"across two lines"
    host.clflush((A,), AT, 64)


def test_stale_lines_and_coherent_domains() -> None:
    stale, coherent = running(caches=True)[0], running(caches=True, coherent_domains=True)[0]
    for host, expected in ((stale, bytes(64)), (coherent, None)):
        assert host.host_read(AT, 64) == bytes(64)  # fills a line of the host
        host.vcpu(A).write(AT, TEXT)
        host.clflush((A,), AT, 64)
        seen = host.host_read(AT, 64)
        assert seen == (host.dram.read(AT, 64) if expected is None else expected)
        assert host.dram.read(AT, 64) != bytes(64)


@pytest.mark.parametrize("evicts", [True, False])
def test_a_dirty_host_line_over_a_launched_page(evicts: bool) -> None:
    """With the firmware's eviction the launch takes what the host wrote; without it the line later destroys the page."""
    host = machine(caches=True, sp_evicts=evicts)
    platform = Platform(host)
    platform.init()
    one_flush(platform)
    handle = platform.launch_start(0)
    platform.activate(handle, A)
    host.dram.write(AT, TEXT)
    host.host_write(AT, TEXT[::-1])  # stays in the cache
    platform.launch_update_data(handle, AT, 64)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    cipher = host.dram.read(AT, 64)
    host.wbinvd()
    assert (host.dram.read(AT, 64) == cipher) == evicts
    assert host.umc.read(A, AT, 64) == TEXT[::-1] if evicts else host.dram.read(AT, 64) == TEXT[::-1]


# -- page ownership


def owned(**settings: object) -> Machine:
    host, _ = running(rmp=True, **settings)
    assert host.rmp is not None
    host.rmp.update(AT, A, 0x5000)
    host.vcpu(A, nested={0x5000: AT}).pvalidate(0x5000)
    return host


def test_rmp_rows() -> None:
    host = owned()
    assert host.rmp is not None
    nested = {0x5000: AT, 0x6000: AT + 0x1000, 0x7000: AT}
    vcpu = host.vcpu(A, nested=nested)
    vcpu.write(0x5000, TEXT)
    assert vcpu.read(0x5000, 64) == TEXT
    raw = host.host_read(AT, 64)
    assert raw == host.dram.read(AT, 64) != TEXT  # host reads are always allowed
    for address in (AT, C_BIT | AT, AT + 4095, AT - 8):  # host writes are not, whatever the C-bit
        with pytest.raises(RmpFault):
            host.host_write(address, bytes(16))
    assert host.dram.read(AT, 64) == raw
    host.host_write(AT + 0x1000, TEXT)
    for use in (
        lambda: host.vcpu(B, nested=nested).read(0x5000, 1),  # another ASID
        lambda: vcpu.read(0x7000, 1),  # the page at another GPA
        lambda: vcpu.write(0x7000, b"x"),
        lambda: vcpu.read(0x6000, 1),  # private access to a page of the host
        lambda: vcpu.read(0x5000, 1, private=False),  # shared access to a private page
        lambda: vcpu.write(0x5FFF, b"xx"),
    ):
        with pytest.raises(NestedPageFault):
            use()
    assert vcpu.read(0x6000, 64, private=False) == TEXT
    host.rmp.update(AT, A, 0x7000)  # the host moves the page: the guest has not validated it there
    with pytest.raises(VmmCommunication):
        vcpu.read(0x7000, 1)
    with pytest.raises(NestedPageFault):
        host.vcpu(B, nested=nested).pvalidate(0x7000)
    vcpu.pvalidate(0x7000)
    assert vcpu.read(0x7000, 64) == TEXT
    host.rmp.update(AT, 0, 0, assigned=False)
    host.host_write(AT, TEXT)


def test_immutable_entries() -> None:
    host = owned()
    assert host.rmp is not None
    host.rmp.entry(AT).immutable = True
    with pytest.raises(RmpFault):
        host.rmp.update(AT, B, 0)
    assert host.rmp.entry(AT).asid == A


def test_an_alias_passes_the_filter() -> None:
    host, _ = running(rmp=True, alias=lambda page: page & ~MIB if page >= 3 * MIB else page)
    assert host.rmp is not None
    host.rmp.update(2 * MIB, A, 2 * MIB)
    vcpu = host.vcpu(A)
    vcpu.pvalidate(2 * MIB)
    vcpu.write(2 * MIB, TEXT)
    old = host.host_read(3 * MIB, 64)
    vcpu.write(2 * MIB, TEXT[::-1])
    with pytest.raises(RmpFault):
        host.host_write(2 * MIB, old)
    host.host_write(3 * MIB, old)
    assert vcpu.read(2 * MIB, 64) == TEXT


def test_ciphertext_hiding() -> None:
    host = owned(ciphertext_hiding=True)
    host.vcpu(A, nested={0x5000: AT}).write(0x5000, TEXT)
    host.host_write(AT + 0x1000, b"host's own")
    assert host.host_read(AT, 64) == b"\xff" * 64 == host.host_read(C_BIT | AT, 64)
    assert host.host_read(AT + 0xFF8, 16) == b"\xff" * 8 + b"host's o"
    assert host.host_read(AT - 8, 16) == bytes(8) + b"\xff" * 8
    assert host.dram.read(AT, 64) not in (TEXT, b"\xff" * 64)  # the bus still shows ciphertext
    with pytest.raises(InputError, match="rmp"):
        machine(ciphertext_hiding=True)


def test_a_reset_empties_the_table() -> None:
    host = owned()
    host.power_cycle()
    host.host_write(AT, TEXT)


@pytest.mark.parametrize("evicts", [True, False])
def test_a_dirty_host_line_where_the_firmware_writes_guest_memory(evicts: bool) -> None:
    host, platform = running(caches=True, sp_evicts=evicts)
    host.host_write(AT, noise(64))  # stays in the cache, dirty
    host.host_write(AT + 0x1000, TEXT)
    platform.dbg_encrypt(platform.guest_status(1).handle, AT + 0x1000, AT, 64)
    assert host.umc.read(A, AT, 64) == TEXT
    host.wbinvd()
    assert (host.umc.read(A, AT, 64) == TEXT) == evicts
