"""The picture in the README: the sequence of a launch, drawn from a run.  Writes ``data/overview.svg``."""

from pathlib import Path

from sevref import Exchange, GuestOwner, Hypervisor, Machine, Platform, Policy, SimulatedAmd, launch_digest
from sevref.boot import build_firmware
from sevref.show import sequence

FILE = Path(__file__).resolve().parents[2] / "data" / "overview.svg"


def overview() -> str:
    """The SVG, the same on every machine."""
    seed = b"overview"
    machine = Machine("milan", seed=seed, dram_size=8 << 20)
    platform = Platform(machine)
    amd, hypervisor = SimulatedAmd("milan", seed=seed), Hypervisor(platform)
    amd.enrol(machine)
    owner = GuestOwner(roots=machine.amd, seed=seed)
    log = platform.log

    def say(source, target, message):
        log.append(Exchange(source, target, message))

    hypervisor.boot()
    chain = hypervisor.certificates(amd)
    say("AMD", "hypervisor", "CEK, signed by the ASK")
    say("hypervisor", "guest owner", "PDH, PEK, OCA, CEK")
    opened = owner.open_session(chain, Policy.make("NODBG", api=(0, 24)))
    say("guest owner", "guest owner", "verify the chain to AMD's root")
    say("guest owner", "hypervisor", "policy, GODH, session")
    image = build_firmware()
    guest = hypervisor.launch(image, opened.policy, opened.godh, opened.session)
    blob = guest.measure()
    say("hypervisor", "guest owner", "measurement, nonce")
    owner.check_measurement(blob, launch_digest(image))
    say("guest owner", "guest owner", "compare with the image's digest")
    header, payload = owner.package_secret({"736869e5-84f0-4973-92ec-06879ce3da0b": b"disk key"})
    say("guest owner", "hypervisor", "disk key, encrypted")
    guest.inject_secret(header, payload, 0x8000)
    guest.finish()
    assert b"disk key" in guest.vcpu().read(0x8000, 64)
    entries = [
        Exchange(e.source, e.target, e.message, e.status) for e in log if e.message not in ("DF_FLUSH", "GET_ID")
    ]
    return sequence(entries, "From AMD's root key to a secret inside a measured guest").svg()


if __name__ == "__main__":
    FILE.write_text(overview())
