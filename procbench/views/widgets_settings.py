"""Run settings as controls: one for each field, made from what the field says of itself."""

from __future__ import annotations

import json
from typing import Any, Final

from procbench.scheduling.settings import RunSettings
from procbench.views.widgets_shown import choice, row, text_field, tick

FIRST: Final = ("workers", "pin", "nice", "order", "timeout", "retries", "halt", "args_per_task")
"""What people change most; the rest is folded away."""

_AS_IT_IS: Final = "(as it is)"
_NONE: Final = ""  # a list whose value is None has nothing chosen


class SettingsForm:
    """Controls for every setting.

    Args:
        settings: What they show at first.

    Attributes:
        root: The ipywidget.
    """

    def __init__(self, settings: RunSettings) -> None:
        import ipywidgets

        self._given = settings
        self._controls = {name: _control(name, facts, settings) for name, facts in RunSettings.describe().items()}
        rest = row(*(control for name, control in self._controls.items() if name not in FIRST))
        more = ipywidgets.Accordion([rest], titles=["More settings"], selected_index=None)
        self.root = ipywidgets.VBox([row(*(self._controls[name] for name in FIRST)), more])

    def read(self) -> RunSettings:
        """Return the settings that stand there.

        Raises:
            InvalidInputError: A value makes no sense; the message names the setting.
        """
        return self._given.changed(
            **{name: _read(name, control, self._given) for name, control in self._controls.items()}
        )

    def show(self, settings: RunSettings) -> None:
        """Have the controls show other settings."""
        self._given = settings
        for name, control in self._controls.items():
            control.value = _shown(getattr(settings, name), control)

    def enable(self, enabled: bool) -> None:
        """Let the controls be changed, or not."""
        for control in self._controls.values():
            control.disabled = not enabled


def _control(name: str, facts: Any, settings: RunSettings) -> Any:
    value, unit = getattr(settings, name), facts["unit"]
    words = name.removesuffix(f"_{unit}").replace("_", " ")
    if unit and unit != words:
        words += f" ({unit})"
    if isinstance(value, bool):
        return tick(words, value, facts["meaning"])
    if facts["choices"] and not isinstance(value, tuple):
        options = [(word, word) for word in facts["choices"]]
        if getattr(RunSettings(), name) is None:
            options.insert(0, (_AS_IT_IS, _NONE))
        return choice(words, options, _NONE if value is None else value, facts["meaning"])
    return text_field(words, _text(value), _hint(name, facts))


def _hint(name: str, facts: Any) -> str:
    default = getattr(RunSettings(), name)
    return f"{facts['meaning']}; empty is {'the default' if default is None else f'{default}'}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)


def _shown(value: Any, control: Any) -> Any:
    if control.has_trait("placeholder"):
        return _text(value)
    return _NONE if value is None else value


def _read(name: str, control: Any, given: RunSettings) -> Any:
    """Return a control's value; a number that is written stays a number, and an empty field the default."""
    if not control.has_trait("placeholder"):
        return None if control.value == _NONE else control.value
    text = control.value.strip()
    if not text:
        return getattr(RunSettings(), name)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return float(value) if isinstance(getattr(given, name), float) and isinstance(value, int) else value
