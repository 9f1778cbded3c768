"""``sevref migrate``: two processes, two chips, one guest."""

import json
import re
import socket
import subprocess
import sys

import pytest

SEVREF = [sys.executable, "-m", "sevref"]


@pytest.fixture
def chips(cli, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert cli("sp", folder, "new", "--seed", "c0de", "--name", folder.name).code == 0
    return folders


class Receiver:
    """A receiver in a process of its own; ``port`` is where it says that it listens."""

    def __init__(self, folder, *words):
        command = [*SEVREF, "migrate", "receive", str(folder), "--json", "--timeout", "40", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = self.process.stderr.readline()
        self.port = re.fullmatch(r"sevref: listening on 127\.0\.0\.1:([0-9]+)\n", self.said)[1]

    def end(self):
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.parametrize("es", [(), ("--es",)], ids=["sev", "es"])
def test_two_processes(cli, chips, es):
    a, b = chips
    receiver = Receiver(b, *es)
    policy = "0x18000025" if es else "0x18000021"
    sent = cli("migrate", "send", a, "--port", receiver.port, "--message", "moved", "--policy", policy, *es, "--json")
    assert sent.code == 0 and json.loads(sent.out) == {"status": "SUCCESS", "policy": int(policy, 16), "attempts": 1}
    code, out, err = receiver.end()
    assert code == 0 and json.loads(out) == {
        "status": "SUCCESS",
        "policy": int(policy, 16),
        "state": "RUNNING",
        "attempts": 1,
        "message": "moved",
    }
    assert "receive: 100 % of " in err and "send: 100 % of " in sent.err


def test_the_channel_breaks(cli, chips):
    a, b = chips
    receiver = Receiver(b)
    sent = cli("migrate", "send", a, "--port", receiver.port, "--message", "twice", "--break-after", "50000", "--json")
    assert sent.code == 0 and json.loads(sent.out)["attempts"] == 2
    assert "the channel broke" in sent.err and "trying again" in sent.err
    code, out, err = receiver.end()
    assert code == 0 and json.loads(out)["message"] == "twice" and json.loads(out)["attempts"] == 2
    assert "waiting for another attempt" in err


def test_it_gives_up(cli, chips):
    a, b = chips
    receiver = Receiver(b)
    sent = cli("migrate", "send", a, "--port", receiver.port, "--break-after", "9", "--attempts", "1", "--json")
    receiver.process.kill()
    receiver.end()
    assert sent.code == 2 and sent.out == "" and "--break-after" in sent.err


def test_refusals_on_both_sides(cli, chips):
    """The receiver has no SEV-ES: its firmware refuses, both processes say so."""
    a, b = chips
    receiver = Receiver(b)
    sent = cli("migrate", "send", a, "--port", receiver.port, "--policy", "0x18000025", "--es", "--json")
    assert (sent.code, json.loads(sent.out)["status"]) == (1, "UNSUPPORTED")
    code, out, _ = receiver.end()
    assert (code, json.loads(out)["status"], json.loads(out)["command"]) == (1, "UNSUPPORTED", "RECEIVE_START")


def test_domain(cli, chips):
    """Two chips that own themselves are two domains."""
    a, b = chips
    receiver = Receiver(b)
    sent = cli("migrate", "send", a, "--port", receiver.port, "--policy", "0x18000031", "--json", "--attempts", "1")
    receiver.process.kill()
    receiver.end()
    document = json.loads(sent.out)
    assert (sent.code, document["command"], document["status"]) == (1, "SEND_START", "POLICY_FAILURE")


def test_nobody_there(cli, refused, chips):
    a, b = chips
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "in use" in refused("migrate", "receive", b, "--port", port).lower()
    assert "refused" in refused("migrate", "send", a, "--port", port).lower()
    done = cli("migrate", "receive", b, "--timeout", "1")
    assert done.code == 2 and "sender: expected a connection within 1 seconds, found none" in done.err


def test_rubbish_from_the_sender(chips):
    receiver = Receiver(chips[1])
    with socket.create_connection(("127.0.0.1", int(receiver.port)), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        code, out, err = receiver.end()
    assert (code, out) == (2, "")
    assert "migration stream, offset 0x0: MAGIC: expected SEVguest, found 474554202f204854" in err
    assert "Traceback" not in err


def test_rubbish_from_the_receiver(cli, chips):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [*SEVREF, "migrate", "send", str(chips[0]), "--port", port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sender:
            listener.settimeout(40)
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH\r\n" + bytes(9000))
            out, err = sender.communicate(timeout=60)
            connection.close()
    assert (sender.returncode, out) == (2, "")
    assert "receiver's side, offset 0x0: MAGIC: expected SEVoffer, found 5353482d322e302d" in err
