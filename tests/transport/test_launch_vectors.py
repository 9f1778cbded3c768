"""Known answers of launch-measure.json: launch digests, launch measurements, secrets, the attestation report."""

import base64
import io
import json
import zlib

import pytest

from sevref.crypto import Point, PrivateKey, ecdsa_sign
from sevref.measurement import (
    AttestationReport,
    MeasurementBlob,
    launch_digest,
    launch_measurement,
    measure_input,
    verify_attestation,
)
from sevref.status import SevError, Status
from sevref.transport import (
    PacketHeader,
    SecretMacInput,
    build_secret_table,
    make_packet,
    open_packet,
    parse_secret_table,
    secret_trailer,
)
from support import vectors

FILE = json.loads(vectors("launch-measure.json").read_text())
h = bytes.fromhex


def blob(name: str) -> bytes:
    entry = FILE["blobs"][name]
    if entry["encoding"] == "zlib+base64":
        data = zlib.decompress(base64.b64decode(entry["data"]))
    elif entry["encoding"] == "hex":
        data = h(entry["data"])
    else:  # sparse-qwords
        page = bytearray(entry["size"])
        for offset, qword in entry["data"].items():
            page[int(offset, 16) : int(offset, 16) + 8] = h(qword)
        data = bytes(page)
    assert len(data) == entry["size"]
    return data


def cases(section: str) -> list[pytest.param]:
    return [pytest.param(case, id=case["name"]) for case in FILE[section]]


def test_the_file_is_complete() -> None:
    sections = ("launch_digest", "launch_measure", "launch_secret", "attestation")
    assert [len(FILE[name]) for name in sections] == [10, 13, 3, 1]
    assert sum(case["independent"] for case in FILE["launch_measure"]) == 9


@pytest.mark.parametrize("case", cases("launch_digest"))
def test_launch_digest(case: dict) -> None:
    parts = [blob(name) for name in case["parts"]]
    vmsas = [data for name, data in zip(case["parts"], parts, strict=True) if name.startswith("vmsa")]
    rest = parts[: len(parts) - len(vmsas)]
    expected = h(case["launch_digest"])
    assert launch_digest(rest, vmsas) == expected
    assert launch_digest(parts) == expected
    assert launch_digest(b"".join(parts)) == expected
    assert launch_digest([memoryview(part) for part in parts]) == expected
    assert launch_digest(io.BytesIO(b"".join(parts))) == expected
    assert launch_digest([io.BytesIO(b"".join(rest))], iter(vmsas)) == expected
    assert launch_digest(part[i : i + 100] for part in parts for i in range(0, len(part), 100)) == expected


@pytest.mark.parametrize("case", cases("launch_measure"))
def test_launch_measure(case: dict) -> None:
    inputs = case["inputs"]
    api = (inputs["api_major"], inputs["api_minor"])
    policy, digest, nonce = int(inputs["policy"], 16), h(inputs["launch_digest"]), h(inputs["mnonce"])
    assert measure_input(api, inputs["build"], policy, digest, nonce).pack() == h(case["hmac_input"])
    measure = launch_measurement(h(inputs["tik"]), api, inputs["build"], policy=policy, digest=digest, nonce=nonce)
    assert measure == h(case["measure"])
    buffer = MeasurementBlob(measure=measure, mnonce=nonce).pack()
    assert buffer == h(case["measure_buffer"]) == base64.b64decode(case["measure_buffer_base64"])


@pytest.mark.parametrize("case", cases("launch_secret"))
def test_launch_secret(case: dict) -> None:
    inputs = case["inputs"]
    tek, tik, iv, measure = (h(inputs[name]) for name in ("tek", "tik", "iv", "measure"))
    api = tuple(map(int, case["api"].split(".")))
    entries = [(entry["guid"], h(entry["data"])) for entry in inputs["entries"]]
    table = build_secret_table(entries)
    assert table == h(case["secret_table"])
    assert [(str(guid), data) for guid, data in parse_secret_table(table)] == entries
    trailer = secret_trailer(measure, api)
    header, data = make_packet(tek, tik, 1, table, iv=iv, trailer=trailer)
    assert header.pack() == h(case["header"])
    assert data == h(case["ciphertext"])
    if trailer:
        covered = SecretMacInput(
            context=1, flags=0, iv=iv, guest_len=len(data), trans_len=len(data), data=data, measure=measure
        )
        assert covered.pack() == h(case["hmac_input"])
    assert open_packet(tek, tik, 1, PacketHeader.parse(h(case["header"])), data, trailer=trailer) == table


# ---------------------------------------------------------------------------------------------- attestation

REPORT = FILE["attestation"][0]
PEK = Point(*(int.from_bytes(h(REPORT[name]), "little") for name in ("pek_qx_le72", "pek_qy_le72")))
PEK_PRIVATE = PrivateKey(int(REPORT["pek_private_scalar"], 16))


def test_attestation_report() -> None:
    report = verify_attestation(h(REPORT["report"]), PEK)
    assert report.signed_bytes() == h(REPORT["signed_bytes"])
    assert report.mnonce == h(REPORT["mnonce"])
    assert report.launch_digest == h(REPORT["launch_digest"])
    assert report.policy == int(REPORT["policy"], 16)
    assert (report.sig_usage, report.sig_algo, report.reserved) == (0x1002, 2, bytes(4))
    assert report.pack() == h(REPORT["report"])
    assert PEK_PRIVATE.public == PEK


UNSIGNED_UNREAD = range(0x3C, 0x40)  # the reserved word


@pytest.mark.parametrize("offset", range(0xD0))
def test_a_flipped_bit_in_the_report_is_noticed(offset: int) -> None:
    data = bytearray(h(REPORT["report"]))
    data[offset] ^= 0x80
    if offset in UNSIGNED_UNREAD:
        assert verify_attestation(bytes(data), PEK).problems() == ["reserved at 0x3C: reserved bytes are not zero"]
        return
    with pytest.raises(SevError) as caught:
        verify_attestation(bytes(data), PEK)
    assert caught.value.status == Status.BAD_SIGNATURE


def test_another_pek_and_a_bad_point_are_refused() -> None:
    for point, status in ((PrivateKey(5).public, Status.BAD_SIGNATURE), (Point(1, 1), Status.INVALID_CERTIFICATE)):
        with pytest.raises(SevError) as caught:
            verify_attestation(h(REPORT["report"]), point)
        assert caught.value.status == status


def test_the_hash_follows_the_algorithm() -> None:
    report = AttestationReport.parse(h(REPORT["report"])).replace(sig_algo=0x102)
    report.r, report.s = ecdsa_sign(PEK_PRIVATE, h(REPORT["signed_bytes"]), "sha384")
    assert verify_attestation(report, PEK) is report
    report.sig_algo = 0x002
    with pytest.raises(SevError):
        verify_attestation(report, PEK)
