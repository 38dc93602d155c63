"""Types of Node-RED that are drawn and kept, and not run: JavaScript and commands.

The editor knows them, so that an imported flow shows their names and code and gives them back whole; the palette does not
offer them. A deploy with one is refused (`voltflow.flow.flow`), unless it or its tab is disabled.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Final

INSTEAD: Final = (
    "JavaScript and commands are not run here. Use a python node in its place, or change, switch or template; the gateway can be "
    "deployed when this node is replaced or disabled. Until then it is kept as it is."
)


@dataclass(frozen=True)
class Kept:
    """`properties` with the values that a new one has; `shown` of them, by their labels, are what a person reads."""

    type: str
    icon: str
    outputs: int
    properties: dict[str, Any]
    shown: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """What the page's script registers the type with."""
        return {
            "type": self.type,
            "icon": f"node-red/{self.icon}",
            "outputs": self.outputs,
            "properties": self.properties,
            "shown": list(self.shown.values()),
        }

    def rows(self) -> str:
        """The form. Its inputs have no ids that the editor would save."""
        rows = [
            f'<div class="form-tips">{html.escape(INSTEAD)}</div><br>\n',
            (
                '<div class="form-row"><label for="node-input-name"><i class="fa fa-tag"></i> Name</label> '
                '<input type="text" id="node-input-name" readonly></div>\n'
            ),
        ]
        rows += [
            f'<div class="form-row voltflow-row"><label for="voltflow-kept-{name}">{html.escape(label)}</label> '
            f'<textarea id="voltflow-kept-{name}" class="voltflow-kept" readonly></textarea></div>\n'
            for label, name in self.shown.items()
        ]
        return "".join(rows)


KEPT: Final = {
    kept.type: kept
    for kept in (
        Kept(
            "function", "function.svg", 1,
            {"name": "", "func": "", "outputs": 1, "timeout": 0, "noerr": 0, "initialize": "", "finalize": "", "libs": []},
            {"On message": "func", "On start": "initialize", "On stop": "finalize"},
        ),
        Kept(
            "exec", "cog.svg", 3,
            {"name": "", "command": "", "addpay": "", "append": "", "useSpawn": "false", "timer": "", "winHide": False, "oldrc": False},
            {"Command": "command", "Appended": "append"},
        ),
    )
}  # fmt: skip
