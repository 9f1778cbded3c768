"""Launch digest, launch measurement and attestation report where the known answers do not reach: limits, input kinds,
certificates."""

import hashlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevref.certs import Algo, SevCertificate, Usage, new_certificate
from sevref.crypto import PrivateKey, ecdsa_sign
from sevref.measurement import (
    AttestationBody,
    AttestationReport,
    MeasureInput,
    MeasureInput016,
    MeasurementBlob,
    launch_digest,
    launch_measurement,
    verify_attestation,
)
from sevref.status import InputError, SevError

GOOD = {"policy": 1, "digest": bytes(32), "nonce": bytes(16)}


def test_layouts() -> None:
    """Sheet 20, sections 3.5 and 4."""
    assert [(row["name"], row["offset"], row["size"]) for row in MeasureInput.table()] == [
        ("context", 0, 1), ("api_major", 1, 1), ("api_minor", 2, 1), ("build", 3, 1), ("policy", 4, 4),
        ("digest", 8, 32), ("mnonce", 0x28, 16),
    ]  # fmt: skip
    assert [(row["name"], row["offset"], row["size"]) for row in AttestationReport.table()] == [
        ("mnonce", 0x00, 16), ("launch_digest", 0x10, 32), ("policy", 0x30, 4), ("sig_usage", 0x34, 4),
        ("sig_algo", 0x38, 4), ("reserved", 0x3C, 4), ("r", 0x40, 72), ("s", 0x88, 72),
    ]  # fmt: skip
    sizes = [
        layout.SIZE for layout in (MeasureInput, MeasureInput016, MeasurementBlob, AttestationBody, AttestationReport)
    ]
    assert sizes == [56, 52, 48, 52, 208]


# ---------------------------------------------------------------------------------------------- digest


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100)), st.lists(st.integers(0, 255), max_size=3))
def test_only_the_bytes_and_their_order_count(parts: list[bytes], vmsas: list[int]) -> None:
    pages = [bytes([n]) * 4096 for n in vmsas]
    expected = hashlib.sha256(b"".join(parts + pages)).digest()
    assert launch_digest(parts, pages) == expected
    assert launch_digest(b"".join(parts), iter(pages)) == expected
    assert launch_digest([io.BytesIO(b"".join(parts)), bytearray().join(pages)]) == expected


def test_a_large_file_is_read_to_its_end() -> None:
    data = bytes(range(256)) * 12345  # 3 MB, no multiple of any block
    assert launch_digest(io.BytesIO(data)) == hashlib.sha256(data).digest()
    assert launch_digest([memoryview(data)[:1000], io.BytesIO(data[1000:])]) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [0, 16, 4095, 4097, 8192])
def test_a_vmsa_is_a_whole_page(size: int) -> None:
    """LAUNCH_UPDATE_VMSA takes 4096 bytes and nothing else (sheet 20, section 3.4)."""
    with pytest.raises(InputError, match="VMSA 1"):
        launch_digest(b"", [bytes(4096), bytes(size)])


@pytest.mark.parametrize("chunks", ["text", ["text"], 5, [5], None, io.StringIO("text")])
def test_what_is_no_bytes_is_refused(chunks: object) -> None:
    with pytest.raises((InputError, TypeError)):
        launch_digest(chunks)


# ---------------------------------------------------------------------------------------------- measurement


@pytest.mark.parametrize(
    "change",
    [{"digest": bytes(31)}, {"digest": bytes(48)}, {"nonce": bytes(15)}, {"policy": 1 << 32}, {"policy": -1},
     {"api": (0, 256)}, {"api": (256, 0)}, {"build": 256}, {"build": -1}],
    ids=str,
)  # fmt: skip
def test_inputs_that_do_not_fit(change: dict[str, object]) -> None:
    assert len(launch_measurement(bytes(16), **GOOD)) == 32
    with pytest.raises(InputError, match=r"MeasureInput\."):
        launch_measurement(bytes(16), **{**GOOD, **change})


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_tik_is_16_bytes(size: int) -> None:
    with pytest.raises(InputError, match="TIK"):
        launch_measurement(bytes(size), **GOOD)


@pytest.mark.parametrize(("api", "same"), [((0, 16), True), ((0, 0), True), ((0, 17), False), ((1, 0), False)])
def test_old_firmware_names_no_version(api: tuple[int, int], same: bool) -> None:
    """Before API 0.17 neither version nor build enters, so any two agree."""
    assert (launch_measurement(bytes(16), api, 1, **GOOD) == launch_measurement(bytes(16), (0, 16), 2, **GOOD)) is same


# ---------------------------------------------------------------------------------------------- attestation

KEY = PrivateKey(0xC0 << 300 | 1)


def certificate(usage: int = Usage.PEK, algo: int = Algo.ECDSA_SHA256, key: PrivateKey = KEY) -> SevCertificate:
    return new_certificate(usage, algo, key.public, (0, 24))


def report(algo: int = 2, **fields: object) -> AttestationReport:
    made = AttestationReport(mnonce=bytes(16), launch_digest=bytes(range(32)), policy=5, sig_algo=algo)
    made.r, made.s = ecdsa_sign(KEY, made.signed_bytes(), "sha384" if algo & 0x100 else "sha256")
    return made.replace(**fields)


@pytest.mark.parametrize("algo", [0x002, 0x102])
def test_a_certificate_verifies_its_report(algo: int) -> None:
    found = verify_attestation(report(algo).pack(), certificate(algo=algo))
    assert (found.policy, found.launch_digest) == (5, bytes(range(32)))


@pytest.mark.parametrize(
    ("fields", "cert", "status"),
    [
        ({"sig_algo": 0x102}, {}, "BAD_SIGNATURE"),  # not what the certificate says
        ({}, {"algo": 0x102}, "BAD_SIGNATURE"),
        ({"sig_algo": 3}, {"algo": 3}, "BAD_SIGNATURE"),  # an ECDH key signs nothing
        ({"sig_usage": 0x1004}, {}, "BAD_SIGNATURE"),
        ({"sig_usage": 0x1004}, {"usage": 0x1004}, "INVALID_CERTIFICATE"),
        ({}, {"usage": 0x1001}, "INVALID_CERTIFICATE"),
        ({}, {"key": PrivateKey(2)}, "BAD_SIGNATURE"),
        ({"r": 0}, {}, "BAD_SIGNATURE"),
        ({"s": 0}, {}, "BAD_SIGNATURE"),
        ({"policy": 4}, {}, "BAD_SIGNATURE"),
    ],
)  # fmt: skip
def test_a_report_that_does_not_verify(fields: dict[str, int], cert: dict[str, object], status: str) -> None:
    with pytest.raises(SevError) as caught:
        verify_attestation(report(**fields), certificate(**cert))
    assert caught.value.status.name == status


@pytest.mark.parametrize("size", [0, 207, 209])
def test_reports_of_another_size(size: int) -> None:
    with pytest.raises(InputError, match="AttestationReport"):
        verify_attestation(bytes(size), KEY.public)
