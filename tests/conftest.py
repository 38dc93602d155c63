"""Fixtures: the real servers, one of each for the whole run, and what each test needs for itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import NoReturn, TypeVar

import hypothesis
import pytest

from tests import servers
from voltflow.nodelib import bounded

T = TypeVar("T")

# A machine with two busy cores is slow at times; a failing example is printed so that it can be run again.
hypothesis.settings.register_profile("voltflow", deadline=None, print_blob=True)
hypothesis.settings.load_profile("voltflow")


@pytest.fixture(autouse=True)
def _timer_given_back() -> Iterator[None]:
    """The limit of expressions keeps the process's timer for as long as there is work, and so does pytest-timeout, which sets
    it anew for each test without asking."""
    yield
    bounded._LIMIT.rest()


@pytest.fixture(scope="session")
def server_stack() -> Iterator[ExitStack]:
    """What the session's servers are entered into; all end when the session does."""
    with ExitStack() as stack:
        yield stack


Use = Callable[[AbstractContextManager[T]], T]


def do_without(reason: object) -> NoReturn:
    """Skip the test because something is not installed; on CI nothing may be missing, and it fails."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have everything: {reason}")
    pytest.skip(str(reason))


def require(stack: ExitStack, server: AbstractContextManager[T]) -> T:
    """The started server; where it is not installed the test is skipped, as `do_without` does it."""
    try:
        return stack.enter_context(server)
    except servers.Missing as reason:
        do_without(reason)


@pytest.fixture(scope="session")
def mosquitto(server_stack: ExitStack) -> servers.Mosquitto:
    """The broker that all tests share: use topics of your own (`unique`)."""
    return require(server_stack, servers.Mosquitto())


@pytest.fixture
def lone_mosquitto() -> Iterator[servers.Mosquitto]:
    """A broker of the test's own, without what packs of other tests have left there as retained."""
    with ExitStack() as stack:
        yield require(stack, servers.Mosquitto())


@pytest.fixture(scope="session")
def postgres(server_stack: ExitStack) -> servers.Postgres:
    return require(server_stack, servers.Postgres())


@pytest.fixture
def database(postgres: servers.Postgres) -> Iterator[str]:
    """The dsn of an empty PostgreSQL database of the test's own."""
    with servers.database(postgres) as dsn:
        yield dsn


@pytest.fixture
def timescale() -> Iterator[servers.Timescale]:
    """TimescaleDB of the test's own, empty (3 s): it takes one connection at a time."""
    with ExitStack() as stack:
        yield require(stack, servers.Timescale())


@pytest.fixture(scope="session")
def kafka(server_stack: ExitStack) -> servers.Kafka:
    """A Kafka broker that all tests share: use topics of your own (`unique`)."""
    return require(server_stack, servers.Kafka())


@pytest.fixture(scope="session")
def victoria(server_stack: ExitStack) -> servers.Victoria:
    """An InfluxDB line protocol store that all tests share: use measurements of your own (`unique`)."""
    return require(server_stack, servers.Victoria())


@pytest.fixture
def own() -> Iterator[Use[T]]:
    """A server of the test's own, to stop, kill or configure: `broker = own(servers.Mosquitto())`."""
    with ExitStack() as stack:
        yield lambda server: require(stack, server)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A name no other test and no other run has, fit for a topic, a table and a measurement."""
    return f"t{os.urandom(5).hex()}"
