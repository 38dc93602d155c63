"""`voltflow support-bundle`: what somebody else needs to help, in one file, without secrets."""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voltflow.doctor import bundle as parts
from voltflow.doctor.blank import Blanker
from voltflow.doctor.bundle import Bundle
from voltflow.doctor.checks import Result
from voltflow.doctor.cli import add_arguments, as_document, asked_of, in_words
from voltflow.doctor.examine import Asked, Patient, patient, wanted
from voltflow.doctor.program import secrets_in, secrets_of

EPILOG = """\
Nothing is sent: look into the file, then send it yourself. It has no passwords, tokens, keys and credentials, and of flows no
code, templates, payloads and headers. Host names, topics, names of packs and the log's words are in it.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "support-bundle", help="gather what somebody else needs to help, without secrets", epilog=EPILOG,
        description="Gather versions, settings, the doctor's report, the flow, the state of a running program and its log.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: voltflow-support-TIME.tar.gz here")
    parser.add_argument("--log", metavar="FILE", type=Path, action="append", default=[],
                        help="a log to take the end of; else the journal of the service")  # fmt: skip
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    asked = asked_of(args)
    patients = [patient(name, asked) for name in wanted(args.program, asked)]
    bundle = Bundle(Blanker(_secrets(patients, asked)))
    bundle.add_json("platform.json", "the machine, its libraries", parts.platform_facts(asked.environ))
    absent = [text for one in patients for text in _of_program(bundle, one)]
    for number, path in enumerate(args.log):
        bundle.add_text(f"log-{number + 1}.txt", f"the end of {path}", parts.tail(path))
    if absent:
        bundle.add_text("absent.txt", "what could not be had, and why", "\n".join(absent) + "\n")
    out = args.out or Path(time.strftime("voltflow-support-%Y%m%d-%H%M%S.tar.gz", time.gmtime()))
    bundle.write(out)
    for name, data in bundle.files.items():
        print(f"{len(data):10,}  {name:28} {bundle.about[name]}")
    print(f"{out}: {out.stat().st_size:,} bytes. Look into it before you send it; secrets are blanked.")
    return 0


def _secrets(patients: list[Patient], asked: Asked) -> set[str]:
    """Those of all programs: one's log may have another's. Variables also where no program's settings can be loaded."""
    found = secrets_in(asked.environ)
    for one in patients:
        if one.program is not None and one.settings is not None:
            found |= secrets_of(one.program, one.settings.values, asked.environ)
    return found


def _of_program(bundle: Bundle, one: Patient) -> Iterator[str]:
    """Add what concerns one program; yields what there is not, and why."""
    print(f"looking at the {one.name} …", flush=True)
    results = list(one.examine())
    _add_report(bundle, one.name, results)
    if one.program is None or one.settings is None:
        yield f"{one.name}: no settings, so nothing more"
        return
    program, values = one.program, one.settings.values
    bundle.add_json(f"{one.name}/settings.json", "settings and where each comes from",
                    parts.settings_of_program(one.settings))  # fmt: skip
    try:
        flow, _ = program.flow(values)
        nodes = parts.flow_without_texts(getattr(flow, "bare", flow.nodes))
        bundle.add_json(f"{one.name}/flow.json", "its flow, without credentials and free texts", nodes)
    except (OSError, ValueError) as error:
        yield f"{one.name}: its flow: {error}"
    for name, address in program.answers(values).items():
        if why := parts.answer(bundle, f"{one.name}/{name}", address):
            yield f"{one.name}/{name}: {why}"
    for folder in program.folders(values):
        bundle.add_text(
            f"{one.name}/files.txt", f"the files in {folder}, not what is in them", parts.listing(folder)
        )
    if (journal := _journal(program.unit)) is None:
        yield f"{one.name}: no journal of {program.unit} can be read here; give --log FILE"
    else:
        bundle.add_text(f"{one.name}/journal.txt", f"the end of the journal of {program.unit}", journal)


def _add_report(bundle: Bundle, name: str, results: list[Result]) -> None:
    words = "\n".join(in_words(result, everything=True) for result in results)
    bundle.add_text(f"{name}/doctor.txt", "what voltflow doctor says", f"{words}\n")
    bundle.add_json(f"{name}/doctor.json", "the same for programs", as_document(results))


def _journal(unit: str) -> str | None:
    command = ["journalctl", "-u", unit, "-n", str(parts.LOG_LINES), "--no-pager", "-o", "short-iso"]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
