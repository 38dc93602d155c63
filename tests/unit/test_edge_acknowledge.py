"""Alerts with their history, and who has seen to them: over real HTTP, over restarts, by whom it may be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.acknowledgements import FILE, Acknowledgement, Acknowledgements, AlertKey
from edge.api import AppState
from edge.bands import worries, worry
from edge.editor.auth import Auth
from edge.survey import Surveyor
from edge.web import WebServer
from tests.gateway import START_MS, TOKEN, Answer, Events, Gateway, ask, request, running
from voltflow.admin.users import hash_password, make_user, write_users
from voltflow.telemetry import Alert

JSON = {"Content-Type": "application/json"}
PASSWORD = "of a test, long enough"


class Lives:
    """A gateway with one hot pack that keeps who has seen to its alerts, and is started anew."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self.gateway = Gateway(folder)
        self.gateway.feed("depot/P1")
        self.gateway.alert("depot/P1")
        self.restart()

    def restart(self) -> None:
        """What a new process does with the twins that a snapshot gave back."""
        old = self.gateway.state
        self.gateway.state = AppState(
            old.store, old.engine, "gw1", old.started, old.models, acknowledged_file=self.file
        )
        for twin in old.store.packs:
            twin.acknowledged = {}
        self.gateway.state.acknowledgements.open()

    @property
    def alert(self) -> Alert:
        return self.gateway.store.packs[0].alerts["cell_temp_critical"]

    def entries(self, query: str = "") -> list[dict[str, Any]]:
        answer = ask(self.gateway.state, lambda server: request(server, f"/api/alerts{query}"))
        entries: list[dict[str, Any]] = answer.json()["alerts"]
        return entries

    def acknowledge(
        self, note: str = "seen", *, token: str | None = None, method: str = "POST", body: str | None = None, **headers: str,
    ) -> Answer:  # fmt: skip
        path = f"/api/alerts/{AlertKey.of(self.alert).id}/acknowledge"
        body = json.dumps({"note": note}) if body is None else body
        return ask(
            self.gateway.state,
            lambda server: request(server, path, method, body, **{**JSON, **headers}),
            token,
        )


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


def test_somebody_has_seen_to_an_alert(lives: Lives) -> None:
    (before,) = lives.entries()
    assert (before["acknowledged"], before["active"], before["id"]) == (
        None, True, AlertKey.of(lives.alert).id,
    )  # fmt: skip
    answer = lives.acknowledge("the fan is ordered")
    assert answer.status == 200
    said = answer.json()["acknowledged"]
    assert (said["by"], said["note"]) == ("local", "the fan is ordered")
    assert abs(said["at_ms"] / 1000 - lives.gateway.state.started) < 600
    assert lives.entries() == [answer.json()]


def test_it_counts_less_in_worry_until_it_is_taken_back(lives: Lives) -> None:
    twin = lives.gateway.store.packs[0]
    surveyor = Surveyor(lives.gateway.store, 10)
    assert worry(twin) == 1000
    lives.acknowledge()
    assert (worry(twin), surveyor.look().columns["worry"].tolist()) == (100, [100.0])
    assert worries(twin) == ["critical: the hottest cell is too hot: stop and keep away (acknowledged)"]
    packs = ask(lives.gateway.state, lambda server: request(server, "/api/packs")).json()
    assert (packs["packs"][0]["acknowledged"], packs["fleet"]["acknowledged"], packs["fleet"]["fair"]) == (
        1,
        1,
        1,
    )
    assert lives.acknowledge(method="DELETE").json()["acknowledged"] is None
    assert lives.acknowledge(method="DELETE").status == 200, "nothing to take back is no error"
    assert worry(twin) == 1000


def test_it_is_kept_over_a_restart(lives: Lives) -> None:
    lives.acknowledge("kept")
    lives.restart()
    assert lives.entries()[0]["acknowledged"]["note"] == "kept"
    assert worry(lives.gateway.store.packs[0]) == 100
    lives.acknowledge(method="DELETE")
    lives.restart()
    assert lives.entries()[0]["acknowledged"] is None


def test_an_alert_that_is_raised_anew_is_not_acknowledged(lives: Lives) -> None:
    lives.acknowledge("the first one")
    lives.gateway.alert("depot/P1", cleared_ms=START_MS + 1000)
    lives.gateway.alert("depot/P1", since_ms=START_MS + 2000)
    (active,) = lives.entries()
    assert (active["since_ms"], active["acknowledged"]) == (START_MS + 2000, None)
    assert worry(lives.gateway.store.packs[0]) == 1000
    recent = lives.entries("?state=recent")
    assert [(one["state"], one["active"], bool(one["acknowledged"])) for one in recent] == [
        ("raised", True, False), ("cleared", False, True), ("raised", False, True),
    ]  # fmt: skip
    assert recent[1]["id"] == recent[2]["id"] != recent[0]["id"]


def test_all_are_the_recent_ones_and_active_ones_that_are_older(lives: Lives) -> None:
    lives.gateway.store.recent_alerts.clear()
    lives.gateway.feed("depot/P2")
    lives.gateway.alert("depot/P2", since_ms=START_MS + 5000)
    assert [one["pack"] for one in lives.entries("?state=all")] == ["P2", "P1"]
    assert [one["pack"] for one in lives.entries("?state=all&limit=1")] == ["P2"]
    assert [one["pack"] for one in lives.entries("?state=all&pack=depot/P1")] == ["P1"]


def test_what_can_no_longer_be_asked_for_is_forgotten(lives: Lives) -> None:
    lives.acknowledge("old")
    lives.gateway.alert("depot/P1", cleared_ms=START_MS + 1000)
    lives.gateway.store.recent_alerts.clear()
    lives.gateway.alert("depot/P1", since_ms=START_MS + 2000)
    lives.acknowledge("new")
    assert [entry["note"] for entry in json.loads(lives.file.read_text())["acknowledged"]] == ["new"]


def test_it_is_taken_back_of_an_alert_whose_pack_is_not_known(lives: Lives) -> None:
    """Its alert is among the recent ones, as after a state that has not the pack any more."""
    alert = lives.alert
    lives.acknowledge()
    lives.gateway.store.packs.clear()
    lives.gateway.store.by_name.clear()
    lives.gateway.state.acknowledgements.remove(alert)
    assert [entry["acknowledged"] for entry in lives.entries("?state=recent")] == [None]
    assert json.loads(lives.file.read_text())["acknowledged"] == []


def test_no_more_than_so_many_are_kept(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.acknowledgements.KEPT", 3)
    kept = Acknowledgements(lives.gateway.store, None)
    for number in range(5):
        lives.gateway.alert("depot/P1", code=f"code_{number}")
    alerts = list(lives.gateway.store.packs[0].alerts.values())
    for alert in alerts:
        kept.add(alert, Acknowledgement("ann", 1))
    assert [kept.of(alert) is not None for alert in alerts] == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"acknowledged": [{"fleet": 1}], "version": 1}', '{"version": 9}']
)
def test_a_file_that_cannot_be_used_is_said_and_keeps_nobody_from_working(
    lives: Lives, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    lives.file.write_text(text)
    lives.restart()
    assert f"'{lives.file}' cannot be used" in caplog.text
    assert lives.acknowledge().status == 200


def test_what_cannot_be_kept_is_not_said_to_be(lives: Lives) -> None:
    lives.file.mkdir()  # also root cannot write a file in its place
    answer = lives.acknowledge()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "not_kept")
    assert lives.entries()[0]["acknowledged"] is None
    assert worry(lives.gateway.store.packs[0]) == 1000


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"Origin": "http://evil.example"}, 403, "wrong_origin"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "wrong_origin"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "wrong_origin"),
        ({"Content-Type": "text/plain"}, 400, "bad_body"),
        ({"body": '{"note": 1}'}, 400, "bad_body"),
        ({"body": '{"by": "ann"}'}, 400, "bad_body"),
        ({"body": "[" * 20_000}, 400, "bad_body"),
        ({"note": "x" * 501}, 400, "bad_body"),
        ({"Host": "evil.example"}, 421, "wrong_host"),
    ],
)
def test_what_is_refused(lives: Lives, changes: dict[str, str], status: int, code: str) -> None:
    answer = lives.acknowledge(**changes)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert lives.entries()[0]["acknowledged"] is None


def test_the_gateways_own_page_may(lives: Lives) -> None:
    with running(lives.gateway.state) as server:
        host = f"127.0.0.1:{server.port}"
        path = f"/api/alerts/{AlertKey.of(lives.alert).id}/acknowledge"
        headers = {**JSON, "Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert request(server, path, "POST", "{}", **headers).status == 200
        wrong = request(server, path, "PUT", "{}", **headers)
        assert wrong.json()["error"]["message"] == "PUT is not possible here; use DELETE or POST"
        unknown = request(server, f"/api/alerts/{'0' * 16}/acknowledge", "POST", "{}", **headers)
        assert (unknown.status, unknown.json()["error"]["code"]) == (404, "unknown_alert")
        assert request(server, "/api/alerts/x/acknowledge", "POST", "{}", **headers).status == 400


def test_who_has_the_token(lives: Lives) -> None:
    assert lives.acknowledge(token=TOKEN).status == 401
    answer = lives.acknowledge(token=TOKEN, Authorization=f"Bearer {TOKEN}")
    assert answer.json()["acknowledged"]["by"] == "token"


@pytest.fixture
def users(lives: Lives, tmp_path: Path) -> Auth:
    """Of a gateway whose users log in: ann may write, ray may read."""
    file, hashed = tmp_path / "users.json", hash_password(PASSWORD)
    write_users(file, [make_user("ann", hashed, "*"), make_user("ray", hashed, "read")])
    lives.gateway.state.auth = auth = Auth(file, tmp_path / "tokens.json")
    return auth


def test_users_must_have_the_permission(lives: Lives, users: Auth) -> None:
    def code(name: str) -> tuple[int, Any]:
        token = users.login(name, PASSWORD, "127.0.0.1").token if name else "nobody's"
        answer = lives.acknowledge(Authorization=f"Bearer {token}")
        said = answer.json()
        return answer.status, said["acknowledged"]["by"] if answer.status == 200 else said["error"]["code"]

    assert [code(name) for name in ("", "ray")] == [(401, "unauthorized"), (403, "forbidden")]
    assert lives.entries()[0]["acknowledged"] is None, "and reading needs no login"
    assert code("ann") == (200, "ann")


def test_who_may_change_the_log_is_asked_too(lives: Lives, users: Auth) -> None:
    def change(name: str) -> int:
        headers = (
            {"Authorization": f"Bearer {users.login(name, PASSWORD, '127.0.0.1').token}"} if name else {}
        )
        return ask(
            lives.gateway.state,
            lambda server: request(server, "/api/log", "PUT", "{}", **JSON, **headers).status,
        )

    assert [change(name) for name in ("", "ray", "ann")] == [401, 403, 200]


def test_stream_tells_that_somebody_has(lives: Lives) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=depot/P1") as events:
            assert events.next()["packs"][0]["acknowledged"] == 0
            path = f"/api/alerts/{AlertKey.of(lives.alert).id}/acknowledge"
            request(server, path, "POST", "{}", **JSON)
            assert events.next()["packs"][0]["acknowledged"] == 1

    ask(lives.gateway.state, questions)
