"""What a gateway says of itself at both brokers when its way to the cloud is gone and when it is back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from tests import servers
from tests.conftest import Use
from tests.flows import until
from tests.mqtt import Inbox, linked
from tests.programs import Agent
from voltflow.telemetry import GatewayState

TOPIC = "gw/v1/test/state"


def test_a_technician_at_the_devices_broker_sees_that_the_uplink_is_away(
    own: Use[servers.Mosquitto], tmp_path: Path
) -> None:
    local, uplink = own(servers.Mosquitto()), own(servers.Mosquitto())
    to_uplink = ("--uplink-host", "127.0.0.1", "--uplink-port", str(uplink.port))

    async def scenario() -> None:
        async with linked(local.port) as link:
            inbox = Inbox(link, TOPIC)

            def newest() -> GatewayState:
                return msgspec.json.decode(inbox.payloads[-1], type=GatewayState)

            await until(lambda: inbox.msgs and newest().status is not None, "the state", 20)
            assert not any("uplink" in reason for reason in newest().reasons)
            await asyncio.to_thread(uplink.kill)
            await until(lambda: any("uplink" in reason for reason in newest().reasons), "the outage", 20)
            assert newest().online
            assert newest().status == "degraded"
            await asyncio.to_thread(uplink.start)
            await until(lambda: not any("uplink" in reason for reason in newest().reasons), "its end", 40)
        async with linked(uplink.port) as link:
            inbox = Inbox(link, TOPIC)
            await until(lambda: inbox.msgs, "the retained state at the cloud's broker", 20)
            await asyncio.to_thread(agent.kill)
            await until(lambda: not msgspec.json.decode(inbox.payloads[-1])["online"], "the last will", 20)

    with Agent(local, tmp_path, *to_uplink) as agent:
        asyncio.run(scenario())
