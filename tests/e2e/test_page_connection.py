"""The page while its gateway dies, comes back, or asks who is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Use
from tests.e2e.site import STEP_MS, Device, Site, now_ms
from tests.programs import Agent
from tests.servers import Server

TOKEN = "the token of a test, long enough"


def test_page_says_that_the_gateway_is_away_and_goes_on_when_it_is_back(site: Site, window: Any) -> None:
    at = window()
    device = Device("BACK1")
    site.publish(*device.history(10))
    site.known(device.path)
    page = at.open(f"/pack/{device.path}").page
    page.wait_for_selector("#chart-voltage[data-points]")
    page.wait_for_selector("body[data-connection=live]")
    assert not page.is_visible("#lost")
    site.agent.kill()
    page.wait_for_selector("#lost:has-text('lost')")
    assert page.get_attribute("body", "data-connection") == "lost"
    at.shot("page-lost")
    site.agent.start()
    page.wait_for_selector("#lost", state="hidden")
    page.wait_for_selector("body[data-connection=live]")
    site.publish(device.reading(now_ms() + STEP_MS, pack_voltage_v=377.7))
    page.locator("#chart-voltage figcaption", has_text="377.7 V").wait_for()
    # the browser told of each request that nobody answered, and of those about a pack that was not heard of yet
    at.expected("ERR_", "404")


def test_page_opens_while_the_gateway_is_starting(site: Site, window: Any) -> None:
    """It was open when the gateway stopped, and is told of another pack when it is back."""
    at = window().open()
    page = at.page
    page.wait_for_selector("body[data-connection=live]")
    site.agent.stop()
    page.wait_for_selector("body[data-connection=lost]")
    device = Device("LATER1")
    site.publish(device.birth(), device.reading(soc_pct=33.0))
    site.agent.start()
    page.locator(f".line[data-pack='{device.path}'] [data-col=soc]", has_text="33 %").wait_for()
    at.forgive("ERR_")  # where it asked while there was nobody


@pytest.fixture
def locked(site: Site, own: Use[Agent], tmp_path: Path) -> Site:
    """A gateway that wants a token."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    return Site(site.broker, own(LockedAgent(site.broker, tmp_path, "--api-token-file", str(secret))))


class LockedAgent(Agent):
    """Ready when it listens: it would refuse to say more."""

    is_ready = Server.is_ready


def test_login(locked: Site, window: Any) -> None:
    at = window(locked).open()
    page = at.page
    page.wait_for_selector("#login:visible")
    assert not page.is_visible("#main")
    page.fill("#token", "not the right one at all")
    page.press("#token", "Enter")
    page.locator("#login-error", has_text="not this gateway's token").wait_for()
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("body[data-connection=live]")
    page.wait_for_selector("#main:visible")
    page.reload()
    page.wait_for_selector("#main:visible")  # it is remembered until the window is closed
    at.expected("401")
