"""The initial register pages (VMSA) of SEV-ES and SEV-SNP guests as the known virtual machine managers make them.

A VMSA is a page of 4096 bytes (AMD64 Architecture Programmer's Manual, volume 2). Its initial content
is part of the launch digest, so a guest owner who predicts the digest has to know every byte.
"""

from __future__ import annotations

from typing import NamedTuple

from sevref.boot.footer import parse_footer
from sevref.boot.image import Image
from sevref.layout import Layout, nested, raw, u16, u32, u64
from sevref.status import InputError

RESET_VECTOR = 0xFFFFFFF0  #: where the boot processor starts

OTHER = "other registers, zero in an initial page"


class SegmentRegister(Layout, size=16):
    """A segment or descriptor-table register in a VMSA, 16 bytes.

    Integers are little-endian. Offset, size in bytes, field:

        0x00 2  selector    selector
        0x02 2  attributes  descriptor bits 47:40 in bits 7:0, bits 55:52 in bits 11:8
        0x04 4  limit       limit
        0x08 8  base        base address
    """

    selector = u16(0x0, "selector")
    attributes = u16(0x2, "descriptor bits 47:40 in bits 7:0, bits 55:52 in bits 11:8")
    limit = u32(0x4, "limit")
    base = u64(0x8, "base address")


class Vmsa(Layout, size=0x1000):
    """A VMSA page, 4096 bytes: register state of one vCPU of an SEV-ES or SEV-SNP guest.

    Named are the fields that an initial page sets; what lies between them (``other_...``) is kept as it is (AMD64
    Architecture Programmer's Manual, volume 2). Integers are little-endian. Offset, size in bytes, field:

        0x000 16  es            data segment
        0x010 16  cs            code segment
        0x020 16  ss            stack segment
        0x030 16  ds            data segment
        0x040 16  fs            data segment
        0x050 16  gs            data segment
        0x060 16  gdtr          global descriptor table
        0x070 16  ldtr          local descriptor table
        0x080 16  idtr          interrupt descriptor table
        0x090 16  tr            task register
        0x0D0  8  efer          EFER; KVM sets SVME
        0x148  8  cr4           CR4; KVM sets MCE
        0x150  8  cr3           CR3
        0x158  8  cr0           CR0
        0x160  8  dr7           DR7
        0x168  8  dr6           DR6
        0x170  8  rflags        RFLAGS
        0x178  8  rip           instruction pointer
        0x1D8  8  rsp           RSP
        0x268  8  g_pat         page attribute table
        0x2F0  8  tsc_scale     GUEST_TSC_SCALE; SNP measures it as zero
        0x2F8  8  tsc_offset    GUEST_TSC_OFFSET; SNP measures it as zero
        0x310  8  rdx           RDX; at reset the processor's signature, as CPUID Fn0000_0001 EAX
        0x328  8  rbp           RBP
        0x330  8  rsi           RSI
        0x3B0  8  sev_features  SEV_FEATURES
        0x3E8  8  xcr0          XCR0
        0x408  4  mxcsr         MXCSR
        0x410  2  x87_fcw       x87 control word
    """

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
    other_180 = raw(0x180, 0x58, OTHER)
    rsp = u64(0x1D8, "RSP")
    other_1e0 = raw(0x1E0, 0x88, OTHER)
    g_pat = u64(0x268, "page attribute table")
    other_270 = raw(0x270, 0x80, OTHER)
    tsc_scale = u64(0x2F0, "GUEST_TSC_SCALE; SNP measures it as zero")
    tsc_offset = u64(0x2F8, "GUEST_TSC_OFFSET; SNP measures it as zero")
    other_300 = raw(0x300, 0x10, OTHER)
    rdx = u64(0x310, "RDX; at reset the processor's signature, as CPUID Fn0000_0001 EAX")
    other_318 = raw(0x318, 0x10, OTHER)
    rbp = u64(0x328, "RBP")
    rsi = u64(0x330, "RSI")
    other_338 = raw(0x338, 0x78, OTHER)
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
#: "peer-svsm" is a defect of sev-snp-measure in SVSM mode since 0.0.10: no KVM does it.
FPU: dict[str, tuple[int, int]] = {"legacy": (0, 0), "init2": (0x1F80, 0x037F), "peer-svsm": (0x1F80, 0)}

#: model name of QEMU -> family, model, stepping; a suffix -v1, -v2 and so on changes nothing
CPU_MODELS: dict[str, tuple[int, int, int]] = {
    "EPYC": (23, 1, 2),
    "EPYC-IBPB": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}

#: SEV_FEATURES by bit (AMD64 Architecture Programmer's Manual, volume 2)
SEV_FEATURES: dict[int, str] = {
    0: "SNPActive",
    1: "vTOM",
    2: "ReflectVC",
    3: "RestrictedInjection",
    4: "AlternateInjection",
    5: "DebugSwap",
    6: "PreventHostIBS",
    7: "BTBIsolation",
    8: "VmplSSS",
    9: "SecureTSC",
    10: "VmgexitParameter",
    12: "IbsVirtualization",
    14: "VmsaRegProt",
    15: "SmtProtection",
    16: "SecureAVIC",
}

#: SNP value of SEV_FEATURES -> hosts that set it; an SEV-ES guest has the same without bit 0
FEATURES_OF_HOSTS: dict[int, str] = {
    0x1: "Linux before 6.6, 6.8, 6.9, and later unless more is asked for",
    0x21: "Linux 6.6 and 6.7, where the processor has DebugSwap",
}


class Vmm(NamedTuple):
    """What distinguishes the pages and the launch of one virtual machine manager.

    Attributes are those of segment registers; ``rdx`` None stands for the signature of the chosen CPU; ``fpu`` says
    whether the variants of ``FPU`` apply (else both fields are 0). ``postpones_cpuid`` and ``sec_mem_unmeasured`` are
    about SNP's metadata sections.
    """

    name: str
    cs: int = 0x9B
    ap_cs: int = 0x9B
    ss: int = 0x93
    tr: int = 0x8B
    g_pat: int = 0x0007040600070406
    rdx: int | None = None
    fpu: bool = False
    postpones_cpuid: bool = False
    sec_mem_unmeasured: bool = False
    fixed_ap: bool = False
    note: str = ""


#: The known managers; where their pages changed, each form with the version that brought it.
VMMS: dict[str, Vmm] = {
    vmm.name: vmm
    for vmm in (
        Vmm("QEMU", fpu=True),
        Vmm(
            "ec2",
            cs=0x9A,
            ss=0x92,
            tr=0x83,
            rdx=0x600,
            postpones_cpuid=True,
            note="sev-snp-measure since 0.0.13, when live measurements had moved",
        ),
        Vmm(
            "ec2-rdx0",
            cs=0x9A,
            ss=0x92,
            tr=0x83,
            rdx=0,
            postpones_cpuid=True,
            note="sev-snp-measure up to 0.0.12 and virtee/sev: RDX is 0",
        ),
        Vmm("gce", g_pat=0x70106, rdx=0x600, sec_mem_unmeasured=True, note="sev-snp-measure since 0.0.12"),
        Vmm("krun", cs=0x9A, ap_cs=0x9A, ss=0x92, tr=0x83, rdx=0, note="as virtee/sev has it; not verified by a run"),
        Vmm("krun-sevctl", cs=0x9A, ap_cs=0x9A, ss=0x92, tr=0x83, fixed_ap=True, note="as sevctl has it; not verified"),
    )
}


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


def signature_of(model: str) -> int:
    """The signature of a CPU model of QEMU by its name, such as "EPYC-Milan-v2". ``InputError`` for an unknown one."""
    stem, _, version = model.rpartition("-v")
    known = CPU_MODELS.get(stem if version.isdecimal() else model)
    if known is None:
        raise InputError("CPU model", "one of " + ", ".join(CPU_MODELS) + ", or -v1 and so on of it", model)
    return cpu_signature(*known)


def build_vmsa(
    entry: int = RESET_VECTOR,
    *,
    vcpu_sig: int = 0,
    sev_features: int = 0,
    fpu: str = "init2",
    vmm: str = "QEMU",
    application: bool | None = None,
) -> bytes:
    """The initial page (4096 bytes) of a vCPU that starts at ``entry``.

    ``entry`` is a 32-bit address: its high half becomes the base of CS and its low half RIP. The boot
    processor starts at the default, application processors at the firmware's reset address. ``application`` says
    which of them it is; by default the entry point does. ``fpu`` is a name of ``FPU`` ("legacy" is what QEMU starts
    an SEV-ES guest with by default), ``vmm`` one of ``VMMS``. ``InputError`` for values that do not fit.
    """
    if fpu not in FPU:
        raise InputError("fpu", "one of " + ", ".join(FPU), fpu)
    if vmm not in VMMS:
        raise InputError("virtual machine manager", "one of " + ", ".join(VMMS), vmm)
    if not 0 <= entry < 1 << 32:
        raise InputError("entry point", "an address of 32 bits", hex(entry))
    how = VMMS[vmm]
    ap = entry != RESET_VECTOR if application is None else application
    selector, base, rip = 0xF000, entry & 0xFFFF0000, entry & 0xFFFF
    if how.fixed_ap and ap:
        selector, base, rip = 0x9100, 0x91000, 0
    stack = {"rsp": 0x8FF0, "rbp": 0x8FF0, "rsi": 0x7000} if how.fixed_ap and not ap else {}
    mxcsr, x87_fcw = FPU[fpu] if how.fpu else (0, 0)
    data = SegmentRegister(attributes=0x93, limit=0xFFFF)
    return Vmsa(
        es=data,
        cs=SegmentRegister(selector=selector, attributes=how.ap_cs if ap else how.cs, limit=0xFFFF, base=base),
        ss=SegmentRegister(attributes=how.ss, limit=0xFFFF),
        ds=data,
        fs=data,
        gs=data,
        gdtr=SegmentRegister(limit=0xFFFF),
        ldtr=SegmentRegister(attributes=0x82, limit=0xFFFF),
        idtr=SegmentRegister(limit=0xFFFF),
        tr=SegmentRegister(attributes=how.tr, limit=0xFFFF),
        rip=rip,
        g_pat=how.g_pat,
        rdx=vcpu_sig if how.rdx is None else how.rdx,
        sev_features=sev_features,
        mxcsr=mxcsr,
        x87_fcw=x87_fcw,
        cr0=0x10,
        **stack,
        **_AT_RESET,
    ).pack()


#: what every manager sets: EFER and CR4 because KVM forces SVME and MCE, the rest as the processor resets
_AT_RESET = {"efer": 0x1000, "cr4": 0x40, "dr7": 0x400, "dr6": 0xFFFF0FF0, "rflags": 0x2, "xcr0": 1}


def build_svsm_vmsa(entry: int, *, vcpu_sig: int, fpu: str = "init2") -> bytes:
    """The initial page (4096 bytes) of every vCPU of a guest that starts in Coconut SVSM at ``entry``.

    32-bit protected mode. ``InputError`` for values that do not fit.
    """
    if fpu not in FPU:
        raise InputError("fpu", "one of " + ", ".join(FPU), fpu)
    data = SegmentRegister(selector=0x10, attributes=0xC93, limit=0xFFFFFFFF)
    mxcsr, x87_fcw = FPU[fpu]
    return Vmsa(
        es=data,
        cs=SegmentRegister(selector=8, attributes=0xC9B, limit=0xFFFFFFFF),
        ss=data,
        ds=data,
        fs=data,
        gs=SegmentRegister(attributes=0x93, limit=0xFFFF),
        gdtr=SegmentRegister(limit=0xFFFF),
        ldtr=SegmentRegister(attributes=0x82, limit=0xFFFF),
        idtr=SegmentRegister(limit=0xFFFF),
        tr=SegmentRegister(attributes=0x8B, limit=0xFFFF),
        cr0=0x11,
        rip=entry,
        g_pat=0x0007040600070406,
        rdx=vcpu_sig,
        sev_features=1,
        mxcsr=mxcsr,
        x87_fcw=x87_fcw,
        **_AT_RESET,
    ).pack()


def initial_vmsas(
    firmware: Image | bytes,
    vcpus: int,
    *,
    vcpu_sig: int,
    sev_features: int = 0,
    fpu: str = "init2",
    vmm: str = "QEMU",
) -> list[bytes]:
    """The pages of all ``vcpus`` of a guest, boot processor first, in the order in which they are measured.

    ``InputError`` for a count below 1 and for a firmware image without an SEV-ES reset block.
    """
    if vcpus < 1:
        raise InputError("number of vCPUs", "1 or more", vcpus)
    reset = parse_footer(firmware).reset_address()
    boot, other = (
        build_vmsa(entry, vcpu_sig=vcpu_sig, sev_features=sev_features, fpu=fpu, vmm=vmm)
        for entry in (RESET_VECTOR, reset)
    )
    return [boot] + [other] * (vcpus - 1)
