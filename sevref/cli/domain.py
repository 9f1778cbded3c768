"""What a host says about a guest: libvirt's domain XML and QEMU's answers on its monitor (QMP).

All of it comes from the host, which is not trusted: it only says what to compare with. XML with a document type, and so
with entities, is refused before anything of it is expanded.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from xml.parsers import expat

from sevref.cli import common
from sevref.status import InputError

XML_LIMIT = 1 << 20  #: bytes of a domain's XML; libvirt itself refuses more than ten times as much
QMP_LIMIT = 1 << 20
_DEPTH = 64  # of XML elements


class Domain(NamedTuple):
    """What a domain's XML says about the launch; None for what it does not say."""

    firmware: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    policy: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    kernel_hashes: bool = False


class Answers(NamedTuple):
    """What query-sev and query-sev-launch-measure have answered; None for what was not asked."""

    api_major: int | None = None
    api_minor: int | None = None
    build_id: int | None = None
    policy: int | None = None
    measurement: str | None = None


# ---------------------------------------------------------------------------------------------- domain XML


def read_domain(path: str) -> Domain:
    """The domain of an XML file. ``InputError`` for XML that is malformed, has a document type or describes another
    kind of guest."""
    where = f"domain XML {path}"
    texts, attributes = _elements(common.read_file(path, "domain XML", limit=XML_LIMIT), where)
    security = attributes.get("domain/launchSecurity")
    if security is None:
        raise InputError(f"{where}: launchSecurity", "an element of type sev", "none")
    if security.get("type") != "sev":
        expected = "sev; for sev-snp the digest itself is reported: see sevref digest"
        raise InputError(f"{where}: type of launchSecurity", expected, repr(security.get("type", ""))[:40])

    def number(element: str, bits: int) -> int | None:
        text = texts.get(f"domain/{element}")
        return None if text is None else common.integer(text.strip(), bits=bits, what=f"{where}: {element}")

    vcpus = number("vcpu", 16)
    current = attributes.get("domain/vcpu", {}).get("current")
    if current is not None:
        vcpus = common.integer(current, bits=16, what=f"{where}: current of vcpu")
    return Domain(
        firmware=_path(texts.get("domain/os/loader")),
        kernel=_path(texts.get("domain/os/kernel")),
        initrd=_path(texts.get("domain/os/initrd")),
        cmdline=texts.get("domain/os/cmdline"),
        policy=number("launchSecurity/policy", 32),
        vcpus=vcpus,
        cpu=_path(texts.get("domain/cpu/model")),
        kernel_hashes=security.get("kernelHashes") == "yes",
    )


def _path(text: str | None) -> str | None:
    return (text.strip() or None) if text is not None else None


def _elements(data: bytes, where: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Text and attributes of the first element of each path, such as "domain/os/kernel"."""
    texts: dict[str, str] = {}
    attributes: dict[str, dict[str, str]] = {}
    stack: list[str] = []
    parser = expat.ParserCreate()

    def start(name: str, values: dict[str, str]) -> None:
        if not stack and name != "domain":
            raise InputError(f"{where}: root element", "domain", repr(name[:40]))
        if len(stack) == _DEPTH:
            raise InputError(where, f"at most {_DEPTH} nested elements", "more")
        stack.append(name)
        path = "/".join(stack)
        if path in attributes:  # a second one does not count: its text goes nowhere
            stack[-1] = "#"
        else:
            attributes[path], texts[path] = dict(values), ""

    def end(name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        path = "/".join(stack)
        if path in texts:
            texts[path] += data

    def refuse(*_: object) -> None:
        raise InputError(where, "XML without a document type", "a DOCTYPE, which could declare entities")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        found = f"{expat.errors.messages.get(error.code, 'an error')} in line {error.lineno}"
        raise InputError(where, "well-formed XML", found) from None
    return texts, attributes


# ---------------------------------------------------------------------------------------------- QMP


def read_answers(paths: list[str]) -> Answers:
    """The answers in files of JSON, with or without the "return" around them; several may stand in one file.

    ``InputError`` for something else, for numbers out of range and for two answers that contradict each other.
    """
    found: dict[str, Any] = {}
    for path in paths:
        where = f"QMP answer {path}"
        for value in _values(common.read_file(path, "QMP answer", limit=QMP_LIMIT), where):
            for name, what in _answer(value, where).items():
                if found.setdefault(name, what) != what:
                    raise InputError(f"{where}: {name}", f"{found[name]}, as said before", what)
    return Answers(**found)


_SIZES = {"api-major": 8, "api-minor": 8, "build-id": 8, "policy": 32}


def _answer(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict) and isinstance(value.get("return"), dict):
        value = value["return"]
    if not isinstance(value, dict):
        raise InputError(where, "a JSON object", f"a {type(value).__name__}")
    if "error" in value:
        raise InputError(where, "an answer of query-sev or query-sev-launch-measure", "an error")
    if value.get("enabled") is False:
        raise InputError(f"{where}: enabled", "true", "false: this guest runs without SEV")
    if value.get("sev-type", "sev") != "sev":
        raise InputError(
            f"{where}: sev-type", "sev; an SNP guest has no launch measurement", repr(value["sev-type"])[:40]
        )
    found: dict[str, Any] = {}
    for name, bits in _SIZES.items():
        if name in value:
            number = value[name]
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << bits:
                raise InputError(f"{where}: {name}", f"a number of {bits} bits", repr(number)[:40])
            found[name.replace("-", "_")] = number
    if "data" in value:
        if not isinstance(value["data"], str):
            raise InputError(f"{where}: data", "base64 text", f"a {type(value['data']).__name__}")
        found["measurement"] = value["data"]
    return found


def _values(data: bytes, where: str) -> list[Any]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(where, "text in UTF-8", f"another byte at offset {error.start}") from None
    decoder, values, position = json.JSONDecoder(), [], 0
    try:
        while position < len(text):
            blank = re.compile(r"\s*").match(text, position)
            position = blank.end() if blank else position
            if position < len(text):
                value, position = decoder.raw_decode(text, position)
                values.append(value)
    except (ValueError, RecursionError):
        raise InputError(where, "JSON", f"something else at offset {position}") from None
    if not values:
        raise InputError(where, "JSON", "nothing")
    return values


def inject_command(header: bytes, secret: bytes, gpa: int | None) -> bytes:
    """The QMP command that hands a secret's packet to QEMU, as one line of JSON."""
    arguments: dict[str, Any] = {"packet-header": common.to_base64(header), "secret": common.to_base64(secret)}
    if gpa is not None:
        arguments["gpa"] = gpa
    return (json.dumps({"execute": "sev-inject-launch-secret", "arguments": arguments}) + "\n").encode()
