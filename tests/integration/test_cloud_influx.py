"""`influx out` to what speaks InfluxDB's write API."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from cloud.nodes.influx_out import InfluxOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import TS_MS, run_sink, twin
from voltflow.message import now_ms
from voltflow.node import Rejected, SinkUnavailable


def test_write_points_are_read_back(victoria: servers.Victoria, unique: str) -> None:
    msgs = [twin(seq, unique) for seq in range(20)]

    async def use(sink: InfluxOut) -> None:
        await sink.write([*msgs, samples.alert(3, unique), samples.dead(unique)])
        await sink.write(msgs[:5])  # a redelivery changes nothing
        assert sink.status() == {"points": 26, "passed_over": 1, "refused": 0, "error": ""}

    run_sink(InfluxOut(url=victoria.url, token="any"), use)
    assert now_ms() > TS_MS
    found = servers.wait_until(lambda: victoria.export(f'telemetry_soc_pct{{pack="{unique}"}}'), "the points")
    points = {t: v for series in found for t, v in zip(series["timestamps"], series["values"], strict=True)}
    assert points == {TS_MS + 500 * seq: 61.0 + seq / 1000 for seq in range(20)}
    assert {series["metric"]["fleet"] for series in found} == {"demo"}
    assert victoria.export(f'telemetry_soh_predicted_pct{{pack="{unique}"}}') == []
    assert victoria.export(f'alert_value{{pack="{unique}"}}')[0]["values"] == [61.0]


def test_write_server_away_is_unavailable() -> None:
    async def use(sink: InfluxOut) -> None:
        with pytest.raises(SinkUnavailable, match="influx http:"):
            await sink.write([twin(0)])
        assert sink.status()["error"]

    run_sink(InfluxOut(url=f"http://127.0.0.1:{servers.free_port()}", timeout_s=1.0), use)


class Picky(http.server.BaseHTTPRequestHandler):
    """Answers as InfluxDB 2 does: 400 and a partial write where a line is bad, 503 while it is overloaded. The one
    server we have that speaks the protocol, VictoriaMetrics, passes bad lines over in silence."""

    lines: ClassVar[set[str]] = set()
    status: ClassVar[int] = 204
    retry_after: ClassVar[str] = ""
    names_lines: ClassVar[bool] = False
    requests: ClassVar[int] = 0

    def do_POST(self) -> None:
        import gzip

        type(self).requests += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        lines = body.decode().splitlines()
        bad = [line for line in lines if "seq=3i" in line or "seq=7i" in line]
        self.lines.update(line for line in lines if line not in bad)
        self.send_response(self.status if self.status != 204 else 400 if bad else 204)
        if self.retry_after:
            self.send_header("Retry-After", self.retry_after)
        self.end_headers()
        if bad and self.names_lines:  # as InfluxDB 3 does
            named = [
                {"line_number": lines.index(line) + 1, "error_message": "field type conflict"} for line in bad
            ]
            self.wfile.write(
                json.dumps({"error": "partial write of line protocol occurred", "data": named}).encode()
            )
        elif bad:
            self.wfile.write(b'{"code":"invalid","message":"partial write: field type conflict dropped=1"}')

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def picky() -> Iterator[str]:
    Picky.lines, Picky.status, Picky.retry_after, Picky.names_lines, Picky.requests = set(), 204, "", False, 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Picky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_write_bad_points_are_refused_and_the_others_written(picky: str) -> None:
    msgs = [twin(seq) for seq in range(10)]

    async def use(sink: InfluxOut) -> None:
        with pytest.raises(Rejected) as rejected:
            await sink.write(msgs)
        assert [msg for msg, _ in rejected.value.refused] == [msgs[3], msgs[7]]
        assert "partial write: field type conflict" in rejected.value.refused[0][1]

    run_sink(InfluxOut(url=picky), use)
    assert len(Picky.lines) == 8


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_write_other_answers_are_unavailable(picky: str, status: int) -> None:
    """A wrong token or a full server says nothing about the points: they wait."""
    Picky.status = status

    async def use(sink: InfluxOut) -> None:
        with pytest.raises(SinkUnavailable, match=f"influx answered {status}"):
            await sink.write([twin(0)])

    run_sink(InfluxOut(url=picky), use)


def test_write_lines_that_the_server_names_are_refused_without_a_search(picky: str) -> None:
    Picky.names_lines = True
    msgs = [twin(seq) for seq in range(10)]

    async def use(sink: InfluxOut) -> None:
        with pytest.raises(Rejected) as rejected:
            await sink.write(msgs)
        assert [msg for msg, _ in rejected.value.refused] == [msgs[3], msgs[7]]
        assert rejected.value.refused[0][1].endswith("field type conflict")
        assert sink.status()["points"] == 8

    run_sink(InfluxOut(url=picky), use)
    assert len(Picky.lines) == 8
    assert Picky.requests == 2


@pytest.mark.parametrize("status", [413, 422])
def test_write_one_point_too_much_is_refused(picky: str, status: int) -> None:
    Picky.status = status

    async def use(sink: InfluxOut) -> None:
        with pytest.raises(Rejected, match=f"influx answered {status}"):
            await sink.write([twin(0)])

    run_sink(InfluxOut(url=picky), use)


def test_write_waits_as_long_as_the_server_asks(picky: str) -> None:
    """A server that is overloaded says when to come again: before that it is not asked."""
    Picky.status, Picky.retry_after = 429, "30"

    async def use(sink: InfluxOut) -> None:
        with pytest.raises(SinkUnavailable, match="influx answered 429"):
            await sink.write([twin(0)])
        with pytest.raises(SinkUnavailable, match=r"influx answered 429.*asked to wait, \d+ s more"):
            await sink.write([twin(0)])
        assert Picky.requests == 1
        Picky.status, sink.wait_until_s = 204, 0.0
        await sink.write([twin(0)])
        assert sink.status()["error"] == ""

    run_sink(InfluxOut(url=picky), use)
    assert Picky.requests == 2
