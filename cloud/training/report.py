"""The cards of the released models as the tables of docs/models.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloud.training.cards import read

START, END = "<!-- cloud-train scores: start -->", "<!-- cloud-train scores: end -->"
ORDER = ("soh", "temperature", "rul", "failure")


def tables(models: Path) -> str:
    """Markdown: scores with interval and baseline, packs unlike the training ones, real data."""
    cards = sorted(read(models), key=lambda card: ORDER.index(card["name"]))
    return "\n".join([*_scores(cards), "", *_left_out(cards), "", *_real(cards)])


def _scores(cards: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | score on test packs | value (95 % interval over packs) | bar | |"
    yield "|---|---|---|---|---|"
    for card in cards:
        for name, score in (card["scores"] | card["baseline"]).items():
            bars = [bar for bar in card["bars"] if bar["score"] == name]
            rule = ", ".join(bar["rule"] for bar in bars)
            verdict = "" if not bars else "ok" if all(bar["passed"] for bar in bars) else "**missed**"
            yield f"| {card['name']} | {name} | {_value(score)} | {rule} | {verdict} |"


def _left_out(cards: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | score | " + " | ".join(cards[0]["left_out"]) + " |"
    yield "|---|---|" + "---|" * len(cards[0]["left_out"])
    for card in cards:
        for score in dict.fromkeys(bar["score"] for bar in card["bars"]):
            cells = [str(figures[score]["value"]) for figures in card["left_out"].values()]
            yield f"| {card['name']} | {score} | " + " | ".join(cells) + " |"


def _real(cards: list[dict[str, Any]]) -> Iterator[str]:
    yield "| real data | recipe of | score | value (95 % interval) | bar | |"
    yield "|---|---|---|---|---|---|"
    for card in cards:
        for name, check in card["real_data"].items():
            verdict = "ok" if check["passed"] else "**missed**"
            for score, value in check["scores"].items():
                yield f"| {name} | {card['name']} | {score} | {_value(value)} | {check['bar']} | {verdict} |"
                check["bar"] = verdict = ""


def _value(score: Mapping[str, Any]) -> str:
    interval = score["ci95"]
    return f"{score['value']} ({interval[0]} to {interval[1]})" if interval else f"{score['value']}"
