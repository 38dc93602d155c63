"""Topics: names in, names out, and nothing else is taken for a pack's topic."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow import topics
from voltflow.mqtt.codec import matches

NAMES = st.from_regex(re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII), fullmatch=True)
KINDS = [
    topics.TELEMETRY,
    topics.CELLS,
    topics.STATE,
    topics.CMD,
    topics.TWIN,
    topics.ALERT,
    topics.DEAD,
    topics.LOSS,
]


@given(NAMES, NAMES, st.sampled_from(KINDS))
def test_parse_gives_back_what_the_topic_was_made_of(fleet: str, pack: str, kind: topics._PackKind) -> None:
    topic = kind.of(fleet, pack)
    parsed = topics.parse(topic)
    assert parsed == (fleet, pack, kind.kind)
    assert parsed is not None
    assert parsed.sibling("dead") == topics.DEAD.of(fleet, pack)
    assert matches(kind.filter, topic)
    assert [other for other in KINDS if matches(other.filter, topic)] == [kind]


@pytest.mark.parametrize(
    "topic",
    ["", "ev/v1/f/p", "ev/v1/f/p/telemetry/x", "ev/v2/f/p/telemetry", "ev/v1/f//telemetry", "ev/v1/f/p/Telemetry",
     "ev/v1/f/p/telemetry\n", "ev/v1/f/" + "p" * 65 + "/telemetry", "ev/v1/ä/p/telemetry", "sim/v1/f/p/truth"],
)  # fmt: skip
def test_parse_refuses_what_is_not_a_packs_topic(topic: str) -> None:
    assert topics.parse(topic) is None


@given(st.text(max_size=80))
def test_name_is_one_exactly_when_its_topic_can_be_parsed(text: str) -> None:
    assert topics.is_name(text) == (topics.parse(f"ev/v1/{text}/p/telemetry") is not None)


def test_truth_is_out_of_reach_of_every_filter() -> None:
    """The agent must never see the simulator's hidden state."""
    assert not any(matches(kind.filter, topics.truth("f", "p")) for kind in KINDS)
