"""What the Kafka nodes need no broker for: settings, records, which offsets may be committed."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kafka_offsets import Offsets, Taken
from cloud.kafka_records import to_message, to_record
from cloud.nodes.kafka_in import KafkaIn
from cloud.nodes.kafka_out import KafkaOut
from tests.cloud_samples import alert, state, twin
from voltflow.message import Msg
from voltflow.node import ConfigError

TOPICS = {"twin": "ev.twin", "alert": "ev.alert", "state": "ev.state"}


def test_client_options_plain() -> None:
    options = KafkaOut(bootstrap="a:1, b:2,").client_options("me")
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["security_protocol"] == "PLAINTEXT"
    assert "ssl_context" not in options
    assert "sasl_mechanism" not in options


def test_client_options_encrypted_with_login() -> None:
    node = KafkaOut(
        bootstrap="a:1", security="sasl_ssl", sasl_mechanism="PLAIN", user="bob", password="secret"
    )
    options = node.client_options("me")
    assert options["security_protocol"] == "SASL_SSL"
    assert isinstance(options["ssl_context"], ssl.SSLContext)
    assert (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "PLAIN",
        "bob",
        "secret",
    )


def test_password_does_not_show_in_a_log() -> None:
    assert "hush-hush" not in repr(KafkaOut(bootstrap="a:1", password="hush-hush"))


def test_settings_that_cannot_be_name_the_property(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='property "user" is empty: security = sasl_ssl needs a user'):
        KafkaOut(bootstrap="a:1", security="sasl_ssl")
    with pytest.raises(ConfigError, match='property "bootstrap" is empty: set the brokers'):
        KafkaOut(bootstrap=" ")
    missing = str(tmp_path / "none.pem")
    with pytest.raises(
        ConfigError, match=r'properties "ca", "cert" and "key" cannot be used: .*No such file'
    ):
        KafkaOut(bootstrap="a:1", security="ssl", ca=missing).client_options("me")
    empty = {f"topic_{kind}": "" for kind in ("twin", "alert", "dead", "loss", "state")}
    with pytest.raises(ConfigError, match="name at least one Kafka topic"):
        KafkaIn(bootstrap="a:1", **empty)


@pytest.mark.parametrize("msg", [twin(3), alert(4), state()], ids=["twin", "alert", "state"])
def test_message_to_record_and_back(msg: Msg) -> None:
    record = to_record(msg, TOPICS, 100_000)
    topic, key = to_message(record.topic, record.key, record.headers, {})
    assert topic == msg.topic
    assert (key is None) == (msg.topic.endswith("state"))


def test_record_without_a_kind_takes_that_of_its_topic() -> None:
    """What an older `kafka out` sent has no header of that name."""
    headers = [("fleet", b"demo"), ("pack", b"P1")]
    assert to_message("ev.twin", b"P1", headers, {"ev.twin": "twin"})[0] == "ev/v1/demo/P1/twin"
    with pytest.raises(ValueError, match="does not say whose it is"):
        to_message("other", b"P1", headers, {"ev.twin": "twin"})
    with pytest.raises(ValueError, match="does not say whose it is"):
        to_message("ev.twin", b"a/b", [("fleet", b"demo")], {"ev.twin": "twin"})


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "settle", "fail", "revoke", "assign"]), st.integers(0, 9)),
        max_size=80,
    )
)
def test_offsets_never_commit_beyond_what_is_settled(steps: list[tuple[str, int]]) -> None:
    """A partition as its reader sees it: whatever is committed, all before it was settled; after a failure it is read
    again from the first offset that was not."""
    offsets: Offsets[str] = Offsets()
    offsets.assigned(["p"])
    settled: set[int] = set()
    under_way: list[Taken[str]] = []
    position = committed = 0
    owned = True
    for what, number in steps:
        if what == "take":
            position = offsets.to_read_again().get("p", position)
            taken = offsets.taken("p", position, position + number + 1)
            assert (taken is not None) == owned
            if taken is not None:
                under_way.append(taken)
                position = taken.end
        elif what in ("settle", "fail") and under_way:
            chosen = under_way.pop(number % len(under_way))
            if what == "settle":
                settled.update(range(chosen.first, chosen.end))
                offsets.settled(chosen)
            else:
                offsets.failed(chosen)
        elif what == "revoke":
            owned = False
            offsets.revoked(["p"])
        elif what == "assign":
            owned, position = True, committed
            offsets.assigned(["p"])
        committed = max(committed, offsets.to_commit().get("p", committed))
        assert set(range(committed)) <= settled
