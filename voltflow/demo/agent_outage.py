"""What a power cut would do to the gateway: the demo kills its agent once, without warning, and starts it again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from voltflow.demo.parts import Part


class AgentOutage:
    """`run` it beside the demo; `end` starts an agent that is away at once, and one that is not is then left alone.

    `watch` is told of the agent that was started again.
    """

    def __init__(self, agent: Part, after_s: float, outage_s: float, watch: Callable[[Part], None]) -> None:
        self._agent, self._after_s, self._outage_s, self._watch = agent, after_s, outage_s, watch
        self._over = asyncio.Event()
        self._killed_at_s = self._back_at_s = 0.0

    async def run(self) -> None:
        """Wait, kill, wait, start."""
        if await self._is_over_within(self._after_s):
            return
        self._agent.kill()
        await self._agent.ended()
        self._killed_at_s = time.monotonic()
        await self._is_over_within(self._outage_s)
        await self._agent.start(again=True)
        self._back_at_s = time.monotonic()
        self._watch(self._agent)

    def end(self) -> None:
        self._over.set()

    def text(self) -> str:
        """What to show; empty before the agent is killed."""
        now_s = time.monotonic()
        if self._back_at_s:
            return f"killed, started again {now_s - self._back_at_s:.0f} s ago"
        if self._killed_at_s:
            since_s = now_s - self._killed_at_s
            return f"killed {since_s:.0f} s ago, starts again in {max(0.0, self._outage_s - since_s):.0f} s"
        return ""

    async def _is_over_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._over.wait()
        except TimeoutError:
            return False
