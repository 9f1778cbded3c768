"""Ask a platform: what does the firmware say to this command in this state, and which rule does it follow?"""

import sevref
from sevref.firmware.rules import rules

platform = sevref.Platform(sevref.Machine(seed=b"my tests"))
platform.init()
try:
    platform.activate(1, 100)  # there is no guest yet
except sevref.SevError as error:
    assert error.status is sevref.Status.INVALID_PLATFORM_STATE
    print(error)

for rule in rules("ACTIVATE"):  # what `sevref why ACTIVATE` prints
    print(rule.order, rule.status.name, rule.rule)
