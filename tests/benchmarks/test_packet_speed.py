"""Speed of transport packets against the raw primitives on the same bytes: AES-128-CTR and HMAC-SHA-256."""

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sevref.transport import Context, make_packet, open_packet

SIZE = 0x4000  # bytes of the largest packet
TEK, TIK, IV = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
PLAIN = bytes(range(256)) * (SIZE // 256)
GOAL = 1.67


def raw_make():
    cipher = Cipher(algorithms.AES(TEK), modes.CTR(IV)).encryptor()
    data = cipher.update(PLAIN) + cipher.finalize()
    return hmac.digest(TIK, data, "sha256"), data


def test_making_a_packet(ratio):
    header, data = make_packet(TEK, TIK, Context.DATA, PLAIN, iv=IV)
    assert data == raw_make()[1] and header.iv == IV
    ratio("packet of 16 KiB, made", lambda: make_packet(TEK, TIK, Context.DATA, PLAIN, iv=IV), raw_make, goal=GOAL)


def test_opening_a_packet(ratio):
    header, data = make_packet(TEK, TIK, Context.DATA, PLAIN, iv=IV)
    assert open_packet(TEK, TIK, Context.DATA, header, data) == PLAIN
    ratio("packet of 16 KiB, opened", lambda: open_packet(TEK, TIK, Context.DATA, header, data), raw_make, goal=GOAL)
