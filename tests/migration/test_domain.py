"""An owner whose guest may move inside one domain only (POLICY.DOMAIN and SEV; sheet 30, 5.2.2)."""

import pytest

from migration.stage import Stage, image
from sevref import Chain, PlatformOwner, Policy, SevError
from sevref import Status as S
from sevref.roles.channel import in_memory
from sevref.roles.migration import DomainGuestOwner, Incoming, Outgoing


@pytest.fixture(scope="module")
def owner() -> PlatformOwner:
    return PlatformOwner(seed=b"the owner")


@pytest.fixture(scope="module")
def stages(owner: PlatformOwner) -> tuple[Stage, Stage, Stage, Stage]:
    """Two platforms of the domain, one of another owner, one that owns itself."""
    return Stage("A", owner=owner), Stage("B", owner=owner), Stage("C", owner=PlatformOwner(seed=b"other")), Stage("D")


def guest_owner(stage: Stage, owner: PlatformOwner) -> DomainGuestOwner:
    return DomainGuestOwner(owner.oca, stage.roots, seed=b"guest owner")


POLICY = Policy.make("NODBG", "DOMAIN", "SEV", api=(0, 24))


def test_inside_but_not_outside(stages: tuple[Stage, Stage, Stage, Stage], owner: PlatformOwner) -> None:
    a, b, c, d = stages
    opened = guest_owner(a, owner).open_session(a.chain, POLICY)
    vm = a.host.launch(image(), POLICY, opened.godh, opened.session, ram_size=0x2000)
    vm.measure()
    vm.finish()
    for stranger in (c, d):
        with pytest.raises(SevError) as error:
            in_memory(Outgoing(vm).run(), Incoming(stranger.host, stranger.chain).run())
        assert (error.value.command, error.value.status) == ("SEND_START", S.POLICY_FAILURE)
        assert "DOMAIN" in error.value.rule and stranger.guests == 0
    incoming = Incoming(b.host, b.chain)
    in_memory(Outgoing(vm).run(), incoming.run())
    assert incoming.vm is not None
    with pytest.raises(SevError) as error:  # nor from there
        in_memory(Outgoing(incoming.vm).run(), Incoming(c.host, c.chain).run())
    assert error.value.status is S.POLICY_FAILURE


@pytest.mark.parametrize("names", [(), ("DOMAIN",), ("SEV",)], ids=["none", "domain", "sev"])
def test_policies_that_let_it_leave(
    stages: tuple[Stage, Stage, Stage, Stage], owner: PlatformOwner, names: tuple[str, ...]
) -> None:
    a = stages[0]
    with pytest.raises(SevError, match="could be sent out of the domain") as error:
        guest_owner(a, owner).open_session(a.chain, Policy.make("NODBG", *names))
    assert error.value.status is S.POLICY_FAILURE


def test_policies_that_do_not(stages: tuple[Stage, Stage, Stage, Stage], owner: PlatformOwner) -> None:
    a = stages[0]
    for names in (("NOSEND",), ("DOMAIN", "SEV")):
        guest_owner(a, owner).open_session(a.chain, Policy.make("NODBG", *names))
    with pytest.raises(SevError, match="NODBG"):
        guest_owner(a, owner).open_session(a.chain, Policy.make("DOMAIN", "SEV"))


def test_platforms_of_other_domains(stages: tuple[Stage, Stage, Stage, Stage], owner: PlatformOwner) -> None:
    a, _, c, d = stages
    pretended = c.chain.replace(oca=owner.oca)
    forged = a.chain.replace(cek=a.platform.pdh_cert_export().cek)
    cases: list[tuple[Chain, S]] = [
        (c.chain, S.POLICY_FAILURE),
        (d.chain, S.POLICY_FAILURE),
        (Chain(), S.POLICY_FAILURE),
        (pretended, S.BAD_SIGNATURE),
        (forged, S.INVALID_CERTIFICATE),
    ]
    for chain, status in cases:
        with pytest.raises(SevError) as error:
            guest_owner(a, owner).open_session(chain, POLICY)
        assert error.value.status is status
