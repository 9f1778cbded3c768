"""Peak memory of launching a guest of 64 MiB. Goal: at most 32 MiB more than a process that just holds the guest.

Three processes: "bare" is Python with 64 MiB of bytes and nothing imported, "held" has a machine with that much of its
DRAM filled (a page of DRAM exists once it is touched), "launched" launches it. Most of the difference to "bare" is imports,
and those are larger in newer Pythons: 31 MiB with 3.11, 39 MiB with 3.13 and its numpy.
"""

import subprocess
import sys

MIB = 1 << 20
IMPORTS = 1.5  # times the goal: what a launch may take beside bare bytes, libraries included
GUEST = 64 * MIB
GOAL = 32 * MIB

HOLD = """
import sys
GUEST = 64 << 20
if sys.argv[1] == "bare":
    cells = bytearray(GUEST)
    view = memoryview(cells)
else:
    from sevref import Machine, Platform
    machine = Machine(seed=b"memory", dram_size=GUEST + (4 << 20))
    view = machine.dram.view(1 << 20, GUEST)
for start in range(0, GUEST, 1 << 20):
    view[start : start + (1 << 20)] = bytes([start >> 20 & 0xFF]) * (1 << 20)
if sys.argv[1] == "launch":
    platform = Platform(machine)
    platform.init()
    machine.wbinvd()
    platform.df_flush()
    handle = platform.launch_start(0)
    platform.activate(handle, 200)
    platform.launch_update_data(handle, 1 << 20, GUEST)
    platform.launch_measure(handle)
    platform.launch_finish(handle)
    assert machine.vcpu(200).read(1 << 20, 16) == bytes(16) != machine.dram.read(1 << 20, 16)
# not getrusage: a new process inherits the maximum of the one that started it
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM:"))
print(int(peak.split()[1]) * 1024)
"""


def peak(what: str) -> int:
    """Greatest resident size in bytes of a fresh process."""
    run = subprocess.run([sys.executable, "-c", HOLD, what], check=True, capture_output=True, text=True)
    return int(run.stdout)


def test_launch_memory() -> None:
    bare, held, launched = peak("bare"), peak("hold"), peak("launch")
    found = ", ".join(
        f"{what} {size / MIB:.1f} MiB" for what, size in (("bare", bare), ("held", held), ("launched", launched))
    )
    print(found)
    assert GUEST < bare < held < launched < 3 * GUEST, found  # the guest is really there, once
    assert launched - held <= GOAL and launched - bare <= IMPORTS * GOAL, found
