"""The nagfast command: options come from the config dataclasses, errors are one line on stderr.

Exit codes: 0 done, 1 failed, 2 a wrong argument, 3 done with rows set aside.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nagfast import config as configs
from nagfast import env
from nagfast.errors import NagfastError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2 and one line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _lazy(module: str, function: str) -> Callable[[Any], int]:
    """A command's function, imported when it is called: `nagfast --help` needs no torch."""

    def call(config: Any) -> int:
        import importlib

        result: int = getattr(importlib.import_module(f"nagfast.{module}"), function)(config)
        return result

    return call


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "demo": (configs.DemoConfig, _lazy("demo", "demo")),
    "extract": (configs.ExtractConfig, _lazy("commands", "extract")),
    "profile": (configs.ProfileConfig, _lazy("commands", "fit_profile")),
    "score": (configs.ScoreConfig, _lazy("commands", "score")),
    "select": (configs.SelectConfig, _lazy("commands", "select")),
    "rank": (configs.RankConfig, _lazy("commands", "rank")),
    "index build": (configs.IndexBuildConfig, _lazy("commands", "index_build")),
    "index query": (configs.IndexQueryConfig, _lazy("commands", "index_query")),
    "report": (configs.ReportConfig, _lazy("commands", "report")),
    "explain": (configs.ExplainConfig, _lazy("commands", "explain")),
    "deactivate": (configs.DeactivateConfig, _lazy("commands", "deactivate")),
    "tsne": (configs.TsneConfig, _lazy("commands", "tsne")),
    "doctor": (configs.DoctorConfig, _lazy("doctor", "doctor")),
}
BENCH = "The benchmark harness: checks, times in interleaved rounds, prints a table, appends JSON lines"


GROUPS = {"index": "Nearest targets: build an index, query it"}


def _add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """One option per field of a config dataclass."""
    hints = typing.get_type_hints(config)
    help_texts = configs.field_help(config)
    for item in dataclasses.fields(config):
        kind, many = _value_type(hints[item.name])
        options: dict[str, Any] = {"help": help_texts.get(item.name, "").replace("%", "%%")}
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if item.metadata.get("positional"):
            if many:
                options["nargs"] = "+" if required else "*"
            parser.add_argument(item.name, metavar=item.name.upper().removesuffix("S"), **options)
            continue
        flag = f"--{item.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(flag, action="store_true", **options)
            continue
        if many:
            options |= {"nargs": "+", "action": "extend"}
        choices = [c for c in item.metadata.get("choices", ()) if c is not None]
        if choices:
            options["metavar"] = "|".join(choices)
        elif kind is not str:
            options["metavar"] = {int: "N", float: "X"}[kind]
        if not required and item.default not in (None, "", dataclasses.MISSING) and "default" not in options["help"]:
            options["help"] += f" (default: {item.default})"
        parser.add_argument(flag, type=kind, required=required, default=argparse.SUPPRESS, **options)


def _value_type(hint: Any) -> tuple[type, bool]:
    """The type of one value, and whether there may be several."""
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return hint, False


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from nagfast import __version__

    parser = Parser(prog="nagfast", description="Target-oriented data selection by Neuron-Activated Graphs.")
    parser.add_argument("--version", action="version", version=f"nagfast {__version__}")
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    groups: dict[str, Any] = {}
    for name, (config, _) in COMMANDS.items():
        first = (config.__doc__ or "").strip().splitlines()[0]
        group, _, verb = name.rpartition(" ")
        if group and group not in groups:
            head = commands.add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = head.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
        sub = (groups[group] if group else commands).add_parser(verb, help=first, description=first)
        _add_options(sub, config)
    commands.add_parser("bench", help=BENCH, add_help=False)
    return parser


def _call(command: str, arguments: dict[str, Any], rest: list[str]) -> int:
    if command == "bench":  # it has a command line of its own
        return _lazy("benchmarks.__main__", "main")(rest)
    config_class, call = COMMANDS[command]
    return call(config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(argv)
    arguments = vars(parsed)
    command, quiet, debug = (arguments.pop(name) for name in ("command", "quiet", "debug"))
    command = " ".join(filter(None, [command, arguments.pop("verb", None)]))
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "filelock", "urllib3", "faiss"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if rest and command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    env.keep_freed_memory()
    try:
        return _call(command, arguments, rest)
    except NagfastError as error:
        _complain(command, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain(command, "stopped; what was written is whole, and the same command takes it up")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(command, f"{error.filename or 'file'}: {error.strerror or error}")
        return 1
    except Exception as error:
        if debug:
            raise
        _complain(command, f"{type(error).__name__}: {error}; nagfast --debug {command} ... shows where")
        return 1


def _complain(command: str, message: str) -> None:
    line = " ".join(message.split())
    sys.stderr.write(f"nagfast {command}: {line}\n")


def run() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
