"""`cloud-train`: simulated data, features, four models, their cards; MLflow; checks on real data and of cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloud.training.errors import TrainError
from cloud.training.settings import TrainSettings
from voltflow.options import Parser
from voltflow.settings import Loaded, SettingsError, add_arguments, explain, load

MAIN_EXAMPLES = """\
examples:
  cloud-train run                        the released models: about a quarter of an hour on two cores
  cloud-train run --packs 40 --visits 2 --days 3 --fault-packs 60 --models /tmp/models    a quick try, poor models
  cloud-train ui                         look at runs and registry at http://127.0.0.1:5005
  cloud-train cost                       what the models cost on this machine

Each step keeps its result in the cache (setting cache): a run that was broken off goes on where it was; the same
settings give the same models. docs/data-scientist.md shows how to change one.
"""
RUN_EXAMPLES = """\
examples:
  cloud-train run                                   writes models/<name>/model.onnx, card.json, golden.json
  cloud-train run --seed 8 --models /tmp/models8    other packs, another split; the released models stay
  cloud-train run --plots docs/img                  also write the plots of docs/models.md
  VOLTFLOW_SHARED_DATA=~/data cloud-train run       where the real data for the checks are

Files of the same name in the folder --models are replaced, one whole file at a time. A missed bar is reported on the
card and does not stop the release; a disagreement between ONNX and scikit-learn does.
"""
UI_EXAMPLES = """\
examples:
  cloud-train ui                  http://127.0.0.1:5005, until Ctrl-C
  cloud-train ui --ui-port 5010

The page is for this machine only and has no password.
"""
CHECK_EXAMPLES = """\
examples:
  cloud-train check-real                                  all checks whose data are there
  VOLTFLOW_SHARED_DATA=~/data cloud-train check-real --json

The recipes are fitted anew on the real data, split by vehicle time or by cell. Nothing is written; `run` puts the same
figures on the cards. Exit code 1 when a check misses its bar, 2 when there are no data.
"""
COST_EXAMPLES = """\
examples:
  cloud-train cost               the released models, as a gateway runs them
  cloud-train cost --compare     also other kinds of estimator on the same rows (some minutes; needs data)
  cloud-train cost --models /tmp/models --json
"""
SCORES_EXAMPLES = """\
examples:
  cloud-train scores                        the tables of docs/models.md, in Markdown
  cloud-train scores --models /tmp/models8
"""
DATA_EXAMPLES = """\
examples:
  cloud-train data                          simulate what `run` needs, into the cache
  cloud-train data --packs 40 --days 3      a smaller fleet, in a folder of its own
"""
FEATURES_EXAMPLES = """\
examples:
  cloud-train features                      feature rows of all models, from the gateway's own code
"""


@dataclass(frozen=True)
class Call:
    """What a command is run with."""

    loaded: Loaded[TrainSettings]
    args: argparse.Namespace

    @property
    def settings(self) -> TrainSettings:
        return self.loaded.values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        command: Callable[[Call], int] = args.command
        return command(Call(load(TrainSettings, "train", args), args))
    except (SettingsError, TrainError) as error:
        print(f"cloud-train: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"cloud-train: {error.name} is not installed: pip install 'voltflow[sim,train]'", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("cloud-train: stopped; what was complete is in the cache", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = Parser(
        "cloud-train", description="Train Voltflow's four models.", epilog=MAIN_EXAMPLES, formatter_class=form
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command, text, epilog in COMMANDS:
        sub = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=form)
        sub.set_defaults(command=command)
        add_arguments(sub, TrainSettings)
        if name in ("check-real", "cost"):
            sub.add_argument("--json", action="store_true", help="print JSON")
        if name == "cost":
            sub.add_argument("--compare", action="store_true", help="also measure other kinds of estimator")
        if name == "run":
            text = "leave out the checks on real data and on climates and chemistries held out: to try things"
            sub.add_argument("--quick", action="store_true", help=text)
    return parser


@dataclass(frozen=True)
class Progress:
    """Lines with the seconds since the start, on stderr; a class, so that it can go to another process."""

    start_s: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start_s:6.1f} s] {text}", file=sys.stderr, flush=True)


def _data(call: Call) -> int:
    from cloud.training.pipeline import make_data

    for made in make_data(call.settings, Progress()):
        print(f"{made.folder} {made.hash()}")
    return 0


def _features(call: Call) -> int:
    from cloud.training.pipeline import make_features

    for name, rows in make_features(call.settings, Progress()).rows.items():
        print(f"{name}: {len(rows)} rows of {len(set(rows.pack.tolist()))} packs")
    return 0


def _run(call: Call) -> int:
    from cloud.training.pipeline import run

    missed = 0
    for card in run(call.settings, Progress(), full=not call.args.quick):
        for bar in card["bars"]:
            missed += not bar["passed"]
            value = card["scores"][bar["score"]]
            mark = "ok" if bar["passed"] else "MISSED"
            print(
                f"{card['name']:12} {bar['score']:24} {value['value']} {value['ci95']} {bar['rule']:8} {mark}"
            )
    print(f"models in {call.settings.models}" + (f"; {missed} bars missed, see the cards" if missed else ""))
    return 0


def _ui(call: Call) -> int:
    """MLflow's own page, on localhost; this process becomes it."""
    settings = call.settings
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", settings.tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(settings.ui_port), "--workers", "1"]
    if not settings.mlflow_uri and not settings.mlflow_db.is_file():
        raise TrainError(f"mlflow_db = '{settings.mlflow_db}' is not there yet: cloud-train run makes it")
    print(f"MLflow at http://127.0.0.1:{settings.ui_port} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    # This process becomes MLflow, so that signals reach it; its background jobs (evaluation of language models) are
    # not needed and would outlive it.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(command[0], command, {**os.environ, **quiet})  # noqa: S606 - no shell is wanted


def _check_real(call: Call) -> int:
    from cloud.training.pipeline import check_real
    from cloud.training.real_data import data_folder, missing_reason

    if data_folder() is None:
        raise TrainError(missing_reason())
    found = check_real(call.settings, {}, Progress())
    if call.args.json:
        print(json.dumps({check.name: check.as_dict() for check in found}, indent=1))
    return int(not all(check.passed for check in found))


def _cost(call: Call) -> int:
    from cloud.training import cost
    from cloud.training.pipeline import make_features, recipes, split_rows

    found = cost.released(call.settings.models)
    if call.args.compare:
        progress = Progress()
        recipe = next(r for r in recipes() if r.name == "temperature")
        train, _, test = split_rows(recipe, make_features(call.settings, progress), call.settings.seed)[1]
        found += cost.compared(train.at_most(200_000, 0), test.at_most(60_000, 0), progress)
    print(json.dumps([c._asdict() for c in found], indent=1) if call.args.json else cost.table(found))
    return 0


def _scores(call: Call) -> int:
    from cloud.training.report import tables

    print(tables(call.settings.models))
    return 0


def _config(call: Call) -> int:
    print(explain(call.loaded))
    return 0


COMMANDS: tuple[tuple[str, Callable[[Call], int], str, str], ...] = (
    ("run", _run, "data, features, four models, MLflow, ONNX, cards", RUN_EXAMPLES),
    ("data", _data, "simulate the training data", DATA_EXAMPLES),
    ("features", _features, "compute the feature rows", FEATURES_EXAMPLES),
    ("ui", _ui, "look at runs and registry in MLflow", UI_EXAMPLES),
    ("check-real", _check_real, "the recipes on real vehicles and cells", CHECK_EXAMPLES),
    ("cost", _cost, "measure what the models cost on a gateway", COST_EXAMPLES),
    ("scores", _scores, "the cards of the models as tables", SCORES_EXAMPLES),
    ("config", _config, "effective settings, each with where it comes from", ""),
)


if __name__ == "__main__":
    sys.exit(main())
