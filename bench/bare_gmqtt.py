"""The least that a Python gateway can do: gmqtt receives, publishes again, acknowledges at once and promises nothing."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

import gmqtt


async def run(port: int, topic_filter: str, out_topic: str) -> None:
    incoming, outgoing = gmqtt.Client("bench-bare-in"), gmqtt.Client("bench-bare-out")

    def on_message(client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        outgoing.publish(out_topic, payload, qos=1)
        return 0

    incoming.on_message = on_message
    await outgoing.connect("127.0.0.1", port)
    await incoming.connect("127.0.0.1", port)
    incoming.subscribe(topic_filter, qos=1)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("topic_filter")
    parser.add_argument("out_topic")
    logging.disable()
    asyncio.run(run(**vars(parser.parse_args())))
