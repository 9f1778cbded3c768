"""The built pages as files: every link leads somewhere, nothing comes from elsewhere, everything has an address."""

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from support import ROOT

pytestmark = pytest.mark.slow

#: attributes that make a browser load something
LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data"), ("image", "href")}


class Reader(HTMLParser):
    """Ids, links, and what is loaded."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(given["href"])
        self.loads += [value for key, value in attrs if (tag, key) in LOADS]


@cache
def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def pages(site):
    return sorted(site.rglob("*.html"))


def broken(site):
    """(page, link) of every link to a file or anchor of the site that is not there."""
    found = []
    for path in pages(site):
        for href in read(path).links:
            parts = urlsplit(href)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment) if goal.suffix == ".html" else ""
            if not goal.is_file() or (anchor and anchor not in read(goal).ids):
                found.append((path.name, href))
    return found


def test_every_internal_link_resolves(site):
    assert len(pages(site)) > 80
    assert sum(len(read(path).links) for path in pages(site)) > 5000
    assert broken(site) == []


def test_the_check_of_links_can_fail(tmp_path):
    page = '<p id="here"></p><a href="#here"></a><a href="#gone"></a><a href="no.html"></a><a href="b.html#x"></a>'
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text('<script src="https://cdn.example/x.js"></script>')
    assert [href for _, href in broken(tmp_path)] == ["#gone", "no.html", "b.html#x"]
    assert foreign(tmp_path) == [("b.html", "https://cdn.example/x.js")]


def foreign(site):
    """(file, address) of everything that a browser would fetch from elsewhere."""
    found = []
    for path in pages(site):
        found += [(path.name, url) for url in read(path).loads if re.match(r"(\w+:)?//", url)]
        text = path.read_text(encoding="utf-8")
        for style in re.findall(r"<style[^>]*>(.*?)</style>|style=\"([^\"]*)\"", text, re.DOTALL):
            found += [(path.name, url) for url in re.findall(r"url\(['\"]?((?:\w+:)?//[^)]*)", "".join(style))]
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found += [(path.name, url) for url in re.findall(r"(?:url\(|@import )\s*['\"]?((?:\w+:)?//[^)'\"]*)", text)]
    return found


def test_nothing_comes_from_elsewhere(site):
    assert foreign(site) == []
    scripts = [path.name for path in site.rglob("*.js")]
    assert not [name for name in scripts if "mathjax" in name.lower() or "require" in name.lower()]


#: every address outside the site to which its pages link, and why; CI does not ask whether they are there
OUTSIDE = {
    "https://www.sphinx-doc.org/": "the theme's line at the foot of each page: what made it",
    "https://pradyunsg.me": "the same: who made the theme",
    "https://github.com/pradyunsg/furo": "the same: the theme",
}


def outside(site):
    """Addresses elsewhere to which pages link."""
    return {href for path in pages(site) for href in read(path).links if urlsplit(href).scheme or urlsplit(href).netloc}


def test_links_that_leave_the_site_are_few_and_known(site):
    assert outside(site) == set(OUTSIDE)
    assert all(href.startswith("https://") and len(reason) > 10 for href, reason in OUTSIDE.items())


def test_the_check_of_outside_links_can_fail(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html"></a><a href="http://x.example/"></a><a href="//y.example"></a>')
    assert outside(tmp_path) == {"http://x.example/", "//y.example"}


def names(text):
    return text.split()


#: literals: what has to have an address, whatever the code says
STATUSES = names("""SUCCESS INVALID_PLATFORM_STATE INVALID_GUEST_STATE INVALID_CONFIG INVALID_LENGTH ALREADY_OWNED
    INVALID_CERTIFICATE POLICY_FAILURE INACTIVE INVALID_ADDRESS BAD_SIGNATURE BAD_MEASUREMENT ASID_OWNED INVALID_ASID
    WBINVD_REQUIRED DFFLUSH_REQUIRED INVALID_GUEST INVALID_COMMAND ACTIVE HWERROR_PLATFORM HWERROR_UNSAFE UNSUPPORTED
    INVALID_PARAM RESOURCE_LIMIT SECURE_DATA_INVALID""")
COMMANDS = names("""INIT SHUTDOWN PLATFORM_RESET PLATFORM_STATUS PEK_GEN PEK_CSR PEK_CERT_IMPORT PDH_CERT_EXPORT PDH_GEN DF_FLUSH
    DOWNLOAD_FIRMWARE GET_ID INIT_EX NOP RING_BUFFER DECOMMISSION ACTIVATE DEACTIVATE GUEST_STATUS COPY ACTIVATE_EX
    LAUNCH_START LAUNCH_UPDATE_DATA LAUNCH_UPDATE_VMSA LAUNCH_MEASURE LAUNCH_SECRET LAUNCH_FINISH ATTESTATION
    SEND_START SEND_UPDATE_DATA SEND_UPDATE_VMSA SEND_FINISH SEND_CANCEL RECEIVE_START RECEIVE_UPDATE_DATA
    RECEIVE_UPDATE_VMSA RECEIVE_FINISH DBG_DECRYPT DBG_ENCRYPT SWAP_OUT SWAP_IN""")
KEYS = names("ARK ASK CEK OCA PEK PDH GODH Z KEK KIK TEK TIK VEK OEK VCEK VLEK")
LAYOUTS = names("""Session PacketHeader SevCertificate AmdCertificate MeasureInput MeasureInput016 MeasurementBlob
    AttestationReport Vmsa LaunchStartBuffer SendStartBuffer PacketMacInput SecretMacInput PolicyMacInput""")


def slug(name):
    return name.lower().replace("_", "-")


def test_everything_has_an_address(site):
    from sevref.layout import layouts
    from sevref.status import Status

    ids = {name: read(site / f"{name}.html").ids for name in ("statuses", "keys", "layouts", "states")}
    for status in {*STATUSES, *(status.name for status in Status)}:
        assert f"status-{slug(status)}" in ids["statuses"]
    for key in KEYS:
        assert {f"key-{slug(key)}-{end}" for end in ("made", "lives", "protects", "dies")} <= ids["keys"], key
    for layout in {*LAYOUTS, *layouts()}:
        assert f"layout-{layout.lower()}" in ids["layouts"]
    for command in COMMANDS:
        page = read(site / "commands" / f"{command.lower()}.html")
        address = f"command-{slug(command)}"
        assert {address, f"{address}-allowed", f"{address}-checks", f"{address}-changes"} <= page.ids, command
    for state in ("platform-uninit", "platform-init", "platform-working", "guest-lsecret", "guest-rupdate"):
        assert state in ids["states"]


def test_the_rules_of_every_command_are_on_its_page(site):
    from sevref.firmware.rules import rules

    for command in COMMANDS:
        page = read(site / "commands" / f"{command.lower()}.html")
        numbers = {name for name in page.ids if re.fullmatch(rf"command-{slug(command)}-rule-\d+", name)}
        assert len(numbers) == len(rules(command)) > 0, command
    text = (site / "commands" / "launch_start.html").read_text()
    checks = text.split('id="what-it-checks"')[1]
    order = [checks.index(words) for words in ("SESSION_LEN must be 128", "WRAP_MAC does not match", "POLICY_MAC does")]
    assert order == sorted(order)


def test_every_question_has_an_answer(site):
    """Each key, each command, each property, and what the hypervisor learns."""
    links = read(site / "questions.html").links
    for key in KEYS:
        for end in ("made", "lives", "protects", "dies"):
            assert f"keys.html#key-{slug(key)}-{end}" in links
    for command in COMMANDS:
        for end in ("allowed", "checks", "changes"):
            assert f"commands/{command.lower()}.html#command-{slug(command)}-{end}" in links
    for name in ("authenticity", "attestation", "confidentiality"):
        assert {f"properties.html#property-{name}-rests", f"properties.html#property-{name}-breaks"} <= set(links)
    for name in ("migration", "snapshot", "debugging"):
        assert f"hypervisor.html#hypervisor-{name}" in links
    assert len({href.split("#")[0] for href in links if re.match(r"notebooks/\d\d-[a-z-]+\.html#", href)}) >= 6


def section_links(path, address):
    """The links between an address of a page and the next heading."""
    after = path.read_text(encoding="utf-8").split(f'id="{address}"')[1]
    reader = Reader()
    reader.feed(re.split(r"</h\d>", after)[1])
    return reader.links


@pytest.mark.parametrize("name, number", [("migration", "07"), ("snapshot", "08"), ("debugging", "09")])
def test_what_the_hypervisor_learns_is_shown_in_a_notebook(site, name, number):
    """The answer leads to at least three sections that show it; that they exist is checked with all links."""
    links = section_links(site / "hypervisor.html", f"hypervisor-{name}")
    assert len({href for href in links if re.match(rf"notebooks/{number}-[a-z-]+\.html#.", href)}) >= 3


def test_what_belongs_together_is_linked(site):
    """From a command to its sections, buffer, structures, statuses, traces; from a status and a layout back."""
    command = read(site / "commands" / "launch_secret.html").links
    for href in (
        "../layouts.html#layout-packetbuffer",
        "../layouts.html#layout-packetheader",
        "../layouts.html#layout-secretmacinput",
        "../statuses.html#status-bad-measurement",
        "../states.html#guest-lsecret",
        "../address-check.html#address-check",
        "../traces/index.html#trace-09-launch-secret-errors",
    ):
        assert href in command
    assert any(re.match(r"\.\./notebooks/05-secret-injection\.html#.", href) for href in command)
    status = section_links(site / "statuses.html", "status-already-owned")
    assert "commands/pek_cert_import.html#command-pek-cert-import-rule-3" in status
    assert any(re.match(r"notebooks/02-ownership\.html#.", href) for href in status)
    assert "../layouts.html#layout-session" in read(site / "api" / "sevref.transport.html").links
    layout = section_links(site / "layouts.html", "layout-session")
    assert {f"commands/{name}.html#command-{name.replace('_', '-')}" for name in ("launch_start", "send_start")} <= set(
        layout
    )
    assert any(re.match(r"notebooks/03-key-transport\.html#.", href) for href in layout)


@pytest.mark.parametrize("name, up", [("statuses", ""), ("commands/nop", "../")])
def test_the_menu_leads_to_every_page(site, name, up):
    """Titles alone, no headings, each once, in the order of the walk; where the reader is, is marked."""
    menu = (site / f"{name}.html").read_text().split('<div class="sidebar-tree">')[1].split("</aside>")[0]
    links = re.findall(r'<a [^>]*href="([^"]+)"', menu)
    assert len(links) == len(set(links)) and not [href for href in links if "#" in href[1:]]
    walk = [f"{up}notebooks/{path.stem}.html" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert links[: len(walk)] == walk and ">00 Start here<" in menu
    at = {path.name for path in (site / "commands").iterdir()} - {"index.html"}
    assert at <= {href.rpartition("/")[2] if href != "#" else "nop.html" for href in links}
    assert len(re.findall(r'class="current reference internal" href="#"', menu)) == 1


def test_every_page_has_a_description(site):
    """But for lists that Sphinx makes."""
    made = {"genindex.html", "search.html", "py-modindex.html"}
    for path in pages(site):
        found = re.findall(r'<meta name="description" content="([^"]+)"', path.read_text(encoding="utf-8"))
        assert path.name in made or (len(found) == 1 and len(found[0]) >= 10), path


def test_every_notebook_is_there_with_its_outputs(site):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = site / "notebooks" / f"{path.stem}.html"
        if not page.exists() and os.environ.get("SEVREF_SITE"):
            pytest.fail(f"{page} is missing: build the site again")
        assert "cell_output" in page.read_text()


def test_the_first_use_of_a_word_links_to_the_glossary(site):
    text = (site / "notebooks" / "03-key-transport.html").read_text()
    for word in ("PDH", "TEK", "TIK", "hypervisor"):
        assert text.count(f'glossary.html#term-{word}"') >= 1, word
        assert len(re.findall(rf'glossary\.html#term-{word}"[^>]*><span class="term-link">', text)) == 1, word


def test_the_sources_are_the_same_on_every_run(tmp_path):
    made = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        code = f"import pathlib, sevref.site; sevref.site.stage(pathlib.Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT)
        made.append({p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()})
    assert made[0] == made[1] and len(made[0]) > 80


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    from sevref.site import build
    from sevref.status import InputError

    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="something else"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_broken_page_is_refused(tmp_path):
    """Sphinx's warnings end the build: here a link to nowhere."""
    from sevref.site import _sphinx
    from sevref.status import InputError

    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_nb"]\n')
    (source / "index.md").write_text("# Title\n\n[gone](#no-such-address)\n")
    with pytest.raises(InputError, match="no-such-address"):
        _sphinx(source, tmp_path / "out", tmp_path / "trees")
