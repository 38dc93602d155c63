"""Requests below /endpoint that a flow answers, through the agent's real web server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.web import WebServer
from tests.flows import Lab, raw, running, until
from tests.gateway import Answer, Gateway, serving
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import ConfigError, load_nodes
from voltflow.nodelib.http_endpoints import BODY_BYTES, OPEN_LIMIT, HttpEndpoints
from voltflow.nodes.http_in import HttpIn
from voltflow.nodes.http_response import HttpResponse

load_nodes("voltflow.nodes")
TOKEN = "0123456789abcdef-of-a-test"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def inlet(url: str, method: str = "get", *targets: str, id: str = "in", **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "type": "http in",
        "url": url,
        "method": method,
        "wires": [list(targets or ("t",))],
        **more,
    }


RESPONSE = {"id": "out", "type": "http response"}


@dataclass
class House:
    """A flow, the web server before it, and requests."""

    lab: Lab
    server: WebServer
    endpoints: HttpEndpoints
    asked: list[asyncio.Task[Answer]] = field(default_factory=list)

    async def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        return await asyncio.to_thread(self._ask, path, method, body, headers)

    def _ask(self, path: str, method: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/endpoint{path}", body, named)
            response = connection.getresponse()
            answered = {k.lower(): v for k, v in response.getheaders()}
            return Answer(response.status, answered, response.read())
        finally:
            connection.close()

    def answering(self, process: Callable[[Msg], Msg]) -> None:
        self.lab["t"].process_ = lambda msgs: [process(msg) for msg in msgs]


@contextlib.asynccontextmanager
async def house(
    tmp_path: Path, *nodes: dict[str, Any], token: str | None = None, timeout_s: float = 10.0
) -> AsyncIterator[House]:
    endpoints = HttpEndpoints(timeout_s)
    gateway = await asyncio.to_thread(Gateway, tmp_path)
    async with running(*nodes, services={HttpEndpoints: endpoints}, state_dir=tmp_path / "flow") as lab:
        await until(lambda: lab.engine.is_running or lab.run.done(), "the start")
        async with serving(WebServer(gateway.state, "127.0.0.1", 0, token, endpoints=endpoints)) as server:
            yield House(lab, server, endpoints)


def props_of(msg: Msg) -> dict[str, Any]:
    return dict(msg.props or {})


def test_request_is_a_message_and_its_answer_goes_back(tmp_path: Path) -> None:
    seen: list[Msg] = []

    def process(msg: Msg) -> Msg:
        seen.append(msg)
        props = {**props_of(msg), "statusCode": 201, "headers": {"X-Mine": "1", "Content-Type": "text/plain"}}
        return msg.derive(payload="hello", props=props)

    async def scenario() -> None:
        async with house(
            tmp_path, inlet("/packs/:pack/cells"), raw("t", "transform", ["out"]), RESPONSE
        ) as here:
            here.answering(process)
            answer = await here.ask("/packs/P%2F1/cells?low=3&x=1&x=2", X_Asked="yes", Cookie="a=1")
            assert (answer.status, answer.body) == (201, b"hello")
            assert (answer.headers["x-mine"], answer.headers["content-type"]) == (
                "1",
                "text/plain; charset=utf-8",
            )
            [msg] = seen
            request = props_of(msg)["req"]
            assert msg.payload == request["query"] == {"low": "3", "x": ["1", "2"]}
            assert (request["params"], request["method"]) == ({"pack": "P/1"}, "GET")
            assert request["url"] == "/packs/P%2F1/cells?low=3&x=1&x=2"
            assert (request["headers"]["x-asked"], request["headers"]["cookie"]) == ("yes", "a=1")

    run(scenario)


@pytest.mark.parametrize(
    ("kind", "body", "payload"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}), ("application/x-www-form-urlencoded", b"a=1&b=x+y", {"a": "1", "b": "x y"}),
        ("text/csv; charset=utf-8", "ä,b".encode(), "ä,b"), ("application/octet-stream", b"\x00\xff", b"\x00\xff"),
        ("application/json", b"", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_body_is_parsed_as_its_type_says(
    tmp_path: Path, method: str, kind: str, body: bytes, payload: Any
) -> None:
    async def scenario() -> None:
        async with house(tmp_path, inlet("/x", method), raw("t", "transform", ["out"]), RESPONSE) as here:
            got: list[Any] = []
            here.answering(lambda msg: got.append(msg.payload) or msg.derive(payload=""))  # type: ignore[func-returns-value]
            assert (await here.ask("/x", method.upper(), body, Content_Type=kind)).status == 200
            assert got == [payload]

    run(scenario)


@pytest.mark.parametrize(
    ("payload", "body", "kind"),
    [
        ("<b>", b"<b>", "text/html; charset=utf-8"), (b"\x00", b"\x00", "application/octet-stream"),
        ({"a": 1}, b'{"a":1}', "application/json; charset=utf-8"), (5.0, b"5", "text/html; charset=utf-8"),
        (None, b"", "text/plain; charset=utf-8"),
    ],
    ids=repr,
)  # fmt: skip
def test_payload_is_the_body_of_the_answer(tmp_path: Path, payload: Any, body: bytes, kind: str) -> None:
    async def scenario() -> None:
        async with house(tmp_path, inlet("/x"), raw("t", "transform", ["out"]), RESPONSE) as here:
            here.answering(lambda msg: msg.derive(payload=payload))
            answer = await here.ask("/x")
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, body, kind)
            head = await here.ask("/x", "HEAD")
            assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(body)))

    run(scenario)


@pytest.mark.parametrize(
    ("payload", "given", "said"),
    [
        ("{}", "application/json", "application/json; charset=utf-8"), ("ä", "text/csv; charset=latin1", "text/csv; charset=utf-8"),
        ([], "application/problem+json", "application/problem+json; charset=utf-8"), (b"{}", "application/json", "application/json; charset=utf-8"),
        (b"x", "text/plain; charset=latin1", "text/plain; charset=latin1"), (b"\x00", "image/png", "image/png"),
    ],
)  # fmt: skip
def test_text_says_how_it_is_encoded(tmp_path: Path, payload: Any, given: str, said: str) -> None:
    """As Express, which Node-RED answers with, says it."""

    async def scenario() -> None:
        async with house(tmp_path, inlet("/x"), raw("t", "transform", ["out"]), RESPONSE) as here:
            headers = {"Content-Type": given}
            here.answering(
                lambda msg: msg.derive(payload=payload, props={**props_of(msg), "headers": headers})
            )
            assert (await here.ask("/x")).headers["content-type"] == said

    run(scenario)


def test_cookies_of_a_request_are_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, inlet("/x"), raw("t", "transform", ["out"]), RESPONSE) as here:
            here.answering(lambda msg: msg.derive(payload=props_of(msg)["req"]["cookies"]))
            answer = await here.ask("/x", Cookie='a=1; b=x%3D%20y; a=2;c="q" ; odd; d=')
            assert answer.json() == {"a": "1", "b": "x= y", "c": "q", "d": ""}
            assert (await here.ask("/x")).json() == {}

    run(scenario)


def test_own_status_and_headers_are_before_those_of_the_message(tmp_path: Path) -> None:
    async def scenario() -> None:
        response = {**RESPONSE, "statusCode": "404", "headers": {"x-own": "node", "content-length": "99"}}
        async with house(tmp_path, inlet("/x"), raw("t", "transform", ["out"]), response) as here:
            given = {"statusCode": 200, "headers": {"X-Own": "msg", "x-theirs": "1"},
                     "cookies": {"a": "1;2", "b": {"value": "x", "maxAge": 5000, "httpOnly": True}, "c": None}}  # fmt: skip
            here.answering(lambda msg: msg.derive(payload="", props={**props_of(msg), **given}))
            answer = await here.ask("/x")
            assert answer.status == 404
            assert (answer.headers["x-own"], answer.headers["x-theirs"]) == ("node", "1")
            assert answer.headers["content-length"] == "0"
            cookies = await asyncio.to_thread(_cookies, here.server.port)
            assert cookies == [
                "a=1%3B2; Path=/", "b=x; Path=/; Max-Age=5; HttpOnly", "c=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            ]  # fmt: skip

    run(scenario)


def test_page_of_a_flow_may_have_scripts_and_forms_and_says_what_it_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, inlet("/x"), raw("t", "transform", ["out"]), RESPONSE) as here:
            headers: dict[str, str] = {}
            here.answering(lambda msg: msg.derive(payload="<p>", props={**props_of(msg), "headers": headers}))
            plain = (await here.ask("/x")).headers
            assert "content-security-policy" not in plain
            assert (plain["x-content-type-options"], plain["referrer-policy"]) == ("nosniff", "same-origin")
            headers |= {"Content-Security-Policy": "default-src 'self'", "Referrer-Policy": "origin"}
            own = (await here.ask("/x")).headers
            assert (own["content-security-policy"], own["referrer-policy"]) == (
                "default-src 'self'",
                "origin",
            )

    run(scenario)


def _cookies(port: int) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/endpoint/x")
    found = connection.getresponse().headers.get_all("set-cookie")
    connection.close()
    return found or []


def test_without_an_answer_there_is_504_and_a_late_one_is_a_dead_letter(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = (
            inlet("/x", "get", "hold"),
            raw("hold", "sink"),
            raw("s", "source", ["out"]),
            RESPONSE,
            raw("d", "dead letters"),
        )
        async with house(tmp_path, *nodes, timeout_s=0.05) as here:
            answer = await here.ask("/x")
            assert (answer.status, answer.body) == (504, b"the flow gave no answer within 0.05 s\n")
            [late] = here.lab["hold"].safe()
            await here.lab["s"].feed([late, Msg("t", "never a request")])
            assert [letter.payload.error for letter in here.lab["d"].safe()] == [
                "ValueError: the request is not waiting any more",
                "ValueError: no request: the message has not come from an http in node (msg.res)",
            ]

    run(scenario)


def test_only_the_first_answer_counts(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = (inlet("/x", "get", "t"), raw("t", "transform", ["out"]), RESPONSE, raw("d", "dead letters"))
        async with house(tmp_path, *nodes) as here:
            here.lab["t"].process_ = lambda msgs: [
                msg.derive(payload=text) for msg in msgs for text in ("1", "2")
            ]
            assert (await here.ask("/x")).body == b"1"
            await until(lambda: len(here.lab["d"].safe()) == 1, "the dead letter of the second")

    run(scenario)


def test_what_no_route_fits_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = (inlet("/x", "post"), inlet("/x", "put", id="in2"), raw("t", "transform", ["out"]), RESPONSE)
        async with house(tmp_path, *nodes) as here:
            assert (await here.ask("/y")).status == 404
            wrong = await here.ask("/x")
            assert (wrong.status, wrong.headers["allow"]) == (405, "POST, PUT")
            bad = await here.ask("/x", "POST", b"{", Content_Type="application/json")
            assert (bad.status, bad.body[:20]) == (400, b"the body is no JSON:")
            large = await here.ask("/x", "POST", b"x" * (BODY_BYTES + 1))
            assert large.status == 413

    run(scenario)


def test_token_of_the_api_is_asked_for_and_pages_of_other_sites_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = (inlet("/x", "post"), raw("t", "transform", ["out"]), RESPONSE)
        async with house(tmp_path, *nodes, token=TOKEN) as here:
            assert (await here.ask("/x", "POST")).status == 401
            assert (await here.ask("/x", "POST", Authorization=f"Bearer {TOKEN}")).status == 200
        async with house(tmp_path, *nodes) as here:
            assert (await here.ask("/x", "POST", Origin="http://evil.example")).status == 403
            assert (await here.ask("/x", "POST", Sec_Fetch_Site="cross-site")).status == 403
            own = f"http://127.0.0.1:{here.server.port}"
            assert (await here.ask("/x", "POST", Origin=own)).status == 200
            assert (await here.ask("/x", "POST", Host="evil.example")).status == 421

    run(scenario)


def test_too_many_requests_that_wait_are_sent_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoints = HttpEndpoints()
        waiting: list[Any] = []
        endpoints.register("n", "GET", "/x", waiting.append)
        asked = [asyncio.create_task(endpoints.answer("GET", "/x", {}, "", b"")) for _ in range(OPEN_LIMIT)]
        await until(lambda: len(waiting) == OPEN_LIMIT, "the requests")
        assert (await endpoints.answer("GET", "/x", {}, "", b"")).status == 503
        for exchange in waiting:
            exchange.answer(204, {}, b"")
        assert {answer.status for answer in await asyncio.gather(*asked)} == {204}
        assert endpoints.find(waiting[0].id) is None

    run(scenario)


def test_deploys_leave_no_request_without_its_answer(tmp_path: Path) -> None:
    """The http in node is replaced again and again while requests come in."""

    def nodes(count: int) -> list[dict[str, Any]]:
        return [inlet("/x/:n", "get", more=count), raw("t", "transform", ["out"]), RESPONSE]

    async def scenario() -> None:
        async with house(tmp_path, *nodes(0)) as here:
            here.answering(lambda msg: msg.derive(payload=props_of(msg)["req"]["params"]["n"]))
            done = False

            async def asking(start: int) -> int:
                count = start
                while not done:
                    answer = await here.ask(f"/x/{count}")
                    assert (answer.status, answer.body) == (200, str(count).encode())
                    count += 10
                return (count - start) // 10

            askers = [asyncio.create_task(asking(i)) for i in range(3)]
            for count in range(1, 40):
                await here.lab.engine.deploy(Flow(nodes(count)))
                await asyncio.sleep(0)
            done = True
            assert sum(await asyncio.gather(*askers)) > 10

    run(scenario)


@pytest.mark.parametrize(
    ("cls", "properties", "text"),
    [
        (
            HttpIn,
            {"url": "/a/*"},
            "property \"url\": '/a/*' is not a path: '*' is neither a name nor a :parameter",
        ),
        (HttpIn, {"url": "/a", "upload": True}, 'property "upload": files in a form are not taken'),
        (HttpIn, {"url": "/a", "method": "trace"}, "property \"method\": 'trace' is not one of"),
        (
            HttpResponse,
            {"statusCode": "99"},
            "property \"statusCode\": '99' is not a status, allowed is 200 … 599",
        ),
        (
            HttpResponse,
            {"statusCode": "ok"},
            "property \"statusCode\": 'ok' is not a status, allowed is 200 … 599",
        ),
    ],
)
def test_wrong_properties_are_named(cls: type[Any], properties: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as info:
        cls.spec.build("n", properties, {})
    assert str(info.value).startswith(text)


def test_answer_of_json_is_read_as_such(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, inlet("/"), raw("t", "transform", ["out"]), RESPONSE) as here:
            here.answering(lambda msg: msg.derive(payload={"path": props_of(msg)["req"]["url"]}))
            assert json.loads((await here.ask("")).body) == {"path": "/"}

    run(scenario)
