"""The palette as the editor and `node-red-admin` ask for it, and the settings of gateway and user.

Node types come with the program: nothing can be installed or removed here, only switched off.
"""

from __future__ import annotations

import gzip
import platform
from collections.abc import Callable
from typing import Any, Final

from edge.editor.auth import Auth
from edge.editor.http import NO_CONTENT, Api, EditorError, Reply, Request
from edge.editor.palette import CORE, OWN, NodeSet, Palette
from edge.editor.preferences import Preferences
from voltflow import __version__
from voltflow.admin.editor_files import VERSION

CATEGORIES: Final = (
    "battery", "subflows", "common", "function", "network", "sequence", "parser", "storage",
)  # fmt: skip
"""The palette's order."""
_HTML: Final = "text/html; charset=utf-8"


class Nodes:
    """The handlers. `used` gives the types that the flow has; `tell` reaches every open editor."""

    def __init__(
        self,
        palette: Palette,
        preferences: Preferences,
        auth: Auth,
        used: Callable[[], set[str]],
        tell: Callable[[str, Any], None],
    ) -> None:
        self._palette, self._preferences, self._auth = palette, preferences, auth
        self._used, self._tell = used, tell
        self._packed: tuple[frozenset[str], bytes] | None = None
        """The html of all sets that are on, compressed; half a megabyte without."""

    def add_to(self, api: Api) -> None:
        api.get("/settings", self.settings, needs="settings.read")
        api.get("/settings/user", self.user_settings, needs="settings.read")
        api.route("POST", "/settings/user", self.set_user_settings, needs="settings.write")
        api.get("/diagnostics", self.diagnostics, needs="diagnostics.read")
        api.get("/plugins", self.plugins, needs="plugins.read")
        api.get("/plugins/messages", _empty, needs="plugins.read")
        api.get("/icons", self.icons, needs="nodes.read")
        api.get("/nodes", self.nodes, needs="nodes.read")
        api.get("/nodes/messages", _empty, needs="nodes.read")
        api.get("/nodes/<module>/<name>/messages", _empty, needs="nodes.read")
        api.get("/nodes/<module>", self.module, needs="nodes.read")
        api.get("/nodes/<module>/<name>", self.one_set, needs="nodes.read")
        api.route("PUT", "/nodes/<module>", self.switch_module, needs="nodes.write")
        api.route("PUT", "/nodes/<module>/<name>", self.switch_set, needs="nodes.write")
        api.route("POST", "/nodes", _refuse_install, needs="nodes.write")
        api.route("DELETE", "/nodes/<module>", _refuse_install, needs="nodes.write")

    # -- settings -----------------------------------------------------------------------------------------------------

    def settings(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = {
            "version": VERSION,
            "httpNodeRoot": "/endpoint/",
            "context": {"default": "memory", "stores": ["memory"]},
            "telemetryEnabled": False,
            "externalModules": {"palette": {"allowInstall": False, "allowUpload": False}},
            "runtimeState": {"enabled": True, "ui": True},
            "paletteCategories": CATEGORIES,
            "nodeDefaults": self._palette.defaults,
            "libraries": [],
            "editorTheme": {
                "tours": False,
                "palette": {"editable": False},
                "languages": ["en-US"],
                "header": {"title": "Voltflow"},
                "codeEditor": {"lib": "monaco"},
            },
        }
        if request.user is not None:
            permissions = request.user.permissions
            found["user"] = {
                "username": request.user.username,
                "permissions": permissions[0] if len(permissions) == 1 else list(permissions),
            }
        return found

    def user_settings(self, request: Request) -> dict[str, Any]:
        return self._preferences.settings_of(_name(request))

    def set_user_settings(self, request: Request) -> Reply:
        try:
            self._preferences.merge(_name(request), request.fields())
        except (OSError, ValueError) as error:
            raise EditorError(400, "settings_not_kept", str(error)) from None
        return NO_CONTENT

    def diagnostics(self, request: Request) -> dict[str, Any]:
        return {
            "report": "diagnostics",
            "scope": "basic",
            "voltflow": {"version": __version__},
            "runtime": {
                "version": VERSION,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
            "modules": {OWN: __version__, CORE: VERSION},
        }

    # -- sets ---------------------------------------------------------------------------------------------------------

    def plugins(self, request: Request) -> Any:
        return [] if _wants_json(request) else Reply()

    def icons(self, request: Request) -> Any:
        return self._palette.icons

    def nodes(self, request: Request) -> Any:
        if _wants_json(request):
            return [self._facts(item) for item in self._palette.sets.values()]
        disabled = self._preferences.disabled
        if "gzip" not in request.header("Accept-Encoding"):
            return _html(self._palette.page(disabled))
        if self._packed is None or self._packed[0] != disabled:
            self._packed = disabled, gzip.compress(self._palette.page(disabled).encode())
        return Reply(self._packed[1], _HTML, headers={"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})

    def module(self, request: Request, module: str) -> dict[str, Any]:
        sets = self._module(module)
        return {
            "name": module,
            "version": VERSION if module == CORE else __version__,
            "local": False,
            "user": False,
            "nodes": [self._facts(item) for item in sets],
        }

    def one_set(self, request: Request, module: str, name: str) -> Any:
        item = self._set(module, name)
        return self._facts(item) if _wants_json(request) else _html(self._palette.html(item.id))

    def switch_module(self, request: Request, module: str) -> dict[str, Any]:
        self._switch(self._module(module), _enabled(request))
        return self.module(request, module)

    def switch_set(self, request: Request, module: str, name: str) -> dict[str, Any]:
        item = self._set(module, name)
        self._switch([item], _enabled(request))
        return self._facts(item)

    def _facts(self, item: NodeSet) -> dict[str, Any]:
        return item.facts(enabled=item.id not in self._preferences.disabled)

    def _module(self, module: str) -> list[NodeSet]:
        sets = [item for item in self._palette.sets.values() if item.module == module]
        if not sets:
            raise EditorError(404, "not_found", f"there is no module {module}")
        return sets

    def _set(self, module: str, name: str) -> NodeSet:
        item = self._palette.sets.get(f"{module}/{name}")
        if item is None:
            raise EditorError(404, "not_found", f"there is no set {module}/{name}")
        return item

    def _switch(self, sets: list[NodeSet], enabled: bool) -> None:
        changed = [item for item in sets if (item.id in self._preferences.disabled) == enabled]
        in_use = sorted(self._used() & {type for item in changed for type in item.types})
        if in_use and not enabled:
            text = f"the flow uses {', '.join(in_use)}: take those nodes out first"
            raise EditorError(400, "type_in_use", text)
        try:
            self._preferences.set_enabled([item.id for item in changed], enabled=enabled)
        except OSError as error:
            raise EditorError(400, "settings_not_kept", str(error)) from None
        for item in changed:
            self._tell(f"notification/node/{'enabled' if enabled else 'disabled'}", self._facts(item))

    def refuse_disabled(self, types: set[str]) -> None:
        """Raise EditorError for a flow with types that are switched off."""
        off = {type for id in self._preferences.disabled & set(self._palette.sets)
               for type in self._palette.sets[id].types}  # fmt: skip
        if found := sorted(types & off):
            raise EditorError(400, "type_disabled", f"switched off here: {', '.join(found)}")


def _name(request: Request) -> str | None:
    return request.user.username if request.user else None


def _wants_json(request: Request) -> bool:
    return request.header("Accept") == "application/json"


def _html(text: str) -> Reply:
    return Reply(text.encode(), _HTML)


def _empty(request: Request, **path: str) -> dict[str, Any]:
    return {}


def _enabled(request: Request) -> bool:
    enabled = request.fields().get("enabled")
    if not isinstance(enabled, bool):
        raise EditorError(400, "invalid_request", '"enabled" is to be true or false')
    return enabled


def _refuse_install(request: Request, **path: str) -> Any:
    text = "node types come with Voltflow and its Python packages; nothing is installed or removed from the editor"
    raise EditorError(400, "not_supported", text)
