"""What an engineer reads who hovers over a name and knows nothing else: present, in form, and true.

An editor shows the literal docstring, so all but the examples is read from the source. Every check is a function of a
source text; the last tests plant a mistake for each of them.
"""

import ast
import doctest
import importlib
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import sevref
from sevref.firmware.commands import BY_NAME
from sevref.firmware.rules import rules
from sevref.status import Status

ROOT = Path(sevref.__file__).parent
#: rooms whose names a reader of the API does not meet
LEFT_OUT = ("cli", "show", "site", "__main__.py")


def words(text: str) -> list[str]:
    return text.split()


COMMANDS = words("""
INIT SHUTDOWN PLATFORM_RESET PLATFORM_STATUS PEK_GEN PEK_CSR PEK_CERT_IMPORT PDH_CERT_EXPORT PDH_GEN DF_FLUSH
DOWNLOAD_FIRMWARE GET_ID INIT_EX NOP RING_BUFFER DECOMMISSION ACTIVATE DEACTIVATE GUEST_STATUS COPY ACTIVATE_EX
LAUNCH_START LAUNCH_UPDATE_DATA LAUNCH_UPDATE_VMSA LAUNCH_MEASURE LAUNCH_SECRET LAUNCH_FINISH ATTESTATION SEND_START
SEND_UPDATE_DATA SEND_UPDATE_VMSA SEND_FINISH SEND_CANCEL RECEIVE_START RECEIVE_UPDATE_DATA RECEIVE_UPDATE_VMSA
RECEIVE_FINISH DBG_DECRYPT DBG_ENCRYPT SWAP_OUT SWAP_IN
""")
#: specification -> what of it may be cited: its commands by name, and what the fact sheets name besides
SECTIONS = {
    "55766": {
        *COMMANDS,
        "Guest policy",
        "Status codes",
        "SEV certificate format",
        "AMD certificate format",
    },
    "56860": {"Page Info Structure"},
}

# ---------------------------------------------------------------------------------------------- reading the source


class Name(NamedTuple):
    """A public name: where it is, what it is called there, and its docstring (None if it has none)."""

    file: str
    name: str
    node: ast.Module | ast.ClassDef | ast.FunctionDef
    doc: str | None

    def __str__(self) -> str:
        return f"{self.file}: {self.name or 'module'}"


def names(source: str, file: str = "planted.py") -> list[Name]:
    """The module and its public classes, functions and methods."""
    tree = ast.parse(source)
    found = [Name(file, "", tree, ast.get_docstring(tree))]

    def walk(node: ast.Module | ast.ClassDef, prefix: str) -> None:
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
                continue
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in child.decorator_list):
                continue
            found.append(Name(file, prefix + child.name, child, ast.get_docstring(child)))
            if isinstance(child, ast.ClassDef):
                walk(child, f"{prefix}{child.name}.")

    walk(tree, "")
    return found


@cache
def sources() -> dict[str, str]:
    files = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
    return {name: path.read_text() for name, path in files.items() if not name.startswith(LEFT_OUT)}


@cache
def public() -> list[Name]:
    return [name for file, source in sources().items() for name in names(source, file)]


def statuses_in(text: str) -> set[str]:
    """Statuses that a text names."""
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", text)) & set(Status.__members__)


# ---------------------------------------------------------------------------------------------- form


def form_problems(found: list[Name]) -> list[str]:
    """A docstring, whose first line is a sentence that ends with a full stop and stands by itself."""
    problems = []
    for name in found:
        if not name.doc:
            problems.append(f"{name}: no docstring")
            continue
        first, *rest = name.doc.split("\n")
        if not first.endswith("."):
            problems.append(f"{name}: the first line does not end with a full stop: {first!r}")
        if rest and rest[0]:
            problems.append(f"{name}: an empty line is missing behind the first line")
        if not re.match(r"[A-Z0-9\"`(#]|sevref|t_i", first):
            problems.append(f"{name}: the first line does not begin like a sentence: {first!r}")
    return problems


def test_every_public_name_has_a_docstring_that_begins_with_a_sentence() -> None:
    assert len(public()) > 600
    assert form_problems(public()) == []


def bare_arguments(found: list[Name]) -> list[str]:
    """Public arguments without a type, or of type ``Any``."""
    problems = []
    for name in found:
        if isinstance(name.node, ast.FunctionDef):
            args = name.node.args
            extra = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
            for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, *extra]:
                kind = "" if arg.annotation is None else ast.unparse(arg.annotation)
                if kind in ("", "Any") and arg.arg not in ("self", "cls"):
                    problems.append(f"{name.name}.{arg.arg}")
    return problems


def test_public_arguments_have_types() -> None:
    free = {  # values of fields, keyword arguments that are handed on, JSON, the states of two kinds of hash
        *("Field.text.value", "Layout.replace.changes", "u8.how", "u16.how", "u32.how", "u64.how"),
        *("Machine.recorded.changes", "Engine.preset.changes", "Host.ask.arguments", "Host.run.arguments"),
        *("number.value", "ShaChain.enter.state", "ShaChain.digest.state"),
    }
    assert set(bare_arguments(public())) == free


# ---------------------------------------------------------------------------------------------- statuses


def _status(node: ast.expr) -> str | None:
    named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Status"
    return node.attr if named and isinstance(node, ast.Attribute) else None


class Raises:
    """Which statuses the functions of some modules can raise, read from their source.

    Calls are followed by name: those of functions, those through ``self`` or ``cls``, and those of a method whose name
    only one class has.
    """

    def __init__(self, modules: dict[str, str]) -> None:
        self.functions: dict[str, ast.FunctionDef] = {}
        self.by_name: dict[str, list[str]] = {}
        for file, source in modules.items():
            for node in ast.parse(source).body:
                inner = node.body if isinstance(node, ast.ClassDef) else [node]
                prefix = f"{file}:{node.name}." if isinstance(node, ast.ClassDef) else f"{file}:"
                for child in inner:
                    if isinstance(child, ast.FunctionDef):
                        self.functions[prefix + child.name] = child
                        self.by_name.setdefault(child.name, []).append(prefix + child.name)

    def direct(self, key: str) -> set[str]:
        """Statuses of the function's own ``raise`` and ``require``."""
        found = set()
        for node in ast.walk(self.functions[key]):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                at = {"SevError": 0, "require": 1}.get(name)
                if at is not None and len(node.args) > at and (status := _status(node.args[at])):
                    found.add(status)
        return found

    def calls(self, key: str, private: bool = False) -> set[str]:
        """Keys of the functions that it calls; with ``private`` only the helpers of its own module or class."""
        found: set[str] = set()
        file, _, own = key.partition(":")
        for node in ast.walk(self.functions[key]):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            known = self.by_name.get(name, [])
            if isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                same = f"{file}:{own.rpartition('.')[0]}.{name}"
                known = [same] if owner in ("self", "cls") and same in known else known if len(known) == 1 else []
            if private:
                known = [other for other in known if name.startswith("_") and other.startswith(f"{file}:")]
            found.update(known)
        return found

    def must(self, key: str) -> set[str]:
        """Statuses of the function and of its private helpers."""
        return self.direct(key).union(*(self.direct(other) for other in self.calls(key, private=True)))

    def may(self, key: str) -> set[str]:
        """Statuses of everything that it calls, too."""
        seen, todo = set(), [key]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                todo += self.calls(current)
        return set().union(*(self.direct(one) for one in seen))


def _is_body(node: ast.AST) -> bool:
    """Whether a function is a command's body: what it checks, ``rules`` reads from its source."""
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(d, ast.Call) and getattr(d.func, "id", "") == "command" for d in decorators)


#: modules of the commands' bodies: what their helpers check are rows of the commands, which ``rules`` reads
BODY_MODULES = tuple(f"firmware/{room}.py" for room in ("activation", "debug", "launch", "migrate", "platform"))
#: statuses that come from data (a profile, another check) or from a platform's call, where the source does not show it
BY_DATA = {
    "check_range": {"INVALID_CONFIG"},
    "GuestOwner.open_session": {"BAD_SIGNATURE"},
    "Hypervisor.certificates": {"INVALID_PLATFORM_STATE"},
}


def status_problems(modules: dict[str, str], left_out: tuple[str, ...] = ()) -> list[str]:
    """Functions that raise a status which their docstring does not name, or name one that nothing in them raises."""
    graph, problems = Raises(modules), []
    for file, source in modules.items():
        if file.startswith(left_out):
            continue
        for name in names(source, file):
            if not isinstance(name.node, ast.FunctionDef) or _is_body(name.node):
                continue
            key, named = f"{file}:{name.name}", statuses_in(name.doc or "")
            if missing := graph.must(key) - named:
                problems.append(f"{name}: raises {', '.join(sorted(missing))} and does not say so")
            if "SevError" in (name.doc or "") and (strange := named - graph.may(key) - BY_DATA.get(name.name, set())):
                problems.append(f"{name}: says {', '.join(sorted(strange))}, which nothing in it raises")
    return problems


def test_functions_name_the_statuses_that_they_raise_and_no_others() -> None:
    graph = Raises(sources())
    assert sum(bool(graph.must(key)) for key in graph.functions) > 60
    assert status_problems(sources(), ("driver.py", *BODY_MODULES)) == []


#: the driver's arguments are right by construction: what the command checks there no call can break
BY_CONSTRUCTION = {
    **dict.fromkeys(("init", "init_ex", "pek_csr", "pdh_cert_export", "get_id", "launch_measure"), "INVALID_LENGTH"),
    "attestation": "INVALID_LENGTH",
}
IN_EVERY_STATE = ("shutdown", "platform_status", "get_id", "nop")


def expected_statuses(node: ast.FunctionDef) -> set[str]:
    """What a call of the driver can raise: the command's statuses, without those that the driver rules out."""
    call = node.name
    found = {rule.status.name for rule in rules(call.upper())} - {BY_CONSTRUCTION.get(call, "")}
    if call in IN_EVERY_STATE:
        found.discard("INVALID_PLATFORM_STATE")
    if any(arg.arg == "tmr" or arg.arg.endswith("paddr") for arg in [*node.args.args, *node.args.kwonlyargs]):
        # Outside DRAM one profile has a status of its own, except where the command says INVALID_ADDRESS itself.
        found |= set() if call.startswith("swap") else {"INVALID_CONFIG"}
    else:  # the driver's own buffers lie in good memory
        found.discard("INVALID_ADDRESS")
    return found


def driver_problems(found: list[Name]) -> list[str]:
    """Calls of the driver: command and id come first, exactly its statuses and its section of the specification."""
    problems = []
    for name in found:
        call = name.name.removeprefix("Platform.")
        if call.upper() not in BY_NAME or not isinstance(name.node, ast.FunctionDef):
            continue
        doc, row = " ".join((name.doc or "").split()), BY_NAME[call.upper()]
        if not re.match(rf"{row.name} \(0x{row.id:02X}[,)]", doc):
            problems.append(f"{name}: begins without command and id")
        if f'SEV API 55766, "{row.name}"' not in doc:
            problems.append(f"{name}: cites no section")
        if statuses_in(doc) != expected_statuses(name.node):
            wrong = sorted(statuses_in(doc) ^ expected_statuses(name.node))
            problems.append(f"{name}: wrong about {', '.join(wrong)}")
    return problems


def test_the_drivers_calls_name_exactly_the_statuses_of_their_commands() -> None:
    calls = [name for name in public() if name.file == "driver.py" and name.name.startswith("Platform.")]
    built = {name.removeprefix("Platform.").upper() for _, name, _, _ in calls} & set(BY_NAME)
    assert built == set(COMMANDS) - {"RING_BUFFER"}
    assert driver_problems(calls) == []


# ---------------------------------------------------------------------------------------------- structures

#: structures whose docstring lists every field, because an editor shows nothing else of them
LISTED = words("""
AmdCertificate AttestationBuffer AttestationReport CertificateBody EcKey EcdsaSignature GuestStatusBuffer InitBuffer
InitExBuffer LaunchMeasureBuffer LaunchStartBuffer MeasureInput MeasurementBlob PacketBuffer PacketHeader PageInfo
PlatformStatusBuffer ReceiveStartBuffer Record SegmentRegister SendStartBuffer Session SevCertificate SignatureSlot
StreamHead SwapMetadata Vmsa
""")
_FIELD = re.compile(r"^    (0x[0-9A-F]+\S*) +(\w+)  (\w+) +(\S.*)$")


class Listed(NamedTuple):
    """A line of a docstring that describes a field."""

    offset: str
    size: str
    name: str
    meaning: str


def fields_in(doc: str) -> list[Listed]:
    """The fields that a docstring lists; what is indented further continues a line."""
    found: list[Listed] = []
    for line in doc.split("\n"):
        if match := _FIELD.match(line):
            found.append(Listed(*match.groups()))
        elif found and line.startswith(" " * 12):
            found[-1] = found[-1]._replace(meaning=f"{found[-1].meaning} {line.strip()}")
    return found


def layout_problems(cls: type[sevref.Layout], doc: str, listed: bool) -> list[str]:
    """Whether size and fields that a structure's docstring states are those of the structure."""
    problems, what = [], cls.__name__
    first = doc.split("\n")[0]
    if cls.FIXED and f"{cls.SIZE} bytes" not in first:
        problems.append(f"{what}: the first line does not say {cls.SIZE} bytes")
    fields = [field for field in cls.fields if not field.name.startswith("other_")]
    found = fields_in(doc)
    if not found and not listed:
        return problems
    if [line.name for line in found] != [field.name for field in fields]:
        return [*problems, f"{what}: lists {[line.name for line in found]}"]
    for line, field in zip(found, fields, strict=True):
        if line.meaning != field.meaning:
            problems.append(f"{what}.{field.name}: {line.meaning!r} is {field.meaning!r}")
        if field.offset >= 0 and int(line.offset, 16) != field.offset:
            problems.append(f"{what}.{field.name}: at {line.offset}, is at 0x{field.offset:X}")
        if isinstance(field.size, int) and line.size != str(field.size):
            problems.append(f"{what}.{field.name}: {line.size} bytes, has {field.size}")
    return problems


def test_sizes_and_fields_in_docstrings_are_those_of_the_structures() -> None:
    docs = {name.name: name.doc or "" for name in public() if isinstance(name.node, ast.ClassDef)}
    layouts = sevref.layouts()
    assert set(LISTED) <= set(layouts)
    found = [layout_problems(cls, docs[name], name in LISTED) for name, cls in layouts.items()]
    assert [problem for problems in found for problem in problems] == []


def test_the_docstring_of_status_lists_every_status() -> None:
    doc = next(name.doc or "" for name in public() if name.name == "Status")
    listed = re.findall(r"^    0x([0-9A-F]{2})  (\w+) +(.*)$", doc, re.MULTILINE)
    assert listed == [(f"{status:02X}", status.name, status.meaning) for status in Status]


def test_help_shows_the_fields_of_a_structure() -> None:
    assert repr(sevref.Session.wrap_tk) == "<bytes at 0x10, 32 bytes: TEK || TIK, AES-128-CTR encrypted under KEK>"
    assert (
        repr(sevref.AmdCertificate.modulus) == "<integer behind the previous field, bytes by earlier fields: modulus>"
    )


# ---------------------------------------------------------------------------------------------- sections

_CITATION = re.compile(
    r"(?:SEV API|ABI) (\d{5}),? ((?:(?:section |table |appendix |chapter )?\"[^\"]*\"(?:, | and )?)+)"
)


def section_problems(found: list[Name]) -> list[str]:
    """Citations of sections that the specifications do not have."""
    problems = []
    for name in found:
        for document, cited in _CITATION.findall(" ".join((name.doc or "").split())):
            strange = set(re.findall(r'"([^"]*)"', cited)) - SECTIONS.get(document, set())
            problems += [f"{name}: {document} has no {section!r}" for section in sorted(strange)]
    return problems


def test_sections_of_the_specifications_exist() -> None:
    cited = [name for name in public() if _CITATION.search(" ".join((name.doc or "").split()))]
    assert len(cited) > 80
    assert section_problems(cited) == []


# ---------------------------------------------------------------------------------------------- examples

#: names of the interface that others rely on: each shows itself in use
SHOWN = words("""
Machine Platform Status SevError Policy Layout Session Engine SeededRandom PrivateKey GuestOwner Hypervisor
PlatformOwner SimulatedAmd layouts load_chain verify_chain parse_certificate amd_roots ecdh master_secret launch_digest
launch_measurement
""")


def with_examples() -> Iterator[str]:
    for file, source in sources().items():
        if any(">>> " in (name.doc or "") for name in names(source, file)):
            yield "sevref." + file.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("module", list(with_examples()))
def test_examples(module: str) -> None:
    found = importlib.import_module(module.removesuffix(".__init__"))
    result = doctest.testmod(found, raise_on_error=False)
    assert result.attempted and not result.failed


def test_main_entry_points_have_an_example() -> None:
    assert [name for name in SHOWN if ">>> " not in (getattr(sevref, name).__doc__ or "")] == []


# ---------------------------------------------------------------------------------------------- the checks can fail


def planted(source: str) -> list[Name]:
    return names(textwrap.dedent(source))


def test_form_is_checked() -> None:
    found = planted(
        """
        def silent(): pass
        def wrapped():
            '''A sentence that goes on
            in the next line.'''
        class Good:
            '''A sentence.'''
            def method(self, key, value: Any): pass
            def _private(self): pass
        """
    )
    problems = form_problems(found)
    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems] == [
        "module", "silent", "wrapped", "wrapped", "Good.method",
    ]  # fmt: skip
    assert bare_arguments(found) == ["Good.method.key", "Good.method.value"]


def test_statuses_are_checked() -> None:
    source = textwrap.dedent(
        """
        def silent(x: int) -> None:
            '''Check it.'''
            require(x > 0, Status.INVALID_PARAM, "x")
        def wrong() -> None:
            '''Check it: ``SevError`` ACTIVE.'''
            raise SevError(Status.INACTIVE, "y")
        def by_a_call() -> None:
            '''Check it: ``SevError`` INACTIVE.'''
            wrong()
        def by_a_helper() -> None:
            '''Check it.'''
            _helper()
        def _helper() -> None:
            raise SevError(Status.BAD_SIGNATURE, "z")
        """
    )
    assert status_problems({"planted.py": source}) == [
        "planted.py: silent: raises INVALID_PARAM and does not say so",
        "planted.py: wrong: raises INACTIVE and does not say so",
        "planted.py: wrong: says ACTIVE, which nothing in it raises",
        "planted.py: by_a_helper: raises BAD_SIGNATURE and does not say so",
    ]


def test_the_drivers_calls_are_checked() -> None:
    found = planted(
        """
        class Platform:
            '''A platform.'''
            def deactivate(self, handle: int) -> None:
                '''DEACTIVATE (0x22): ``SevError`` INVALID_PLATFORM_STATE, INVALID_GUEST, ACTIVE.'''
            def activate(self) -> None:
                '''ACTIVATE (0x22).'''
        """
    )
    assert driver_problems(found)[:3] == [
        "planted.py: Platform.deactivate: cites no section",
        "planted.py: Platform.deactivate: wrong about ACTIVE, INACTIVE",
        "planted.py: Platform.activate: begins without command and id",
    ]


def test_structures_are_checked() -> None:
    good = sevref.PacketHeader
    doc = next(name.doc or "" for name in public() if name.name == "PacketHeader")
    assert layout_problems(good, doc, True) == []
    for old, new in (
        ("52 bytes", "56 bytes"),
        ("0x04 16", "0x08 16"),
        ("0x14 32", "0x14 16"),
        ("under TIK", "under TEK"),
        ("  mac ", "  tag "),
        ("0x", "at "),
    ):
        assert old in doc and len(layout_problems(good, doc.replace(old, new), True)) == 1, old


def test_sections_are_checked() -> None:
    found = planted(
        '''
        """Three (SEV API 55766, "LAUNCH_START", "Launching"; SEV-SNP ABI 56860, "PAGE_INFO")."""
        def one() -> None:
            """Good (SEV API 55766, appendix "SEV certificate format")."""
        '''
    )
    assert section_problems(found) == [
        "planted.py: module: 55766 has no 'Launching'",
        "planted.py: module: 56860 has no 'PAGE_INFO'",
    ]
