"""Let the firmware judge a session that another implementation made: LAUNCH_START through the line protocol.

python check_launch.py [SEVREF...]. Every request is a line of JSON, so the same can be done from any language.
"""

import json
import subprocess
import sys

import sevref  # stands for your implementation: it makes GODH and session


def ask(op, **fields):
    oracle.stdin.write(json.dumps({"op": op, **fields}) + "\n")
    oracle.stdin.flush()
    answer = json.loads(oracle.stdout.readline())
    assert answer["ok"], answer
    return answer


def u32(value):
    return value.to_bytes(4, "little").hex()


def u64(value):
    return value.to_bytes(8, "little").hex()


command = [*(sys.argv[1:] or ["sevref"]), "serve", "--stdio"]
oracle = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
ask("create", seed="00")
ask("cmd", cmd="INIT", cmdbuf_in="00" * 20)
export = u64(0x10000) + u32(2084) + u32(0) + u64(0x20000) + u32(6252)
ask("cmd", cmd="PDH_CERT_EXPORT", cmdbuf_in=export)
pdh = bytes.fromhex(ask("read", addr=0x10000, length=2084)["hex"])

randomness = sevref.SeededRandom(b"my tests", "owner")
made = sevref.Session.create(sevref.parse_certificate(pdh), policy=1, rng=randomness)
godh, session = made.godh.pack(), bytearray(made.session.pack())  # 2084 and 128 bytes

# LAUNCH_START: HANDLE, POLICY, DH_CERT_PADDR, DH_CERT_LEN, reserved, SESSION_PADDR, SESSION_LEN
start = u32(0) + u32(1) + u64(0x30000) + u32(2084) + u32(0) + u64(0x31000) + u32(128)
cases = {"as it was made": None, "a bit of WRAP_TK": 0x10, "a bit of POLICY_MAC": 0x60}
for what, change in cases.items():
    sent = bytearray(session)
    if change is not None:
        sent[change] ^= 1
    memory = {"0x30000": godh.hex(), "0x31000": sent.hex()}
    answer = ask("cmd", cmd="LAUNCH_START", cmdbuf_in=start, mem_in=memory)
    print(f"{what}: {answer['status']}", answer.get("rule") or "")
oracle.stdin.close()
sys.exit(oracle.wait())
