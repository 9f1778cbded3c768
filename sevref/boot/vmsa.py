"""The initial register pages (VMSA) of an SEV-ES guest as QEMU and KVM make them.

A VMSA is a page of 4096 bytes (AMD64 Architecture Programmer's Manual, volume 2, "VMSA"). Its initial content
is part of the launch digest, so a guest owner who predicts the digest has to know every byte.
"""

from __future__ import annotations

from sevref.boot.footer import parse_footer
from sevref.layout import Layout, nested, raw, u16, u32, u64
from sevref.status import InputError

RESET_VECTOR = 0xFFFFFFF0  #: where the boot processor starts

OTHER = "other registers, zero in an initial page"


class SegmentRegister(Layout, size=16):
    """A segment or descriptor-table register in a VMSA."""

    selector = u16(0x0, "selector")
    attributes = u16(0x2, "descriptor bits 47:40 in bits 7:0, bits 55:52 in bits 11:8")
    limit = u32(0x4, "limit")
    base = u64(0x8, "base address")


class Vmsa(Layout, size=0x1000):
    """A VMSA page; named are the fields that an initial page sets."""

    es = nested(0x000, SegmentRegister, "data segment")
    cs = nested(0x010, SegmentRegister, "code segment")
    ss = nested(0x020, SegmentRegister, "stack segment")
    ds = nested(0x030, SegmentRegister, "data segment")
    fs = nested(0x040, SegmentRegister, "data segment")
    gs = nested(0x050, SegmentRegister, "data segment")
    gdtr = nested(0x060, SegmentRegister, "global descriptor table")
    ldtr = nested(0x070, SegmentRegister, "local descriptor table")
    idtr = nested(0x080, SegmentRegister, "interrupt descriptor table")
    tr = nested(0x090, SegmentRegister, "task register")
    other_0a0 = raw(0x0A0, 0x30, OTHER)
    efer = u64(0x0D0, "EFER; KVM sets SVME")
    other_0d8 = raw(0x0D8, 0x70, OTHER)
    cr4 = u64(0x148, "CR4; KVM sets MCE")
    cr3 = u64(0x150, "CR3")
    cr0 = u64(0x158, "CR0")
    dr7 = u64(0x160, "DR7")
    dr6 = u64(0x168, "DR6")
    rflags = u64(0x170, "RFLAGS")
    rip = u64(0x178, "instruction pointer")
    other_180 = raw(0x180, 0xE8, OTHER)
    g_pat = u64(0x268, "page attribute table")
    other_270 = raw(0x270, 0xA0, OTHER)
    rdx = u64(0x310, "RDX; at reset the processor's signature, as CPUID Fn0000_0001 EAX")
    other_318 = raw(0x318, 0x98, OTHER)
    sev_features = u64(0x3B0, "SEV_FEATURES")
    other_3b8 = raw(0x3B8, 0x30, OTHER)
    xcr0 = u64(0x3E8, "XCR0")
    other_3f0 = raw(0x3F0, 0x18, OTHER)
    mxcsr = u32(0x408, "MXCSR")
    other_40c = raw(0x40C, 0x4, OTHER)
    x87_fcw = u16(0x410, "x87 control word")
    other_412 = raw(0x412, 0xBEE, OTHER)


#: name -> MXCSR and x87 control word of the page. KVM leaves both out for a guest of KVM_SEV_ES_INIT, so that
#: old measurements stay valid, and sets them for one of KVM_SEV_INIT2: one guest has two legitimate digests.
FPU: dict[str, tuple[int, int]] = {"legacy": (0, 0), "init2": (0x1F80, 0x037F)}


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """The signature of a processor, which is RDX at reset: the layout of CPUID Fn0000_0001 EAX.

    Stepping in bits 3:0, model in 7:4 and 19:16, family in 11:8 and, less 15, in 27:20 if it is above 15.
    ``InputError`` for numbers that do not fit.
    """
    for name, value, limit in ("family", family, 270), ("model", model, 255), ("stepping", stepping, 15):
        if not 0 <= value <= limit:
            raise InputError(f"CPU {name}", f"0 to {limit}", value)
    base = min(family, 15)
    return (family - base) << 20 | model >> 4 << 16 | base << 8 | (model & 15) << 4 | stepping


def build_vmsa(entry: int = RESET_VECTOR, *, vcpu_sig: int = 0, sev_features: int = 0, fpu: str = "init2") -> bytes:
    """The initial page (4096 bytes) of a vCPU under QEMU that starts at ``entry``.

    ``entry`` is a 32-bit address: its high half becomes the base of CS and its low half RIP. The boot
    processor starts at the default, application processors at the firmware's reset address. ``fpu`` is
    "init2" or "legacy", see ``FPU``; what QEMU starts by default is "legacy". ``InputError`` for values that
    do not fit.
    """
    if fpu not in FPU:
        raise InputError("fpu", "one of " + ", ".join(FPU), fpu)
    if not 0 <= entry < 1 << 32:
        raise InputError("entry point", "an address of 32 bits", hex(entry))
    data = SegmentRegister(attributes=0x93, limit=0xFFFF)
    mxcsr, x87_fcw = FPU[fpu]
    return Vmsa(
        es=data,
        cs=SegmentRegister(selector=0xF000, attributes=0x9B, limit=0xFFFF, base=entry & 0xFFFF0000),
        ss=data,
        ds=data,
        fs=data,
        gs=data,
        gdtr=SegmentRegister(limit=0xFFFF),
        ldtr=SegmentRegister(attributes=0x82, limit=0xFFFF),
        idtr=SegmentRegister(limit=0xFFFF),
        tr=SegmentRegister(attributes=0x8B, limit=0xFFFF),
        efer=0x1000,
        cr4=0x40,
        cr0=0x10,
        dr7=0x400,
        dr6=0xFFFF0FF0,
        rflags=0x2,
        rip=entry & 0xFFFF,
        g_pat=0x0007040600070406,
        rdx=vcpu_sig,
        sev_features=sev_features,
        xcr0=1,
        mxcsr=mxcsr,
        x87_fcw=x87_fcw,
    ).pack()


def initial_vmsas(
    firmware: bytes, vcpus: int, *, vcpu_sig: int, sev_features: int = 0, fpu: str = "init2"
) -> list[bytes]:
    """The pages of all ``vcpus`` of a guest, boot processor first, in the order in which they are measured.

    ``InputError`` for a count below 1 and for a firmware image without an SEV-ES reset block.
    """
    if vcpus < 1:
        raise InputError("number of vCPUs", "1 or more", vcpus)
    how = {"vcpu_sig": vcpu_sig, "sev_features": sev_features}
    reset = parse_footer(firmware).reset_address()
    return [build_vmsa(RESET_VECTOR, fpu=fpu, **how)] + [build_vmsa(reset, fpu=fpu, **how)] * (vcpus - 1)
