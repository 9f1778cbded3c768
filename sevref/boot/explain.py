"""Why a launch digest or launch measurement is not the predicted one: the search for what would have produced it.

Single mistakes first, cheapest first; if none explains the value, pairs of the common ones; at last every combination
of number of vCPUs, CPU and command line. A digest determines its inputs, so whatever matches is an explanation, and no
match is a coincidence. Work is shared: what two configurations have in common up to some step is hashed once.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sevref.boot.digest import Guest, Piece, ShaChain, SnpChain, first_difference, plan, predict, vmsa_piece
from sevref.boot.mistakes import VCPUS, Change, Files, changes, modes_of
from sevref.boot.observed import Owner, OwnerChange, Reading, owner_changes, read_digest, read_measurement
from sevref.status import InputError

__all__ = ["Explanation", "Files", "Hypothesis", "Owner", "Reading", "explain", "read_digest", "read_measurement"]

Progress = Callable[[int, int], None]


class Hypothesis(NamedTuple):
    """What was tried and whether it gives the observed value. ``tried`` combinations stand behind one line."""

    change: str
    match: bool
    tried: int = 1


class Explanation(NamedTuple):
    """What a search has found.

    ``as_configured``: the value is the predicted one. ``difference``: the first step in which the first match differs
    from the prediction."""

    as_configured: bool
    hypotheses: tuple[Hypothesis, ...]
    difference: str | None = None

    @property
    def matches(self) -> list[str]:
        """What would have produced the observed value."""
        return [one.change for one in self.hypotheses if one.match]

    @property
    def tried(self) -> int:
        """How many combinations were tried."""
        return sum(one.tried for one in self.hypotheses)

    def records(self) -> list[dict[str, Any]]:
        """The hypotheses as JSON has them."""
        return [one._asdict() for one in self.hypotheses]

    def text(self) -> str:
        """The outcome for people."""
        if self.as_configured:
            return "The value is the predicted one."
        if not self.matches:
            return (
                f"{self.tried} hypotheses tried, none gives the observed value: it comes from other files, or from "
                "more than one uncommon mistake."
            )
        lines = [f"{self.tried} hypotheses tried. The observed value results from"]
        lines += [f"  {match}" for match in self.matches]
        if self.difference:
            lines.append(f"first step that differs (prediction here, observed there): {self.difference}")
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- the search


class _Node:
    """A state of a digest, and what has been computed from it."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.next: dict[Piece, _Node] = {}
        self.cpus: dict[tuple[bytes, bytes, int], tuple[list[bytes], list[Any]]] = {}


class Digests:
    """Digests of many guests; what they have in common is hashed once."""

    def __init__(self) -> None:
        self._roots: dict[tuple[bool, bytes | None], _Node] = {}
        self._sha, self._snp = ShaChain(), SnpChain()

    def of(self, guest: Guest) -> bytes | None:
        """The digest of ``guest``; None if it could not be started like this."""
        all_of_them = self.by_count(guest, guest.vcpus)
        return all_of_them[-1] if all_of_them else None

    def by_count(self, guest: Guest, most: int) -> list[bytes]:
        """The digests of ``guest`` with 1 to ``most`` vCPUs.

        Only one if vCPUs are not measured, none if it could not be started like this."""
        try:
            start, parts, cpus = plan(guest)
            node = self._root(guest.snp, start)
            chain: Any = self._snp if guest.snp else self._sha
            for piece in parts:
                if piece not in node.next:
                    node.next[piece] = _Node(chain.enter(node.state, piece))
                node = node.next[piece]
        except InputError:
            return []
        if cpus is None:
            return [chain.digest(node.state)]
        found, last = node.cpus.setdefault((*cpus, guest.vmsa_gpa), ([], [node.state]))
        while len(found) < most:
            last[0] = chain.enter(last[0], vmsa_piece(guest, cpus, len(found)))
            found.append(chain.digest(last[0]))
        return found[:most]

    def _root(self, snp: bool, start: bytes | None) -> _Node:
        if (snp, start) not in self._roots:
            chain: Any = self._snp if snp else self._sha
            self._roots[snp, start] = _Node(chain.start(start))
        return self._roots[snp, start]


def explain(
    guest: Guest,
    readings: list[Reading],
    owner: Owner | None = None,
    *,
    files: Files | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Search what would have produced the observed value, given as ``readings`` (the intended one first).

    ``owner`` is needed for launch measurements. ``progress(done, total)`` is called now and then.
    """
    return _Search(guest, readings, owner, files or Files(), progress).run()


class _Search:
    def __init__(
        self, guest: Guest, readings: list[Reading], owner: Owner | None, files: Files, progress: Progress | None
    ) -> None:
        self.guest, self.owner, self.files, self.progress = guest, owner, files, progress
        self.base, self.other = readings[0], readings[1:]
        if self.base.text:  # nothing can be read as it is meant
            self.base, self.other = Reading("", b""), readings
        self.digests = Digests()
        self.seen: set[bytes] = set()
        self.log: list[Hypothesis] = []
        self.found: Guest | None = None
        self.done, self.total = 0, 1
        self.prefixes: dict[Owner, bytes] = {}
        self.groups: dict[str, int] = {}  # place in the log of each line that counts combinations

    def run(self) -> Explanation:
        digest = predict(self.guest).digest  # what is wrong with the configuration itself is an error
        self.seen.add(digest)
        if self._is(digest, self.base, self.owner):
            return Explanation(True, ())
        owners = list(owner_changes(self.owner)) if self.owner else []
        modes = [mode for size in sorted(self._sizes()) for mode in modes_of(size)]
        listed = list(changes(self.guest, self.files, modes))
        self.total = len(self.other) + len(owners) + len(listed) + len(VCPUS)
        self._singles_around(digest, owners)
        singles = self._single_guests(listed)
        if not any(one.match for one in self.log):
            self._pairs(digest, singles, owners)
        if not any(one.match for one in self.log):
            self._triples(listed)
        if self.progress:
            self.progress(self.total, self.total)
        return Explanation(False, tuple(self.log), self._difference())

    def _sizes(self) -> set[int]:
        """Sizes that the digest may have."""
        digests = {len(reading.value) for reading in (self.base, *self.other) if reading.nonce is None}
        return ({32} if self.owner else set()) | digests & {32, 48}

    # -- one comparison

    def _is(self, digest: bytes, reading: Reading, owner: Owner | None) -> bool:
        if reading.nonce is None:
            return digest == reading.value
        if owner is None or len(digest) != 32:
            return False
        if owner not in self.prefixes:
            self.prefixes[owner] = owner.prefix()
        return hmac.digest(owner.tik, self.prefixes[owner] + digest + reading.nonce, "sha256") == reading.value

    def _tick(self, count: int = 1) -> None:
        before, self.done = self.done, self.done + count
        if self.progress and before >> 10 != self.done >> 10:
            self.progress(self.done, self.total)

    def _say(self, words: Iterable[str], match: bool, tried: int = 1, guest: Guest | None = None) -> None:
        self.log.append(Hypothesis(" and ".join(words), match, tried))
        if match and self.found is None:
            self.found = guest

    # -- singles

    def _singles_around(self, digest: bytes, owners: list[OwnerChange]) -> None:
        for reading in self.other:
            self._say([f"the value is {reading.text}" if reading.text else "the value in hex"],
                      self._is(digest, reading, self.owner))  # fmt: skip
            self._tick()
        for change in owners:
            self._say([change.text], self._is(digest, self.base, change.owner))
            self._tick()

    def _single_guests(self, listed: list[Change]) -> list[tuple[Change, Guest, bytes]]:
        """Those changes that have an effect, with the guest and digest that they give; vCPU counts are not among
        them."""
        kept = []
        self._counts(self.guest, (), self.base)
        for change in listed:
            self._tick()
            if change.dear and any(one.match for one in self.log):
                continue
            guest = change.apply(self.guest)
            digest = self.digests.of(guest) if guest else None
            if guest is None or digest is None or digest in self.seen:
                continue  # it could not be started like this, or nothing changes
            self.seen.add(digest)
            self._say([change.text], self._is(digest, self.base, self.owner), guest=guest)
            kept.append((change, guest, digest))
        return kept

    def _counts(self, guest: Guest, words: tuple[str, ...], reading: Reading, group: bool = False) -> int:
        """Try every number of vCPUs; a line for each, or with ``group`` only for those that match."""
        tried = 0
        for count, digest in enumerate(self.digests.by_count(guest, VCPUS[-1]), 1):
            self._tick()
            if count == guest.vcpus or digest in self.seen:
                continue
            self.seen.add(digest)
            tried += 1
            match = self._is(digest, reading, self.owner)
            if match or not group:
                self._say([*words, f"vCPUs: {count}"], match, guest=guest._replace(vcpus=count))
        return tried

    # -- pairs

    def _pairs(self, digest: bytes, singles: list[tuple[Change, Guest, bytes]], owners: list[OwnerChange]) -> None:
        common = [one for one in singles if one[0].common]
        around = [change for change in owners if change.common]
        counts = self.digests.by_count(self.guest, VCPUS[-1])
        counts = counts if len(counts) > 1 else []
        axes = {axis: [c for c in around if c.axis == axis] for axis in dict.fromkeys(c.axis for c in around)}
        self.total = self.done + len(common) ** 2 // 2 + len(common) * len(VCPUS)
        self.total += (len(common) + len(counts)) * (len(self.other) + len(around)) + len(around) ** 2 // 2
        for i, (first, guest, _) in enumerate(common):
            tried = self._counts(guest, (first.text,), self.base, group=True)
            self._group(f"{first.axis} and vCPUs", tried)
            for second, _, _ in common[i + 1 :]:
                self._pair(first, second, guest)
        both = [((change.text,), guest, found) for change, guest, found in common]
        both += [((f"vCPUs: {n}",), self.guest._replace(vcpus=n), found) for n, found in enumerate(counts, 1)]
        for words, guest, found in both:
            for reading in self.other:
                self._tick()
                if self._is(found, reading, self.owner):
                    self._say([*words, f"the value is {reading.text or 'in hex'}"], True, guest=guest)
            self._group("a change and another reading of the value", len(self.other))
            for change in around:
                self._tick()
                if self._is(found, self.base, change.owner):
                    self._say([*words, change.text], True, guest=guest)
            self._group("a change and policy, version, build or TIK", len(around))
        self._owner_pairs(digest, around, list(axes))

    def _pair(self, first: Change, second: Change, guest: Guest) -> None:
        self._tick()
        if first.axis == second.axis:
            return
        both = second.apply(guest)
        digest = self.digests.of(both) if both else None
        if both is None or digest is None or digest in self.seen:
            return
        self.seen.add(digest)
        if self._is(digest, self.base, self.owner):
            self._say([first.text, second.text], True, guest=both)
        else:
            self._group(f"{first.axis} and {second.axis}", 1)

    def _owner_pairs(self, digest: bytes, around: list[OwnerChange], axes: list[str]) -> None:
        """Two of TIK, policy, API version and build; and each of them with another reading of the value."""
        for i, first in enumerate(around):
            for second in around[i + 1 :]:
                self._tick()
                if first.axis == second.axis:
                    continue
                field = _FIELD[second.axis]
                owner = first.owner._replace(**{field: getattr(second.owner, field)})
                if self._is(digest, self.base, owner):
                    self._say([first.text, second.text], True)
                else:
                    self._group(f"{first.axis} and {second.axis}", 1)
            for reading in self.other:
                if reading.nonce is not None and self._is(digest, reading, first.owner):
                    self._say([first.text, f"the value is {reading.text}"], True)

    def _group(self, words: str, tried: int) -> None:
        """Count combinations without a match in one line."""
        if not tried:
            return
        if words in self.groups:
            i = self.groups[words]
            self.log[i] = self.log[i]._replace(tried=self.log[i].tried + tried)
        else:
            self.groups[words] = len(self.log)
            self.log.append(Hypothesis(words, False, tried))

    # -- three at a time

    def _triples(self, listed: list[Change]) -> None:
        lines = [change for change in listed if change.axis == "command line"]
        cpus = [change for change in listed if change.axis == "CPU"]
        for line in lines:
            for cpu in cpus:
                middle = line.apply(self.guest)
                guest = cpu.apply(middle) if middle else None
                if guest:
                    tried = self._counts(guest, (line.text, cpu.text), self.base, group=True)
                    self._group("command line, CPU and vCPUs", tried)

    def _difference(self) -> str | None:
        if self.found is None:
            return None
        ours, theirs = ([step._asdict() for step in predict(one).steps] for one in (self.guest, self.found))
        return first_difference(ours, theirs)


_FIELD = {"TIK": "tik", "policy": "policy", "API version": "api", "build": "build"}
