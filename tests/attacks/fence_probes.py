"""What an attack could try to get past the fence; loaded by the attacker's process in the place of an attack."""

import errno
import gc
import os
import socket as socket_module
import sys


def modules(host):
    names = list(sys.modules)
    try:
        import sevref.memory  # noqa: F401

        tried = "imported"
    except BaseException as error:
        tried = type(error).__name__
    return {
        "engine": [n for n in names if n in ("sevref.memory", "sevref.tweaks", "sevref.caches", "sevref.attacks.lab")],
        "machine": [n for n in names if n in ("sevref.machine", "sevref.attacks.victim")],
        "firmware": [n for n in names if n.startswith("sevref.firmware")],
        "import": tried,
    }


def attempt(action):
    try:
        action()
    except BaseException as error:
        return {"got": False, "error": type(error).__mro__[-4].__name__, "kind": type(error).__name__}
    return {"got": True}


def open_file(host):
    return attempt(lambda: open("/etc/hostname"))


def memory_of_parent(host):
    return attempt(lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY))


def socket(host):
    return attempt(lambda: socket_module.socket())


def start_process(host):
    return attempt(lambda: os.posix_spawn("/bin/true", ["true"], {}))


def ctypes(host):
    return attempt(lambda: __import__("ctypes"))


def new_pipe(host):
    return attempt(os.pipe)


def without_hook(host):
    """os.pipe raises no audit event."""
    try:
        os.pipe()
    except OSError as error:
        return {"errno": error.errno, "expected": errno.EMFILE}
    return {"errno": 0}


def surroundings(host):
    alive = []
    for number in range(64):
        try:
            os.fstat(number)
        except OSError:
            continue
        alive.append(number)
    return {"descriptors": alive, "environment": list(os.environ)}


def objects(host):
    names = {"Machine", "Engine", "MemoryController", "KeySlot", "SecureProcessor", "World", "Victim", "Dram"}
    return {"objects": sorted({type(o).__name__ for o in gc.get_objects()} & names)}


def too_late(host):
    return attempt(lambda: __import__("sevref.tweaks"))
