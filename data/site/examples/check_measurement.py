"""Compare a launch measurement: first the bytes under the MAC, then the MAC."""

import sevref
from sevref.measurement import measure_input

tik, mnonce = bytes([3] * 16), bytes(range(16))  # the session's TIK; MNONCE as LAUNCH_MEASURE gave it
policy = sevref.Policy.make("NODBG", api=(0, 24))
digest = sevref.launch_digest(bytes(4096))  # of the guest's firmware image, here 4096 zeros

covered = measure_input((0, 24), 15, policy, digest, mnonce)  # API 0.24 build 15: of the running firmware
mine = covered.pack()  # your implementation's 56 bytes instead
for row in type(covered).parse(mine).describe():
    print(f"0x{row.offset:02X} {row.name:10} {row.data.hex()}")
assert mine == covered.pack()

mac = sevref.launch_measurement(tik, api=(0, 24), build=15, policy=policy, digest=digest, nonce=mnonce)
print("MEASURE", mac.hex())  # your implementation's 32 bytes have to be the same
