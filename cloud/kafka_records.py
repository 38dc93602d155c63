"""Between messages and Kafka's records: the pack as key, and headers from which the message can be made again.

>>> record = to_record(Msg("ev/v1/demo/SIM000001/twin", b'{"boot":1,"seq":5}'), {"twin": "ev.twin"}, 1000)
>>> record.topic, record.key, record.headers[:2]
('ev.twin', b'SIM000001', [('kind', b'twin'), ('fleet', b'demo')])
>>> to_message(record.topic, record.key, record.headers, {"ev.twin": "twin"})[1]
Key(pack='SIM000001', boot=1, seq=5)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cloud.kafka_client import Headers, Outgoing
from voltflow.message import Key, Msg, encode_payload
from voltflow.telemetry import Dead
from voltflow.topics import PackTopic, parse


class _Key(msgspec.Struct):
    """What the headers need of a message, whatever its contract."""

    boot: int | None = None
    seq: int | None = None


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_dead = msgspec.json.Decoder(Dead).decode


def to_record(msg: Msg, topics: Mapping[str, str], max_bytes: int) -> Outgoing:
    """The record of a message; raises ValueError where there is no topic for it or it is too large."""
    found = parse(msg.topic)
    topic = topics.get(found.kind) if found else None
    if found is None or topic is None:
        raise ValueError(f"no Kafka topic is configured for {msg.topic!r:.200}")
    data = encode_payload(msg.payload)
    if len(data) > max_bytes and found.kind == "dead":
        data = _shortened(data)
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes, Kafka takes {max_bytes} (max_message_bytes)")
    headers = [("kind", found.kind.encode()), ("fleet", found.fleet.encode()), ("pack", found.pack.encode())]
    return Outgoing(topic, found.pack.encode(), data, [*headers, *_key_headers(data)])


def to_message(
    topic: str, key: bytes | None, headers: Iterable[tuple[str, bytes]], kinds: Mapping[str, str]
) -> tuple[str, Key | None]:
    """The MQTT topic and key of a record; `kinds` names the kind of a topic whose records do not say it.

    Raises ValueError where the record says too little.
    """
    known = {name: text.decode("utf-8", "replace") for name, text in headers}
    pack = known.get("pack") or (key or b"").decode("utf-8", "replace")
    kind = known.get("kind") or kinds.get(topic, "")
    address = PackTopic(known.get("fleet", ""), pack, kind)
    name = f"ev/v1/{address.fleet}/{address.pack}/{address.kind}"
    if parse(name) is None:
        raise ValueError(
            f"a record of the topic {topic} does not say whose it is: headers fleet, pack and kind are {tuple(address)!r:.200}"
        )
    try:
        return name, Key(pack, int(known["boot"]), int(known["seq"]))
    except (KeyError, ValueError):
        return name, None


def _key_headers(data: bytes) -> Headers:
    """Boot and seq of a message; none where it has none or cannot be read: Kafka carries the bytes all the same."""
    try:
        key = _decode_key(data)
    except ValueError:
        return []
    return [
        (name, str(value).encode())
        for name, value in (("boot", key.boot), ("seq", key.seq))
        if value is not None
    ]


def _shortened(data: bytes) -> bytes:
    """A dead letter without its payload: refusing it would make a dead letter of it again."""
    try:
        dead = _decode_dead(data)
    except ValueError:
        return data[:1000]
    return msgspec.json.encode(msgspec.structs.replace(dead, payload=b"", truncated=True))
