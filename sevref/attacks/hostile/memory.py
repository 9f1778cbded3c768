"""Attacks on memory encryption, as a hostile hypervisor makes them. Each returns what the attacker claims to have got.

The experiments' numbers E1 to E21 are those of the walkthrough (notebook 12). Whether a claim is true is judged at the
other end of the pipe, where the victim lives.
"""

from __future__ import annotations

from contextlib import suppress
from math import gcd
from typing import Any

from sevref.attacks.hostile.host import PAGE, Host, Refused, blocks, rank, tweak, xor

Claim = dict[str, Any]


def determinism(host: Host) -> Claim:
    """E1: the victim stores A, B, A at one place; equal plaintext gives equal ciphertext."""
    p, seen = host.place(host.brief["request"]), []
    for letter in (b"A", b"B", b"A"):
        host.run("store", data=(letter * 16).hex())
        seen.append(host.read(p, 16))
    return {"equal": seen[0] == seen[2], "differs": seen[0] != seen[1], "ciphertexts": [c.hex() for c in seen]}


def address_dependence(host: Host) -> Claim:
    """E2: two zero pages, and how many different ciphertext blocks are in them.

    In one page, and in both."""
    page = host.place(host.brief["request"])
    host.run("store", data=bytes(PAGE).hex())
    one = blocks(host.read(page, PAGE))
    host.run("store", data=bytes(PAGE).hex(), page=1)
    two = blocks(host.read(host.place(host.brief["request"] + PAGE), PAGE))
    return {"in_one": len(set(one)), "in_both": len(set(one + two))}


def plain_reads(host: Host) -> Claim:
    """E3: read the victim's page raw, through the host's key and as another guest."""
    gpa = host.brief["secret"]
    p = host.place(gpa)
    found = [host.read(p, PAGE), host.read(host.c_bit | p, PAGE)]
    with suppress(Refused):  # an attacker loses nothing by trying
        found.append(host.run_as(host.brief["own_asid"], p, gpa, PAGE))
    return {"pages": [page.hex() for page in found]}


def fault(host: Host) -> Claim:
    """E4: flip one ciphertext bit under an RSA-CRT exponent and let the victim sign (Buhren et al. 2017).

    One faulty signature gives the private key."""
    n, e = int(host.brief["rsa_n"]), int(host.brief["rsa_e"])
    p, message = host.place(host.brief["rsa"]), 0x1234567
    cell = host.read(p, 1)
    host.write(p, bytes([cell[0] ^ 1]))
    try:
        signature = int(host.run("sign", message=message))
    finally:
        host.write(p, cell)
    factor = gcd(pow(signature, e, n) - message, n)
    return {"factor": factor if 1 < factor < n else 0}


def registers(host: Host) -> Claim:
    """E4 on the registers that the hardware saved: flip one bit of RAX and let the victim go on."""
    p = int(host.brief["save_area"]) + 0x1F8
    cell = host.read(p, 16)
    host.write(p, bytes([cell[0] ^ 1]) + cell[1:])
    return {"rax": host.run("go_on")}


def registers_replay(host: Host) -> Claim:
    """E12 on the saved registers: keep the old page, let the victim count on, put the page back."""
    p = int(host.brief["save_area"])
    old = host.read(p, PAGE)
    first = host.run("go_on")
    host.write(p, old)
    return {"first": first, "again": host.run("go_on")}


def recover_constants(host: Host) -> Claim:
    """E5: under XE the difference of one moved block is T(p) ^ T(q).

    On the attacker's own memory: encrypt zeros at p, move the 16 bytes to p ^ 2^i, decrypt there. Equations for several
    pairs, solved over GF(2)."""
    c, base, bits = host.c_bit, int(host.brief["own"]), range(4, int(host.brief["own_bits"]))
    found = {}
    for bit in bits:
        p, q = base, base ^ 1 << bit
        host.write(c | p, bytes(16))
        host.write(q, host.read(p, 16))
        found[bit] = host.read(c | q, 16)
    # If T is linear, a move over two bits must give the sum: that is the test of the claim.
    p, q = base, base ^ 0b11 << 4
    host.write(c | p, bytes(16))
    host.write(q, host.read(p, 16))
    linear = host.read(c | q, 16) == xor(found[4], found[5])
    words = [int.from_bytes(value, "big") for value in found.values()]
    return {"constants": {bit: v.hex() for bit, v in found.items()}, "linear": linear, "rank": rank(words)}


def move_blocks(host: Host) -> Claim:
    """E6: swap the ciphertext of two known blocks; under XE the guest then reads a known difference."""
    page, constants = host.brief["request"], host.brief["constants"] or {}
    p, q = host.place(page), host.place(page) + 0x210
    m_p, m_q = b"block at p......", b"block at q,other"
    host.run("store", data=m_p.hex())
    host.run("store", data=m_q.hex(), offset=0x210)
    a, b = host.read(p, 16), host.read(q, 16)
    host.write(p, b)
    host.write(q, a)
    difference = tweak(constants, p ^ q)
    return {"predicted": {str(page): xor(m_q, difference).hex(), str(page + 0x210): xor(m_p, difference).hex()}}


def markers(host: Host) -> Claim:
    """E7: get data that equals its own tweak into the victim (a web request will do) and search memory for it.

    Blocks that are all alike are where the victim keeps requests. Under XEX ciphertext ^ T(p) is looked at instead."""
    constants, places = host.brief["constants"] or {}, [int(p) for p in host.brief["pages"]]
    # Where the request will lie is not known: each candidate page is tried with the tweaks of that page.
    for candidate in places:
        request = b"".join(tweak(constants, candidate + i) for i in range(0, PAGE, 16))
        host.run("store", data=request.hex())
        for page in places:
            raw = blocks(host.read(page, PAGE))
            untweaked = [xor(block, tweak(constants, page + 16 * i)) for i, block in enumerate(raw)]
            for form, found in (("c", raw), ("c ^ T", untweaked)):
                if len(set(found)) == 1:
                    return {"found": page, "form": form, "alike": len(found)}
    return {"found": 0}


def guess_constant(host: Host) -> Claim:
    """E8: guess and check of a tweak constant with little entropy (period 2: 65,536 values).

    On the attacker's own memory. Block j carries guess j; the whole megabyte is written, moved and read at once."""
    c, base, bit = host.c_bit, int(host.brief["own"]), 20
    size = 65536 * 16
    guesses = b"".join(j.to_bytes(2, "little") * 8 for j in range(65536))
    host.write(c | base, bytes(size))
    host.write(base ^ 1 << bit, xor(host.read(base, size), guesses))
    seen = host.read(c | base ^ 1 << bit, size)
    hits = [j for j in range(65536) if seen[16 * j : 16 * j + 16] == guesses[16 * j : 16 * j + 16]]
    constant = hits[0].to_bytes(2, "little").hex() * 8 if len(hits) == 1 else ""
    return {"hits": len(hits), "bit": bit, "constant": constant}


def known_text(host: Host) -> Claim:
    """E9: a restricted encryption oracle for two bytes at an address of the victim's code.

    Search the known kernel text for a block whose plaintext, moved there, begins with them, and move its ciphertext."""
    constants, kernel = host.brief["constants"] or {}, bytes.fromhex(host.brief["kernel_text"])
    start, target = int(host.brief["kernel"]), int(host.brief["check"])
    p, wanted = host.place(target), bytes.fromhex(host.brief["wanted"])
    # T is linear: T(p ^ q) = T(page of p ^ page of q) ^ T(offsets), so 256 tweaks serve every page.
    offsets = [tweak(constants, i) for i in range(0, PAGE, 16)]
    for i in range(0, len(kernel), PAGE):
        q = host.place(start + i)
        base = tweak(constants, (p ^ q) & ~(PAGE - 1))
        for j in range(256):
            difference = xor(base, offsets[j ^ p % PAGE // 16])
            at = i + 16 * j
            if start + at != target and xor(kernel[at : at + 2], difference[:2]) == wanted:
                moved, before = host.read(q + 16 * j, 16), host.read(p, 16)
                host.write(p, xor(moved, difference) if host.brief["mode"] == "xex" else moved)
                try:
                    granted = bool(host.run("check"))
                finally:
                    host.write(p, before)
                return {"searched": at // 16 + 1, "granted": granted}
    return {"searched": len(kernel) // 16, "granted": False}


def _restore_and_try(host: Host, read: Any, write: Any, p: int, size: int) -> Claim:
    clean = read(p, size)
    for pin in range(100):
        if host.run("login", pin=pin):
            return {"pin": pin, "tries": pin + 1}
        write(p, clean)
    return {"pin": -1}


def replay(host: Host) -> Claim:
    """E12: the victim locks after three wrong PINs. Put the block with the counter back after each wrong one."""
    return _restore_and_try(host, host.read, host.write, host.place(host.brief["counter"]), 16)


def replay_page(host: Host) -> Claim:
    """E12 with a whole page."""
    return _restore_and_try(host, host.read, host.write, host.place(host.brief["counter"]) & ~(PAGE - 1), PAGE)


def remap(host: Host) -> Claim:
    """E13 (SEVered): the victim serves a page to everybody who asks. Map the page with the secret in its place."""
    resource, secret = int(host.brief["resource"]), int(host.brief["secret"])
    a, b = host.place(resource), host.place(secret)
    host.remap(resource, b)
    host.remap(secret, a)
    return {"page": host.run("serve")}


def raw_move(host: Host) -> Claim:
    """E14: move a guest page without the firmware: copy the ciphertext, remap. Then the right way, with COPY."""
    gpa, free = int(host.brief["secret"]), int(host.brief["own"])
    p = host.place(gpa)
    before = host.read(p, PAGE)
    host.write(free, before)
    host.remap(gpa, free)
    by_hand = host.run("digest")
    host.remap(gpa, p)
    host.copy(int(host.brief["handle"]), p, free)
    host.remap(gpa, free)
    return {"by_hand": by_hand, "by_firmware": host.run("digest"), "raw_differs": host.read(free, PAGE) != before}


def side_channel(host: Host) -> Claim:
    """E15: the ciphertext side channel (Li et al. 2021, 2022) of a constant-time ladder.

    Before each step of an exponentiation the victim stores a swap mask, all zeros or all ones, at a fixed place. Equal
    ciphertexts, equal bits."""
    p, n = host.place(host.brief["mask"]), int(host.brief["bits"])
    seen = []
    host.run("ladder_start")
    for _ in range(n):
        host.run("ladder_step")
        seen.append(host.read(p, 16))
    # The mask is bit ^ previous bit; the first bit of an exponent is 1 and the bit before it counts as 0.
    ones, bit, bits = seen[0], 0, ""
    for ciphertext in seen:
        bit ^= ciphertext == ones
        bits += str(bit)
    return {"exponent": int(bits, 2), "different": len(set(seen))}


def dictionary(host: Host) -> Claim:
    """E15 with a dictionary: first the victim handles known values (the attacker's own logins), then the secret one."""
    p, known = host.place(host.brief["request"]), {}
    for value in range(100):
        host.run("store", data=(b"PIN=%02d" % value).ljust(16, b"\0").hex())
        known[host.read(p, 16)] = value
    host.run("store_pin")
    return {"pin": known.get(host.read(p, 16), -1)}


def registers_dictionary(host: Host) -> Claim:
    """E15 on saved registers (CipherLeaks): learn the ciphertexts of known values of RAX, look the secret up."""
    p, known = int(host.brief["save_area"]) + 0x1F0, {}
    for value in range(100):
        host.run("stop_with", value=value)
        known[host.read(p, 16)] = value
    host.run("stop_with_pin")
    return {"pin": known.get(host.read(p, 16), -1)}


def firmware_oracle(host: Host) -> Claim:
    """E16 (Heracles): let the firmware encrypt chosen content at the address of the secret.

    Record the ciphertext of the secret at p. Then let the firmware move a page of chosen content to p: the same
    ciphertext means the same plaintext."""
    handle, gpa = int(host.brief["handle"]), int(host.brief["secret"])
    p, x = host.place(gpa), host.place(host.brief["request"])
    recorded = host.read(p, 16)
    for value in range(100):
        host.run("store", data=(b"PIN=%02d" % value).ljust(16, b"\0").hex())
        host.copy(handle, x, p)
        if host.read(p, 16) == recorded:
            return {"pin": value}
    return {"pin": -1}


def alias(host: Host) -> Claim:
    """E17 (BadRAM): a second address reaches the same cells; replay through it. No check is made on that address."""
    distance = int(host.brief["alias"])
    return _restore_and_try(host, host.read, host.write, host.place(host.brief["counter"]) + distance, 16)


def interposer(host: Host) -> Claim:
    """E17 (Battering RAM, bus readers): replay on the memory bus itself."""
    return _restore_and_try(host, host.bus_read, host.bus_write, host.place(host.brief["counter"]), 16)


def crossline(host: Host) -> Claim:
    """E18 (CrossLine): run the attacker's virtual machine with the victim's ASID and read through the victim's key."""
    gpa = int(host.brief["secret"])
    return {"pages": [host.run_as(int(host.brief["asid"]), host.place(gpa), gpa, PAGE).hex()]}


def permute(host: Host) -> Claim:
    """E20 (undeSErVed trust): launch the owner's image block by block in the measured order, at other addresses."""
    image, base = bytes.fromhex(host.brief["image"]), int(host.brief["own"])
    policy, scratch = int(host.brief["policy"]), int(host.brief["scratch"]) + 0x1000
    answer = host.mailbox(0x30, (0, 4), (policy, 4), (0, 8), (0, 4), (0, 4), (0, 8), (0, 4))
    handle = int.from_bytes(answer[:4], "little")
    host.mailbox(0x21, (handle, 4), (int(host.brief["free_asid"]), 4))
    count = len(image) // 16
    order = [*range(1, count), 0]  # everything one block further on, the last block first
    for i, place in enumerate(order):
        host.write(base + 16 * place, image[16 * i : 16 * i + 16])
        host.mailbox(0x31, (handle, 4), (0, 4), (base + 16 * place, 8), (16, 4))
    host.mailbox(0x33, (handle, 4), (0, 4), (scratch, 8), (48, 4))
    host.mailbox(0x35, (handle, 4))
    return {"handle": handle, "base": base}
