"""What the notebooks show, and what none of them does: commands, statuses, structures.

Every notebook is run, each in a process of its own. A command, status or structure that none shows has to stand in a
list below, with the reason; an entry that a notebook shows has to go. What was recorded has to be what the reading site
says: ``data/site/coverage.json``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from record import FILE, recorded  # a program, beside this file

import sevref
from sevref import Machine, Platform, SevError, Status
from sevref.layout import layouts
from sevref.show import byte_map
from sevref.show.coverage import Seen, as_json, code_cells, record, record_cells, recorder
from sevref.status import InputError

COMMANDS_NOT_SHOWN = {"RING_BUFFER": "sevref checks its arguments and then declines, so it never succeeds"}

SNP = "of SEV-SNP's commands or firmware updates: no command of SEV and SEV-ES answers it"
STATUSES_NOT_SHOWN = {
    "HWERROR_UNSAFE": "needs hardware that fails; sevref's does not",
    "AEAD_OFLOW": "needs 2^64 - 2 pages swapped out",
    "EXIT_RING_BUFFER": "sevref never enters ring-buffer mode",
    **dict.fromkeys(
        (
            "INVALID_PAGE_SIZE",
            "INVALID_PAGE_STATE",
            "INVALID_MDATA_ENTRY",
            "INVALID_PAGE_OWNER",
            "RMP_INIT_REQUIRED",
            "BAD_SVN",
            "BAD_VERSION",
            "SHUTDOWN_REQUIRED",
            "UPDATE_FAILED",
            "RESTORE_REQUIRED",
            "RMP_INITIALIZATION_FAILED",
            "INVALID_KEY",
            "SHUTDOWN_INCOMPLETE",
        ),
        SNP,
    ),
}

INSIDE = "the signed part of a structure that is shown whole"
SEALED = "lies in the flash, sealed by the chip's key: neither hypervisor nor owner ever sees it"
STREAM = "messages of sevref's own transfer between two hosts, not the specification's"
LAYOUTS_NOT_SHOWN: dict[str, str] = {
    **dict.fromkeys(("AmdSignedPart", "AttestationBody", "CertificateBody"), INSIDE),
    "SignatureSlot": "the 520 bytes of a slot: shown inside the certificate",
    **dict.fromkeys(("IdentityRecord", "KeyPairRecord", "StoredRecord"), SEALED),
    "SvsmInfo": "an entry that only images with an SVSM have; build_firmware makes none",
    **dict.fromkeys(("Note", "Offer"), STREAM),
}
#: structures of these modules do not have to be shown yet: SEV-SNP is being built
OTHER_MODULES = ("sevref.snp", "sevref.rmp")


def own_layouts() -> list[str]:
    """Every structure that sevref declares, whatever was imported so far."""
    for module in pkgutil.walk_packages(sevref.__path__, "sevref."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {name: cls.__module__ for name, cls in layouts().items() if cls.__module__.startswith("sevref.")}
    return [name for name, module in found.items() if not module.startswith(OTHER_MODULES)]


@pytest.fixture(scope="module")
def recording() -> dict[str, list[Seen]]:
    return recorded()


@pytest.fixture(scope="module")
def seen(recording: dict[str, list[Seen]]) -> Seen:
    together = Seen()
    for cells in recording.values():
        for cell in cells:
            together.add(cell)
    print(f"\n{len(recording)} notebooks\n" + together.text(own_layouts()))
    return together


def allowed(what: str, missing: Iterable[str], listed: dict[str, str]) -> None:
    """Nothing is missing without a reason, and there is no reason for what is not missing."""
    missing = list(missing)
    assert [name for name in missing if name not in listed] == [], f"{what} that no notebook shows"
    assert [name for name in listed if name not in missing] == [], f"{what} listed as not shown, but shown"


@pytest.mark.slow
def test_the_site_says_what_the_notebooks_do(recording: dict[str, list[Seen]]) -> None:
    fresh, stored = as_json(recording).splitlines(), FILE.read_text(encoding="utf-8").splitlines()
    assert fresh == stored, "run tests/notebooks/record.py"


@pytest.mark.slow
def test_commands(seen: Seen) -> None:
    allowed("commands", seen.missing_commands(), COMMANDS_NOT_SHOWN)
    assert seen.commands["RING_BUFFER", "UNSUPPORTED"]


@pytest.mark.slow
def test_statuses(seen: Seen) -> None:
    allowed("statuses", seen.missing_statuses(), STATUSES_NOT_SHOWN)


@pytest.mark.slow
def test_layouts(seen: Seen) -> None:
    allowed("structures", seen.missing_layouts(own_layouts()), LAYOUTS_NOT_SHOWN)


def test_a_reason_that_is_not_needed_is_an_error() -> None:
    allowed("x", ["A"], {"A": "why"})
    with pytest.raises(AssertionError, match="x listed as not shown, but shown"):
        allowed("x", ["A"], {"A": "why", "B": "why"})
    with pytest.raises(AssertionError, match="x that no notebook shows"):
        allowed("x", ["A", "C"], {"A": "why"})


# -- the recorder itself


def test_recorder_counts_what_happens_and_stops() -> None:
    platform = Platform(Machine("milan", seed=b"recorder", dram_size=4 << 20))
    with recorder() as seen:
        platform.mailbox(0x0E)
        platform.mailbox(0x99)
        with pytest.raises(SevError):
            platform.pdh_gen()
        byte_map(sevref.Session)
        sevref.Session().describe()
    platform.nop()
    byte_map(sevref.Session)
    assert seen.commands == {
        ("NOP", "SUCCESS"): 1,
        ("unknown id", "INVALID_COMMAND"): 1,
        ("PDH_GEN", "INVALID_PLATFORM_STATE"): 1,
    }
    assert seen.layouts == {"Session": 1} and seen.statuses["INVALID_COMMAND"] == 1
    assert seen.refusals("PDH_GEN") == ["INVALID_PLATFORM_STATE"] and seen.refusals("NOP") == []
    assert "NOP" not in seen.missing_commands() and len(seen.missing_commands()) == 40
    assert "INVALID_COMMAND" not in seen.missing_statuses() and "ACTIVE" in seen.missing_statuses()
    assert seen.missing_layouts(["Session", "InitBuffer"]) == ["InitBuffer"]
    assert "structures that no notebook shows: InitBuffer" in seen.text(["Session", "InitBuffer"])
    assert seen.names() == {
        "commands": {"NOP": ["SUCCESS"], "PDH_GEN": ["INVALID_PLATFORM_STATE"], "unknown id": ["INVALID_COMMAND"]},
        "statuses": ["INVALID_PLATFORM_STATE", "INVALID_COMMAND"],
        "layouts": ["Session"],
    }


def test_recorder_names_what_the_firmware_reads_and_writes() -> None:
    """Whole structures, not their parts, not the command's own buffer, and nothing that others parse or pack."""
    platform = Platform(Machine("milan", seed=b"recorder", dram_size=4 << 20))
    with recorder() as seen:
        platform.init()
        platform.pdh_cert_export()
        sevref.Session().pack()
        sevref.Session.parse(bytes(128))
    handled = seen.names()["handled"]
    assert handled["PDH_CERT_EXPORT"] == ["SevCertificate"]
    assert "StoredRecord" in handled["INIT"] and "InitBuffer" not in handled["INIT"]
    assert "Session" not in {name for names in handled.values() for name in names}
    assert sevref.Session.parse(bytes(128)).pack() == bytes(128)  # the patches are gone, a class method is one again


def test_a_notebook_is_run_as_a_kernel_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.ipynb"
    cells = [
        "import sevref\\nfrom sevref import show",
        "print('said')\\nsevref.Session()",
        "x = !echo hi",
        "assert x == ['hi']",
    ]
    path.write_text(
        '{"cells": [' + ", ".join(f'{{"cell_type": "code", "source": ["{cell}"]}}' for cell in cells) + "]}"
    )
    here = Path.cwd()
    assert record(path).layouts == {"Session": 2} and Path.cwd() == here  # shown twice: as HTML and as text
    assert [cell.names() for cell in record_cells(path)] == [{}, {"layouts": ["Session"]}, {}, {}]
    assert as_json({"n": record_cells(path)}) == '{\n "n": {\n  "2": {"layouts": ["Session"]}\n }\n}\n'
    assert "said" not in capsys.readouterr().out
    path.write_text('{"cells": [{"cell_type": "code", "source": "1/0"}]}')
    with pytest.raises(ZeroDivisionError):
        record(path)
    for text in ("{", "[]", '{"cells": [{}]}'):
        path.write_text(text)
        with pytest.raises(InputError, match="notebook"):
            code_cells(path)


def test_the_lists_name_what_exists() -> None:
    assert set(STATUSES_NOT_SHOWN) <= set(Status.__members__)
    assert set(LAYOUTS_NOT_SHOWN) <= set(own_layouts())
    for reason in (*COMMANDS_NOT_SHOWN.values(), *STATUSES_NOT_SHOWN.values(), *LAYOUTS_NOT_SHOWN.values()):
        assert len(reason.split()) > 3
