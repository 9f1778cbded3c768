"""Compare a certificate field by field, and the verdict on a chain check by check."""

import sevref

amd = sevref.SimulatedAmd("milan")  # TEST keys; AMD's own roots are sevref.amd_roots("milan")
machine = sevref.Machine("milan", seed=b"my tests")
amd.enrol(machine)
hypervisor = sevref.Hypervisor(sevref.Platform(machine))
hypervisor.boot()  # INIT, WBINVD, DF_FLUSH
chain = hypervisor.certificates(amd)  # PDH, PEK, OCA, CEK, ASK, ARK

mine = bytearray(chain.pek.pack())  # your implementation's bytes instead;
mine[0x05] = 25  # here one differs: the API version
parsed = sevref.parse_certificate(mine)
for row, expected in zip(parsed.describe(), chain.pek.describe(), strict=True):
    if row.data != expected.data:
        print(f"0x{row.offset:03X} {row.name}: {row.data.hex()}, expected {expected.data.hex()}")

forged = chain.replace(pek=parsed)
for check in sevref.verify_chain(forged, roots=amd.roots).failures:
    print(f"{check.subject}: {check.check}: {check.status.name}")
