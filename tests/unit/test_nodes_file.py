"""The nodes `file` and `file in`, and the folder that they stay in."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.flows import raw, running, until
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, SinkUnavailable
from voltflow.nodelib.files import READ_LIMIT_BYTES, Files, OutsideError
from voltflow.nodelib.once import Once
from voltflow.nodes.file import File
from voltflow.nodes.file_in import CHUNK_BYTES, FileIn


def started(cls: type[Any], folder: Path, **properties: Any) -> Any:
    built = cls.spec.build("n", properties, {})
    asyncio.run(built.start(Context({}, {Files: Files(folder)}, "gw", "rev", folder)))
    return built


def work(node: Any, *msgs: Msg) -> list[Msg]:
    result: list[Msg] = asyncio.run(node.work(list(msgs)))
    return result


def write(folder: Path, *payloads: Any, **properties: Any) -> bytes:
    node = started(File, folder, **{"filename": "f.txt", **properties})
    msgs = [Msg("t", payload) for payload in payloads]
    assert work(node, *msgs) == msgs
    return (folder / "f.txt").read_bytes()


# -- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a/../..", ".", "", "a\0b", "link/x", "/"]
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "files"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    with pytest.raises(OutsideError):
        Files(home).path(name)


@pytest.mark.parametrize("name", ["x", "a/b/x", "a/../x", "..x", "./x"])
def test_names_within_the_folder_are_taken(tmp_path: Path, name: str) -> None:
    assert tmp_path.resolve() in Files(tmp_path).path(name).parents


def test_absolute_name_below_the_folder_is_taken(tmp_path: Path) -> None:
    assert Files(tmp_path).path(f"{tmp_path}/a") == (tmp_path / "a").resolve()


@pytest.fixture
def small_files() -> Iterator[int]:
    """As on a disk that takes only so much: what goes beyond fails in the middle of a write."""
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE), 10
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_append_that_fails_in_the_middle_leaves_the_file_as_it_was(tmp_path: Path, small_files: int) -> None:
    files = Files(tmp_path)
    files.append("f", [b"12345678"])
    with pytest.raises(OSError, match="File too large"):
        files.append("f", [b"abcdef"])
    assert (tmp_path / "f").read_bytes() == b"12345678"


def test_replace_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, small_files: int
) -> None:
    files = Files(tmp_path)
    files.replace("f", b"old")
    with pytest.raises(OSError, match="File too large"):
        files.replace("f", b"x" * 20)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


# -- file ---------------------------------------------------------------------------------------------------------


def test_defaults_are_node_reds() -> None:
    node = File.spec.build("n", {}, {})
    assert {field.name: getattr(node, field.attribute) for field in File.spec.fields} == {
        "filename": "", "filenameType": "str", "appendNewline": True, "createDir": False, "overwriteFile": "false",
        "encoding": "none",
    }  # fmt: skip
    reader = FileIn.spec.build("n", {}, {})
    assert {field.name: getattr(reader, field.attribute) for field in FileIn.spec.fields} == {
        "filename": "", "filenameType": "str", "format": "utf8", "chunk": False, "encoding": "none", "sendError": False,
        "allProps": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        ("text", b"text\n"), (b"\x00\xff", b"\x00\xff"), (5, b"5\n"), (2.5, b"2.5\n"), (True, b"true\n"),
        ({"a": [1, None]}, b'{"a":[1,null]}\n'), ([1, "ä"], '[1,"ä"]\n'.encode()), ("", b"\n"),
    ],
    ids=repr,
)  # fmt: skip
def test_payload_is_written_as_text_json_or_as_it_is(tmp_path: Path, payload: Any, written: bytes) -> None:
    assert write(tmp_path, payload) == written


def test_messages_are_appended_in_their_order(tmp_path: Path) -> None:
    assert write(tmp_path, "a", "b") == b"a\nb\n"
    assert write(tmp_path, "c", appendNewline=False) == b"a\nb\nc"


def test_file_is_replaced_or_deleted_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "a")
    assert write(tmp_path, "b", "c", overwriteFile="true") == b"c\n"
    work(started(File, tmp_path, filename="f.txt", overwriteFile="delete"), Msg("t", "any"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoding", "written"), [("none", "ä\n".encode()), ("latin1", b"\xe4\n"), ("utf16le", b"\xe4\x00\n\x00")]
)
def test_text_has_the_encoding_that_is_set(tmp_path: Path, encoding: str, written: bytes) -> None:
    assert write(tmp_path, "ä", encoding=encoding) == written


def test_text_may_stand_for_bytes(tmp_path: Path) -> None:
    assert write(tmp_path, "00ff", encoding="hex") == b"\x00\xff"
    assert write(tmp_path, "AQI=", encoding="base64") == b"\x00\xff\x01\x02"
    [msg] = work(started(FileIn, tmp_path, filename="f.txt", encoding="hex"), Msg("t", 0))
    assert msg.payload == "00ff0102"


def test_encoding_may_be_the_messages(tmp_path: Path) -> None:
    node = started(File, tmp_path, filename="f.txt", encoding="setbymsg")
    work(node, Msg("t", "ä", props={"encoding": "latin1"}), Msg("t", "ä"))
    assert (tmp_path / "f.txt").read_bytes() == b"\xe4\n\xc3\xa4\n"


def test_name_may_be_the_messages_an_expression_or_a_variable(tmp_path: Path) -> None:
    work(started(File, tmp_path), Msg("t", "1", props={"filename": "a"}))
    work(
        started(File, tmp_path, filename="pack.id", filenameType="msg"),
        Msg("t", "2", props={"pack": {"id": "b"}}),
    )
    work(started(File, tmp_path, filename='topic & ".csv"', filenameType="jsonata"), Msg("t", "3"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "t.csv"]


def test_missing_folders_are_made_only_where_that_is_asked_for(tmp_path: Path) -> None:
    node = started(File, tmp_path / "files", filename="a/b/f.txt")
    with pytest.raises(FileNotFoundError):
        work(node, Msg("t", "x"))
    work(started(File, tmp_path / "files", filename="a/b/f.txt", createDir=True), Msg("t", "x"))
    assert (tmp_path / "files/a/b/f.txt").read_text() == "x\n"
    work(started(File, tmp_path / "other", filename="f.txt"), Msg("t", "x"))  # the folder itself


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"encoding": "nonsense"}, "property \"encoding\": 'nonsense' is not an encoding that is known here"),
        ({"encoding": "zip"}, "property \"encoding\": 'zip' is not an encoding of text"),
        ({"filename": "(", "filenameType": "jsonata"}, 'property "filename": '),
        (
            {"overwriteFile": "maybe"},
            "property \"overwriteFile\": 'maybe' is not one of 'false', 'true', 'delete'",
        ),
    ],
)
def test_wrong_properties_are_named(properties: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as info:
        File.spec.build("n", properties, {})
    assert str(info.value).startswith(text)


def test_in_a_flow_what_fails_is_a_dead_letter_and_the_others_are_written_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(
            raw("s", "source", ["f"]), {"id": "f", "type": "file", "wires": [["k"]]}, raw("k", "sink"),
            raw("d", "dead letters"), services={Files: Files(tmp_path)}, state_dir=tmp_path / "state",
        ) as lab:  # fmt: skip
            names = ["a", "../b", "a", "", "c", "a"]
            msgs = [Msg("t", str(i), props={"filename": name}) for i, name in enumerate(names)]
            await lab["s"].feed(msgs)
            assert sorted(lab["k"].payloads()) == ["0", "2", "4", "5"]
            assert (tmp_path / "a").read_text() == "0\n2\n5\n"
            assert (tmp_path / "c").read_text() == "4\n"
            errors = [failure.error for failure in lab["d"].payloads()]
            assert errors == [
                f"OutsideError: '../b' is not below '{tmp_path}', the only folder that nodes read and write",
                "ValueError: no name of a file: msg 'filename' is ''",
            ]

    asyncio.run(scenario())


def test_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a test is never full: the system call says so in its place."""
    full, real = True, os.write

    def no_room(file: int, data: Any) -> int:
        if full and Path(f"/proc/self/fd/{file}").readlink().name == "b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    async def scenario() -> None:
        nonlocal full
        async with running(
            raw("s", "source", ["f"]), {"id": "f", "type": "file", "wires": [["k"]]}, raw("k", "sink"),
            services={Files: Files(tmp_path)}, state_dir=tmp_path / "state",
        ) as lab:  # fmt: skip
            monkeypatch.setattr(os, "write", no_room)
            feeding = lab["s"].feed([Msg("t", name, props={"filename": name}) for name in "aba"])
            line: Any = lab.engine.wiring.lines["f"]
            await until(lambda: line.reason, "the trouble")
            assert line.reason == "cannot write b: No space left on device"
            full = False
            await feeding
            assert lab["k"].payloads() == ["a", "b", "a"]
            assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("a\na\n", "b\n")

    asyncio.run(scenario())


# -- file in ------------------------------------------------------------------------------------------------------


def read(folder: Path, data: bytes, msg: Msg | None = None, **properties: Any) -> list[Msg]:
    (folder / "f").write_bytes(data)
    return work(started(FileIn, folder, filename="f", **properties), msg or Msg("t", "any"))


def test_file_is_read_as_text_or_bytes(tmp_path: Path) -> None:
    [text] = read(tmp_path, "ä\nb\n".encode())
    assert (text.payload, text.topic, text.props) == ("ä\nb\n", "t", {"filename": "f"})
    [data] = read(tmp_path, b"\xff\x00", format="")
    assert data.payload == b"\xff\x00"
    [latin] = read(tmp_path, b"\xe4", encoding="latin1")
    assert latin.payload == "ä"


def test_lines_are_messages_with_parts(tmp_path: Path) -> None:
    msg = Msg("t", "any", props={"keep": 1})
    lines = read(tmp_path, b"a\r\nb\n", msg, format="lines")
    assert [line.payload for line in lines] == ["a", "b", ""]
    parts = [line.props["parts"] for line in lines if line.props]
    assert [(part["index"], part["ch"], part["type"], part.get("count")) for part in parts] == [
        (0, "\n", "string", None), (1, "\n", "string", None), (2, "\n", "string", 3),
    ]  # fmt: skip
    assert len({part["id"] for part in parts}) == 1
    assert "keep" not in (lines[0].props or {})
    assert all(
        (line.props or {})["keep"] == 1
        for line in read(tmp_path, b"a\nb", msg, format="lines", allProps=True)
    )


@given(data=st.binary(max_size=3 * CHUNK_BYTES // 1000).map(lambda data: data * 1000))
def test_pieces_of_a_stream_are_the_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    pieces = read(tmp_path_factory.mktemp("files"), data, format="stream")
    assert b"".join(piece.payload for piece in pieces) == data
    assert all(len(piece.payload) <= CHUNK_BYTES for piece in pieces)
    assert [(piece.props or {})["parts"].get("count") for piece in pieces][-1] == len(pieces)


def test_file_that_is_missing_outside_or_too_large_makes_the_message_fail(tmp_path: Path) -> None:
    node = started(FileIn, tmp_path)
    with pytest.raises(FileNotFoundError):
        work(node, Msg("t", 0, props={"filename": "none"}))
    with pytest.raises(OutsideError):
        work(node, Msg("t", 0, props={"filename": "/etc/hostname"}))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(READ_LIMIT_BYTES + 1)
    with pytest.raises(OSError, match="larger than 16 MiB, which is what a node reads"):
        work(node, Msg("t", 0, props={"filename": "large"}))


def test_message_of_an_error_goes_on_where_that_is_asked_for(tmp_path: Path) -> None:
    [msg] = work(started(FileIn, tmp_path, filename="none", sendError=True), Msg("t", "any"))
    assert msg.payload is None
    assert (msg.props or {})["error"].startswith("FileNotFoundError: ")


# -- once ---------------------------------------------------------------------------------------------------------


@given(
    msgs=st.lists(st.sampled_from([[c] for c in "abcdef"]), min_size=1, max_size=12),
    bad=st.sets(st.sampled_from("abcdef")),
)
def test_halving_a_batch_in_which_some_fail_does_nothing_twice(msgs: list[list[str]], bad: set[str]) -> None:
    """The same message may be in a batch twice, where wires join."""
    done: list[str] = []

    async def work(new: list[list[str]]) -> list[str | Exception]:
        done.extend(msg[0] for msg in new)
        return [ValueError(msg[0]) if msg[0] in bad else msg[0].upper() for msg in new]

    once = Once(work)

    async def halve(batch: list[list[str]]) -> list[str]:
        try:
            return await once(batch)
        except ValueError as error:
            if len(batch) == 1:
                return [f"!{error}"]
        middle = len(batch) // 2
        return [*await halve(batch[:middle]), *await halve(batch[middle:])]

    results = asyncio.run(halve(msgs))
    assert results == [f"!{msg[0]}" if msg[0] in bad else msg[0].upper() for msg in msgs]
    assert done == [msg[0] for msg in msgs]
    assert not once._known


def test_only_what_was_unavailable_is_tried_again() -> None:
    done: list[str] = []

    async def work(new: list[str]) -> list[str | Exception]:
        done.extend(new)
        return [SinkUnavailable("later") if msg == "b" and done.count("b") < 3 else msg for msg in new]

    async def scenario() -> None:
        once = Once(work)
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="later"):
                await once(["a", "b", "c"])
        assert await once(["a", "b", "c"]) == ["a", "b", "c"]

    asyncio.run(scenario())
    assert done == ["a", "b", "c", "b", "b"]
