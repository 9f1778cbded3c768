"""The line protocol: real processes, real recordings, and requests that nothing can be done with."""

import json
import random
import subprocess
import sys

import pytest

from sevref.cli import main
from sevref.conform import replay
from sevref.resources import data_path
from sevref.serve import OPERATIONS, Server
from sevref.traces import load_trace

SEVREF = [sys.executable, "-m", "sevref"]


def talk(*requests, server=None):
    server = server or Server()
    return [server.answer(json.dumps(request)) for request in requests]


def good(*requests, server=None):
    answers = talk(*requests, server=server)
    assert all(answer["ok"] for answer in answers), answers
    return answers


CREATE = {"op": "create", "seed": "00"}
INIT = {"op": "cmd", "cmd": "INIT", "cmdbuf_in": "00" * 20}


def launch(profile="SPEC_0_24", **machine):
    """A session with a launch without a session, a measurement, a refusal and a power cycle."""
    start = {"op": "cmd", "cmd": "LAUNCH_START", "cmdbuf_in": "00" * 36}
    return [
        {"op": "create", "seed": "00", "profile": profile, "machine": machine},
        INIT,
        {"op": "wbinvd"},
        {"op": "cmd", "cmd": "DF_FLUSH"},
        start,
        {"op": "cmd", "cmd": "ACTIVATE", "cmdbuf_in": "0100000064000000"},
        {"op": "fill", "addr": "0x100000", "length": 4096, "pattern": "616263"},
        {"op": "cmd", "cmd": "LAUNCH_UPDATE_DATA", "cmdbuf_in": "0100000000000000000010000000000000100000"},
        {"op": "read", "addr": "0x100000", "length": 64},
        {"op": "read", "addr": "0x100000", "length": 64, "asid": 100},
        {"op": "cmd", "cmd": "LAUNCH_MEASURE", "cmdbuf_in": "0100000000000000002000000000000030000000"},
        {"op": "read", "addr": 0x2000, "length": 48},
        {"op": "cmd", "cmd": "LAUNCH_MEASURE", "cmdbuf_in": "0100000000000000002000000000000030000000"},
        {"op": "states", "handle": 1},
        {"op": "boot"},
        {"op": "cmd", "cmd": "PLATFORM_STATUS"},
    ]


def test_a_launch_through_the_protocol():
    answers = good(*launch())
    names = [answer.get("status") for answer in answers]
    assert names[1] == names[3] == names[4] == names[5] == names[7] == names[10] == "SUCCESS"
    assert answers[4]["cmdbuf_out"].startswith("01000000")  # the new guest's handle
    assert answers[9]["hex"] == (b"abc" * 22)[:64].hex() and answers[8]["hex"] != answers[9]["hex"]
    assert answers[12]["status_code"] == 0x02 and "LUPDATE" in answers[12]["rule"]
    assert answers[13]["guest"] == {"handle": 1, "state": 2, "asid": 100, "flags": 4}
    assert answers[15]["cmdbuf_out"] == "001800000000000f00000000"


def test_the_same_seed_gives_the_same_answers():
    first, second = good(*launch()), good(*launch())
    assert first == second
    other = launch()
    other[0]["seed"] = "01"
    assert good(*other)[11] != first[11]


@pytest.mark.parametrize("profile", ["SPEC_0_24", "GENOA_1_55_25"])
def test_a_recording_replays_and_a_changed_one_does_not(profile):
    server = Server("bug report")
    # Genoa's minimum ASID and core complexes come from the machine, so the ASIDs stay the same here.
    good(*launch(profile, ccxs=2), server=server)
    trace = json.loads(json.dumps(server.trace()))
    report = replay(trace)
    assert report.conforms and report.steps == 8
    measured = next(step for step in trace["steps"] if step.get("cmd") == "LAUNCH_MEASURE")
    place = next(iter(measured["mem_out"]))
    measured["mem_out"][place] = "00" * 48
    assert [difference.step for difference in replay(trace).differ] == [measured["i"]]


def test_recorded_machine_and_pushed_randomness():
    chunks = [bytes([i]) * 48 for i in range(1, 8)] + [bytes(16)]
    server = Server()
    good(
        {"op": "create", "profile": "GENOA_1_55_25", "machine": "recorded"},
        {**INIT, "rng": [chunk.hex() for chunk in chunks]},
        server=server,
    )
    assert server.trace()["steps"][0]["rng"] == [chunk.hex() for chunk in chunks]


def test_record_option_writes_a_trace_that_conforms(tmp_path, capsys):
    file = tmp_path / "session.json"
    text = "".join(json.dumps(request) + "\n" for request in launch())
    done = subprocess.run([*SEVREF, "serve", "--stdio", "--record", file], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 16 and not done.stderr
    assert load_trace(file)["trace"] == "session"
    assert main(["conform", str(file)]) == 0
    assert "8 of 8 commands agree" in capsys.readouterr().out


def test_record_into_a_missing_folder_is_refused_before_anything_runs(tmp_path, capsys):
    assert main(["serve", "--stdio", "--record", str(tmp_path / "none" / "x.json")]) == 2
    assert "folder" in capsys.readouterr().err


BAD = {
    "[]": "object",
    "3": "object",
    "{": "JSON",
    '{"op": "dance"}': "op",
    '{"op": "cmd", "cmd": "INIT"}': "fw",
    '{"op": "create", "profile": "NONE"}': "profile",
    '{"op": "create", "machine": {"generation": "itanium"}}': "generation",
    '{"op": "create", "machine": {"dram_size": 5}}': "dram_size",
    '{"op": "create", "colour": 1}': "colour",
    '{"op": "create", "seed": "zz"}': "seed",
}


@pytest.mark.parametrize("line", BAD)
def test_unusable_requests_name_what_is_wrong(line):
    answer = Server().answer(line)
    assert answer["ok"] is False and BAD[line] in answer["error"]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"op": "cmd"}, "cmd"),
        ({"op": "cmd", "cmd": "NOSUCH"}, "NOSUCH"),
        ({"op": "cmd", "cmd": 1, "cmdbuf_in": "0"}, "cmdbuf_in"),
        ({"op": "write", "addr": "0x4000000", "hex": "00"}, "DRAM"),
        ({"op": "write", "addr": -1, "hex": "00"}, "addr"),
        ({"op": "write", "addr": 0, "hex": "00", "asid": 510}, "asid"),
        ({"op": "read", "addr": 0, "length": 0}, "length"),
        ({"op": "read", "addr": 0, "length": 1 << 40}, "length"),
        ({"op": "fill", "addr": 0, "length": 4, "pattern": ""}, "pattern"),
        ({"op": "why", "cmd": "NOSUCH"}, "command"),
        ({"op": "create", "fw": "A"}, "fw"),
        ({"op": "wbinvd", "fw": "B"}, "fw"),
    ],
)
def test_unusable_fields_change_nothing(request_, named):
    server = Server()
    good(CREATE, server=server)
    before = json.dumps(server.trace())
    (answer,) = talk(request_, server=server)
    assert answer["ok"] is False and named in answer["error"]
    assert json.dumps(server.trace()) == before
    good({"op": "cmd", "cmd": "NOP"}, server=server)


def test_any_json_gets_an_answer():
    """Random requests from the protocol's own words: an answer each, and the server goes on."""
    rng = random.Random(1)
    values = [None, True, -1, 0, 0x1000, 1 << 70, "", "00", "0x10", "zz", [], {}, "INIT", ["00"], {"0x1000": "00"}]
    keys = ("fw", "addr", "hex", "length", "pattern", "asid", "cmd", "cmdbuf_in", "cmdbuf_addr", "mem_in", "rng")
    server = Server()
    good(CREATE, server=server)
    for _ in range(1500):
        request = {"op": rng.choice([*OPERATIONS, None]), "id": 7}
        request.update({key: rng.choice(values) for key in rng.sample(keys, rng.randrange(5))})
        answer = server.answer(json.dumps(request))
        assert answer["id"] == 7 and isinstance(answer["ok"], bool)
    json.dumps(server.trace())


def test_why_and_hello():
    hello, why = good({"op": "hello"}, {"op": "why", "cmd": "NOP"})
    assert hello["protocol"] == 1 and "cmd" in hello["ops"]
    assert why["rules"][0]["status"] == "INVALID_PLATFORM_STATE"


def test_the_example_clients_run():
    python = subprocess.run(
        [sys.executable, data_path("protocol", "client.py"), *SEVREF], capture_output=True, text=True
    )
    assert python.stdout.splitlines() == [
        "SUCCESS",
        "INVALID_PLATFORM_STATE - ACTIVATE needs platform state WORKING, it is INIT",
        "INVALID_LENGTH length 64",
    ]
    shell = subprocess.run(["sh", data_path("protocol", "client.sh"), *SEVREF], capture_output=True, text=True)
    assert shell.stdout.splitlines() == ["INVALID_PLATFORM_STATE", "SUCCESS", "WBINVD_REQUIRED", "SUCCESS"]
