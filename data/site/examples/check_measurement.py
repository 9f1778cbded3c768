"""Compare a launch measurement: first the bytes under the MAC, then the MAC."""

import sevref
from sevref.measurement import measure_input

tik = bytes([3] * 16)  # the session's
mnonce = bytes(range(16))  # as LAUNCH_MEASURE gave it
policy = sevref.Policy.make("NODBG", api=(0, 24))
digest = sevref.launch_digest(bytes(4096))  # of the guest's firmware image, here 4096 zeros
api, build = (0, 24), 15  # of the running SEV firmware

covered = measure_input(api, build, policy, digest, mnonce)
mine = covered.pack()  # your implementation's 56 bytes instead
for row, expected in zip(type(covered).parse(mine).describe(), covered.describe(), strict=True):
    print(f"0x{row.offset:02X} {row.name:10} {row.data.hex()}")
    if row.data != expected.data:
        print(f"     expected   {expected.data.hex()}")

mac = sevref.launch_measurement(
    tik,
    api=api,
    build=build,
    policy=policy,
    digest=digest,
    nonce=mnonce,
)
print("MEASURE", mac.hex())  # your implementation's 32 bytes have to be the same
