"""The event stream over real HTTP: what it tells to whom, slow clients, its end."""

from __future__ import annotations

from typing import Any

import pytest

from edge import stream
from edge.web import WebServer
from tests import servers
from tests.gateway import (
    START_MS,
    Events,
    Gateway,
    ask,
    error_of,
    request,
    running,
)


def test_stream_starts_with_all_packs_and_goes_on_with_those_that_changed(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert events.response.getheader("content-type") == "text/event-stream; charset=utf-8"
            first = events.next()
            assert (first["total"], first["changed"], len(first["packs"])) == (3, 3, 3)
            fleet.feed("depot/P1", START_MS + 1_800_000, soc_pct=33.0)
            second = events.next()
            assert [row["name"] for row in second["packs"]] == ["depot/P1"]
            assert second["packs"][0]["soc_pct"] == 33.0
            fleet.birth("depot/P1", online=False)
            assert events.next()["packs"][0]["online"] is False

    ask(fleet.state, questions)


def test_stream_of_one_pack_has_nothing_of_others(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?pack=P1") as one, Events(server) as everything:
            assert [row["name"] for row in one.next()["packs"]] == ["depot/P1"]
            everything.next()
            fleet.feed("north/P2", START_MS + 1_800_000)
            assert everything.next()["packs"][0]["name"] == "north/P2"
            fleet.feed("depot/P1", START_MS + 1_800_000, soc_pct=34.0)
            assert one.next()["packs"][0]["soc_pct"] == 34.0

    ask(fleet.state, questions)


def test_stream_of_the_packs_on_screen(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=depot/P1,new/P9,depot/P1") as shown:
            first = shown.next()
            assert [row["name"] for row in first["packs"]] == ["depot/P1"]
            assert (first["total"], first["fleet"]["packs"]) == (3, 3)
            fleet.feed("north/P2", START_MS + 1_800_000)  # not on screen
            fleet.feed("new/P9", START_MS + 1_800_000)
            assert [row["name"] for row in shown.next()["packs"]] == ["new/P9"]

    ask(fleet.state, questions)


def test_stream_tells_of_a_pack_on_screen_that_falls_silent(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=depot/P1") as shown:
            assert shown.next()["packs"][0]["silent"] is False
            fleet.store.find("depot/P1").received_ms = 1000  # type: ignore[union-attr]
            rows: list[Any] = []
            while not rows:
                rows = shown.next()["packs"]
            assert rows[0]["silent"] is True

    ask(fleet.state, questions)


def test_stream_of_counts_only(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=") as counts:
            assert counts.next()["packs"] == []
            fleet.alert("depot/P1")
            event = counts.next()
            assert (event["packs"], event["fleet"]["alerts"], event["alerts"]) == ([], 1, 1)

    ask(fleet.state, questions)


def test_stream_event_has_the_most_worrying_when_many_changed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_ROWS", 5)
    names = [f"depot/P{i}" for i in range(20)]
    for name in names:
        gateway.feed(name)
    gateway.alert("depot/P13")

    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert events.next()["packs"][0]["name"] == "depot/P13"
            for name in names:
                gateway.feed(name)
            changed, rows = 0, []
            while changed < 20:
                event = events.next()
                changed += event["changed"]
                rows += event["packs"]
                assert len(event["packs"]) <= 5
            assert "depot/P13" in {row["name"] for row in rows}

    ask(gateway.state, questions)


def test_stream_says_that_it_is_still_there(fleet: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)

    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert next(line for line in events.lines() if line.startswith(":")) == ": still here"

    ask(fleet.state, questions)


def test_stream_that_is_left_is_forgotten(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server) as stays:
            with Events(server) as leaves:
                leaves.next()
            stays.next()
            servers.wait_until(lambda: len(server.streams.clients) == 1, "the client that left is forgotten")

    ask(fleet.state, questions)


def test_stream_ends_cleanly_when_the_server_stops(fleet: Gateway) -> None:
    with running(fleet.state) as server:
        events = Events(server)
        events.next()
    with events:
        assert list(events.lines())[-1:] in ([], [""])  # no error, an ended answer


def test_stream_counts_what_a_slow_client_loses() -> None:
    client = stream._Client(None)
    for number in range(stream.QUEUE_EVENTS + 3):
        client.put(b"%d" % number)
    assert client.dropped == 3
    assert client.queue.get_nowait() == b"3"  # the newest are kept


def test_streams_are_bounded(fleet: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_CLIENTS", 1)

    def questions(server: WebServer) -> Any:
        with Events(server) as events:
            events.next()
            return request(server, "/api/stream")

    assert error_of(ask(fleet.state, questions), 503)["code"] == "too_many_streams"
