"""E19 and E21: caches that are not flushed, and what migration makes of a page."""

import pytest

from sevref.attacks.demonstrations import SECRET, asid_reuse, dirty_line_over_launch, migration

ENGINES = ["xe-zen1", "xex-zen1", "xex-boot-random", "xts-boot-random"]


@pytest.mark.parametrize("engine", ENGINES)
def test_without_the_flush_the_next_guest_reads_the_last_ones_line(engine: str) -> None:
    found = asid_reuse(engine=engine)
    assert found.refusal == "DFFLUSH_REQUIRED"
    assert found.hit == found.evicted == SECRET and found.leaks
    assert all(found.flushed[i : i + 16] != SECRET[i : i + 16] for i in range(0, 64, 16))


def test_coherence_between_domains_does_not_help_two_guests_of_one_asid() -> None:
    assert asid_reuse(coherent_domains=True).leaks


def test_a_dirty_line_of_the_host_destroys_a_launched_page() -> None:
    assert not dirty_line_over_launch(sp_evicts=False)
    assert dirty_line_over_launch(sp_evicts=True)


@pytest.mark.parametrize("generation", ["naples", "milan", "genoa"])
def test_migration_makes_a_new_key(generation: str) -> None:
    found = migration(generation=generation)
    assert found.same and found.unrelated
    assert len({len(data) for data in found.ciphertexts}) == 1
