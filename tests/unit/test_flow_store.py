"""The flow on disk: deploys that change everything or nothing, backups, credentials, the trial of a new flow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.editor.flow_files import CredentialSecret, FlowFiles
from edge.editor.flow_store import FlowStore, RevisionMismatch
from edge.editor.trial import CRASHES, TRIAL_S
from tests.flows import Feed, Lab, raw, until
from voltflow.admin.credentials import CompleteFlow, decrypt, encrypt
from voltflow.admin.users import User
from voltflow.engine.engine import DeployError, Engine
from voltflow.engine.timer import VirtualTimer
from voltflow.flow.flow import FlowError
from voltflow.node import REGISTRY, ConfigNode, Context, Sink, config, load_nodes, node

TAB = {"id": "t", "type": "tab", "label": "Depot"}
FEED = [TAB, raw("s", "source", ["k"], z="t"), raw("k", "sink", z="t")]
MORE = [*FEED[:1], raw("s", "source", ["k", "l"], z="t"), raw("k", "sink", z="t"), raw("l", "sink", z="t")]
WRONG = [*FEED[:2], raw("k", "sink", z="t", limit=99)]
VAULT = {"id": "v", "type": "test vault"}
SECRET = "a secret of a test"


@pytest.fixture(scope="module", autouse=True)
def _types() -> Iterator[None]:
    @node("test vault", category="config")
    class Vault(ConfigNode):
        """Has credentials."""

        user: str = config("", help="user", secret="text")
        password: str = config("", help="password", secret=True)

    @node("test stubborn", category="test")
    class Stubborn(Sink):
        """Does not start."""

        async def start(self, ctx: Context) -> None:
            raise OSError("no such device")

    load_nodes("voltflow.nodes")
    yield
    for cls in (Vault, Stubborn):
        del REGISTRY[cls.type]


class House:
    """A gateway's folder, and runs of its flow."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.path, self.options = folder, folder / "flows.json", options
        self.timer = VirtualTimer(1_000_000.0)

    def has(self, nodes: list[dict[str, Any]], name: str = "flows.json") -> None:
        (self.folder / name).write_text(json.dumps(nodes))

    def file(self, name: str = "flows.json") -> Any:
        return json.loads((self.folder / name).read_text())

    def files(self) -> FlowFiles:
        secret = CredentialSecret(SECRET, self.folder / "credential_secret")
        return FlowFiles(self.path, **{"secret": secret, **self.options})

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file() and "sqlite" not in path.name}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[FlowStore, Lab]]:
        """As the agent does it. An exception in the block ends the run as one in the engine does."""
        files = self.files()
        engine = Engine(
            files.open(lambda flow: flow.check({})), env={}, state_dir=self.folder, timer=self.timer
        )
        store, lab = FlowStore(self.path, engine, files=files), Lab(engine)
        await until(lambda: all(hasattr(source, "fail") for source in feeds(engine)), "the start")
        try:
            async with store.running():
                yield store, lab
        finally:
            await lab.end()

    async def crash(self) -> list[str]:
        """A run that ends by an error; the codes of what it had to say."""
        with contextlib.suppress(ZeroDivisionError):
            async with self.running() as (store, _):
                codes = [notice.code for notice in store.notices]
                raise ZeroDivisionError
        return codes

    async def wait_s(self, seconds: float) -> None:
        for _ in self.timer.advance(self.timer.now_s() + seconds):
            for _ in range(5):
                await asyncio.sleep(0)


def feeds(engine: Engine) -> list[Feed]:
    return [wired.node for wired in engine.nodes.values() if isinstance(wired.node, Feed)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    found = House(tmp_path)
    found.has(FEED)
    return found


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


# -- deploys ------------------------------------------------------------------------------------------------------


def test_a_deploy_runs_and_is_written_with_the_one_before_as_backup(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            nodes, rev = store.read()
            assert nodes == FEED
            kept = lab["k"]
            new = await store.deploy(MORE, rev, "nodes")
            assert store.read() == (MORE, new)
            assert lab["k"] is kept, "what did not change goes on"
            await lab.feed("s", 1)
            assert lab["l"].payloads() == [1]
        assert house.file() == MORE
        assert house.file(".flows.json.backup") == FEED
        assert house.names() == {"flows.json", ".flows.json.backup", ".flows.json.trial"}

    run(scenario)


def test_the_revision_is_that_of_the_file_and_of_node_red(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            house.has([])
            assert await store.deploy([], None, "full") == (
                "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
            ), "the SHA-256 of []"

    run(scenario)


def test_a_deploy_of_another_revision_is_refused(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            rev = await store.deploy(MORE, store.rev, "nodes")
            with pytest.raises(RevisionMismatch, match="deployed by somebody else") as refused:
                await store.deploy(FEED, "an older one", "nodes")
            assert refused.value.rev == rev
            await store.deploy(FEED, None, "nodes")
            assert store.read()[0] == FEED

    run(scenario)


def test_of_two_deploys_of_one_revision_the_second_is_refused(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            _, rev = store.read()
            first, second = await asyncio.gather(
                store.deploy(MORE, rev, "nodes"), store.deploy(FEED, rev, "nodes"), return_exceptions=True
            )
            assert isinstance(first, str)
            assert isinstance(second, RevisionMismatch)

    run(scenario)


@pytest.mark.parametrize(
    ("nodes", "error", "text"),
    [
        (WRONG, FlowError, 'property "limit": 99 is out of range'),
        (
            [*FEED, raw("x", "stubborn", z="t")],
            DeployError,
            'test stubborn:x on "Depot" does not start: no such device',
        ),
        ([*FEED, {**VAULT, "credentials": 5}], FlowError, 'property "credentials"'),
        (
            [*FEED, raw("f", "source", z="t") | {"type": "function", "func": "return"}],
            FlowError,
            "JavaScript",
        ),
    ],
    ids=["property", "start", "credentials", "javascript"],
)
def test_a_deploy_that_fails_changes_nothing(
    house: House, nodes: list[dict[str, Any]], error: type[Exception], text: str
) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            before, names = store.read(), house.names()
            with pytest.raises(error, match=text):
                await store.deploy(nodes, before[1], "nodes")
            assert store.read() == before
            assert house.names() == names
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]
        assert house.file() == FEED

    run(scenario)


def test_a_folder_that_cannot_be_written_fails_the_deploy_before_anything_runs(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            before = store.read()
            (house.folder / "flows.json.new").mkdir()  # also root cannot write a file in its place
            with pytest.raises(
                DeployError, match=r"flows.json' cannot be written: .*; the flow that ran before runs on"
            ):
                await store.deploy(MORE, None, "nodes")
            assert store.read() == before
            assert lab.engine.deploys == 0
            (house.folder / "flows.json.new").rmdir()
            await store.deploy(MORE, None, "nodes")

    run(scenario)


def test_a_file_that_cannot_be_put_in_place_takes_the_deploy_back(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            before = store.read()
            (house.folder / ".flows.json.backup").mkdir()
            with pytest.raises(DeployError, match="cannot be written"):
                await store.deploy(MORE, None, "nodes")
            assert store.read() == before
            assert set(lab.engine.nodes) == {"s", "k"}
            assert "flows.json.new" not in house.names()
        assert house.file() == FEED

    run(scenario)


def test_what_each_kind_of_deploy_restarts(house: House) -> None:
    house.has(
        [*FEED, {"id": "u", "type": "tab"}, raw("a", "transform", ["b"], z="u"), raw("b", "sink", z="u")]
    )

    async def scenario() -> None:
        async with house.running() as (store, lab):
            nodes, _ = store.read()
            changed = [{**item, "limit": "3"} if item["id"] == "b" else item for item in nodes]
            kept = {id: lab[id] for id in "skab"}

            async def restarted(kind: Any, nodes: list[dict[str, Any]]) -> set[str]:
                await store.deploy(nodes, None, kind)
                new = {id for id in kept if lab[id] is not kept[id]}
                kept.update({id: lab[id] for id in "skab"})
                return new

            assert await restarted("nodes", changed) == {"b"}
            assert await restarted("flows", nodes) == {"a", "b"}
            assert await restarted("flows", nodes) == set()
            assert await restarted("full", nodes) == set("skab")
            with pytest.raises(ValueError, match=r"^deploy 'some' is not one of full, nodes, flows, reload$"):
                await store.deploy(nodes, None, "some")  # type: ignore[arg-type]

    run(scenario)


def test_reload_takes_what_the_file_says(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            house.has(MORE)
            rev = await store.deploy([], None, "reload")
            assert store.read() == (MORE, rev)
            assert "l" in lab.engine.nodes
            house.has(WRONG)
            with pytest.raises(FlowError, match="out of range"):
                await store.deploy([], None, "reload")
            house.path.unlink()
            with pytest.raises(DeployError, match="cannot be read: No such file"):
                await store.deploy([], None, "reload")
            assert store.read() == (MORE, rev)

    run(scenario)


def test_who_asked_for_a_deploy_may_go_away_meanwhile(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            asking = asyncio.create_task(store.deploy(MORE, None, "nodes"))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: store.read()[0] == MORE, "the deploy")
        assert house.file() == MORE

    run(scenario)


# -- credentials --------------------------------------------------------------------------------------------------


def vault(**credentials: str) -> dict[str, Any]:
    return {**VAULT, "credentials": credentials}


def test_credentials_are_cut_out_encrypted_and_given_to_the_nodes(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        async with house.running() as (store, lab):
            await store.deploy([*FEED, vault(user="ann", password="hidden")], None, "nodes")
            assert store.read()[0] == [*FEED, VAULT]
            assert store.credentials("test-vault", "v") == {"user": "ann", "has_password": True}
            assert store.credentials("test vault", "nobody") == {}
            first = lab["v"]
            assert (first.user, first.password) == ("ann", "hidden")
            await store.deploy([*FEED, vault(user="bob", password="__PWRD__")], None, "nodes")
            assert lab["v"] is not first, "a changed credential is a change"
            assert (lab["v"].user, lab["v"].password) == ("bob", "hidden")
            assert "hidden" not in json.dumps(lab.engine.describe(), default=str) + repr(lab["v"])
        assert decrypt(house.file("flows_cred.json"), SECRET) == {"v": {"user": "bob", "password": "hidden"}}
        assert decrypt(house.file(".flows_cred.json.backup"), SECRET) == {
            "v": {"user": "ann", "password": "hidden"}
        }
        for name in ("flows_cred.json", ".flows_cred.json.backup"):
            assert stat.S_IMODE((house.folder / name).stat().st_mode) == 0o600
        async with house.running() as (_, lab):
            assert (lab["v"].user, lab["v"].password) == ("bob", "hidden")

    run(scenario)
    assert "hidden" not in caplog.text + (house.folder / "flows.json").read_text()


def test_credentials_of_a_node_that_is_gone_are_gone(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy([*FEED, vault(password="hidden")], None, "nodes")
            await store.deploy(FEED, None, "nodes")
        assert decrypt(house.file("flows_cred.json"), SECRET) == {}

    run(scenario)


def test_secrets_of_a_flow_that_was_written_by_hand_move_out_at_the_first_deploy(house: House) -> None:
    house.has([*FEED, {**VAULT, "password": "hidden"}])

    async def scenario() -> None:
        async with house.running() as (store, lab):
            assert lab["v"].password == "hidden"
            nodes, rev = store.read()
            assert nodes == [*FEED, VAULT]
            await store.deploy(nodes, rev, "nodes")
            assert lab["v"].password == "hidden"
        assert "hidden" not in house.path.read_text()
        assert decrypt(house.file("flows_cred.json"), SECRET) == {"v": {"password": "hidden"}}

    run(scenario)


def test_without_a_secret_one_is_made_and_kept(tmp_path: Path) -> None:
    house = House(tmp_path, secret=None)
    house.has(FEED)

    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy(MORE, None, "nodes")
            assert "credential_secret" not in house.names(), "nothing to encrypt"
            await store.deploy([*FEED, vault(password="hidden")], None, "nodes")
        kept = house.folder / "credential_secret"
        assert len(kept.read_text()) == 64
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        house.options = {}
        async with house.running() as (store, lab):
            assert lab["v"].password == "hidden", "a setting that comes later does not lose them"
            await store.deploy([*FEED, vault(user="ann")], None, "nodes")
        assert decrypt(house.file("flows_cred.json"), SECRET) == {"v": {"user": "ann", "password": "hidden"}}

    run(scenario)
    assert SECRET not in repr(CredentialSecret(SECRET, tmp_path))


def test_credentials_that_cannot_be_decrypted_are_said_and_set_aside(house: House) -> None:
    house.has([*FEED, VAULT])
    foreign = encrypt({"v": {"password": "x"}}, "another secret")
    (house.folder / "flows_cred.json").write_text(json.dumps(foreign))

    async def scenario() -> None:
        async with house.running() as (store, lab):
            (notice,) = store.notices
            assert notice.code == "credentials_unreadable"
            assert "another secret, or a damaged file; nodes run without their credentials" in notice.text
            assert lab["v"].password == ""
            await store.deploy([*FEED, vault(password="new")], None, "nodes")
            assert store.notices == ()
        assert house.file("flows_cred.json.unreadable") == foreign
        assert decrypt(house.file("flows_cred.json"), SECRET) == {"v": {"password": "new"}}

    run(scenario)


def test_damaged_credentials_are_taken_from_the_backup(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy([*FEED, vault(password="old")], None, "nodes")
            await store.deploy([*FEED, vault(user="ann")], None, "nodes")
        (house.folder / "flows_cred.json").write_text("{")
        async with house.running() as (store, lab):
            assert [notice.code for notice in store.notices] == ["credentials_unreadable"]
            assert "it is not JSON; those of the deploy before ('.flows_cred.json.backup') are used" in (
                store.notices[0].text
            )
            assert lab["v"].password == "old"

    run(scenario)


def test_credentials_that_node_red_did_not_encrypt_are_read_and_encrypted(house: House) -> None:
    house.has([*FEED, VAULT])
    (house.folder / "flows_cred.json").write_text('{"v": {"password": "x"}}')

    async def scenario() -> None:
        async with house.running() as (store, lab):
            assert lab["v"].password == "x"
            await store.deploy([*MORE, VAULT], None, "nodes")
        assert decrypt(house.file("flows_cred.json"), SECRET) == {"v": {"password": "x"}}

    run(scenario)


# -- a start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"id": "a"', "not JSON"), ("{}", "a flow is a JSON array"), ("", "not JSON"), ("\xff", "utf-8"),
        (json.dumps(WRONG), "out of range"),
    ],
    ids=["cut off", "no flow", "empty", "no text", "cannot run"],
)  # fmt: skip
def test_a_broken_file_falls_back_to_the_backup_and_says_so(
    house: House, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    house.has(MORE, ".flows.json.backup")
    house.path.write_bytes(text.encode("latin-1"))

    async def scenario() -> None:
        async with house.running() as (store, _):
            assert store.read()[0] == MORE
            (notice,) = store.notices
            assert notice.code == "flow_fallback"
            assert notice.text.startswith(f"flow file '{house.path}' cannot be used: ")
            assert reason in notice.text
            assert (
                "the gateway runs the flow before it ('.flows.json.backup'); deploy a repaired one"
                in notice.text
            )
            assert notice.text in caplog.text
            await store.deploy(FEED, None, "nodes")
            assert store.notices == ()
        assert house.file() == FEED
        assert house.file(".flows.json.backup") == MORE, "what is broken never becomes the backup"
        assert (house.folder / "flows.json.faulty").read_bytes() == text.encode("latin-1")

    run(scenario)


def test_without_a_backup_a_broken_file_is_an_error(house: House) -> None:
    house.path.write_text("{")
    with pytest.raises(FlowError, match="not JSON"):
        house.files().open(lambda flow: flow.check({}))
    house.path.unlink()
    with pytest.raises(FileNotFoundError):
        house.files().open(lambda flow: flow.check({}))


def test_the_default_flow_is_used_until_something_is_deployed_and_is_the_first_backup(tmp_path: Path) -> None:
    default = tmp_path / "default.json"
    default.write_text(json.dumps([*FEED, {**VAULT, "password": "x", "only": "somewhere"}]))
    house = House(tmp_path / "state", default=default)
    house.folder.mkdir()

    async def scenario() -> None:
        async with house.running() as (store, _):
            assert house.names() == set()
            await store.deploy([*MORE, VAULT], None, "nodes")
        assert house.file() == [*MORE, {**VAULT, "only": "somewhere"}], "an editor does not know of it"
        assert (house.folder / ".flows.json.backup").read_bytes() == default.read_bytes()
        house.path.write_text("{")
        async with house.running() as (store, lab):
            assert store.read()[0] == [*FEED, {**VAULT, "only": "somewhere"}]
            assert lab["v"].password == "x"

    run(scenario)


def test_who_switches_a_node_on_decides_from_then_on(tmp_path: Path) -> None:
    def adapt(nodes: list[dict[str, Any]]) -> None:
        for item in nodes:
            if "only" in item:
                item["d"] = True

    house = House(tmp_path, adapt=adapt)
    house.has([*FEED, raw("l", "sink", z="t", only="elsewhere")])

    async def scenario() -> None:
        async with house.running() as (store, lab):
            assert "l" not in lab.engine.nodes
            await store.deploy([*FEED, raw("l", "sink", z="t", d=True)], None, "nodes")
            assert house.file()[-1]["only"] == "elsewhere"
            await store.deploy([*FEED, raw("l", "sink", z="t")], None, "nodes")
            assert house.file()[-1] == raw("l", "sink", z="t")
        async with house.running() as (_, lab):
            assert "l" in lab.engine.nodes

    run(scenario)


# -- the trial ----------------------------------------------------------------------------------------------------


def test_three_crashes_within_a_minute_of_a_deploy_bring_the_flow_before_back(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with house.running() as (store, _):
                await store.deploy(MORE, None, "nodes")
                raise ZeroDivisionError
        assert await house.crash() == []
        assert await house.crash() == []
        for _ in range(2):  # also when it is started again
            async with house.running() as (store, _):
                assert store.read()[0] == FEED
                (notice,) = store.notices
                assert (notice.code, store.safe_mode) == ("safe_mode", True)
                assert notice.text.startswith(
                    f"safe mode: the flow in '{house.path}' ended the gateway {CRASHES} times within {TRIAL_S:g} s"
                )
                assert notice.text in caplog.text
                await house.wait_s(TRIAL_S + 1)
        assert house.file() == MORE, "a person may want to look at it"
        assert await house.crash() == ["safe_mode"]
        async with house.running() as (store, _):
            await store.deploy([*FEED, VAULT], None, "nodes")
            assert (store.notices, store.safe_mode) == ((), False)
        assert house.file("flows.json.faulty") == MORE
        assert house.file(".flows.json.backup") == FEED
        async with house.running() as (store, _):
            assert store.read()[0] == [*FEED, VAULT]

    run(scenario)


def test_a_flow_that_has_run_for_a_minute_is_no_longer_on_trial(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy(MORE, None, "nodes")
            await house.wait_s(TRIAL_S - 1)
            assert ".flows.json.trial" in house.names()
            await house.wait_s(2)
            await until(lambda: ".flows.json.trial" not in house.names(), "the end of the trial")
        for _ in range(5):
            assert await house.crash() == []

    run(scenario)


def test_a_clean_end_is_no_crash(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy(MORE, None, "nodes")
        for _ in range(5):
            async with house.running() as (store, _):
                assert store.read()[0] == MORE
        for _ in range(2):
            await house.crash()
        async with house.running() as (store, _):
            assert store.read()[0] == MORE

    run(scenario)


def test_a_flow_that_was_put_there_by_hand_is_not_on_trial(house: House) -> None:
    async def scenario() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with house.running() as (store, _):
                await store.deploy(MORE, None, "nodes")
                raise ZeroDivisionError
        for _ in range(2):
            await house.crash()
        house.has([*FEED, VAULT])
        for _ in range(5):
            assert await house.crash() == []

    run(scenario)


def test_a_flow_that_crashed_never_becomes_the_backup(house: House) -> None:
    async def scenario() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with house.running() as (store, _):
                await store.deploy(MORE, None, "nodes")
                raise ZeroDivisionError
        async with house.running() as (store, _):
            assert store.read()[0] == MORE
            await store.deploy([*FEED, VAULT], None, "nodes")
        assert house.file(".flows.json.backup") == FEED
        assert house.file("flows.json.faulty") == MORE

    run(scenario)


def test_a_trial_that_cannot_be_read_counts_from_none(house: House) -> None:
    (house.folder / ".flows.json.trial").write_text('{"rev": 5}')

    async def scenario() -> None:
        assert await house.crash() == []

    run(scenario)


# -- stop and start -----------------------------------------------------------------------------------------------


def test_stopped_sources_wait_and_nothing_is_lost(house: House) -> None:
    async def scenario() -> None:
        async with house.running() as (store, lab):
            told: list[Any] = []
            with lab.engine.events.listening(lambda topic, data: told.append((topic, dict(data)))):
                await store.set_state("stop")
                waiting = lab.feed("s", 1)
                assert store.state == "stop"
                assert [notice.code for notice in store.notices] == ["flow_stopped"]
                await store.deploy(MORE, None, "nodes")
                await asyncio.sleep(0)
                assert lab["l"].safe() == []
                assert not waiting.done()
                await store.set_state("start")
                await waiting
            assert lab["k"].payloads() == [1]
            assert (store.state, store.notices) == ("start", ())
            assert [data for topic, data in told if topic == "notification/runtime-state"] == [
                {"state": "stop"}, {"state": "start"},
            ]  # fmt: skip

    run(scenario)


# -- Python -------------------------------------------------------------------------------------------------------


def test_new_python_code_needs_the_permission(house: House) -> None:
    code = {"id": "p", "type": "python", "z": "t", "name": "add", "func": "return msg", "wires": [[]]}
    eve, ann = User("eve", "", ("read", "write")), User("ann", "", ("read", "write", "python"))

    async def scenario() -> None:
        async with house.running() as (store, _):
            with pytest.raises(FlowError) as refused:
                await store.deploy([*FEED, code], None, "nodes", eve)
            assert str(refused.value) == (
                "error: python 'add': user eve has no permission \"python\", which a new or changed python node needs"
            )
            await store.deploy([*FEED, code], None, "nodes", ann)
            await store.deploy([*FEED, {**code, "x": 5, "wires": [["k"]]}], None, "nodes", eve)
            for change in ({"func": "return None"}, {"d": True}):
                with pytest.raises(FlowError, match="user eve has no permission"):
                    await store.deploy([*FEED, {**code, **change}], None, "nodes", eve)
            await store.deploy(FEED, None, "nodes", eve)

    run(scenario)


# -- versions -----------------------------------------------------------------------------------------------------


def test_a_flow_of_an_older_version_is_brought_up_to_date_with_a_backup(house: House) -> None:
    def limits(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**{k: v for k, v in item.items() if k != "most"}, "limit": item["most"]}
            if "most" in item
            else item
            for item in nodes
        ]

    old = [*FEED[:2], raw("k", "sink", z="t", most=5)]
    house.has(old)
    house.options = {"steps": (limits,)}

    async def scenario() -> None:
        async with house.running() as (store, lab):
            assert lab["k"].limit == 5
            assert house.file() == old, "only a deploy writes"
            nodes, rev = store.read()
            await store.deploy(nodes, rev, "nodes")
        assert house.file("flows.json.v1") == old
        assert house.file()[2] == raw("k", "sink", z="t", limit=5)
        assert (house.folder / ".flows.json.version").read_text() == "2"
        house.options = {"steps": (limits, lambda nodes: [*nodes, raw("l", "sink", z="t")])}
        async with house.running() as (_, lab):
            assert set(lab.engine.nodes) == {"s", "k", "l"}

    run(scenario)


def test_a_power_cut_between_two_files_leaves_the_old_flow_with_its_credentials(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with house.running() as (store, _):
            await store.deploy([*FEED, vault(password="hidden")], None, "nodes")
            replace = Path.replace

            def cut_off(self: Path, target: Any) -> Path:
                if Path(target) == house.path:
                    raise OSError(5, os.strerror(5))
                return replace(self, target)

            monkeypatch.setattr(Path, "replace", cut_off)
            with pytest.raises(DeployError, match="Input/output error"):
                await store.deploy(FEED, None, "nodes")
            monkeypatch.undo()
        flow = house.files().open(lambda flow: flow.check({}))
        assert isinstance(flow, CompleteFlow)
        assert flow.credentials == {"v": {"password": "hidden"}}

    run(scenario)
