"""The command line: `urlshortener COMMAND`; the commands stand in COMMANDS."""

import argparse
import asyncio
import os
import sys
import textwrap
from collections.abc import Sequence
from datetime import timedelta

import uvloop

from urlshortener import __version__
from urlshortener.errors import Unavailable, WrongSetting
from urlshortener.settings import TABLE, Settings

_WRONG_SETTING = 78  # EX_CONFIG of sysexits.h
_UNAVAILABLE = 69  # EX_UNAVAILABLE
_MOST_WORKERS = 256

COMMANDS = {
    "run": "Everything in one process: make and follow links, count and show; SQLite in ./data unless told otherwise.",
    "shortener": "The service that creates and follows links, on :8080. Needs PostgreSQL and RabbitMQ.",
    "analytics": "The service that counts, on :8081. Needs PostgreSQL, RabbitMQ and Redis.",
    "migrate": "Bring the database of links up to date, and end. Several may run at once.",
    "doctor": "Look at everything that the services need, and say what is wrong and what to do; exit 1 if anything is.",
    "reconcile": "Say which accesses were numbered and never counted, by shortener and hour; exit 1 if there are any.",
    "dead-letters": "Look at what could not be read as an event, or send it again.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say, and exit.

    0 done, 1 something is wrong, 2 wrong arguments, 69 a back end is away, 78 a wrong setting.
    """
    asked = _parser().parse_args(arguments)
    try:
        settings = Settings.read(os.environ)
        sys.exit(_do(asked, settings))
    except WrongSetting as error:
        sys.exit(_said(_WRONG_SETTING, str(error)))
    except Unavailable as error:
        sys.exit(_said(_UNAVAILABLE, str(error)))


def _do(asked: argparse.Namespace, settings: Settings) -> int:
    from urlshortener.services import doctor, letters, processes, reconciliation  # noqa: PLC0415 (a --help waits for none)
    from urlshortener.services.worker import Inherited  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        match asked.command:
            case "migrate":
                print(runner.run(processes.migrate(settings)))
            case "doctor":
                return _told(*runner.run(doctor.examined(settings, asked.code)))
            case "reconcile":
                older_than = timedelta(seconds=asked.older_than)
                return _told(*runner.run(reconciliation.reconciled(settings, older_than)))
            case "dead-letters" if asked.what == "show":
                print(runner.run(letters.show(settings, asked.limit)))
            case "dead-letters":
                print(runner.run(letters.replay(settings, asked.limit, all_of_them=asked.all)))
            case "shortener" if asked.worker:
                return runner.run(processes.run("shortener", settings, Inherited.parsed(asked.worker)))
            case "shortener" if asked.workers > 1:
                return runner.run(processes.supervise(settings, asked.workers))
            case command:
                return runner.run(processes.run(command, settings))
    return 0


def _told(words: str, code: int) -> int:
    print(words)
    return code


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
        of_command = commands.add_parser(
            name,
            help=meaning,
            description=meaning,
            epilog=_settings_help(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "doctor":
            of_command.add_argument("code", nargs="?", help="say too why this code's count is what it is")
        if name == "reconcile":
            of_command.add_argument(
                "--older-than",
                type=_seconds,
                default=60,
                metavar="SECONDS",
                help="look at what was numbered longer ago (default: 60)",
            )
        if name == "shortener":
            words = "processes that share the port, for a machine with more cores (default: 1)"
            of_command.add_argument("--workers", type=_workers, default=1, metavar="N", help=words)
            of_command.add_argument("--worker", help=argparse.SUPPRESS)  # what one of them is started with
        if name == "dead-letters":
            _add_dead_letters(of_command)
    return parser


def _add_dead_letters(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="show | replay")
    show = what.add_parser("show", help="Print the oldest: why, when, and the beginning. They stay where they are.")
    show.add_argument("--limit", type=_number, default=20, metavar="N", help="at most so many (default: 20)")
    replay = what.add_parser("replay", help="Send again, as they were, those that can be read as events now.")
    replay.add_argument("--limit", type=_number, default=10_000, metavar="N", help="look at so many (default: 10000)")
    replay.add_argument("--all", action="store_true", help="send those too that will only come back")


def _seconds(text: str) -> int:
    return 0 if text == "0" else _number(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MOST_WORKERS} is wanted")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1000000 is wanted")
    return int(text)


def _settings_help() -> str:
    rows = ["settings (environment variables; a secret may also be in a file that NAME_FILE names):"]
    for setting in TABLE:
        words = f"{setting.meaning} Default: {setting.default or 'none'}."
        rows.append(textwrap.indent(f"{setting.name}{' (secret)' if setting.secret else ''}", "  "))
        rows.append(textwrap.fill(words, 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(rows)
