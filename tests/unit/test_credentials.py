"""Credentials: Node-RED's encryption, what is cut out of nodes, what is put back, what may be shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.systems import NODE, node_red_missing
from tests.conftest import do_without
from tests.servers import REPOSITORY
from voltflow.admin.credentials import (
    CompleteFlow,
    CredentialsError,
    cut,
    decrypt,
    encrypt,
    fields_of,
    merge,
    plain_credentials,
    shown,
)
from voltflow.flow.flow import Flow, FlowError
from voltflow.node import REGISTRY, ConfigNode, config, load_nodes, node

OF_NODE_RED = {
    "$": "7d0bcb4c3610ecdea24ebf546744aa30Y3p2XzQ0gGxPoRougSqmJTkWqMgYTu/YXSKydBm4dfZTl9pQVkjEjUUXcOMoLeNCoWG2iAJE66"
    "rymc1HLQaXassCXC9vU3pWW4iGkQDTW4p+MtTe/10="
}
"""What Node-RED 5.0.7 wrote with the secret `a secret ☂`."""
NODE_RED = REPOSITORY / "bench/npm/node_modules/@node-red/runtime/lib/nodes/credentials.js"
READ = """\
const credentials = require(process.argv[1])
const settings = { get: (name) => (name === "credentialSecret" ? process.argv[2] : undefined) }
credentials.init({ log: { debug() {}, warn(text) { throw new Error(text) }, _: (text) => text }, settings, nodes: {} })
credentials.load(JSON.parse(process.argv[3])).then(() => console.log(JSON.stringify(credentials.get("n"))))
"""


@pytest.fixture(scope="module", autouse=True)
def _types() -> Iterator[None]:
    @node("test vault", category="config")
    class Vault(ConfigNode):
        """Has one credential of each kind."""

        user: str = config("", help="user", secret="text")
        password: str = config("", help="password", secret=True)
        place: str = config("", help="where")

    load_nodes("voltflow.nodes")
    yield
    del REGISTRY[Vault.type]


def vault(**properties: Any) -> dict[str, Any]:
    return {"id": "v", "type": "test vault", **properties}


def test_what_node_red_wrote_is_read() -> None:
    assert decrypt(OF_NODE_RED, "a secret ☂") == {
        "b1": {"user": "ann", "password": "pässwörd ☂ \x01"},
        "b2": {"password": "${SECRET}"},
    }


def test_node_red_reads_what_is_written() -> None:
    if reason := node_red_missing():
        do_without(f"Node-RED is {reason}")
    written = json.dumps(encrypt({"n": {"password": "ü☂😀\n"}}, "k ☂"))
    answer = subprocess.run(
        [str(NODE), "-e", READ, str(NODE_RED), "k ☂", written], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == {"password": "ü☂😀\n"}


@given(st.dictionaries(st.text(), st.dictionaries(st.text(), st.text())), st.text(min_size=1))
def test_what_was_encrypted_comes_back(credentials: dict[str, dict[str, str]], secret: str) -> None:
    secret = secret.encode("utf-8", "replace").decode()
    assert decrypt(encrypt(credentials, secret), secret) == credentials


def test_the_same_is_never_encrypted_the_same_way() -> None:
    assert encrypt({"n": {"a": "b"}}, "s") != encrypt({"n": {"a": "b"}}, "s")


@pytest.mark.parametrize(
    "document",
    [OF_NODE_RED, {"$": "zz"}, {"$": ""}, {"$": "00" * 16 + "not base64"}, {"$": 5}, {}, [], "x"],
    ids=lambda document: str(document)[:12],
)  # fmt: skip
def test_what_cannot_be_decrypted_is_said_to_be_so(document: Any) -> None:
    with pytest.raises(CredentialsError):
        decrypt(document, "another secret")


def test_credentials_without_encryption_are_told_from_encrypted_ones() -> None:
    assert plain_credentials(OF_NODE_RED) is None
    assert plain_credentials({"n": {"a": "b", "has_a": True}}) == {"n": {"a": "b"}}
    with pytest.raises(CredentialsError, match=r"^credentials are an object of objects"):
        plain_credentials([])


def test_the_broker_declares_what_node_red_has_as_its_credentials() -> None:
    assert fields_of("mqtt-broker") == {"user": "text", "password": "password"}
    assert fields_of("no such type") is None


# -- out of the nodes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "given", "kept"),
    [
        ({}, {"user": "ann", "password": "x"}, {"user": "ann", "password": "x"}),
        ({"user": "ann", "password": "x"}, {"password": "y"}, {"user": "ann", "password": "y"}),
        ({"password": "x"}, {"password": "__PWRD__"}, {"password": "x"}),
        ({"user": "ann", "password": "x"}, {"user": "", "password": "  "}, {}),
        ({"password": "x"}, {"has_password": True}, {"password": "x"}),
        ({"password": "x"}, {"other": "y"}, {"password": "x"}),
        ({}, {"place": "here"}, {"place": "here"}),
    ],
    ids=["new", "changed", "not changed", "blank", "only that there is one", "unknown", "not secret here"],
)  # fmt: skip
def test_what_a_node_brings_changes_what_is_known(
    known: dict[str, str], given: dict[str, Any], kept: dict[str, str]
) -> None:
    bare, found = cut([vault(credentials=given, place="x")], {"v": known})
    assert bare == [vault(place="x")]
    assert found == ({"v": kept} if kept else {})


def test_what_a_node_does_not_bring_stays_and_what_is_gone_goes() -> None:
    known = {"v": {"password": "x"}, "gone": {"password": "y"}}
    assert cut([vault()], known) == ([vault()], {"v": {"password": "x"}})


def test_a_secret_among_the_properties_is_a_credential_too() -> None:
    """So the default flow has them, and what was written by hand."""
    nodes = [vault(user="ann", password="${SECRET}", place="here")]
    assert cut(nodes, {}) == ([vault(place="here")], {"v": {"user": "ann", "password": "${SECRET}"}})
    assert cut([vault(password="")], {"v": {"password": "x"}}) == ([vault()], {"v": {"password": "x"}})
    assert nodes == [vault(user="ann", password="${SECRET}", place="here")], "nothing is changed in place"


def test_nodes_of_unknown_types_keep_theirs() -> None:
    raw = {"id": "u", "type": "nobody knows", "credentials": {"a": "b", "has_a": True}}
    assert cut([raw], {"u": {"c": "d"}}) == (
        [{"id": "u", "type": "nobody knows"}],
        {"u": {"a": "b", "c": "d"}},
    )


def test_a_subflow_instance_forgets_what_it_does_not_name() -> None:
    raw = {"id": "s", "type": "subflow:x", "credentials": {"a": "__PWRD__"}}
    assert cut([raw], {"s": {"a": "1", "b": "2"}})[1] == {"s": {"a": "1"}}


def test_variables_of_the_whole_flow_are_kept_as_node_red_keeps_them() -> None:
    raw = {
        "id": "g", "type": "global-config", "env": [{"name": "A", "type": "cred", "value": ""}],
        "credentials": {"map": {"A": "__PWRD__", "has_A": True, "B": "2", "has_B": True}},
    }  # fmt: skip
    bare, found = cut([raw], {"g": {"map": {"A": "1", "C": "3"}}})
    assert found == {"g": {"map": {"A": "1", "B": "2", "has_A": True, "has_B": True}}}
    assert merge(bare, found)[0]["env"] == [{"name": "A", "type": "cred", "value": "1"}]
    assert decrypt(encrypt(found, "s"), "s") == found
    again = cut([{**bare[0], "credentials": shown("global-config", found["g"])}], found)[1]
    assert again == found, "what is shown and sent back changes nothing"


@pytest.mark.parametrize("given", [5, ["x"], {"password": 5}])
def test_credentials_that_are_no_texts_are_refused(given: Any) -> None:
    with pytest.raises(FlowError) as refused:
        cut([vault(credentials=given, name="main")], {})
    (problem,) = refused.value.problems
    assert (problem.node_id, problem.label) == ("v", "test vault 'main'")
    assert problem.text.startswith('property "credentials": ')


# -- and into them ------------------------------------------------------------------------------------------------


def test_nodes_get_their_credentials_back() -> None:
    nodes = [vault(place="here"), {"id": "u", "type": "nobody knows"}]
    credentials = {"v": {"password": "x", "type": "evil"}, "u": {"a": "b"}}
    assert merge(nodes, credentials) == [vault(place="here", password="x"), nodes[1]]


def test_variables_of_a_subflow_get_theirs() -> None:
    raw = {
        "id": "s", "type": "subflow:x",
        "env": [{"name": "A", "type": "cred"}, {"name": "B", "type": "str", "value": "b"}],
    }  # fmt: skip
    assert merge([raw], {"s": {"A": "1", "B": "2"}})[0]["env"] == [
        {"name": "A", "type": "cred", "value": "1"},
        {"name": "B", "type": "str", "value": "b"},
    ]


def test_a_complete_flow_tells_nothing_of_its_credentials() -> None:
    flow = CompleteFlow([vault(place="here")], {"v": {"password": "hidden"}})
    assert flow.nodes[0]["password"] == "hidden"
    assert "hidden" not in flow.dumps() + json.dumps(flow.bare)
    assert flow.revision == Flow(flow.bare).revision == flow.rev[:12]
    assert len(flow.rev) == 64


def test_the_error_of_a_secret_does_not_say_it() -> None:
    (problem,) = Flow([vault(password=12345)]).check({})
    assert problem.text == 'property "password": Expected `str`, got `int`, but it is a secret'


def test_what_the_editor_may_see() -> None:
    known = {"user": "ann", "password": "x"}
    assert shown("test vault", known) == {"user": "ann", "has_password": True}
    assert shown("test vault", {"password": "x", "place": "x"}) == {"user": "", "has_password": True}
    assert shown("debug", known) == {}, "it declares none of them"
    assert shown("test vault", {"user": "ann"}) == {"user": "ann", "has_password": False}
    assert shown("test vault", {}) == {}
    assert shown("nobody knows", known) == {}
    assert shown("subflow:x", known) == {"has_user": True, "has_password": True}
    assert shown("global-config", {"map": {"A": "1"}}) == {"map": {"A": "__PWRD__", "has_A": True}}
