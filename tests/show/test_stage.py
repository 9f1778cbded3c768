"""The stage of a notebook's first section, and the glossary as a table."""

import tomllib

import pytest

from sevref import Policy, SevError, Status, boot, verify_chain
from sevref.resources import data_path
from sevref.show import palette
from sevref.show.cast import glossary_table, party_table
from sevref.show.stage import Stage


def test_a_stage_is_a_genuine_platform_and_the_same_every_time():
    stage, again = Stage(b"seed"), Stage(b"seed")
    assert verify_chain(stage.chain, roots=stage.amd.roots).valid
    assert stage.chain.pdh == again.chain.pdh != Stage(b"seed", "platform B").chain.pdh
    before = stage.chain
    stage.take_ownership()
    assert stage.platform.platform_status().owner == 1 and stage.chain.oca == stage.platform_owner.oca
    assert verify_chain(stage.chain, roots=stage.amd.roots).valid and stage.chain.cek.pubkey == before.cek.pubkey


def test_a_guest_on_the_stage_is_measured():
    stage = Stage(b"seed")
    vm = stage.launch(boot.build_firmware(0x2000))
    vm.finish()
    info = stage.platform.guest_status(vm.handle)
    assert info.policy == Policy.make("NODBG") and info.state.name == "RUNNING"
    with pytest.raises(SevError) as refused:
        stage.launch(boot.build_firmware(0x2000), Policy(0))
    assert refused.value.status is Status.POLICY_FAILURE  # this owner allows no debugging


def test_two_of_a_kind_share_their_colour():
    assert palette.party("AMD-SP B") == palette.party("AMD-SP") == palette.PARTIES["AMD-SP"]
    assert palette.party("Mallory") == palette.NEUTRAL
    told = party_table(here={"AMD-SP A": ("its PDH", "takes the guest's memory out")})
    assert palette.PARTIES["AMD-SP"] in told.html() and "takes the guest's memory out" in told.text()


def test_the_glossary_says_what_the_site_says():
    words = tomllib.loads(data_path("site", "glossary.toml").read_text())
    text = glossary_table().text()
    assert len(glossary_table().rows) == len(words) > 40
    assert "](" not in text and "Guest owner's Diffie-Hellman key, made for one launch." in " ".join(text.split())
