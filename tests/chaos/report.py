"""The report of a run: a table for people, JSON for programs, Markdown for `docs/reliability.md`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.rounds import Result


@dataclass
class Report:
    """All rounds of a run."""

    seed: int
    wanted: int
    left_out: dict[str, str] = field(default_factory=dict)
    """Faults that are not possible here, and why."""
    results: list[Result] = field(default_factory=list)
    duration_s: float = 0.0
    proven: int = 0
    digest: str = ""

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.problems]

    @property
    def ok(self) -> bool:
        return not self.failed and len(self.results) == self.wanted

    def fired(self) -> Counter[str]:
        return Counter(f.fault for result in self.results for f in result.faults if f.proof)

    def tried(self) -> Counter[str]:
        return Counter(f.fault for result in self.results for f in result.faults)

    def sums(self) -> dict[str, Any]:
        """The figures of the whole run."""
        rss = [result.rss_mb for result in self.results if result.rss_mb]
        return {
            "seed": self.seed, "rounds": len(self.results), "failed": len(self.failed),
            "duration_s": round(self.duration_s), "messages": self.proven,
            "repeated": sum(result.repeated for result in self.results),
            "explained": sum(result.explained for result in self.results), "sha256": self.digest,
            "rss_mb_first": rss[0] if rss else {}, "rss_mb_last": rss[-1] if rss else {},
            "fired": dict(sorted(self.fired().items())), "left_out": self.left_out,
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """FILE.json and FILE.md, whatever ending `path` has."""
        content = {**self.sums(), "results": [asdict(result) for result in self.results]}
        path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
        path.with_suffix(".md").write_text(self.markdown())

    def markdown(self) -> str:
        """The run as a section of a document."""
        s = self.sums()
        text = (
            f"`make chaos ROUNDS={self.wanted} SEED={self.seed}`: {s['rounds']} rounds in {s['duration_s'] / 60:.0f} minutes, "
            f"{len(self.failed)} failed. {s['messages']} messages published, each one row with the contents that were "
            f"published or a recorded loss ({s['explained']}); {s['repeated']} rows came out of a spool or a device's ring."
        )
        lines = [text, "", "| fault | fired |", "|---|---|"]
        lines += [f"| {name} | {count} |" for name, count in s["fired"].items()]
        for result in self.failed:
            faults = ", ".join(f.fault for f in result.faults)
            lines += ["", f"Round {result.number} ({faults}) failed: {result.problems[0]}"]
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """The table at the end of a run."""
        fired, tried = self.fired(), self.tried()
        width = max(map(len, tried), default=0)
        lines = [f"  {name:{width}}  fired {fired[name]} of {tried[name]}" for name in sorted(tried)]
        lines += [f"  {name}: left out, {why}" for name, why in sorted(self.left_out.items())]
        s = self.sums()
        lines.append(f"seed {self.seed}: {s['rounds']} rounds in {self.duration_s:.0f} s, {s['messages']} messages proven, "
                     f"{s['repeated']} repeated, {s['explained']} explained, memory {s['rss_mb_first']} -> {s['rss_mb_last']} MB")  # fmt: skip
        lines.append(
            "every message is one row as it was published, or explained"
            if self.ok
            else f"{len(self.failed)} FAILED"
        )
        return "\n".join(lines)


def again(seed: int, number: int, faults: Sequence[str]) -> str:
    """The command that plays one round again."""
    given = f" --faults {','.join(faults)}" if faults else ""
    return f"python -m tests.chaos --seed {seed} --first {number} --rounds 1{given}"
