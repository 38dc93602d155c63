"""The `http request` node: asks a web server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from voltflow.flow.properties import UNDEFINED, as_object, plain
from voltflow.message import Msg
from voltflow.mqtt.options import tls_context
from voltflow.node import ConfigError, Context, Worker, config, node
from voltflow.nodelib.asking_badge import AskingBadge
from voltflow.nodelib.http_parts import (
    OWN_HEADERS,
    TIMEOUT_S,
    content_of,
    cookie_header,
    headers_mark,
    of_row,
    read_body,
    received_cookies,
    timeout_of,
    with_query,
)
from voltflow.nodelib.loose import as_text
from voltflow.nodelib.mustache import TemplateError, parse, render
from voltflow.nodelib.once import Once
from voltflow.nodes.tls_config import TlsConfig

if TYPE_CHECKING:
    import httpx

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
NO_PROXY = "not supported; set the environment variable HTTPS_PROXY of the gateway"
AT_ONCE = 8
"""Requests of one batch that are under way together."""


@node("http request", category="network", color="#e7e7ae", icon="white-globe.svg")
class HttpRequest(Worker):
    """Send an HTTP request for each message, and pass the answer on.

    The answer's body becomes the payload, beside it are `statusCode`, `headers`, `responseUrl`, `responseCookies` and
    `redirectList`. The URL may have `{{payload.x}}` in it, and is `msg.url` where the node has none. `msg.requestTimeout` (ms),
    `msg.followRedirects`, `msg.rejectUnauthorized`, `msg.headers` and `msg.cookies` say how it is asked.

    Several requests are under way at once, and answers may overtake each other from batch to batch. A message whose
    server cannot be reached, does not answer in 120 s or answers with more than 16 MiB goes to `catch` nodes or becomes a dead
    letter; it is not asked again. After a crash a request that was under way is made once more.
    """

    badge_with_traffic: ClassVar[bool] = True
    parallel: ClassVar[int] = 4

    method: str = config("GET", help="method; use: msg.method", choices=(*METHODS, "use"))
    ret: str = config("txt", help="the payload: text, bytes, parsed JSON", choices=("txt", "bin", "obj"))
    paytoqs: Any = config(
        "ignore",
        help="what a GET does with the payload: nothing, query (its properties are in the URL), body",
    )
    url: str = config("", help="the address; empty: msg.url", example="http://192.0.2.7/api/{{payload.pack}}")
    tls: str = config("", help="certificates for TLS", reference="tls-config")
    persist: bool = config(False, help="keep connections for further requests")
    proxy: str = config("", help="not here: set the environment variable HTTPS_PROXY", advanced=True)
    authType: str = config("", help="how to say who asks", choices=("", "basic", "digest", "bearer"))
    user: str = config("", help="user name", secret="text")  # noqa: S106 - how it is shown
    password: str = config("", help="password, or the token of bearer", secret=True)
    senderr: bool = config(False, help="answers that are not 2xx are failures")
    headers: list[dict[str, Any]] = config([], help="headers, before those of msg.headers")

    def __post_init__(self) -> None:
        if self.paytoqs not in {"ignore", "query", "body", "true", "false", "", True, False}:
            raise ConfigError(
                f"property \"paytoqs\": {self.paytoqs!r} is not one of 'ignore', 'query', 'body'"
            )
        if self.proxy:
            raise ConfigError(f'property "proxy": {NO_PROXY}')
        try:
            parse(self.url)
        except TemplateError as error:
            raise ConfigError(f'property "url": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._tls = ctx.config_node(self.tls, TlsConfig) if self.tls else None
        if self._tls:
            self._tls.context()  # files that cannot be read are named at the start
        self._clients: dict[bool, httpx.AsyncClient] = {}
        """By whether the server's certificate is looked at."""
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asking = AskingBadge(self.show)
        self._once = Once(self._ask_all)

    async def stop(self) -> None:
        self._asking.stop()
        for client in self._clients.values():
            await client.aclose()

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        return await self._once(msgs)

    async def _ask_all(self, msgs: list[Msg]) -> list[Msg | Exception]:
        return await asyncio.gather(*(self._ask(msg) for msg in msgs))

    async def _ask(self, msg: Msg) -> Msg | Exception:
        async with self._slots:
            self._asking.begin()
            found: Msg | Exception = RuntimeError("given up")
            try:
                found = await self._answered(msg)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what became of the message
                found = error
            finally:
                self._asking.end(found)
            return found

    async def _answered(self, msg: Msg) -> Msg:
        import httpx

        props = msg.props or {}
        url = self._url(msg)
        client = self._client(props.get("rejectUnauthorized") not in (False, "false"))
        timeout_s = timeout_of(props.get("requestTimeout"))
        try:
            async with asyncio.timeout(timeout_s):
                request = self._request(client, url, msg)
                follow = props.get("followRedirects") not in (False, "false")
                answer = await client.send(request, auth=self._auth(), follow_redirects=follow, stream=True)
                try:
                    body = await read_body(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise TimeoutError(f"no answer from {url} within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ConnectionError(f"{request.method} {url} failed: {why}") from None
        if self.senderr and not answer.is_success:
            raise ValueError(
                f"{request.method} {url} was answered with {answer.status_code} {answer.reason_phrase}"
            )
        return self._result(msg, answer, body)

    # -- what is asked --------------------------------------------------------------------------------------------

    def _url(self, msg: Msg) -> str:
        url = self.url or (msg.props or {}).get("url")
        if not isinstance(url, str) or not url:
            raise ValueError('no URL: set the property "url", or msg.url')
        if "{{" in self.url:
            url = render(parse(self.url), lambda _: UNDEFINED, as_object(msg))
        if "://" not in url:
            url = f"{'https' if self._tls else 'http'}://{url}"
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a web server")
        return url

    def _request(self, client: httpx.AsyncClient, url: str, msg: Msg) -> httpx.Request:
        method = self._method(msg)
        headers = self._headers(msg)
        payload = plain(msg.payload)
        if method == "GET" and self.paytoqs in {"query", "true", True}:
            url, content = with_query(url, payload), None
        elif method == "HEAD" or (method == "GET" and self.paytoqs != "body"):
            content = None
        else:
            content = content_of(payload, headers)
        return client.build_request(method, url, headers=headers, content=content)

    def _method(self, msg: Msg) -> str:
        found = self.method if self.method != "use" else (msg.props or {}).get("method", "GET")
        method = str(found).upper()
        if method not in METHODS:
            raise ValueError(f"msg.method is {found!r:.50}, allowed are {', '.join(METHODS)}")
        return method

    def _headers(self, msg: Msg) -> dict[str, str]:
        given = (msg.props or {}).get("headers")
        found: dict[str, str] = {}
        if isinstance(given, Mapping) and given.get(OWN_HEADERS) != headers_mark(given):
            found = {str(name).lower(): as_text(value) for name, value in given.items()}
            found.pop(OWN_HEADERS, None)
        if cookies := cookie_header((msg.props or {}).get("cookies")):
            found["cookie"] = "; ".join(filter(None, [found.get("cookie"), cookies]))
        for entry in self.headers:
            name = of_row(entry.get("keyType"), entry.get("keyValue"), msg).lower()
            value = of_row(entry.get("valueType"), entry.get("valueValue"), msg)
            found.pop(name, None)
            if name and value:  # an empty one takes out what the message has
                found[name] = value
        if self.authType == "bearer":
            found["authorization"] = f"Bearer {self.password}"
        return found

    def _auth(self) -> httpx.Auth | None:
        import httpx

        if self.authType == "basic":
            return httpx.BasicAuth(self.user, self.password)
        return httpx.DigestAuth(self.user, self.password) if self.authType == "digest" else None

    def _client(self, verify: bool) -> httpx.AsyncClient:
        client = self._clients.get(verify)
        if client is None:
            import httpx

            client = self._clients[verify] = httpx.AsyncClient(
                verify=self._context(verify),
                timeout=TIMEOUT_S,  # of each step; asyncio.timeout bounds all of a request
                limits=httpx.Limits(max_keepalive_connections=AT_ONCE if self.persist else 0),
                max_redirects=20,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # messages share none
            )
        return client

    def _context(self, verify: bool) -> ssl.SSLContext:
        context = self._tls.context() if self._tls else tls_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    # -- what is answered -----------------------------------------------------------------------------------------

    def _result(self, msg: Msg, answer: httpx.Response, body: bytes) -> Msg:
        headers: dict[str, Any] = dict(answer.headers)
        if cookies := answer.headers.get_list("set-cookie"):
            headers["set-cookie"] = cookies
        headers[OWN_HEADERS] = headers_mark(headers)
        history = [{"location": str(step.headers.get("location", ""))} for step in answer.history]
        props = {
            **(msg.props or {}), "statusCode": answer.status_code, "headers": headers, "responseUrl": str(answer.url),
            "responseCookies": received_cookies(cookies), "redirectList": history,
        }  # fmt: skip
        return msg.derive(payload=self._payload(body), props=props)

    def _payload(self, body: bytes) -> Any:
        if self.ret == "bin":
            return body
        text = body.decode("utf-8", "replace")
        if self.ret == "obj":
            with suppress(ValueError):  # then it is the text, as in Node-RED, where a warning says so
                return json.loads(text)
        return text
