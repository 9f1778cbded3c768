"""Replay of AMD's Genoa firmware 1.55.25: every recorded command, and proof that the comparison can fail."""

import copy
import json

import pytest

from sevref.cli import main
from sevref.conform import replay
from sevref.resources import data_path
from sevref.status import InputError
from sevref.traces import load_trace

#: name -> (commands, internal errors answered with a documented status), counted in the recordings
TRACES = {
    "01_platform_lifecycle": (134, 0),
    "02_init_hw_and_keygen": (13, 2),
    "03_external_ownership": (49, 0),
    "04_launch_happy": (63, 0),
    "05_launch_without_session": (11, 0),
    "06_session_tamper": (81, 0),
    "07_policy": (30, 0),
    "08_guest_state_matrix": (425, 0),
    "09_launch_secret_errors": (47, 0),
    "10_launch_update_measure_errors": (36, 0),
    "11_asid": (88, 1),
    "12_guest_limit": (9, 0),
    "13_migration": (197, 0),
    "14_debug_copy": (64, 2),
    "15_swap": (42, 0),
    "16_sev_es": (67, 0),
    "17_init_ex": (44, 1),
    "18_sevtool_crosscheck": (30, 0),
    "random_001": (172, 0),
    "random_004_es": (168, 0),
    "random_007": (176, 0),
    "random_012_es": (172, 0),
}


def path_of(name):
    return data_path("traces", f"{name}.json.gz")


def test_all_recorded_commands_are_here():
    assert {path.name.removesuffix(".json.gz") for path in data_path("traces").glob("*.gz")} == set(TRACES)
    assert sum(count for count, _ in TRACES.values()) == 2118


@pytest.mark.parametrize("name", TRACES)
def test_every_command_agrees(name):
    report = replay(load_trace(path_of(name)))
    assert report.differ == []
    assert (report.steps, report.agree, report.replaced, report.unsupported) == (
        TRACES[name][0],
        TRACES[name][0],
        TRACES[name][1],
        0,
    )


# ------------------------------------------------------------------ a comparison that cannot fail proves nothing


def cut(name, wanted):
    """The trace up to and including the first command for which ``wanted`` holds, and that command."""
    trace = copy.deepcopy(load_trace(path_of(name)))
    for position, step in enumerate(trace["steps"]):
        if step["op"] == "cmd" and wanted(step):
            trace["steps"] = trace["steps"][: position + 1]
            return trace, step
    raise AssertionError(f"{name} has no such step")


def flip(text):
    """The hex string with one bit changed in the middle."""
    data = bytearray.fromhex(text)
    data[len(data) // 2] ^= 0x10
    return data.hex()


def change_memory(step, key):
    place = next(iter(step[key]))
    step[key][place] = flip(step[key][place])


def change_guest_memory(step):
    step["guest_mem_out"][0]["plain"] = flip(step["guest_mem_out"][0]["plain"])


def change_nv_buffer(step, at):
    data = step["mem_out"]["0x3000000"]
    step["mem_out"]["0x3000000"] = data[:at] + ("ffffffff" if at == 0 else "00000000") + data[at + 8 :]


def change_order(step):
    step["rng"] = [step["rng"][-1], *step["rng"][:-1]]


CHANGES = {
    "status": ("07_policy", lambda s: s["status"] == "POLICY_FAILURE", lambda s: s.update(status_code=0x0B), "status"),
    "success status": (
        "04_launch_happy",
        lambda s: s["cmd"] == "ACTIVATE",
        lambda s: s.update(status_code=1),
        "status",
    ),
    "internal error": (
        "11_asid",
        lambda s: s["status"].startswith("INTERNAL"),
        lambda s: s.update(cmd="ACTIVATE"),
        "status",
    ),
    "command buffer": (
        "04_launch_happy",
        lambda s: s["cmd"] == "GUEST_STATUS",
        lambda s: s.update(cmdbuf_out=flip(s["cmdbuf_out"])),
        "command buffer.",
    ),
    "memory": (
        "04_launch_happy",
        lambda s: s["cmd"] == "PDH_CERT_EXPORT",
        lambda s: change_memory(s, "mem_out"),
        "memory 0x",
    ),
    "guest memory": ("04_launch_happy", lambda s: s.get("guest_mem_out"), change_guest_memory, "guest memory 0x"),
    "size of a draw": (
        "04_launch_happy",
        lambda s: s["cmd"] == "LAUNCH_MEASURE" and s["rng"],
        lambda s: s.update(rng=[s["rng"][0] + "00"]),
        "rng",
    ),
    "order of draws": ("04_launch_happy", lambda s: s["cmd"] == "INIT", change_order, "rng"),
    "surplus of draws": (
        "04_launch_happy",
        lambda s: s["cmd"] == "ACTIVATE",
        lambda s: s.update(rng=["00" * 16]),
        "rng",
    ),
    "missing draw": ("04_launch_happy", lambda s: s["cmd"] == "INIT", lambda s: s["rng"].pop(), "rng"),
    "platform state": (
        "04_launch_happy",
        lambda s: s["cmd"] == "LAUNCH_START",
        lambda s: s["after"].update(platform_state=1),
        "after.platform_state",
    ),
    "guest count": (
        "04_launch_happy",
        lambda s: s["cmd"] == "LAUNCH_START",
        lambda s: s["after"].update(guest_count=2),
        "after.guest_count",
    ),
    "ownership": (
        "03_external_ownership",
        lambda s: s["after"]["ext_owned"] == 1,
        lambda s: s["after"].update(ext_owned=0),
        "after.ext_owned",
    ),
    "guest state": (
        "04_launch_happy",
        lambda s: s["cmd"] == "LAUNCH_MEASURE" and s["rng"],
        lambda s: s["after"]["guest"].update(state=1),
        "after.guest",
    ),
    "ASID": (
        "04_launch_happy",
        lambda s: s["cmd"] == "ACTIVATE",
        lambda s: s["after"]["guest"].update(asid=21),
        "after.guest",
    ),
    "activation": (
        "04_launch_happy",
        lambda s: s["cmd"] == "LAUNCH_FINISH" and s["status"] == "SUCCESS",
        lambda s: s["after"]["guest"].update(flags=4),
        "after.guest",
    ),
    "NV buffer": (
        "17_init_ex",
        lambda s: "0x3000000" in s.get("mem_out", {}),
        lambda s: change_nv_buffer(s, 2 * 0x3000),
        "NV buffer, behind",
    ),
    "NV buffer emptied": (
        "17_init_ex",
        lambda s: "0x3000000" in s.get("mem_out", {}),
        lambda s: change_nv_buffer(s, 0),
        "NV buffer, empty",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_one_wrong_expectation_is_found_at_its_step(kind):
    name, wanted, change, field = CHANGES[kind]
    trace, step = cut(name, wanted)
    assert replay(trace).differ == []
    change(step)
    report = replay(trace)
    assert {difference.step for difference in report.differ} == {step["i"]}
    assert any(difference.field.startswith(field) for difference in report.differ)
    if field != "rng":  # another draw changes what it is used for, too
        assert all(difference.field.startswith(field) for difference in report.differ)
    assert report.agree == report.steps - 1 and not report.conforms


def test_outputs_are_not_looked_at_before_they_are_compared():
    """Without expectations the same commands give the same reports of what they drew and answered."""
    trace, _ = cut("04_launch_happy", lambda s: s["cmd"] == "LAUNCH_FINISH" and s["status"] == "SUCCESS")
    for other in trace["steps"]:
        for key in ("cmdbuf_out", "mem_out", "guest_mem_out", "after", "observe", "out", "note"):
            other.pop(key, None)
    assert replay(trace).conforms


# ------------------------------------------------------------------------------------------------ command line


def test_command_reports_a_difference(tmp_path, capsys):
    trace, step = cut("07_policy", lambda s: s["status"] == "POLICY_FAILURE")
    step["status_code"] = 0x0B
    (tmp_path / "t.json").write_text(json.dumps(trace))
    assert main(["conform", str(tmp_path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"steps", "agree", "replaced", "unsupported", "differ"}
    assert document["differ"] == [
        {
            "trace": "07_policy",
            "step": step["i"],
            "command": "LAUNCH_START",
            "field": "status",
            "expected": "BAD_MEASUREMENT",
            "found": "POLICY_FAILURE",
        }
    ]
    assert main(["conform", str(tmp_path / "t.json")]) == 1
    assert "expected BAD_MEASUREMENT, found POLICY_FAILURE" in capsys.readouterr().out


def test_command_agrees(capsys):
    assert main(["conform", str(path_of("05_launch_without_session")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agree"] == 11


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "JSON"),
        ("[]", "trace"),
        ('{"trace": "x", "instances": {}}', "steps"),
        ('{"trace": "x", "instances": {"A": {}}, "steps": [1]}', "steps"),
        ('{"trace": "x", "instances": {"A": {}}, "steps": [{"i": 0, "op": "dance", "fw": "A"}]}', "op"),
        ('{"trace": "x", "instances": {"A": {}}, "steps": [{"i": 0, "op": "boot", "fw": "B"}]}', "fw"),
        ('{"trace": "x", "instances": {"A": {"color": 1}}, "steps": []}', "color"),
        ('{"trace": "x", "instances": {"A": {"cuk": "zz"}}, "steps": []}', "cuk"),
        ('{"trace": "x", "instances": {"A": {}}, "steps": [{"i": 7, "op": "cmd", "fw": "A"}]}', "step 7"),
    ],
)
def test_unusable_traces_say_what_is_wrong(tmp_path, capsys, text, named):
    (tmp_path / "t.json").write_text(text)
    assert main(["conform", str(tmp_path / "t.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and named in err and "Traceback" not in err


def test_missing_file_and_truncated_archive(tmp_path, capsys):
    assert main(["conform", str(tmp_path / "none.json")]) == 2
    (tmp_path / "t.json.gz").write_bytes(path_of("07_policy").read_bytes()[:500])
    assert main(["conform", str(tmp_path / "t.json.gz")]) == 2
    with pytest.raises(InputError):
        load_trace(tmp_path / "t.json.gz")
