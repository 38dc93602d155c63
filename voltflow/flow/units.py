"""Units along the wires of a flow: a field in °C that a node takes as K, a current in A compared with a limit in mA.

What unit a field has its name says (`cell_temp_max_c`, as in the contracts of `voltflow.telemetry`), or the field that a
`change` node made it from. What a node expects its declaration says: `config(unit="°C", of="field")` is in the unit of the
payload field that the property `field` names, and a text with `of` is that unit itself.

>>> (
...     unit_of_name("payload.cell_temp_max_c"),
...     unit_of_name("current_ma"),
...     unit_of_name("phase_a"),
...     unit_of_name("name"),
... )
('°C', 'mA', None, None)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from voltflow.flow.expand import Part, list_of
from voltflow.node import REGISTRY, Field
from voltflow.telemetry import CONTRACTS


class Unit(NamedTuple):
    """A unit: its value × factor + offset is in the base unit of the quantity."""

    quantity: str
    factor: float = 1.0
    offset: float = 0.0


UNITS: Final[Mapping[str, Unit]] = {
    "K": Unit("temperature"), "°C": Unit("temperature", 1, 273.15), "°F": Unit("temperature", 5 / 9, 459.67 * 5 / 9),
    "V": Unit("voltage"), "mV": Unit("voltage", 1e-3), "kV": Unit("voltage", 1e3),
    "A": Unit("current"), "mA": Unit("current", 1e-3), "kA": Unit("current", 1e3),
    "W": Unit("power"), "kW": Unit("power", 1e3), "MW": Unit("power", 1e6),
    "Wh": Unit("energy"), "kWh": Unit("energy", 1e3), "MWh": Unit("energy", 1e6),
    "Ah": Unit("charge"), "mAh": Unit("charge", 1e-3),
    "Ω": Unit("resistance"), "mΩ": Unit("resistance", 1e-3), "kΩ": Unit("resistance", 1e3), "MΩ": Unit("resistance", 1e6),
    "s": Unit("time"), "ms": Unit("time", 1e-3), "min": Unit("time", 60), "h": Unit("time", 3600), "d": Unit("time", 86400),
    "m": Unit("length"), "km": Unit("length", 1e3), "m/s": Unit("speed"), "km/h": Unit("speed", 1 / 3.6),
    "Pa": Unit("pressure"), "kPa": Unit("pressure", 1e3), "bar": Unit("pressure", 1e5),
    "1": Unit("share"), "%": Unit("share", 1e-2), "Hz": Unit("frequency"), "kHz": Unit("frequency", 1e3),
}  # fmt: skip

SUFFIXES: Final[Mapping[str, str]] = {
    "k": "K", "c": "°C", "f": "°F", "v": "V", "mv": "mV", "kv": "kV", "a": "A", "ma": "mA", "ka": "kA", "w": "W", "kw": "kW",
    "mw": "MW", "wh": "Wh", "kwh": "kWh", "mwh": "MWh", "ah": "Ah", "mah": "mAh", "ohm": "Ω", "mohm": "mΩ", "kohm": "kΩ",
    "s": "s", "ms": "ms", "min": "min", "h": "h", "km": "km", "kmh": "km/h", "pa": "Pa", "kpa": "kPa", "bar": "bar",
    "pct": "%", "hz": "Hz", "khz": "kHz",
}  # fmt: skip
"""The unit that the end of a name stands for; `cell_voltage_min` is a lowest value and not minutes, see below."""

_WORDS: Final = {
    "temperature": r"temp|temperature|coolant|ambient|inlet|outlet", "voltage": r"volt|voltage|u", "current": r"current|amps|i",
    "time": r"time|age|duration|period|delay|since|elapsed|uptime|interval|timeout|ts|received|sent",
    "power": r"power", "length": r"length|distance|odometer|range", "pressure": r"pressure",
}  # fmt: skip
"""Words in a name without which a short ending says nothing: `phase_a` is no current. Longer endings speak for themselves."""
_SHORT: Final = frozenset({"k", "c", "f", "v", "a", "w", "s", "h", "min", "ms", "mw", "ma", "bar", "pa"})

_CONTRACT_NAMES: Final = frozenset(
    field.encode_name for struct in CONTRACTS.values() for field in msgspec.structs.fields(struct)
)


class Mismatch(NamedTuple):
    """A wire that leads a field in one unit to where another one is expected."""

    part: Part
    property: str
    text: str


class _Made(NamedTuple):
    """What is known of a field beside its name: its unit, and by which node it got that."""

    unit: str
    by: str


_Fields = dict[str, _Made]
"""By path of the message."""


def unit_of_name(path: str) -> str | None:
    """The unit that the name of a field says, or None."""
    name = path.rpartition(".")[2].strip("'\"]").casefold()
    stem, mark, ending = name.rpartition("_")
    unit = SUFFIXES.get(ending) if mark else None
    if unit is None or name in _CONTRACT_NAMES or ending not in _SHORT:
        return unit
    words = _WORDS.get(UNITS[unit].quantity, "")
    return unit if words and re.search(rf"(?:^|_)(?:{words})(?:_|$)", stem) else None


def mismatches(parts: Mapping[str, Part]) -> list[Mismatch]:
    """Where units do not fit, in the order of the flow."""
    coming = _coming(parts)
    return [found for part in parts.values() for found in _of_node(part, coming.get(part.id, {}))]


def _of_node(part: Part, fields: _Fields) -> Iterator[Mismatch]:
    spec = REGISTRY.get(part.type)
    for field in spec.fields if spec else ():
        if field.of:
            yield from _of_field(part, field, fields)
    if part.type == "change":
        yield from _of_rules(part, dict(fields))


def _of_field(part: Part, field: Field, fields: _Fields) -> Iterator[Mismatch]:
    expected = _canonical(field.unit or _text(part, field.name))
    path = _path(_text(part, field.of or ""))
    there, by = _unit(path, fields)
    if expected in UNITS and there is not None and there != expected:
        yield Mismatch(
            part, field.name,
            f'property "{field.name}": {path.removeprefix("payload.")} is in {there}{by}, and is taken for {expected} here: '
            f"{_advice(there, expected)}",
        )  # fmt: skip


def _of_rules(part: Part, fields: _Fields) -> Iterator[Mismatch]:
    """A `change` node that gives a value a name of another unit."""
    for number, rule in enumerate(_rules(part), 1):
        for source, target in _moves(rule):
            there, by = _unit(source, fields)
            said = unit_of_name(target)
            if there is not None and said is not None and there != said:
                text = f'property "rules": rule {number} puts {source}, which is in {there}{by}, into {target}, whose name says {said}'
                yield Mismatch(part, "rules", f"{text}: {_advice(there, said)}")
        _apply(rule, fields, _label(part))


def _unit(path: str, fields: _Fields) -> tuple[str | None, str]:
    """The unit of a field, and what is to be said of where it has it from."""
    made = fields.get(path)
    return (made.unit, f" (made by {made.by})") if made is not None else (unit_of_name(path), "")


def _advice(there: str, expected: str) -> str:
    one, other = UNITS[there], UNITS[expected]
    if one.quantity != other.quantity:
        return f"that is a {one.quantity}, not a {other.quantity}"
    factor, offset = one.factor / other.factor, (one.offset - other.offset) / other.factor
    times = "" if abs(factor - 1) < 1e-12 else f" × {factor:.6g}"
    plus = "" if abs(offset) < 1e-12 else f" {'+' if offset > 0 else '−'} {abs(offset):.6g}"
    return f"convert it first (value{times}{plus})"


# -- along the wires ----------------------------------------------------------------------------------------------


def _coming(parts: Mapping[str, Part]) -> dict[str, _Fields]:
    """What is known of the fields of the messages that come to each node."""
    before = _before(parts)
    leaving: dict[str, _Fields] = {}
    coming: dict[str, _Fields] = {}
    for _ in range(len(parts)):  # in a circle it takes as many rounds as the circle has nodes, at most
        now = {id: _joined([leaving.get(other, {}) for other in before[id]]) for id in parts}
        if now == coming:
            break
        coming = now
        leaving = {id: _leaving(part, coming[id]) for id, part in parts.items()}
    return coming


def _before(parts: Mapping[str, Part]) -> dict[str, list[str]]:
    """From where messages come to each node: over wires, and by link calls and back from them."""
    found: dict[str, list[str]] = {id: [] for id in parts}
    for id, part in parts.items():
        sources = [id]
        if part.type == "link call":
            called = _called(part, parts)
            for link_in in called:
                found[link_in].append(id)
            sources = list(dict.fromkeys(back for link_in in called for back in _returns(link_in, parts)))
        for target in _targets(part):
            if target in found:
                found[target] += sources
    return found


def _targets(part: Part) -> Iterator[str]:
    for port in list_of(part.raw, "wires"):
        yield from (target for target in port if isinstance(target, str)) if isinstance(port, list) else ()


def _called(call: Part, parts: Mapping[str, Part]) -> list[str]:
    """The link in nodes that a call may lead to: of one whose messages say it, all."""
    link_ins = [id for id, part in parts.items() if part.type == "link in"]
    if call.raw.get("linkType", "static") == "dynamic":
        return link_ins
    return [id for id in link_ins if id in list_of(call.raw, "links")]


def _returns(link_in: str, parts: Mapping[str, Part]) -> list[str]:
    """The link out nodes by which what was called at this link in comes back. What is called on the way comes back there."""
    seen, ways = {link_in}, [link_in]
    while ways:
        for target in _targets(parts[ways.pop()]):
            if target in parts and target not in seen:
                seen.add(target)
                ways.append(target)
    return [id for id in seen if parts[id].type == "link out" and parts[id].raw.get("mode") == "return"]


def _joined(ways: Sequence[_Fields]) -> _Fields:
    """Where wires join only that is known on which all agree."""
    if not ways:
        return {}
    return {path: made for path, made in ways[0].items() if all(way.get(path) == made for way in ways[1:])}


def _leaving(part: Part, coming: _Fields) -> _Fields:
    fields = dict(coming)
    if part.type == "change":
        for rule in _rules(part):
            _apply(rule, fields, _label(part))
    elif part.type == "range":  # it makes another quantity of it
        fields.pop(_path(str(part.raw.get("property") or "payload")), None)
    return fields


def _apply(rule: Mapping[str, Any], fields: _Fields, label: str) -> None:
    """What a rule of a `change` node does to what is known."""
    moves = list(_moves(rule))
    for source, target in moves:
        there, _ = _unit(source, fields)
        fields.pop(target, None)
        if there is not None and unit_of_name(target) != there:
            fields[target] = _Made(there, label)
    if rule.get("pt", "msg") == "msg" and (not moves or rule.get("t") == "move"):
        fields.pop(str(rule.get("p", "")), None)


def _moves(rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """From where to where a rule takes a value within the message."""
    if rule.get("pt", "msg") != "msg" or rule.get("tot") != "msg":
        return
    place, other = str(rule.get("p", "")), str(rule.get("to", ""))
    if rule.get("t") == "set":
        yield other, place
    elif rule.get("t") == "move":
        yield place, other


def _rules(part: Part) -> Iterator[Mapping[str, Any]]:
    return (rule for rule in list_of(part.raw, "rules") if isinstance(rule, Mapping))


def _text(part: Part, name: str) -> str:
    """A property that is a text, as the flow or its default has it."""
    spec = REGISTRY[part.type]
    default = next((field.default for field in spec.fields if field.name == name), "")
    value = part.raw.get(name, default)
    return value if isinstance(value, str) and "${" not in value else ""


def _path(name: str) -> str:
    """The path of a field that a property names, with or without `payload`."""
    return name if not name or name.partition(".")[0] in ("payload", "topic") else f"payload.{name}"


def _canonical(unit: str) -> str:
    """A unit as it is spelled here.

    >>> _canonical("C"), _canonical("degC"), _canonical("ohm"), _canonical("K"), _canonical("mA")
    ('°C', '°C', 'Ω', 'K', 'mA')
    """
    other = {
        "C": "°C",
        "degC": "°C",
        "℃": "°C",
        "F": "°F",
        "degF": "°F",
        "ohm": "Ω",
        "mohm": "mΩ",
        "kohm": "kΩ",
        "pct": "%",
    }
    return other.get(unit, unit)


def _label(part: Part) -> str:
    return f"{part.type} {part.raw.get('name') or part.source_id!r}"
