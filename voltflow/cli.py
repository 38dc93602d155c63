"""The command `voltflow`: what concerns flows, node types, contracts, the ledger and the demo."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voltflow import __version__
from voltflow.admin import backup_cli, files_cli, flow_cli, secrets_cli, users_cli
from voltflow.demo import cli as demo
from voltflow.doctor import bundle_cli
from voltflow.doctor import cli as doctor
from voltflow.flow.flow import Flow, FlowError
from voltflow.lab import cases_cli as flow_test_cli
from voltflow.lab import record_cli as flow_record_cli
from voltflow.ledger import cli as ledger_cli
from voltflow.node import REGISTRY, NodeSpec, load_installed_nodes, process_env
from voltflow.options import Parser
from voltflow.schemas import json_schemas

EXAMPLES = """\
examples:
  voltflow demo                          everything on this machine: broker, database, packs, agent, bridge
  voltflow nodes                         the node types there are
  voltflow nodes threshold               one of them with its properties
  voltflow flow check flows.json         what is wrong with a flow, with the lines
  voltflow flow test flows.json          run the cases beside it, in flows.test.json
  voltflow flow push flows.json          deploy it to the gateway on this machine
  voltflow users add ann                 let somebody use the flow editor
  voltflow editor install                fetch the files of the flow editor
  voltflow secrets                       passwords and certificates for the containers
  voltflow backup --out gw.backup        a gateway in one file; `voltflow restore gw.backup` puts it back
  voltflow ledger verify --database postgresql:///voltflow    what was lost or doubled
  voltflow doctor                        what is wrong on this machine, and how to mend it
  voltflow support-bundle                what somebody else needs to help, without secrets
  voltflow schema --out docs/schema      JSON Schema of every message
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when all is well, 1 when what was checked is not, 2 when it could not be done."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the flush at the end fails once more
        return 0
    except (OSError, ValueError) as error:
        print(f"voltflow: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="voltflow",
        description="Voltflow, the edge gateway for EV batteries.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"voltflow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    nodes = commands.add_parser("nodes", help="list the node types, or describe one")
    nodes.add_argument("type", nargs="?", help="describe this one")
    nodes.add_argument("--json", action="store_true", help="for programs")
    nodes.set_defaults(run=_nodes)

    flow = commands.add_parser("flow", help="work with flow files").add_subparsers(
        required=True, metavar="ACTION"
    )
    check = flow.add_parser("check", help="name what is wrong with a flow; exit 1 when it cannot run")
    check.add_argument("file", type=Path)
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=_check)
    flow_cli.add_parsers(flow)
    flow_test_cli.add_parser(flow)
    flow_record_cli.add_parser(flow)

    schema = commands.add_parser("schema", help="write the JSON Schema of every message")
    schema.add_argument("--out", type=Path, required=True, help="folder to write to")
    schema.set_defaults(run=_schema)

    files_cli.add_parser(commands)
    users_cli.add_parser(commands)
    secrets_cli.add_parser(commands)
    backup_cli.add_parser(commands)
    ledger_cli.add_parser(commands)
    demo.add_parser(commands)
    doctor.add_parser(commands)
    bundle_cli.add_parser(commands)
    return parser


def _nodes(args: argparse.Namespace) -> int:
    for text in load_installed_nodes():
        print(f"left out: {text}", file=sys.stderr)
    if args.type is not None and args.type not in REGISTRY:
        raise ValueError(f"there is no node type {args.type!r}; there are: {', '.join(sorted(REGISTRY))}")
    in_palette = sorted((s for s in REGISTRY.values() if s.category), key=lambda s: (s.category, s.type))
    specs = [REGISTRY[args.type]] if args.type else in_palette
    if args.json:
        print(json.dumps([_as_dict(spec) for spec in specs], indent=2, ensure_ascii=False, default=str))
    elif args.type:
        print(_description(specs[0]))
    else:
        for spec in specs:
            print(f"{spec.category:9} {spec.type:16} {spec.summary}")
    return 0


def _as_dict(spec: NodeSpec) -> dict[str, Any]:
    fields = [
        {
            "name": field.name, "help": field.help, "unit": field.unit, "required": field.required,
            "default": None if field.required else field.default, "low": field.low, "high": field.high,
            "choices": field.choices, "reference": field.reference, "secret": field.secret,
            "advanced": field.advanced, "example": field.example,
        }
        for field in spec.fields
    ]  # fmt: skip
    return {
        "type": spec.type, "category": spec.category, "inputs": spec.inputs, "outputs": spec.outputs,
        "help": spec.help, "fields": fields,
    }  # fmt: skip


def _description(spec: NodeSpec) -> str:
    lines = [f"{spec.type} ({spec.category}, {spec.inputs} in, {spec.outputs} out)", "", spec.help, ""]
    for field in spec.fields:
        default = "required" if field.required else f"default {field.default!r}"
        facts = [
            default,
            field.range_text(),
            f"one of {', '.join(map(repr, field.choices))}" if field.choices else "",
        ]
        lines.append(f"  {field.name:16} {field.help} ({'; '.join(filter(None, facts))})")
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> int:
    load_installed_nodes()
    unset: set[str] = set()
    try:
        flow = Flow.load(args.file)
        problems = flow.check(process_env(), elsewhere=True)
        unset = _variables(flow) - set(process_env())
    except FlowError as error:
        problems = error.problems
    if args.json:
        print(json.dumps([vars(problem) for problem in problems], indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            if not (problem.severity == "warning" and "the environment has no " in problem.text):
                print(f"{args.file}: {problem}")
        if unset:
            print(
                f"{args.file}: note: to be set in the environment where it runs: {', '.join(sorted(unset))}"
            )
    wrong = any(problem.severity == "error" for problem in problems)
    if not wrong and not args.json:
        print(f"{args.file}: the flow can run")
    return int(wrong)


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OF_PROGRAMS = ("VOLTFLOW_AGENT_", "VOLTFLOW_BRIDGE_")
"""Variables that the agent and the bridge make of their settings for the flows they run."""


def _variables(flow: Flow) -> set[str]:
    """The environment variables that the flow's properties are, without those that the programs set."""
    texts = [value for raw in flow.active() for value in raw.values() if isinstance(value, str)]
    found = {match[1] for text in texts if (match := _VARIABLE.fullmatch(text))}
    return {name for name in found if not name.startswith(_OF_PROGRAMS)}


def _schema(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    for name, schema in json_schemas().items():
        path = args.out / f"{name.replace('/', '-')}.json"
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
