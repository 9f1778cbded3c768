"""What AMD's firmware was recorded to answer: counts from ``data/traces``, and the table of the files."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from functools import cache
from typing import Any

from sevref import resources
from sevref.site.markdown import anchor, link, table, target, text


@cache
def traces() -> dict[str, dict[str, Any]]:
    """Every recorded file by its name, in order."""
    paths = sorted(resources.data_path("traces").glob("*.json.gz"))
    return {path.name.split(".")[0]: json.loads(gzip.decompress(path.read_bytes())) for path in paths}


@cache
def answers() -> dict[str, dict[str, Counter[str]]]:
    """Command -> file -> how often each status was answered."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for name, trace in traces().items():
        for step in trace["steps"]:
            if step["op"] == "cmd":
                found.setdefault(step["cmd"], {}).setdefault(name, Counter())[step["status"]] += 1
    return found


def trace_link(name: str) -> str:
    """Link to a file's row in the table of traces."""
    return link(name.replace("_", " "), anchor("trace", name))


def files() -> str:
    """The table of the files, with an address each."""
    rows = []
    for name, trace in traces().items():
        sent = Counter(step["cmd"] for step in trace["steps"] if step["op"] == "cmd")
        rows.append(
            (f"[{text(name)}]{{#{anchor('trace', name)}}}", text(trace["description"]), str(sum(sent.values())))
        )
    return target("traces-files") + "## The files\n\n" + table(("file", "subject", "commands"), rows)
