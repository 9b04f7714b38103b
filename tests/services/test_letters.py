"""`urlshortener dead-letters`, as a person at a terminal has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _said(folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [sys.executable, "-m", "urlshortener", "dead-letters", *arguments],
        env={**plain, "DATA_DIR": str(folder), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_lies_there_is_shown_on_few_lines_and_replayed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    body = "\x1b[31m" + "long " * 1000
    letter = {"at": "2026-11-23T10:00:00+00:00", "reason": "it is no object", "epoch": "e", "body": body}
    (tmp_path / "spool" / "dead-letters.jsonl").write_text(json.dumps(letter) + "\n")
    code, words = _said(tmp_path, "show")
    assert code == 0
    assert words.startswith("1. 2026-11-23T10:00:00Z  it is no object\n   5005 bytes, no event\n   \\x1b[31mlong long")
    assert len(words) < 500
    code, words = _said(tmp_path, "replay")
    assert (code, words) == (0, "0 sent again, 1 left, because they are still no events.\n")


def test_a_broker_that_is_away_is_said_in_words(tmp_path: Path) -> None:
    code, words = _said(tmp_path, "show", EVENTS_URL="amqp://a:very-secret@127.0.0.1:9/%2F")
    assert code == 69
    assert "The connection failed." in words
    assert "Traceback" not in words and "very-secret" not in words


@pytest.mark.parametrize("arguments", [("show", "--limit", "0"), ("replay", "--limit", "many"), ("delete",), ()])
def test_what_it_does_not_know_it_refuses(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, words = _said(tmp_path, *arguments)
    assert code == 2
    assert "usage: urlshortener dead-letters" in words
