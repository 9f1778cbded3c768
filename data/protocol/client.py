"""Ask the oracle from another program: what does the firmware answer, and why?  (python client.py [SEVREF...])"""

import json
import subprocess
import sys


class Oracle:
    def __init__(self, command=("sevref",)):
        self.process = subprocess.Popen(
            [*command, "serve", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, op, **fields):
        self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer


oracle = Oracle(sys.argv[1:] or ("sevref",))
oracle.ask("create", seed="00")
print(oracle.ask("cmd", cmd="INIT", cmdbuf_in="00" * 20)["status"])
activate = oracle.ask("cmd", cmd="ACTIVATE", cmdbuf_in="0100000064000000")
print(activate["status"], "-", activate["rule"])
query = oracle.ask("cmd", cmd="GET_ID", cmdbuf_in="00" * 12)
print(query["status"], "length", int.from_bytes(bytes.fromhex(query["cmdbuf_out"])[8:12], "little"))
