"""The command line: `urlshortener run | shortener | analytics | migrate`."""

import argparse
import asyncio
import os
import sys
import textwrap
from collections.abc import Sequence

import uvloop

from urlshortener import __version__
from urlshortener.errors import StoreUnavailable, WrongSetting
from urlshortener.settings import TABLE, Settings

_WRONG_SETTING = 78  # EX_CONFIG of sysexits.h
_UNAVAILABLE = 69  # EX_UNAVAILABLE

COMMANDS = {
    "run": "Everything in one process: make and follow links, count and show; SQLite in ./data unless told otherwise.",
    "shortener": "The service that creates and follows links, on :8080. Needs PostgreSQL and RabbitMQ.",
    "analytics": "The service that counts, on :8081. Needs PostgreSQL, RabbitMQ and Redis.",
    "migrate": "Bring the database of links up to date, and end. Several may run at once.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say, and exit: 0 done, 2 wrong arguments, 69 a back end is away, 78 a wrong setting."""
    command = _parser().parse_args(arguments).command
    try:
        settings = Settings.read(os.environ)
        sys.exit(_do(command, settings))
    except WrongSetting as error:
        sys.exit(_said(_WRONG_SETTING, str(error)))
    except StoreUnavailable as error:
        sys.exit(_said(_UNAVAILABLE, str(error)))


def _do(command: str, settings: Settings) -> int:
    from urlshortener.services import processes  # noqa: PLC0415 (a --help should not wait for it)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if command == "migrate":
            print(runner.run(processes.migrate(settings)))
            return 0
        return runner.run(processes.run(command, settings))


def _said(code: int, words: str) -> int:
    print(f"urlshortener: {words}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="urlshortener",
        description="A URL shortener that counts every redirect exactly once.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"urlshortener {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning in COMMANDS.items():
        commands.add_parser(
            name,
            help=meaning,
            description=meaning,
            epilog=_settings_help(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    return parser


def _settings_help() -> str:
    rows = ["settings (environment variables; a secret may also be in a file that NAME_FILE names):"]
    for setting in TABLE:
        words = f"{setting.meaning} Default: {setting.default or 'none'}."
        rows.append(textwrap.indent(f"{setting.name}{' (secret)' if setting.secret else ''}", "  "))
        rows.append(textwrap.fill(words, 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(rows)
