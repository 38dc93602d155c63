"""The command `edge-agent`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from edge.agent import load_flow, load_models, run_agent
from edge.settings import AgentSettings
from voltflow import __version__
from voltflow.flow.flow import FlowError
from voltflow.node import ConfigError
from voltflow.options import Parser
from voltflow.program import give_large_buffers_back, set_up_logging
from voltflow.settings import Loaded, SettingsError, add_arguments, explain, load

EXAMPLES = """\
examples:
  edge-agent run                                    with a broker on this machine
  edge-agent run --broker-host 192.0.2.7 --gateway depot-3
  edge-agent run --uplink-host mqtt.example.org --uplink-tls --uplink-password-file /etc/voltflow/uplink
  edge-agent check --flow flows.json                what is wrong with a flow, without running it
  edge-agent config                                 every setting, its value and where it comes from

Settings come from (later wins): defaults, voltflow.toml (table [agent]), VOLTFLOW_AGENT_* variables, options.
While it runs: mosquitto_sub -t 'ev/v1/#' -v shows every message, http://127.0.0.1:5002/ the page.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 1 when it did not, 2 when a setting or the flow is wrong."""
    args = _parser().parse_args(argv)
    try:
        loaded = load(AgentSettings, "agent", args)
        if args.command == "config":
            return _print(explain(loaded))
        return _check(loaded) if args.command == "check" else _run(loaded)
    except SettingsError as error:
        return _fail(str(error))
    except FlowError as error:
        return _fail("the flow cannot run:\n  " + "\n  ".join(map(str, error.problems)))
    except ConfigError as error:
        return _fail(f"the flow cannot run: {error}")
    except OSError as error:
        return _fail(str(error))


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="edge-agent",
        description="The Voltflow gateway agent: telemetry in, digital twins and predictions out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "run the agent until SIGTERM or Ctrl-C"),
        ("check", "check the flow and its models, then exit"),
        ("config", "print the effective settings and where each comes from"),
    ):
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(sub, AgentSettings)
    return parser


def _check(loaded: Loaded[AgentSettings]) -> int:
    flow, env = load_flow(loaded.values)
    problems = flow.check(env)
    for problem in problems:
        print(problem)
    if any(problem.severity == "error" for problem in problems):
        return 1
    models = ", ".join(f"{model.name} {model.hash}" for model in load_models(flow, env)) or "none"
    print(f"flow {flow.revision}: {sum(1 for _ in flow.active())} nodes, models: {models}, ready to run")
    return 0


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has seen enough; what is left would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(loaded: Loaded[AgentSettings]) -> int:
    levels = set_up_logging(loaded.values)
    give_large_buffers_back()

    async def run() -> None:
        levels.follow_signals(loaded.again)
        await run_agent(loaded.values, levels)

    asyncio.run(run())
    return 0


def _fail(text: str) -> int:
    print(f"edge-agent: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
