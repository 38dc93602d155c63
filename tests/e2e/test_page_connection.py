"""The page while its gateway dies, comes back, or asks who is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Use
from tests.e2e.site import STEP_MS, Device, Site, now_ms
from tests.programs import Agent
from tests.servers import Server
from voltflow.admin.users import hash_password, make_user, write_users

TOKEN = "the token of a test, long enough"
PASSWORD = "the password of a test"


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
    page.locator("#lost", has_text=re.compile(r"lost.*\d\d:\d\d:\d\d")).wait_for()
    page.locator("#health.poor", has_text="no connection").wait_for()
    assert page.get_attribute("body", "data-connection") == "lost"
    at.shot("page-lost")
    site.agent.start()
    page.wait_for_selector("#lost", state="hidden")
    page.wait_for_selector("body[data-connection=live]")
    page.locator("#health", has_not_text="no connection").wait_for()
    site.publish(device.reading(now_ms() + STEP_MS, pack_voltage_v=377.7))
    page.locator("#chart-voltage figcaption", has_text="377.7 V").wait_for()
    # the browser told of each request that nobody answered, and of those about a pack that was not heard of yet
    at.expected("ERR_", "404")


def test_page_goes_on_with_an_address_that_means_nothing(site: Site, window: Any) -> None:
    at = window().open("/%E0%A4%A")
    at.page.wait_for_selector("#view[data-view=fleet]")
    device = Device("ADDRESS1")
    site.publish(device.birth(), device.reading())
    at.page.wait_for_selector(f".line[data-pack='{device.path}']")


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


@pytest.fixture
def peopled(site: Site, own: Use[Agent], tmp_path: Path) -> Site:
    """A gateway with a user, who alone may change something."""
    write_users(tmp_path / "users.json", [make_user("ann", hash_password(PASSWORD), "*")])
    return Site(site.broker, own(Agent(site.broker, tmp_path, "--gateway", "peopled")))


def test_login_to_take_back_stays_while_other_alerts_come(peopled: Site, window: Any) -> None:
    def alarm(name: str) -> Device:
        device = Device(name)
        peopled.publish(
            device.birth(), *[device.reading(now_ms() + i * STEP_MS, cell_temp_max_c=62.0) for i in range(3)]
        )
        peopled.known(device.path)
        return device

    device = alarm("SEEN1")
    at = window(peopled).open(f"/pack/{device.path}")
    alert = at.page.locator("#pack-alerts [data-testid=alert]", has=at.page.locator(".acknowledge")).first
    alert.locator(".acknowledge").click()
    alert.locator("form.note input").fill("seen by ann")
    alert.locator("form.note .main").click()
    log_in(alert)
    at.page.locator("#pack-alerts .seen", has_text="seen by ann").wait_for()
    at.expected("401")

    at = window(peopled).open("/alerts")  # another window, where nobody has logged in
    page, alert = at.page, at.page.locator(f"#alerts [data-testid=alert]:has-text('{device.path}').seen")
    alert.locator(".acknowledge").click()
    alert.locator("input[type=password]").fill("half of it")
    count = page.locator("#alerts-section .note").inner_text()
    alarm("MORE1")
    page.locator("#alerts-section .note").filter(has_not_text=count).wait_for()  # told after the list
    assert alert.locator("input[type=password]").input_value() == "half of it"
    page.keyboard.press("Escape")
    page.locator("#alerts [data-testid=alert]", has_text="MORE1").first.wait_for()
    alert.locator(".acknowledge").click()
    log_in(alert)
    alert.wait_for(state="detached")
    page.locator(f"#alerts [data-testid=alert]:has-text('{device.path}')").first.wait_for()
    at.expected("401")


def log_in(alert: Any) -> None:
    alert.locator("input[type=text][autocomplete=username]").fill("ann")
    alert.locator("input[type=password]").fill(PASSWORD)
    alert.locator("form.who .main").click()


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
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert at.barriers() == [], theme
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("body[data-connection=live]")
    page.wait_for_selector("#main:visible")
    page.reload()
    page.wait_for_selector("#main:visible")  # it is remembered until the window is closed
    at.expected("401")
