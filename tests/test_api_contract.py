"""The Python interface that others rely on: every name of the contract, used as it is written there."""

import dataclasses
from pathlib import Path

import pytest

import sevref
from sevref import InputError, Layout, SevError


@pytest.fixture(scope="module")
def machine() -> sevref.Machine:
    machine = sevref.Machine(generation="milan", seed=b"...")
    assert sevref.Machine(generation="milan").dram.read(0, 4) == bytes(4)  # the seed is optional
    return machine


@pytest.fixture(scope="module")
def platform(machine: sevref.Machine) -> sevref.Platform:
    platform = sevref.Platform(machine, profile=sevref.SPEC_0_24)
    platform.init(es=True)
    return platform


@pytest.fixture(scope="module")
def chain(machine: sevref.Machine, platform: sevref.Platform) -> sevref.Chain:
    amd = sevref.SimulatedAmd("milan")
    amd.enrol(machine)
    return sevref.Hypervisor(platform).certificates(amd)


def test_platform(machine: sevref.Machine, platform: sevref.Platform) -> None:
    machine.dram.write(0x1000, bytes(12))
    command_id, address = 0x04, 0x1000
    status = platform.mailbox(command_id, address)
    assert type(status) is sevref.Status and status == 0 and status.name == "SUCCESS"
    assert machine.dram.read(0x1000, 12).hex() == "001801000100000f00000000"
    assert platform.pdh_cert_export().pdh is not None
    with pytest.raises(SevError):
        platform.init(es=True)
    assert dataclasses.is_dataclass(sevref.SPEC_0_24) and sevref.GENOA_1_55_25 != sevref.SPEC_0_24


def test_certificates(tmp_path: Path, machine: sevref.Machine, chain: sevref.Chain) -> None:
    for name in ("ark", "ask", "cek", "oca", "pek", "pdh"):
        cert = getattr(chain, name)
        (tmp_path / f"{name}.cert").write_bytes(cert.pack())
        assert sevref.parse_certificate(cert.pack()).pack() == cert.pack()
    for path_or_paths in (tmp_path, str(tmp_path), sorted(tmp_path.iterdir())):
        loaded = sevref.load_chain(path_or_paths)
        result = sevref.verify_chain(loaded, roots=machine.amd)
        assert result.valid and result.generation == "milan" and result.root and result.warnings == []
        assert len(result.checks) > 6 and all(check.ok for check in result.checks)
    result = sevref.verify_chain(sevref.load_chain(tmp_path), roots="amd")
    assert not result.valid  # the simulated AMD is not AMD


def test_key_transport(platform: sevref.Platform) -> None:
    private_key, policy, nonce = sevref.PrivateKey(12345), 1, bytes(16)
    peer_public = sevref.PrivateKey(54321).public
    z = sevref.ecdh(private_key, peer_public)
    assert len(z) == 48 and z == sevref.ecdh(sevref.PrivateKey(54321), private_key.public)
    ms = sevref.master_secret(z, nonce)
    kek, kik = sevref.key_wrap_keys(ms)
    assert (len(ms), len(kek), len(kik)) == (16, 16, 16)
    with pytest.raises(SevError) as error:
        sevref.ecdh(private_key, sevref.Point(1, 1))
    assert error.value.status is sevref.Status.INVALID_CERTIFICATE

    from sevref.certs import new_certificate

    pdh_certificate = new_certificate(sevref.Usage.PDH, sevref.Algo.ECDH_SHA256, private_key.public, (0, 24))
    opened = sevref.Session.create(pdh_certificate, policy, rng=sevref.SeededRandom(b"x", "guest owner"))
    channel = opened.session.open(private_key, opened.godh, policy)
    assert (channel.tek, channel.tik) == (opened.tek, opened.tik)
    with pytest.raises(SevError):
        opened.session.open(private_key, opened.godh, 0)


def test_measurement() -> None:
    digest = sevref.launch_digest([b"a" * 16, b"b" * 16], vmsas=())
    assert digest == sevref.launch_digest([b"a" * 16 + b"b" * 16])
    tik, mnonce = bytes.fromhex("66320db73158a35a255d051758e95ed4"), bytes.fromhex("4fbe0bedbad6c86ae8f68971d103e554")
    digest = bytes.fromhex("b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da")
    mac = sevref.launch_measurement(tik, api=(0, 24), build=15, policy=1, digest=digest, nonce=mnonce)
    assert mac.hex() == "6ba2c8104017676aa6561fedf7c5d1d55158da44b38bc52c78e2d8dbca88af4a"  # sheet 20, section 9, row 6


def test_roles(machine: sevref.Machine, platform: sevref.Platform, chain: sevref.Chain) -> None:
    assert sevref.GuestOwner(roots="amd", minimum_api=(0, 24)).roots == "amd"
    owner = sevref.GuestOwner(roots=machine.amd, minimum_api=(0, 24))
    policy = 1
    opened = owner.open_session(chain, policy)
    handle = platform.launch_start(policy, opened.godh, opened.session)
    blob = platform.launch_measure(handle)
    expected_digest = sevref.launch_digest([])
    owner.check_measurement(blob, expected_digest)
    header, payload = owner.package_secret(b"secret")
    assert isinstance(header, sevref.PacketHeader) and len(payload) == 16
    with pytest.raises(SevError):
        owner.open_session(chain, 0)  # without NODBG


def test_every_binary_structure() -> None:
    names = sevref.layouts()
    assert {"SevCertificate", "AmdCertificate", "Session", "PacketHeader", "MeasureInput", "InitBuffer"} <= set(names)
    for name, cls in names.items():
        assert issubclass(cls, Layout) and cls.__name__ == name and cls.fields
        rows = cls.table()
        assert isinstance(rows, list) and set(rows[0]) >= {"name", "offset", "size", "meaning"}
        assert [row["name"] for row in rows] == [field.name for field in cls.fields]
        if cls.FIXED:
            data = bytes(range(256)) * (cls.SIZE // 256 + 1)
            try:
                parsed = cls.parse(data[: cls.SIZE])
            except InputError:
                continue
            assert parsed.pack() == data[: cls.SIZE]


def test_errors() -> None:
    error = SevError(sevref.Status.BAD_MEASUREMENT, "words", "LAUNCH_SECRET")
    assert (error.status, error.rule, error.command) == (sevref.Status.BAD_MEASUREMENT, "words", "LAUNCH_SECRET")
    assert issubclass(InputError, ValueError) and not issubclass(SevError, ValueError)
    assert int(sevref.Status.SECURE_DATA_INVALID) == 0x18
    with pytest.raises(InputError):
        sevref.parse_certificate(b"garbage")
    with pytest.raises(InputError):
        sevref.PacketHeader.parse(bytes(51))


def test_names_of_the_package() -> None:
    for name in sevref.__all__:
        assert getattr(sevref, name) is not None
    assert set(sevref.__all__) <= set(dir(sevref))
    with pytest.raises(AttributeError):
        sevref.no_such_name  # noqa: B018
    assert (Path(sevref.__file__).parent / "py.typed").exists()
