"""The engine once more, slow and formula by formula: one block at a time, integers only, nothing from sevref."""

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

# Published constants of Zen 1: four bytes in memory order, repeated four times.
ZEN1 = {
    4: "82253838", 5: "ec09079c", 6: "40000018", 7: "8102a23a", 8: "77d91077", 9: "b010b2c0", 10: "536d544d",
    11: "1568ee53", 12: "b09230c2", 13: "9670ff8e", 14: "361b90d5", 15: "0400c236", 16: "e8182985", 17: "bd31f92a",
    18: "a50d3744", 19: "f431d84c", 20: "02043181", 21: "b37132a1", 22: "508ac06c", 23: "168a8020", 24: "7f9bc007",
    25: "00db0407", 26: "7f000404", 27: "70fa01be", 28: "bb3d2890", 29: "bd2dd526", 30: "1c5d6ce2", 31: "4f5ce727",
}  # fmt: skip


def zen1() -> dict[int, bytes]:
    return {bit: bytes.fromhex(pattern) * 4 for bit, pattern in ZEN1.items()}


def kdf(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    assert size <= 32
    message = b"\x01\0\0\0" + label + b"\0" + context + (size * 8).to_bytes(4, "little")
    return hmac.digest(key, message, "sha256")[:size]


def seeded(seed: bytes, bits: int = 46, period: int = 16) -> dict[int, bytes]:
    label = b"sevref-tweak-constant"
    return {i: kdf(seed, label, i.to_bytes(4, "little"), period) * (16 // period) for i in range(4, bits)}


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def tweak(constants: dict[int, bytes], p: int) -> bytes:
    total = bytes(16)
    for bit, constant in constants.items():
        if p >> bit & 1:
            total = xor(total, constant)
    return total


def aes(key: bytes, block: bytes, encrypt: bool) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.ECB())
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(block) + context.finalize()


def xex(constants: dict[int, bytes], seed: bytes, p: int, data: bytes, encrypt: bool) -> bytes:
    """Whole blocks at p; the key is the first half of the seed."""
    out = b""
    for i in range(0, len(data), 16):
        t = tweak(constants, p + i)
        out += xor(aes(seed[:16], xor(data[i : i + 16], t), encrypt), t)
    return out


def read(constants: dict[int, bytes], seed: bytes, dram: bytes, p: int, n: int) -> bytes:
    """Byte by byte, each from its own block."""
    out = b""
    for a in range(p, p + n):
        start = a - a % 16
        out += xex(constants, seed, start, dram[start : start + 16], False)[a % 16 : a % 16 + 1]
    return out


def write(constants: dict[int, bytes], seed: bytes, dram: bytearray, p: int, data: bytes) -> None:
    """Byte by byte: decrypt the block, change one byte, encrypt it again."""
    for a, byte in enumerate(data, p):
        start = a - a % 16
        plain = bytearray(xex(constants, seed, start, bytes(dram[start : start + 16]), False))
        plain[a % 16] = byte
        dram[start : start + 16] = xex(constants, seed, start, bytes(plain), True)


def xe(constants: dict[int, bytes], seed: bytes, p: int, data: bytes, encrypt: bool) -> bytes:
    """Whole blocks at p, with the tweak on the side of the plaintext alone."""
    out = b""
    for i in range(0, len(data), 16):
        block, t = data[i : i + 16], tweak(constants, p + i)
        out += aes(seed[:16], xor(block, t), True) if encrypt else xor(aes(seed[:16], block, False), t)
    return out


def times_alpha(block: bytes) -> bytes:
    """IEEE 1619: the block as a polynomial, bit 0 of byte 0 lowest, times x modulo x^128 + x^7 + x^2 + x + 1."""
    value = int.from_bytes(block, "little") << 1
    if value >> 128:
        value ^= 1 << 128 | 0b10000111
    return value.to_bytes(16, "little")


def xts_tweak(k2: bytes, p: int, unit: int) -> bytes:
    t = aes(k2, (p // unit).to_bytes(16, "little"), True)
    for _ in range(p % unit // 16):
        t = times_alpha(t)
    return t


def xts(boot_seed: bytes, seed: bytes, p: int, data: bytes, encrypt: bool, channels: int = 1, unit: int = 64) -> bytes:
    """Whole blocks at p, with the model's interleave of 256 bytes and the key of each channel."""
    k2, out = kdf(boot_seed, b"sevref-xts-tweak-key", bytes(4), 32), b""
    for i in range(0, len(data), 16):
        channel = (p + i >> 8) % channels
        key = kdf(seed, b"sev-vm-encryption-key-0\0", channel.to_bytes(4, "little"), 32)
        t = xts_tweak(k2, p + i, unit)
        out += xor(aes(key, xor(data[i : i + 16], t), encrypt), t)
    return out
