"""`timescale out` into real databases: each message one row, whatever happens."""

import asyncio
import json
import os
import signal
from contextlib import ExitStack, closing

import msgspec
import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.history import _lists, _plain
from cloud.nodes.timescale_out import TimescaleOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import query, run_sink, twin
from voltflow.message import Msg, now_ms
from voltflow.node import Rejected, SinkUnavailable


def seqs(dsn: str) -> list[int]:
    return [row["seq"] for row in query(dsn, "SELECT seq FROM telemetry ORDER BY seq")]


def changed(msg: Msg, **fields: object) -> Msg:
    """The message with other values, also such as a gateway would not send."""
    return Msg(msg.topic, json.dumps({**json.loads(msg.payload), **fields}).encode())


@pytest.fixture(params=["postgres", "timescale"])
def dsn(request: pytest.FixtureRequest) -> str:
    """An empty database: PostgreSQL, or TimescaleDB where the same tables are hypertables."""
    if request.param == "postgres":
        return str(request.getfixturevalue("database"))
    return str(request.getfixturevalue("timescale").dsn)


def test_write_same_rows_in_postgres_and_timescale(dsn: str) -> None:
    """Values, nulls, texts with quotes and backslashes, arrays and JSON all arrive; times are exact."""

    async def use(sink: TimescaleOut) -> None:
        await sink.write([twin(seq) for seq in range(30)])
        await sink.write([twin(30), samples.alert(30), samples.dead(), samples.loss(40, 49)])
        assert sink.rows == {"telemetry": 31, "alert": 1, "dead_letter": 1, "loss": 1}
        assert sink.latency.count == 31

    run_sink(TimescaleOut(database=dsn), use)
    row = query(dsn, "SELECT *, extract(epoch FROM ts) * 1000 AS ts_ms FROM telemetry WHERE seq = 7")[0]
    assert (row["fleet"], row["pack"], row["boot"], row["ts_ms"]) == (
        "demo",
        "SIM000001",
        samples.BOOT,
        samples.TS_MS + 3500,
    )
    assert (row["soc_pct"], row["twin_soc_sigma_pct"], row["twin_voltage_residual_mv"]) == (
        61.007,
        0.1 + 0.2,
        -1e-9,
    )
    assert (row["cell_voltage_min_id"], row["speed_kmh"], row["late"], row["session"]) == (
        17,
        None,
        False,
        None,
    )
    assert (row["dtc"], row["invalid"]) == (["P0A80", "U1:00.2-x"], ["ambient_c"])
    assert (row["temperature_predicted_c"], row["rul_predicted_efc"]) == (23.75, None)
    assert row["models"] == {"temperature": "0123456789ab", "rul": "cdef01234567", "plating": "ffff01234567"}
    assert row["reasons"] == {"rul": "no charge session yet"}
    assert row["predictions_other"]["plating"]["value"] == 0.25
    assert row["joined"]["temperature"]["predicted"] == 23.5
    assert seqs(dsn) == list(range(31))
    letter = query(dsn, "SELECT * FROM dead_letter")[0]
    assert bytes(letter["payload"]) == b"\x00\xff'\\"
    assert query(dsn, "SELECT seq_from, seq_to, reason FROM loss") == [
        {"seq_from": 40, "seq_to": 49, "reason": "quota"}
    ]


def test_write_redelivery_makes_no_second_row(dsn: str) -> None:
    async def use(sink: TimescaleOut) -> None:
        batch = [twin(seq) for seq in range(20)]
        more = [samples.alert(3), samples.loss(40, 49), samples.dead(seq=50)]
        for _ in range(3):
            await sink.write([*batch, *batch[:5], *more])
        assert sink.again["telemetry"] == 3 * 25 - 20

    run_sink(TimescaleOut(database=dsn), use)
    assert seqs(dsn) == list(range(20))
    for table in ("alert", "loss", "dead_letter"):
        assert query(dsn, f"SELECT count(*) AS n FROM {table}") == [{"n": 1}]


def test_a_gateway_whose_clock_is_ahead_does_not_hide_that_the_history_lags(database: str) -> None:
    """The newest time is kept: one of years ahead would be the newest for years."""
    late_ms = now_ms() - 300_000
    sink = TimescaleOut(database=database)

    async def use(sink: TimescaleOut) -> None:
        await sink.write(
            [
                changed(twin(1), received_ms=now_ms() + 10 * 365 * 86_400_000),
                changed(twin(2), received_ms=late_ms),
            ]
        )

    run_sink(sink, use)
    assert (seqs(database), sink.tally.newest_ms) == ([1, 2], late_ms)


def test_write_dead_letter_comes_twice_and_is_stored_once(database: str) -> None:
    """The same letter again, with and without a key; a new letter about a message the gateway got again; another one
    about the same bytes without a key, which may be another message."""
    letters = [samples.dead(), samples.dead(seq=7)]
    again = [samples.dead(seq=7, received_ms=samples.TS_MS + 9), samples.dead()]

    async def use(sink: TimescaleOut) -> None:
        await sink.write([*letters, *letters])
        await sink.write([*letters, *again])

    run_sink(TimescaleOut(database=database), use)
    assert query(database, "SELECT seq FROM dead_letter ORDER BY seq") == [
        {"seq": 7},
        {"seq": None},
        {"seq": None},
    ]


def test_write_poisoned_rows_are_refused_and_the_others_stored(dsn: str) -> None:
    """A time out of a timestamp's range, a NUL, bytes that are no message: each alone, with the reason."""
    nul = changed(twin(31), gateway="a\0b")
    poison = [
        changed(twin(30), received_ms=10**18),
        nul,
        Msg(twin(0).topic, b"{"),
        Msg("gw/v1/x/state", b"{}"),
    ]

    async def use(sink: TimescaleOut) -> None:
        batch = [twin(seq) for seq in range(30)]
        for place, msg in zip((3, 4, 17, 33), poison, strict=True):
            batch.insert(place, msg)
        with pytest.raises(Rejected) as rejected:
            await sink.write(batch)
        refused = {id(msg): reason for msg, reason in rejected.value.refused}
        assert set(refused) == {id(msg) for msg in poison}
        assert "out of range" in refused[id(poison[0])]
        assert refused[id(nul)] == "a text holds a NUL character, which PostgreSQL cannot store"
        await sink.write([twin(50)])

    run_sink(TimescaleOut(database=dsn), use)
    assert seqs(dsn) == [*range(30), 50]


def test_write_state_keeps_the_nameplate_when_the_pack_goes_offline(database: str) -> None:
    async def use(sink: TimescaleOut) -> None:
        birth = samples.state(boot=7, chemistry="LFP", capacity_rated_ah=150.0, cells_series=91)
        await sink.write([birth, samples.state(online=False, boot=7, published=12)])
        await sink.write([samples.state(online=False)])

    run_sink(TimescaleOut(database=database), use)
    row = query(database, "SELECT * FROM pack")[0]
    assert (row["online"], row["boot"], row["chemistry"], row["cells_series"]) == (False, 7, "LFP", 91)
    assert query(database, "SELECT boot, published FROM pack_boot") == [{"boot": 7, "published": 12}]


def test_write_missing_table_waits_instead_of_refusing_every_row(database: str) -> None:
    """An error that does not speak of the rows must not make dead letters of them."""

    async def use(sink: TimescaleOut) -> None:
        await sink._first
        import psycopg2

        with psycopg2.connect(database) as other, other.cursor() as cursor:
            cursor.execute("ALTER TABLE telemetry RENAME TO elsewhere")
        with pytest.raises(SinkUnavailable, match="telemetry"):
            await sink.write([twin(0)])
        with psycopg2.connect(database) as other, other.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO telemetry")
        await sink.write([twin(0)])

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [0]


REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no room in the map' USING ERRCODE = '{state}'; END $$;
CREATE TRIGGER refuses BEFORE INSERT ON telemetry FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()
"""


def refusing(dsn: str, state: str, condition: str = "true") -> None:
    """Make the database fail rows with that SQLSTATE, as a fault of its own would."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(REFUSES.format(state=state, condition=condition))


def healthy(dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER refuses ON telemetry")


@pytest.mark.parametrize("state", ["XX000", "XX001", "54000", "TS001", "P0001"])
@pytest.mark.parametrize("size", [1, 8])
def test_write_database_that_fails_every_row_is_waited_for(database: str, state: str, size: int) -> None:
    """A fault of the database must not make dead letters of the whole stream, whatever it calls itself."""
    batch = [twin(seq) for seq in range(size)]

    async def use(sink: TimescaleOut) -> None:
        await sink._first
        refusing(database, state)
        with pytest.raises(SinkUnavailable, match="no room in the map"):
            await sink.write(batch)
        assert "no room in the map" in sink.status()["error"]
        healthy(database)
        await sink.write(batch)
        assert sink.status()["refused"] == 0

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == list(range(size))


def test_write_row_that_alone_fails_with_an_unknown_error_is_refused(database: str) -> None:
    async def use(sink: TimescaleOut) -> None:
        await sink._first
        refusing(database, "54000", "NEW.seq = 3")
        with pytest.raises(Rejected) as rejected:
            await sink.write([twin(seq) for seq in range(8)])
        [(_, reason)] = rejected.value.refused
        assert reason.startswith("the database refused it: 54000: no room in the map")

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("state", ["22003", "23514"])
def test_write_lone_row_with_an_error_of_the_data_is_refused(database: str, state: str) -> None:
    async def use(sink: TimescaleOut) -> None:
        await sink._first
        refusing(database, state)
        with pytest.raises(Rejected, match=f"the database refused it: {state}"):
            await sink.write([twin(0)])

    run_sink(TimescaleOut(database=database), use)


def test_write_database_killed_and_restarted_no_loss_no_duplicate() -> None:
    """What the engine does: the same batch again after SinkUnavailable. The kill comes while batches are written."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.Postgres())
        dsn = server.dsn
        failures = 0

        async def use(sink: TimescaleOut) -> None:
            nonlocal failures
            killer = None
            for number in range(60):
                batch = [twin(number * 50 + i) for i in range(50)]
                if number in (10, 30):
                    if killer is not None:
                        await (
                            killer
                        )  # it may still wait for the server to be ready, which the sink uses already
                    killer = asyncio.create_task(asyncio.to_thread(lambda: (server.kill(), server.start())))
                while True:
                    try:
                        await sink.write(batch)
                        break
                    except SinkUnavailable:
                        failures += 1
                        await asyncio.sleep(0.01)
                if killer is not None and killer.done():
                    await killer
            if killer is not None:
                await killer

        run_sink(TimescaleOut(database=dsn), use)
        assert failures > 0
        assert seqs(server.dsn) == list(range(3000))


def test_stop_while_the_database_is_frozen_ends() -> None:
    """A database that neither answers nor closes must not keep the bridge from ending; the batch was not confirmed."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.Postgres())
        dsn = server.dsn

        async def use(sink: TimescaleOut) -> None:
            await sink.write([twin(0)])
            backend = sink._history.connect().info.backend_pid
            os.kill(backend, signal.SIGSTOP)
            writing = asyncio.create_task(sink.write([twin(1)]))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(sink.stop())
            with pytest.raises(SinkUnavailable):
                await writing
            await stopping
            os.kill(backend, signal.SIGCONT)
            await sink.start(samples.context())

        run_sink(TimescaleOut(database=dsn), use)


def test_start_with_the_database_away_then_there() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(servers.Postgres())
        dsn = server.dsn
        server.stop()

        async def use(sink: TimescaleOut) -> None:
            with pytest.raises(SinkUnavailable):
                await sink.write([twin(0)])
            assert sink.status()["connected"] is False
            await asyncio.to_thread(server.start)
            await sink.write([twin(0)])
            assert sink.status()["error"] == ""

        run_sink(TimescaleOut(database=dsn), use)
        assert seqs(server.dsn) == [0]


@pytest.fixture(scope="module")
def literals(postgres: servers.Postgres) -> psycopg2.extensions.connection:
    with servers.database(postgres) as dsn:
        connection = psycopg2.connect(dsn)
        yield connection
        connection.close()


texts = st.lists(
    st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
)


@settings(max_examples=300)
@given(texts, st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))))
def test_array_literals_arrive_as_they_were(
    literals: psycopg2.extensions.connection, words: list[str | None], numbers: list[float | None]
) -> None:
    """Quotes, backslashes, commas, braces, `NULL` as a word, line breaks, every digit of a float."""
    with literals.cursor() as cursor:
        lists = [[word, "x"] for word in words if word is not None]
        cursor.execute(
            "SELECT %s::text[], %s::double precision[], (SELECT json_agg(t::text[] ORDER BY n) "
            "FROM unnest(%s::text[]) WITH ORDINALITY AS u(t, n))",
            (_plain(words).decode(), _plain(numbers).decode(), _lists(lists).decode()),
        )
        got = cursor.fetchone()
    assert got is not None
    assert got[0] == words
    assert got[1] == numbers
    assert (got[2] or []) == lists
    assert json.loads(msgspec.json.encode(words)) == words
