"""State machines as a picture: states below each other, commands on the arrows, drawn from rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sevref.show import palette
from sevref.show.html import Showable
from sevref.show.svg import Svg, picture, wrap

_SIZE, _LINE = 11, 14
_BOX, _LABEL, _LANE = 150, 178, 13


def state_diagram(
    transitions: Iterable[Any], current: object = None, title: str = "States", states: Sequence[object] | None = None
) -> StateDiagram:
    """Diagram of rows (state, command, next state): tuples, dicts with these keys (``next`` or ``next state`` for the
    last), or objects with attributes ``state``, ``command``, ``next``. ``current`` is highlighted; ``states`` fixes the
    order from top to bottom (by default as they occur). Commands that leave the state stand inside its box."""
    edges: dict[tuple[str, str], list[str]] = {}
    for row in transitions:
        source, command, target = _row(row)
        commands = edges.setdefault((source, target), [])
        if command not in commands:
            commands.append(command)
    order = [name(state) for state in states or ()]
    order += [state for pair in edges for state in pair]
    return StateDiagram(list(dict.fromkeys(order)), edges, None if current is None else name(current), title)


def name(state: object) -> str:
    """Name of a state: an enum's member or text."""
    return str(getattr(state, "name", state))


def _row(row: Any) -> tuple[str, str, str]:
    if isinstance(row, Mapping):
        found = (row["state"], row["command"], row["next"] if "next" in row else row["next state"])
    elif isinstance(row, tuple):
        found = row[:3]
    else:
        found = (row.state, row.command, row.next)
    source, command, target = map(name, found)
    return source, command, target


class StateDiagram(Showable):
    """See ``state_diagram``."""

    def __init__(
        self, states: list[str], edges: dict[tuple[str, str], list[str]], current: str | None, title: str
    ) -> None:
        self.states, self.edges, self.current, self.title = states, edges, current, title

    def text(self) -> str:
        lines = [self.title + (f" (now: {self.current})" if self.current else "")]
        for state in self.states:
            lines.append(f"  {state}")
            for (source, target), commands in self.edges.items():
                if source == state:
                    where = "stays" if target == state else f"-> {target}"
                    lines.append(f"    {where}: {', '.join(commands)}")
        return "\n".join(lines)

    def html(self) -> str:
        return picture(self.title, f"now: {self.current}" if self.current else "", self._draw(), self.text())

    # -- three kinds of edges: inside a box, down to the next box, and round the right side

    def _below(self, state: str) -> list[str]:
        """Lines on the arrow to the next state."""
        index = self.states.index(state)
        if index + 1 == len(self.states):
            return []
        return _lines(self.edges.get((state, self.states[index + 1]), []), _BOX + _LABEL - 40)

    def _around(self, state: str) -> list[tuple[str, list[str]]]:
        """(target, lines) of the arrows that leave on the right side."""
        index = self.states.index(state)
        near = self.states[index : index + 2]
        return [
            (target, _lines(commands, _LABEL - 14))
            for (source, target), commands in self.edges.items()
            if source == state and target not in near
        ]

    def _draw(self) -> Svg:
        targets = [t for t in self.states if any(t == to for s in self.states for to, _ in self._around(s))]
        lanes = {target: 4.0 + _BOX + _LABEL + _LANE * (i + 1) for i, target in enumerate(targets)}
        tops: dict[str, float] = {}
        heights: dict[str, float] = {}
        y = 6.0
        for state in self.states:
            stays = _lines(self.edges.get((state, state), []), _BOX - 24)
            ports = sum(_LINE * len(lines) + 10 for _, lines in self._around(state)) + (16 if state in lanes else 0)
            tops[state], heights[state] = y, max(34 + _LINE * (len(stays) + bool(stays)), ports + 8)
            y += heights[state] + max(26, _LINE * len(self._below(state)) + 18)
        width = 4 + _BOX + _LABEL + (_LANE * (len(lanes) + 1) if lanes else 0)
        svg = Svg(width, max((tops[state] + heights[state] for state in self.states), default=0) + 8)
        for state in self.states:
            self._state(svg, state, tops[state], heights[state])
            self._edges(svg, state, tops, heights, lanes)
        return svg

    def _state(self, svg: Svg, state: str, top: float, height: float) -> None:
        here = state == self.current
        svg.aside("\n")
        svg.box(4, top, _BOX, height, palette.PARTIES["AMD-SP"], strong=here)
        svg.text(18, top + 21, f"{state}  ◀ now" if here else state, bold=True, size=12.5)
        stays = _lines(self.edges.get((state, state), []), _BOX - 24)
        svg.aside("; " if stays else "")
        for i, line in enumerate(["stays with", *stays] if stays else []):
            svg.text(18, top + 37 + _LINE * i, line, size=_SIZE, mono=i > 0)

    def _edges(
        self, svg: Svg, state: str, tops: dict[str, float], heights: dict[str, float], lanes: dict[str, float]
    ) -> None:
        top, height, right = tops[state], heights[state], 4 + _BOX
        below = self._below(state)
        if below:
            end = tops[self.states[self.states.index(state) + 1]]
            svg.arrow([(32, top + height), (32, end)], palette.NEUTRAL)
            middle = (top + height + end) / 2 - _LINE * (len(below) - 1) / 2 + 4
            svg.aside(f"\n  {state} → {self.states[self.states.index(state) + 1]}: ")
            for i, line in enumerate(below):
                svg.text(44, middle + _LINE * i, line, size=_SIZE, mono=True)
        y = top + (16 if state in lanes else 0)
        for target, lines in self._around(state):
            svg.aside(f"\n  {state} → {target}: ")
            for i, line in enumerate(lines):
                svg.text(right + 10, y + 13 + _LINE * i, line, size=_SIZE, mono=True)
            y += _LINE * len(lines) + 10
            into = tops[target] + 10
            lane = lanes[target]
            svg.arrow([(right, y - 4), (lane, y - 4), (lane, into), (right, into)], palette.NEUTRAL)


def _lines(commands: list[str], width: float) -> list[str]:
    """Commands in lines that fit, broken between commands only."""
    if not commands:
        return []
    return wrap(", ".join(commands), width, _SIZE, True)
