"""The `http request` node against a real web server, in the clear and with TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import servers
from tests.conftest import do_without
from tests.flows import raw, running, until
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, load_nodes
from voltflow.nodes.http_request import HttpRequest
from voltflow.nodes.tls_config import TlsConfig

load_nodes("voltflow.nodes")


class Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked, unless the path says something else."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def _do(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        self.asked.append(parts.path)
        echo = {
            "method": self.command, "path": parts.path, "query": parse_qs(parts.query),
            "headers": {name.lower(): value for name, value in self.headers.items()}, "body": body.decode("latin-1"),
        }  # fmt: skip
        route = getattr(self, f"_{parts.path.strip('/').split('/')[0]}", None)
        if route is None:
            self._send(200, json.dumps(echo).encode(), **{"content-type": "application/json"})
        else:
            route(parts)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _do  # noqa: N815

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.partition("__")[0], value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _moved(self, parts: Any) -> None:
        self._send(302, b"", location="/echo/there")

    def _status(self, parts: Any) -> None:
        self._send(int(parts.path.rsplit("/", 1)[1]), b"what it is")

    def _cookies(self, parts: Any) -> None:
        self._send(200, b"", **{"set-cookie": "a=1; Path=/", "set-cookie__2": "b=2"})

    def _never(self, parts: Any) -> None:
        self.server.ended.wait(20)  # type: ignore[attr-defined]

    def _large(self, parts: Any) -> None:
        self.send_response(200)
        self.send_header("content-length", str(17 * 2**20))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(17):
                self.wfile.write(bytes(2**20))

    def _binary(self, parts: Any) -> None:
        self._send(200, b"\x00\xff")

    def _basic(self, parts: Any) -> None:
        wanted = "Basic " + base64.b64encode(b"ann:pass").decode()
        if self.headers.get("authorization") == wanted:
            self._send(200, b"welcome")
        else:
            self._send(401, b"no", **{"www-authenticate": "Basic"})

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.ended = threading.Event()  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


@contextlib.asynccontextmanager
async def started(
    tmp_path: Path, nodes: dict[str, Any] | None = None, **properties: Any
) -> AsyncIterator[HttpRequest]:
    node = HttpRequest.spec.build("n", properties, {})
    assert isinstance(node, HttpRequest)
    await node.start(Context(nodes or {}, {}, "gw", "rev", tmp_path))
    try:
        yield node
    finally:
        await node.stop()


def ask(tmp_path: Path, msg: Msg, **properties: Any) -> Msg:
    async def scenario() -> Msg:
        async with started(tmp_path, **properties) as node:
            [answer] = await node.work([msg])
            return answer

    return asyncio.run(scenario())


def echo(tmp_path: Path, server: str, msg: Msg, **properties: Any) -> dict[str, Any]:
    answer = ask(tmp_path, msg, **{"url": f"{server}/echo", "ret": "obj", **properties})
    assert isinstance(answer.payload, dict)
    return answer.payload


def test_defaults_are_node_reds() -> None:
    node = HttpRequest.spec.build("n", {}, {})
    found = {field.name: getattr(node, field.attribute) for field in HttpRequest.spec.fields}
    assert found == {
        "method": "GET", "ret": "txt", "paytoqs": "ignore", "url": "", "tls": "", "persist": False, "proxy": "",
        "authType": "", "user": "", "password": "", "senderr": False, "headers": [],
    }  # fmt: skip


def test_answer_becomes_payload_and_properties(tmp_path: Path, server: str) -> None:
    msg = Msg("t", "any", props={"keep": 1})
    answer = ask(tmp_path, msg, url=f"{server}/status/404")
    props = dict(answer.props or {})
    assert (answer.topic, answer.payload, answer.origin) == ("t", "what it is", msg)
    assert (props["statusCode"], props["responseUrl"], props["keep"]) == (404, f"{server}/status/404", 1)
    assert props["headers"]["content-length"] == "10"
    assert (props["redirectList"], props["responseCookies"]) == ([], {})


@pytest.mark.parametrize(
    "kind", [("txt", "\x00\ufffd"), ("bin", b"\x00\xff"), ("obj", "\x00\ufffd")], ids=repr
)
def test_body_is_text_bytes_or_json_and_text_where_it_is_none(
    tmp_path: Path, server: str, kind: tuple[str, Any]
) -> None:
    assert ask(tmp_path, Msg("t", 0), url=f"{server}/binary", ret=kind[0]).payload == kind[1]


@pytest.mark.parametrize(
    ("payload", "body", "kind"),
    [
        ({"a": [1, "ä"]}, '{"a":[1,"ä"]}', "application/json"), ("text", "text", None), (b"\x01", "\x01", None),
        (5, "5", None), (True, "true", None), (None, "", None),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_payload_is_the_body(
    tmp_path: Path, server: str, method: str, payload: Any, body: str, kind: str | None
) -> None:
    asked = echo(tmp_path, server, Msg("t", payload), method=method)
    assert (asked["method"], asked["body"].encode("latin-1").decode(), asked["headers"].get("content-type")) == (
        method, body, kind,
    )  # fmt: skip


def test_object_is_a_form_where_the_headers_say_so(tmp_path: Path, server: str) -> None:
    props = {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    asked = echo(tmp_path, server, Msg("t", {"a": "b c", "n": 1}, props=props), method="POST")
    assert parse_qs(asked["body"]) == {"a": ["b c"], "n": ["1"]}


def test_get_sends_no_payload_unless_it_is_to_be_in_url_or_body(tmp_path: Path, server: str) -> None:
    msg = Msg("t", {"a": "x y", "b": [1, 2]})
    assert echo(tmp_path, server, msg)["body"] == ""
    asked = echo(tmp_path, server, msg, url=f"{server}/echo?c=3", paytoqs="query")
    assert asked["query"] == {"c": ["3"], "a": ["x y"], "b": ["1", "2"]}
    assert echo(tmp_path, server, msg, paytoqs=True)["query"] == {"a": ["x y"], "b": ["1", "2"]}
    assert echo(tmp_path, server, msg, paytoqs="body")["body"] == '{"a":"x y","b":[1,2]}'
    with pytest.raises(
        TypeError, match="the payload is no object whose properties could be in the URL, but 5"
    ):
        ask(tmp_path, Msg("t", 5), url=server, paytoqs="query")


def test_method_and_url_may_be_the_messages(tmp_path: Path, server: str) -> None:
    msg = Msg("t", "x", props={"method": "put", "url": f"{server}/mine"})
    asked = echo(tmp_path, server, msg, method="use", url="")
    assert (asked["method"], asked["path"]) == ("PUT", "/mine")
    assert echo(tmp_path, server, msg)["path"] == "/echo"  # the node's own comes first
    answer = ask(tmp_path, Msg("t", "", props={"method": "HEAD"}), method="use", url=f"{server}/status/200")
    assert (answer.payload, (answer.props or {})["headers"]["content-length"]) == ("", "10")
    with pytest.raises(ValueError, match=r"msg\.method is 'BREW', allowed are GET, POST"):
        ask(tmp_path, Msg("t", "", props={"method": "BREW"}), method="use", url=server)


def test_url_is_a_template(tmp_path: Path, server: str) -> None:
    asked = echo(
        tmp_path,
        server,
        Msg("a/b", {"pack": "P 1"}),
        url=f"{server}/x/{{{{payload.pack}}}}?t={{{{{{topic}}}}}}",
    )
    assert (asked["path"], asked["query"]) == ("/x/P%201", {"t": ["a/b"]})
    assert echo(tmp_path, server, Msg("t", ""), url=f"{server.removeprefix('http://')}/x")["path"] == "/x"


@pytest.mark.parametrize("url", ["ftp://h/x", "http://", "file:///etc/passwd"])
def test_what_is_no_url_of_a_web_server_fails(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a web server"):
        ask(tmp_path, Msg("t", "", props={"url": url}))
    with pytest.raises(ValueError, match=r'no URL: set the property "url", or msg\.url'):
        ask(tmp_path, Msg("t", ""))


def test_own_headers_are_before_those_of_the_message(tmp_path: Path, server: str) -> None:
    rows = [
        {"keyType": "Accept", "keyValue": "", "valueType": "application/json", "valueValue": ""},
        {"keyType": "other", "keyValue": "X-Own", "valueType": "other", "valueValue": "own"},
        {"keyType": "other", "keyValue": "x-topic", "valueType": "msg", "valueValue": "topic"},
        {"keyType": "other", "keyValue": "x-gone", "valueType": "other", "valueValue": ""},
    ]
    props = {
        "headers": {"X-OWN": "theirs", "x-gone": "1", "X-Number": 5},
        "cookies": {"a": "1 2", "b": {"value": "3"}},
    }
    headers = echo(tmp_path, server, Msg("t", "", props=props), headers=rows)["headers"]
    assert (headers["accept"], headers["x-own"], headers["x-topic"], headers["x-number"], headers["cookie"]) == (
        "application/json", "own", "t", "5", "a=1%202; b=3",
    )  # fmt: skip
    assert "x-gone" not in headers


def test_headers_of_an_answer_are_not_sent_with_the_next_request(tmp_path: Path, server: str) -> None:
    first = ask(tmp_path, Msg("t", ""), url=f"{server}/cookies")
    assert "set-cookie" in (first.props or {})["headers"]
    assert "set-cookie" not in echo(tmp_path, server, first)["headers"]
    changed = first.derive(
        props={**(first.props or {}), "headers": {"x-mine": "1", **(first.props or {})["headers"]}}
    )
    asked = echo(tmp_path, server, changed)["headers"]
    assert asked["x-mine"] == "1"
    assert "x-node-red-request-node" not in asked


def test_cookies_are_given_and_not_kept(tmp_path: Path, server: str) -> None:
    async def scenario() -> None:
        async with started(tmp_path, ret="obj") as node:
            [got] = await node.work([Msg("t", "", props={"url": f"{server}/cookies"})])
            assert (got.props or {})["responseCookies"] == {
                "a": {"value": "1", "Path": "/"},
                "b": {"value": "2"},
            }
            assert (got.props or {})["headers"]["set-cookie"] == ["a=1; Path=/", "b=2"]
            [asked] = await node.work([Msg("t", "", props={"url": f"{server}/echo"})])
            assert "cookie" not in asked.payload["headers"]

    asyncio.run(scenario())


def test_redirects_are_followed_unless_the_message_says_otherwise(tmp_path: Path, server: str) -> None:
    answer = ask(tmp_path, Msg("t", ""), url=f"{server}/moved")
    props = answer.props or {}
    assert (props["responseUrl"], props["redirectList"]) == (
        f"{server}/echo/there",
        [{"location": "/echo/there"}],
    )
    stayed = ask(tmp_path, Msg("t", "", props={"followRedirects": False}), url=f"{server}/moved")
    assert ((stayed.props or {})["statusCode"], (stayed.props or {})["headers"]["location"]) == (
        302,
        "/echo/there",
    )


def test_who_asks_is_said_as_it_is_set(tmp_path: Path, server: str) -> None:
    known = ask(tmp_path, Msg("t", ""), url=f"{server}/basic", authType="basic", user="ann", password="pass")
    assert known.payload == "welcome"
    asked = echo(tmp_path, server, Msg("t", ""), authType="bearer", password="t0ken")
    assert asked["headers"]["authorization"] == "Bearer t0ken"


def test_answer_that_is_no_success_is_a_failure_where_that_is_asked_for(tmp_path: Path, server: str) -> None:
    with pytest.raises(
        ValueError, match=f"GET {server}/status/503 was answered with 503 Service Unavailable"
    ):
        ask(tmp_path, Msg("t", ""), url=f"{server}/status/503", senderr=True)


def test_server_that_does_not_answer_in_time_is_away_or_says_too_much_makes_the_message_fail(
    tmp_path: Path, server: str
) -> None:
    with pytest.raises(TimeoutError, match=f"no answer from {server}/never within 0.05 s"):
        ask(tmp_path, Msg("t", "", props={"requestTimeout": 50}), url=f"{server}/never")
    with pytest.raises(ConnectionError, match=r"GET http://127\.0\.0\.1:1/ failed: "):
        ask(tmp_path, Msg("t", ""), url="http://127.0.0.1:1/")
    with pytest.raises(ValueError, match="has more than 16 MiB"):
        ask(tmp_path, Msg("t", ""), url=f"{server}/large")


def test_badge_says_that_it_asks_and_what_the_last_request_came_to(tmp_path: Path, server: str) -> None:
    async def scenario() -> None:
        told: list[str] = []
        async with started(tmp_path, url="") as node:
            node.on_badge = lambda it: told.append(it.badge.get("text", ""))
            many = [Msg("t", i, props={"url": f"{server}/status/200"}) for i in range(30)]
            asking = asyncio.create_task(node.work(many))
            await until(lambda: node.badge, "a badge")
            assert node.badge == {"fill": "blue", "shape": "dot", "text": "requesting"}
            await asking
            await node.work(many)
            await until(lambda: not node.badge, "none")
            assert told.count("requesting") <= 2, "not for each of many"
            with pytest.raises(ConnectionError):
                await node.work([Msg("t", 0, props={"url": f"http://127.0.0.1:{servers.free_port()}"})])
            await until(lambda: node.badge.get("fill") == "red", "what went wrong")
            assert node.badge == {"fill": "red", "shape": "ring", "text": "no response from server"}
            await node.work(many[:1])
            await until(lambda: not node.badge, "none again")

    asyncio.run(scenario())


def test_in_a_flow_what_fails_is_a_dead_letter_and_nothing_is_asked_twice(
    tmp_path: Path, server: str
) -> None:
    async def scenario() -> None:
        async with running(
            raw("s", "source", ["h"]), {"id": "h", "type": "http request", "senderr": True, "wires": [["k"]]},
            raw("k", "sink"), raw("d", "dead letters"), state_dir=tmp_path,
        ) as lab:  # fmt: skip
            Handler.asked.clear()
            urls = [f"{server}/status/{500 if i % 7 == 0 else 200}" for i in range(20)]
            await lab["s"].feed([Msg("t", i, props={"url": url, "number": i}) for i, url in enumerate(urls)])
            assert [msg.props["number"] for msg in lab["k"].safe()] == [i for i in range(20) if i % 7]
            assert len(lab["d"].safe()) == 3
            assert len(Handler.asked) == 20

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"method": "get"}, "property \"method\": 'get' is not one of"),
        ({"paytoqs": "maybe"}, "property \"paytoqs\": 'maybe' is not one of 'ignore', 'query', 'body'"),
        (
            {"proxy": "p1"},
            'property "proxy": not supported; set the environment variable HTTPS_PROXY of the gateway',
        ),
        ({"url": "http://{{#a}}"}, 'property "url": the template cannot be read'),
    ],
)
def test_wrong_properties_are_named(properties: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as info:
        HttpRequest.spec.build("n", properties, {})
    assert str(info.value).startswith(text)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed."""
    if shutil.which("openssl") is None:
        do_without("openssl is not installed: sudo apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=own -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *command.split(), "-keyout", "key", "-out", "cert"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_server_with_tls_is_asked_as_its_certificate_allows(tmp_path: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")

    async def asked(url: str, tls: dict[str, Any] | None, **props: Any) -> Any:
        config = TlsConfig.spec.build("tls", tls or {}, {})
        async with started(tmp_path, {"tls": config}, url=url, tls="tls" if tls is not None else "") as node:
            [answer] = await node.work([Msg("t", "", props=props)])
            return (answer.props or {})["statusCode"]

    with serving(context) as server:
        url = f"{server}/status/200"
        with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(asked(url, None))
        assert asyncio.run(asked(url, None, rejectUnauthorized=False)) == 200
        assert asyncio.run(asked(url, {"ca": str(certificate / "cert")})) == 200
        assert asyncio.run(asked(url.removeprefix("https://"), {"ca": str(certificate / "cert")})) == 200
        assert asyncio.run(asked(url, {"verifyservercert": False})) == 200
