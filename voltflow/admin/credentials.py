"""Credentials of a flow: cut out of its nodes, kept encrypted beside it, put back before the nodes are built.

`flows_cred.json` is Node-RED's own file: AES-256-CTR, the key is the SHA-256 of the secret, the text is the initial
vector in hex and then base64. With the same secret (`credentialSecret` there, `credential_secret` here) both read it.
CTR has no checksum: a wrong secret shows as text that is no JSON.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

from voltflow.flow.expand import RawNode
from voltflow.flow.flow import Flow, FlowError, Problem, digest
from voltflow.node import REGISTRY

log = logging.getLogger(__name__)

Credentials = Mapping[str, Mapping[str, Any]]
"""By node id, then by name: texts. A `global-config` node has all of its own in one, `map`."""

UNCHANGED: Final = "__PWRD__"
"""What the editor sends for a password that it was not shown."""
MAP: Final = "map"
_GLOBAL: Final = "global-config"
_IV_BYTES: Final = 16
_WITH_ENV: Final = frozenset({"tab", "group"})
"""Beside subflows: their credentials are the variables of the type `cred`."""


class CredentialsError(ValueError):
    """Credentials cannot be decrypted: another secret, or a damaged file."""


def encrypt(credentials: Credentials, secret: str) -> dict[str, str]:
    """As Node-RED writes it.

    >>> decrypt(encrypt({"broker": {"password": "x"}}, "a secret"), "a secret")
    {'broker': {'password': 'x'}}
    """
    iv = os.urandom(_IV_BYTES)
    text = json.dumps(credentials, separators=(",", ":"))
    return {"$": iv.hex() + base64.b64encode(_cipher(secret, iv, text.encode())).decode()}


def decrypt(document: Any, secret: str) -> dict[str, dict[str, Any]]:
    """What `encrypt` or Node-RED has written; raises CredentialsError."""
    text = document.get("$") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise CredentialsError('not encrypted credentials: they are {"$": "…"}')
    try:
        iv, data = (
            bytes.fromhex(text[: 2 * _IV_BYTES]),
            base64.b64decode(text[2 * _IV_BYTES :], validate=True),
        )
        plain = json.loads(_cipher(secret, iv, data))
    except (ValueError, binascii.Error, RecursionError):
        raise CredentialsError(
            "the credentials cannot be decrypted: another secret, or a damaged file"
        ) from None
    return _checked(plain)


def plain_credentials(document: Any) -> dict[str, dict[str, Any]] | None:
    """The credentials of a document that is not encrypted, which Node-RED can be told to write; None where it is."""
    if isinstance(document, dict) and "$" in document:
        return None
    return _checked(document)


def _checked(document: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(document, dict):
        raise CredentialsError("credentials are an object of objects, by node id")
    return {
        node_id: {name: value for name, value in of_node.items() if isinstance(value, str) or name == MAP}
        for node_id, of_node in document.items()
        if isinstance(of_node, dict)
    }


def _cipher(secret: str, iv: bytes, data: bytes) -> bytes:
    """Encrypts, and applied again decrypts."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(iv) != _IV_BYTES:
        raise ValueError("the initial vector is too short")
    cipher = Cipher(algorithms.AES(hashlib.sha256(secret.encode()).digest()), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


# -- out of the nodes and into them -----------------------------------------------------------------------------


def fields_of(type: str) -> dict[str, Literal["password", "text"]] | None:
    """The credentials of a node type, by name; None for a type that is not known here."""
    spec = REGISTRY.get(type)
    if spec is None:
        return None
    return {field.name: field.credential for field in spec.fields if field.credential is not None}


def cut(nodes: Sequence[RawNode], known: Credentials) -> tuple[list[RawNode], dict[str, dict[str, Any]]]:
    """The nodes without credentials, and all credentials: those of `known`, changed by what the nodes bring.

    A node brings those that changed, as `credentials`: what is absent or `__PWRD__` stays, a blank one goes, a node that
    is gone takes its own along. A secret that stands among a node's properties is one too. Raises FlowError.
    """
    bare, found, problems = [], {}, []
    for raw in nodes:
        try:
            found[raw["id"]] = _credentials_of(raw, known.get(raw["id"], {}))
        except CredentialsError as error:
            label = f"{raw['type']} {raw.get('name') or raw['id']!r}"
            problems.append(Problem(raw["id"], label, str(error)))
        bare.append(_without(raw))
    if problems:
        raise FlowError(problems)
    return bare, {node_id: of_node for node_id, of_node in found.items() if of_node}


def _credentials_of(raw: RawNode, known: Mapping[str, Any]) -> dict[str, Any]:
    fields, given = fields_of(raw["type"]), raw.get("credentials", {})
    if not isinstance(given, dict):
        raise CredentialsError('property "credentials": it must be an object of texts')
    if raw["type"] == _GLOBAL:
        return _global(given.get(MAP, {}), _map_of(known)) if "credentials" in raw else dict(known)
    kept = dict(known)
    kept |= {name: raw[name] for name in fields or () if isinstance(raw.get(name), str) and raw[name].strip()}
    for name, value in given.items():
        if fields is None or _is_field(raw["type"], name):
            _change(kept, name, value, strict=fields is not None)
        elif not name.startswith("has_"):
            log.warning("%s %s: it has no credential %r", raw["type"], raw["id"], name)
    if "credentials" in raw and raw["type"].partition(":")[0] == "subflow":
        kept = {name: value for name, value in kept.items() if name in given}
    return kept


def _map_of(credentials: Mapping[str, Any]) -> dict[str, str]:
    found = credentials.get(MAP)
    texts = found if isinstance(found, dict) else {}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


def _global(given: Any, known: Mapping[str, str]) -> dict[str, Any]:
    """What the variables of the whole flow have for credentials: those that are named, the others are gone."""
    if not isinstance(given, dict):
        raise CredentialsError('property "credentials": "map" must be an object of texts')
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    kept = {name: known.get(name, "") if value == UNCHANGED else value for name, value in texts.items()}
    return {MAP: {**kept, **{f"has_{name}": True for name in kept}}} if kept else {}


def _is_field(type: str, name: str) -> bool:
    """Also a property that is no credential here may be one in the form of an editor."""
    return any(field.name == name for field in REGISTRY[type].fields)


def _change(kept: dict[str, Any], name: str, value: Any, *, strict: bool) -> None:
    if not isinstance(value, str):
        if strict:
            raise CredentialsError(f'property "credentials": "{name}" must be a text')
    elif value == UNCHANGED:
        return
    elif value.strip():
        kept[name] = value
    else:
        kept.pop(name, None)


def _without(raw: RawNode) -> RawNode:
    hidden = {name for name in fields_of(raw["type"]) or () if isinstance(raw.get(name), str)} | {
        "credentials"
    }
    return {name: value for name, value in raw.items() if name not in hidden}


def merge(nodes: Sequence[RawNode], credentials: Credentials) -> list[RawNode]:
    """The nodes with their credentials, as they are built. Nobody is to be shown them."""
    return [_with(raw, credentials[raw["id"]]) if raw["id"] in credentials else raw for raw in nodes]


def _with(raw: RawNode, credentials: Mapping[str, Any]) -> RawNode:
    kind = raw["type"].partition(":")[0]
    if kind == _GLOBAL:
        credentials = _map_of(credentials)
    if kind in {"subflow", _GLOBAL, *_WITH_ENV}:
        return {**raw, "env": [_variable(item, credentials) for item in raw.get("env") or []]}
    if raw["type"] not in REGISTRY:
        return raw
    return {**raw, **{name: value for name, value in credentials.items() if _is_field(raw["type"], name)}}


def _variable(item: Any, credentials: Mapping[str, Any]) -> Any:
    if isinstance(item, dict) and item.get("type") == "cred" and item.get("name") in credentials:
        return {**item, "value": credentials[item["name"]]}
    return item


def shown(type: str, credentials: Mapping[str, Any]) -> dict[str, Any]:
    """What the editor may see of the credentials of a node of that type: texts that it declares, and of passwords that
    there is one."""
    if type.partition(":")[0] == "subflow" or type in _WITH_ENV:
        return {f"has_{name}": True for name in credentials}
    if type == _GLOBAL:
        names = _map_of(credentials)
        return (
            {MAP: {**dict.fromkeys(names, UNCHANGED), **{f"has_{name}": True for name in names}}}
            if names
            else {}
        )
    if not credentials:
        return {}
    return dict(
        (f"has_{name}", name in credentials) if kind == "password" else (name, credentials.get(name, ""))
        for name, kind in (fields_of(type) or {}).items()
    )


def is_asked_as(type: str, asked: str) -> bool:
    """Whether the editor means a node of that type: in addresses it writes `-` for blanks, and for each subflow `subflow`.

    >>> (
    ...     is_asked_as("mqtt in", "mqtt-in"),
    ...     is_asked_as("subflow:a", "subflow"),
    ...     is_asked_as("mqtt-broker", "inject"),
    ... )
    (True, True, False)
    """
    return asked.replace(" ", "-") in (type.replace(" ", "-"), type.partition(":")[0].replace(" ", "-"))


class CompleteFlow(Flow):
    """A flow with its credentials, as it runs. What it tells of itself (`bare`, `dumps`, `revision`) is without them."""

    def __init__(self, bare: list[RawNode], credentials: Credentials, text: str | None = None) -> None:
        super().__init__(merge(bare, credentials), text)
        self.bare, self.credentials = bare, credentials

    @cached_property
    def rev(self) -> str:
        """What the editor knows the flow by; `revision` is its beginning."""
        return digest(self.bare)

    @cached_property
    def revision(self) -> str:
        return self.rev[:12]

    def dumps(self) -> str:
        return Flow(self.bare).dumps()
