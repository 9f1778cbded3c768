"""Kinds of memory engine as data: mode, key size, where tweaks come from, and how sure anybody is of it.

The ``label`` of a preset is the part to quote: it says what AMD published, what researchers measured or reported, and
what is a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sevref.status import InputError
from sevref.tweaks import BLOCK, ZEN1, LinearTweaks, NoTweaks, SeedTweaks, Tweaks, XtsTweaks, seeded_constants


@dataclass(frozen=True)
class Mode:
    """Which side of AES the tweak is XORed to when encrypting."""

    name: str
    before: bool
    after: bool


PLAIN = Mode("plain", before=False, after=False)
XE = Mode("xe", before=True, after=False)
XEX = Mode("xex", before=True, after=True)
XTS = Mode("xts", before=True, after=True)


@dataclass(frozen=True)
class EnginePreset:
    """One kind of engine, as data; ``label`` says what is published or reverse engineered, and what is model."""

    name: str
    mode: Mode
    key_bits: int  #: of the AES key
    tweaks: Callable[[bytes, int], Tweaks]  #: from boot seed and number of physical address bits
    public_constants: bool  #: whether an attacker knows the constants
    stands_for: str
    label: str
    zero_host_key: bool = False  #: the HOST key is 32 zero bytes instead of derived from the boot seed
    #: 0: the key is the first bytes of the guest's 32-byte VEK seed (MODEL). Otherwise one key per memory channel,
    #: derived as in Genoa's firmware; MODEL: channel = (p >> 8) mod channels
    channels: int = 0


PRESETS: dict[str, EnginePreset] = {
    preset.name: preset
    for preset in (
        EnginePreset(
            name="xe-zen1",
            mode=XE,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: LinearTweaks(ZEN1),
            public_constants=True,
            stands_for="EPYC 7251 (Naples), Ryzen 7 1700X",
            label="mode and constants reverse engineered (Du et al. 2017, Wilke et al. 2020); VEK used directly: model",
        ),
        EnginePreset(
            name="xex-zen1",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: LinearTweaks(ZEN1),
            public_constants=True,
            stands_for="EPYC 7401P (Naples), EPYC Embedded 3151",
            label="mode and constants reverse engineered (Wilke et al. 2020); VEK used directly: model",
        ),
        EnginePreset(
            name="xex-boot-random",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: LinearTweaks(seeded_constants(boot_seed, pa_bits)),
            public_constants=False,
            stands_for="Zen 2 and Zen 3 (Rome, Milan)",
            label="mode reverse engineered; size and freshness of the constants reported by researchers, "
            "partly on AMD's word; linearity of T assumed; their values, and VEK used directly: model",
        ),
        EnginePreset(
            name="xts-boot-random",
            mode=XTS,
            key_bits=256,
            tweaks=lambda boot_seed, pa_bits: XtsTweaks(boot_seed),
            public_constants=False,
            stands_for="Zen 4 and Zen 5 (Genoa, Turin)",
            label="AMD's ABI names AES-256-XTS; key size and derivation per channel from AMD's published Genoa "
            "firmware; data unit, tweak key and interleave: model",
            channels=1,
        ),
        EnginePreset(
            name="plain",
            mode=PLAIN,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: NoTweaks(),
            public_constants=True,
            stands_for="no processor",
            label="AES without a tweak, for comparison; nothing of AMD's",
        ),
        EnginePreset(
            name="recorded-traces",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: SeedTweaks(),
            public_constants=False,
            stands_for="the stand-in machine under the recorded traces",
            label="the recording's own engine, nothing of AMD's",
            zero_host_key=True,
        ),
    )
}


def variant(
    preset: str | EnginePreset,
    *,
    period: int | None = None,
    constants: Mapping[int, bytes] | tuple[bytes, ...] | None = None,
    channels: int | None = None,
    unit: int | None = None,
) -> EnginePreset:
    """A preset with other parameters, each of them a MODEL and named in the label.

    ``period`` (bytes: 2, 4, 16) of seeded tweak constants; ``constants``: a table of 16-byte values from bit 4 on;
    ``channels`` (1 to 64) with a key each; ``unit`` (64 or 4096 bytes) of XTS. ``InputError`` for an unknown preset and
    for other values."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError("engine preset", "one of " + ", ".join(PRESETS), preset)
        preset = PRESETS[preset]
    changes: dict[str, Any] = {}
    said = []
    if period is not None:
        seeded_constants(bytes(32), 5, period)  # refuses an impossible period here, not at the next boot
        changes |= {"tweaks": lambda seed, bits: LinearTweaks(seeded_constants(seed, bits, period))}
        changes |= {"public_constants": False}
        said.append(f"constants of period {period}")
    if constants is not None:
        table = tuple(constants.values()) if isinstance(constants, Mapping) else constants
        if any(len(constant) != BLOCK for constant in table):
            raise InputError("tweak constants", "16 bytes each, from address bit 4 on", table)
        changes |= {"tweaks": lambda seed, bits: LinearTweaks(table)}
        said.append("a table of constants that was given")
    if channels is not None:
        if not 1 <= channels <= 64:
            raise InputError("memory channels", "1 to 64", channels)
        changes |= {"channels": channels}
        said.append(f"{channels} channels")
    if unit is not None:
        XtsTweaks(bytes(32), unit)
        changes |= {"tweaks": lambda seed, bits: XtsTweaks(seed, unit)}
        said.append(f"units of {unit} bytes")
    return replace(preset, label="; ".join([preset.label, *said]), **changes) if said else preset
