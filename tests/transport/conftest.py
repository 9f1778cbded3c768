"""A simulated platform's certificates, and the command line in this process."""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest

from sevref.certs import Algo, Chain, Usage, new_certificate, sign_certificate, simulated_key, simulated_roots
from sevref.cli import main
from sevref.crypto import PrivateKey

PDH_KEY = PrivateKey(0xD0 << 300 | 4)


def make_chain(api: tuple[int, int] = (0, 24), pdh_key: PrivateKey = PDH_KEY) -> Chain:
    """A complete chain below the simulated AMD's Milan root, free to change; the PEK names API version ``api``."""
    return copy.deepcopy(signed_chain(api, pdh_key))


@functools.cache
def signed_chain(api: tuple[int, int], pdh_key: PrivateKey) -> Chain:
    cek_key, oca_key, pek_key = (PrivateKey(n << 300 | 1) for n in (0xA0, 0xB0, 0xC0))
    roots = simulated_roots("milan")
    cek = new_certificate(Usage.CEK, Algo.ECDSA_SHA256, cek_key.public, (0, 14))
    sign_certificate(cek, simulated_key("milan", Usage.ASK), Usage.ASK, Algo.RSA_SHA384, salt=bytes(48))
    oca = new_certificate(Usage.OCA, Algo.ECDSA_SHA256, oca_key.public, api)
    sign_certificate(oca, oca_key, Usage.OCA, Algo.ECDSA_SHA256)
    pek = new_certificate(Usage.PEK, Algo.ECDSA_SHA256, pek_key.public, api)
    sign_certificate(pek, oca_key, Usage.OCA, Algo.ECDSA_SHA256)
    sign_certificate(pek, cek_key, Usage.CEK, Algo.ECDSA_SHA256)
    pdh = new_certificate(Usage.PDH, Algo.ECDH_SHA256, pdh_key.public, api)
    sign_certificate(pdh, pek_key, Usage.PEK, Algo.ECDSA_SHA256)
    return Chain(ark=roots.ark, ask=roots.ask, cek=cek, oca=oca, pek=pek, pdh=pdh)


@pytest.fixture
def chain() -> Chain:
    return make_chain()


@pytest.fixture
def chain_of() -> Callable[..., Chain]:
    return make_chain


@pytest.fixture
def pdh_key() -> PrivateKey:
    return PDH_KEY


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    monkeypatch.setenv("SEVREF_TRACEBACK", "1")  # a defect of ours is an exception here, not exit code 2

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli: Callable[..., Done]) -> Callable[..., str]:
    """Runs the command line, which must end with exit code 2, and returns its one line of reason."""

    def run(*words: object) -> str:
        done = cli(*words)
        assert done.code == 2, done
        assert done.out == ""
        assert "Traceback" not in done.err and "internal error" not in done.err
        lines = done.err.strip().splitlines()
        if not lines[0].startswith("usage:"):
            assert len(lines) == 1
        return lines[-1]

    return run
