"""Where the specification and a real firmware differ: one frozen object, one name per difference.

``SPEC_0_24`` is the default. ``GENOA_1_55_25`` answers as AMD's published Genoa firmware 1.55 build 25 was observed to.
No code asks which profile it is; it asks for a switch by name. ASID ranges and CCXs are the machine's, not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sevref.status import Status


class ApiVersion(NamedTuple):
    """What the firmware says it is: API major, minor and build (one byte each)."""

    major: int
    minor: int
    build: int

    @property
    def api(self) -> tuple[int, int]:
        """API major and minor, without the build."""
        return self.major, self.minor


@dataclass(frozen=True)
class Profile:
    """What a firmware does where specification and real firmware differ: one named switch per difference.

    ``SPEC_0_24`` (default) is the specification's answer, ``GENOA_1_55_25`` what Genoa firmware 1.55 build 25 was
    observed to do. Any other mix: ``dataclasses.replace(SPEC_0_24, name=..., packet_max_len=0x5000)``.
    """

    name: str
    #: version reported in PLATFORM_STATUS, certificates and measurements
    api_version: ApiVersion
    #: DF_FLUSH in UNINIT executes instead of INVALID_PLATFORM_STATE
    df_flush_in_uninit: bool
    #: status of a range that is not inside one DRAM region
    outside_dram_status: Status
    #: ranges that contain address 0 are refused
    reject_address_zero: bool
    #: command buffers are transferred with the padding of the firmware's C structures
    padded_command_buffers: bool
    #: the ECDSA nonce is drawn (48 bytes little-endian) instead of RFC 6979
    ecdsa_nonce_drawn: bool
    #: (start, size) parts of an enabled 1 MiB TMR that SHUTDOWN clears
    tmr_clear_on_shutdown: tuple[tuple[int, int], ...]
    #: largest payload of a packet in bytes
    packet_max_len: int
    #: LAUNCH_START draws the VEK before its last checks
    draw_vek_before_checks: bool
    #: LAUNCH_UPDATE_DATA and DBG_* finish chunk by chunk of this many bytes (None: all or nothing)
    update_chunk: int | None
    #: LAUNCH_UPDATE_VMSA measures the page before it looks for a checksum slot
    vmsa_measured_before_slot: bool
    #: a LAUNCH_MEASURE that cannot write its output has drawn and finalised all the same
    failed_measure_finalises: bool
    #: ATTESTATION draws its nonce before it checks the output address
    attestation_draws_before_address_check: bool
    #: first byte of the MAC of a VMSA packet
    vmsa_packet_context: int
    #: SEND_START draws before it checks SESSION_PADDR
    send_start_draws_before_address_check: bool
    #: SEND_UPDATE_* writes as far as it gets
    send_update_partial_output: bool
    #: check API version and reserved bits of the policy without a session too
    strict_policy: bool = False


SPEC_0_24 = Profile(
    name="SPEC_0_24",
    api_version=ApiVersion(0, 24, 15),
    df_flush_in_uninit=False,
    outside_dram_status=Status.INVALID_ADDRESS,
    reject_address_zero=False,
    padded_command_buffers=False,
    ecdsa_nonce_drawn=False,
    tmr_clear_on_shutdown=((0, 0x100000),),
    packet_max_len=0x4000,
    draw_vek_before_checks=False,
    update_chunk=None,
    vmsa_measured_before_slot=False,
    failed_measure_finalises=False,
    attestation_draws_before_address_check=False,
    vmsa_packet_context=3,
    send_start_draws_before_address_check=False,
    send_update_partial_output=False,
)
"""The specification's answers, API 0.24 build 15: the default."""

GENOA_1_55_25 = Profile(
    name="GENOA_1_55_25",
    api_version=ApiVersion(1, 55, 25),
    df_flush_in_uninit=True,
    outside_dram_status=Status.INVALID_CONFIG,
    reject_address_zero=True,
    padded_command_buffers=True,
    ecdsa_nonce_drawn=True,
    tmr_clear_on_shutdown=((0, 0x40000), (0x80000, 0x80000)),
    packet_max_len=0x5000,
    draw_vek_before_checks=True,
    update_chunk=0x5000,
    vmsa_measured_before_slot=True,
    failed_measure_finalises=True,
    attestation_draws_before_address_check=True,
    vmsa_packet_context=2,
    send_start_draws_before_address_check=True,
    send_update_partial_output=True,
)
"""The answers of AMD's published Genoa firmware, API 1.55 build 25, as they were observed."""
