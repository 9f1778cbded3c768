"""Controls whose every move calls the real functions, with the answer below them.

No ``interact`` and no ``Output`` widgets: the answer is HTML. Without a kernel a panel is dead, so ``static()`` gives
the answer of the default case as plain HTML, to be shown beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sevref.show.html import Html, Showable, answer, element, escape, frame, heading
from sevref.status import InputError, SevError

Compute = Callable[[dict[str, Any]], Showable | str]


def panel(controls: Mapping[str, Any], compute: Compute, title: str = "", hint: str = "") -> Panel:
    """Panel of ``controls`` (name -> ipywidgets control with a description) above the answer of ``compute``, which
    gets the controls' values by name and returns something to show or HTML.

    ``SevError`` and ``InputError`` that it raises are answers too: status, code and rule. ``hint`` says what to try.
    """
    return Panel(dict(controls), compute, title, hint)


class Panel:
    """See ``panel``. ``widget`` is what a notebook shows, ``value_html`` the answer now on show."""

    def __init__(self, controls: dict[str, Any], compute: Compute, title: str, hint: str) -> None:
        import ipywidgets

        self.title, self._controls, self._compute = title, controls, compute
        self._answer: Showable = Html("", "")
        self._result = ipywidgets.HTML()
        head = ipywidgets.HTML(_fitting(frame(heading(title), element("div", escape(hint)) if hint else "")))
        rows = ipywidgets.VBox(list(controls.values()))
        self.widget = ipywidgets.VBox([head, rows, self._result])
        self._default = dict(self.values)
        for control in controls.values():
            control.observe(self._moved, "value")
        self._moved()

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {name: control.value for name, control in self._controls.items()}

    @property
    def value_html(self) -> str:
        """The answer as HTML."""
        return str(self._result.value)

    @property
    def value_text(self) -> str:
        """The answer as text."""
        return self._answer.text()

    def set(self, name: str, value: Any) -> None:
        """Move a control, as a reader would. ``KeyError`` for an unknown one; what the control refuses it refuses."""
        self._controls[name].value = value

    def reset(self) -> None:
        """Every control back to where it was."""
        for name, value in self._default.items():
            self._controls[name].value = value

    def static(self) -> Html:
        """The default case, answered now, as HTML that needs no kernel."""
        shown = self._ask(self._default)
        words = [f"{self._label(name)}: {self._words(name, value)}" for name, value in self._default.items()]
        line = "Default case: " + "; ".join(words)
        page = frame(element("div", escape(line), "font-size:12px;margin:0 0 4px")) + shown._repr_html_()
        return Html(page, f"{line}\n{shown.text()}", self.title)

    def _label(self, name: str) -> str:
        return str(self._controls[name].description).rstrip(":") or name

    def _words(self, name: str, value: Any) -> str:
        """The value as its control shows it."""
        options = getattr(self._controls[name], "_options_full", ())
        label = next((label for label, option in options if option == value), None)
        return str(label) if label is not None else "yes" if value is True else "no" if value is False else str(value)

    def _ask(self, values: dict[str, Any]) -> Showable:
        try:
            for name, value in values.items():
                bounds = getattr(self._controls[name], "bounds", None)
                if bounds and not bounds[0] <= value <= bounds[1]:
                    raise InputError(self._label(name), f"{bounds[0]} to {bounds[1]}", value)
            found = self._compute(dict(values))
        except (SevError, InputError) as error:
            return answer(error)
        return found if isinstance(found, Showable) else Html(found, found)

    def _moved(self, _change: object = None) -> None:
        self._answer = self._ask(self.values)
        self._result.value = _fitting(self._answer._repr_html_(), role="status")

    def __repr__(self) -> str:
        return f"{self.title}: controls that need a kernel; the default case stands below as plain HTML"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self.widget._repr_mimebundle_(**kwargs) or {})
        return {**bundle, "text/plain": repr(self)}


def _fitting(content: str, **attributes: object) -> str:
    """HTML that takes the width of the page and never widens it: the boxes of ipywidgets grow with what is in them."""
    return element("div", content, "width:0;min-width:100%", **attributes)


# -- controls with a label, a hint on hovering, and a width that fits a narrow page


def _style(description: str, tooltip: str) -> dict[str, Any]:
    import ipywidgets

    return {
        "description": description,
        "tooltip": tooltip or description,
        "style": {"description_width": "9em"},
        "layout": ipywidgets.Layout(width="34em", max_width="calc(100% - 4px)"),
    }


def slider(description: str, value: int, low: int, high: int, tooltip: str = "") -> Any:
    """Whole number between two bounds."""
    import ipywidgets

    return ipywidgets.IntSlider(value, low, high, continuous_update=False, **_style(description, tooltip))


def number(description: str, value: int, low: int, high: int, tooltip: str = "") -> Any:
    """Whole number typed in. One outside the bounds is not corrected in silence: the panel's answer says what fits."""
    import ipywidgets

    control = ipywidgets.IntText(value, **_style(description, tooltip))
    control.bounds = low, high
    return control


def choice(description: str, options: Sequence[str | tuple[str, Any]], value: Any = None, tooltip: str = "") -> Any:
    """One of several."""
    import ipywidgets

    chosen = {} if value is None else {"value": value}
    return ipywidgets.Dropdown(options=options, **chosen, **_style(description, tooltip))


def tick(description: str, value: bool = False, tooltip: str = "") -> Any:
    """Yes or no."""
    import ipywidgets

    return ipywidgets.Checkbox(value, indent=True, **_style(description, tooltip))
