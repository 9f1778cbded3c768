"""Compare a session field by field: keys and random bytes are given, so every byte is known."""

import sevref
from sevref.transport import key_wrap_keys, master_secret

owner, platform = sevref.PrivateKey(0x1234567), sevref.PrivateKey(0x89ABCDE)  # TEST keys
nonce, iv = bytes(16), bytes([1] * 16)
tek, tik = bytes([2] * 16), bytes([3] * 16)
policy = sevref.Policy.make("NODBG", "NOKS", api=(0, 24))

z = sevref.ecdh(owner, platform.public)  # 48 bytes, big-endian
secret = master_secret(z, nonce)  # 16 bytes
kek, kik = key_wrap_keys(secret)  # 16 bytes each

session = sevref.Session.build(
    owner,
    platform.public,
    policy,
    tek=tek,
    tik=tik,
    nonce=nonce,
    wrap_iv=iv,
)
mine = session.pack()  # your implementation's 128 bytes instead

for row, expected in zip(sevref.Session.parse(mine).describe(), session.describe(), strict=True):
    print(f"0x{row.offset:02X} {row.name:10} {row.data.hex()}")
    if row.data != expected.data:
        print(f"     expected   {expected.data.hex()}")
