"""`voltflow flow test`: runs the cases that stand beside flows."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from voltflow.lab.cases import SUFFIX, CasesError, Result, run_file
from voltflow.node import load_installed_nodes

HELP: Final = """\
Run the test cases of flows, without network and in a time of the flow's own: a day takes milliseconds.

The cases of flows.json stand beside it in flows.test.json:

  {
    "messages": {
      "reading": {"topic": "ev/v1/depot/P1/telemetry", "payload": {"pack": "P1", "cell_temp_max_c": 25.0}}
    },
    "cases": [
      {
        "name": "a hot cell raises an alert",
        "in":  [{"to": "telemetry", "at_s": 0, "like": "reading", "msg": {"payload": {"cell_temp_max_c": 47.5}}}],
        "out": {"to the cloud": [{"topic": "ev/v1/depot/P1/alert", "payload": {"severity": "warning", "value": 47.5}}],
                "switch#2": "none"}
      }
    ]
  }

"in": each message comes to a node (by id or name; to a source as if from outside), to an output ("switch#2") or a wire
("a->b"); "repeat", "every_s" and "add" make many of one. "out": what is to reach a node (of a sink: what it sends), leave an
output or go over a wire: exactly these messages, in order, each as far as it is written; "none"; or
{"count": 24, "each": …, "first": …, "last": …, "contains": […]}. A value may also be {"$near": 3.7, "$within": 0.1},
{"$above": 3}, {"$below": 4}, {"$match": "regex"}, {"$any": true}, {"$absent": true}.
"badge": what stands below a node. "dead": the dead letters; a case that does not name them expects none.
"until_s": how long to run; without it a case runs until no node waits for a time any more.
"files": what is in the files that nodes read; "written": what is to be in files at the end: {"log.csv": "1\\n2\\n"}.
"answers": what an http request gets: {"ask": [{"payload": {"price": 3}, "statusCode": 200}]}.

docs/schema/flow.test-1.json describes all of it; name it in "$schema" and an editor helps with the writing.
"""
EXAMPLES: Final = """\
examples:
  voltflow flow test flows.json                    the cases in flows.test.json
  voltflow flow test flows/ -k alert               all *.test.json below a folder, only cases with "alert" in their name
  voltflow flow test flows.json --junit out.xml    for a build server

Exit code: 0 all passed, 1 a case did not, 2 a file cannot be used.
"""


def add_parser(flow: Any) -> None:
    """Add the action to those of `voltflow flow`."""
    parser = flow.add_parser(
        "test", help="run the test cases beside a flow; exit 1 when one fails", description=HELP, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="flow, file of cases, or folder")
    parser.add_argument(
        "-k", dest="only", default="", metavar="NAME", help="only cases with this in their name"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write the results as JUnit XML")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the flow logs")
    parser.set_defaults(run=_test)


def _test(args: argparse.Namespace) -> int:
    if not args.verbose:
        logging.getLogger("voltflow").addHandler(logging.NullHandler())
        logging.getLogger("voltflow").propagate = False
    load_installed_nodes()
    results: list[Result] = []
    for path in [file for given in args.paths for file in files_of(given)]:
        print(path)
        for result in run_file(path, args.only):
            results.append(result)
            print(told(result))
    if not results:
        raise CasesError(f"no case has {args.only!r} in its name" if args.only else "there are no cases")
    if args.junit is not None:
        args.junit.write_bytes(junit(results))
    failed = sum(bool(result.problems) for result in results)
    print(f"{len(results) - failed} of {len(results)} passed")
    return int(failed > 0)


def files_of(path: Path) -> Iterator[Path]:
    """The files of cases that a path stands for; raises CasesError where there is none."""
    if path.is_dir():
        found = sorted(path.rglob(f"*{SUFFIX}"))
        if not found:
            raise CasesError(f"{path}: there is no *{SUFFIX} in this folder")
        yield from found
        return
    file = path if path.name.endswith(SUFFIX) else path.with_name(f"{path.stem}{SUFFIX}")
    if not file.exists():
        raise CasesError(f"{path}: there is no {file}; voltflow flow test --help shows what to write in it")
    yield file


def told(result: Result) -> str:
    """A case for people: a line, and what was not as expected below it."""
    mark = "FAIL" if result.problems else "ok"
    line = f"  {mark:4}  {result.name} ({result.took_s * 1000:.0f} ms for {_duration(result.flow_s)})"
    problems = ["        " + problem.replace("\n", "\n        ") for problem in result.problems]
    return "\n".join([line, *problems])


def _duration(seconds: float) -> str:
    """
    >>> _duration(0.25), _duration(90), _duration(86400)
    ('0.25 s', '1.5 min', '24 h')
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def junit(results: Sequence[Result]) -> bytes:
    """The results as JUnit XML, a suite for each file."""
    root = ET.Element("testsuites")
    for file in dict.fromkeys(result.file for result in results):
        mine = [result for result in results if result.file == file]
        suite = ET.SubElement(
            root, "testsuite", name=str(file), tests=str(len(mine)), failures=str(sum(bool(r.problems) for r in mine)),
            time=f"{sum(r.took_s for r in mine):.3f}",
        )  # fmt: skip
        for result in mine:
            case = ET.SubElement(
                suite, "testcase", classname=str(file), name=result.name, time=f"{result.took_s:.3f}"
            )
            if result.problems:
                text = "\n".join(result.problems)
                ET.SubElement(case, "failure", message=_xml(result.problems[0])).text = _xml(text)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot say."""
    return "".join(char if char >= " " or char in "\n\t" else "�" for char in text)
