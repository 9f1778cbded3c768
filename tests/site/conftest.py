"""The built site, a server in front of it, and a browser, each made once."""

import fcntl
import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support import ROOT, peer

sys.path.insert(0, str(Path(__file__).parent))  # for `from browser import ...`


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder with the built pages: that of SEVREF_SITE, or one that is built now, once for all workers."""
    if ready := os.environ.get("SEVREF_SITE"):
        assert (Path(ready) / "index.html").is_file(), f"SEVREF_SITE={ready} has no index.html"
        return Path(ready)
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "site").exists():
            build = [sys.executable, "-m", "sevref.site", str(folder / "site")]
            done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert not done.stderr
    return folder / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def base(site):
    """Address under which the pages are served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from browser import Browser

    found = Browser(str(peer("chromium")), tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()
