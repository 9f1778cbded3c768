"""Status codes and the two kinds of error."""

import copy
import pickle

import pytest

from sevref.status import InputError, SevError, Status

# SEV API 55766, table of status codes; 0x1E is not assigned.
NUMBERS = {
    0x00: "SUCCESS",
    0x01: "INVALID_PLATFORM_STATE",
    0x02: "INVALID_GUEST_STATE",
    0x03: "INVALID_CONFIG",
    0x04: "INVALID_LENGTH",
    0x05: "ALREADY_OWNED",
    0x06: "INVALID_CERTIFICATE",
    0x07: "POLICY_FAILURE",
    0x08: "INACTIVE",
    0x09: "INVALID_ADDRESS",
    0x0A: "BAD_SIGNATURE",
    0x0B: "BAD_MEASUREMENT",
    0x0C: "ASID_OWNED",
    0x0D: "INVALID_ASID",
    0x0E: "WBINVD_REQUIRED",
    0x0F: "DFFLUSH_REQUIRED",
    0x10: "INVALID_GUEST",
    0x11: "INVALID_COMMAND",
    0x12: "ACTIVE",
    0x13: "HWERROR_PLATFORM",
    0x14: "HWERROR_UNSAFE",
    0x15: "UNSUPPORTED",
    0x16: "INVALID_PARAM",
    0x17: "RESOURCE_LIMIT",
    0x18: "SECURE_DATA_INVALID",
    0x19: "INVALID_PAGE_SIZE",
    0x1A: "INVALID_PAGE_STATE",
    0x1B: "INVALID_MDATA_ENTRY",
    0x1C: "INVALID_PAGE_OWNER",
    0x1D: "AEAD_OFLOW",
    0x1F: "EXIT_RING_BUFFER",
    0x20: "RMP_INIT_REQUIRED",
    0x21: "BAD_SVN",
    0x22: "BAD_VERSION",
    0x23: "SHUTDOWN_REQUIRED",
    0x24: "UPDATE_FAILED",
    0x25: "RESTORE_REQUIRED",
    0x26: "RMP_INITIALIZATION_FAILED",
    0x27: "INVALID_KEY",
    0x28: "SHUTDOWN_INCOMPLETE",
}


def test_numbers_and_names() -> None:
    assert {int(status): status.name for status in Status} == NUMBERS


def test_every_status_has_its_own_meaning() -> None:
    meanings = [status.meaning for status in Status]
    assert all(meanings) and len(set(meanings)) == len(meanings)


def test_sev_error_says_status_number_rule_and_command() -> None:
    error = SevError(Status.INVALID_LENGTH, "TRANS_LEN is not GUEST_LEN", "LAUNCH_SECRET")
    assert str(error) == "LAUNCH_SECRET: INVALID_LENGTH (0x04): TRANS_LEN is not GUEST_LEN"
    assert str(SevError(Status.ACTIVE, "bound")) == "ACTIVE (0x12): bound"
    assert not isinstance(error, ValueError)
    with pytest.raises(ValueError):
        SevError(0x1E, "not assigned")  # type: ignore[arg-type]


def test_input_error_says_field_expected_and_found() -> None:
    error = InputError("pek.cert", "2084 bytes", "7 bytes")
    assert isinstance(error, ValueError)
    assert str(error) == "pek.cert: expected 2084 bytes, found 7 bytes"
    assert (error.field, error.expected, error.found) == ("pek.cert", "2084 bytes", "7 bytes")


@pytest.mark.parametrize("error", [SevError(Status.ACTIVE, "rule", "ACTIVATE"), InputError("a", "b", "c")])
def test_errors_travel_between_processes(error: Exception) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error) and str(other) == str(error) and vars(other) == vars(error)
