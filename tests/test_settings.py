"""Settings: each row of the table, and what a wrong value says."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from scripts.configuration_page import PAGE, page
from urlshortener import cli
from urlshortener.errors import WrongSetting
from urlshortener.services.backends import ALLOWED, check_addresses
from urlshortener.settings import TABLE, Settings


def test_nothing_set_is_a_laptop() -> None:
    settings = Settings.read({})
    assert (settings.links_url.scheme, settings.links_url.path) == ("sqlite", "data/links.db")
    assert (settings.stats_url.scheme, settings.stats_url.path) == ("sqlite", "data/stats.db")
    assert settings.events_url.scheme == "in-process"
    assert settings.spool_dir == Path("data/spool")
    assert settings.stale_max == timedelta(hours=24)
    assert settings.host == "127.0.0.1"


def test_the_data_folder_moves_what_is_in_it() -> None:
    settings = Settings.read({"DATA_DIR": "/srv/short"})
    assert settings.links_url.path == "/srv/short/links.db"
    assert settings.spool_dir == Path("/srv/short/spool")


def test_an_address_names_several_hosts() -> None:
    settings = Settings.read({"EVENTS_URL": "amqp://app:p%40ss@mq1,mq2:5673,[::1]:5674/%2F"})
    assert settings.events_url.hosts == (("mq1", 5672), ("mq2", 5673), ("::1", 5674))
    assert (settings.events_url.user, settings.events_url.password) == ("app", "p@ss")
    assert settings.events_url.path == "/"


def test_a_sentinel_address_names_the_master_and_the_database() -> None:
    address = Settings.read({"STATS_URL": "redis+sentinel://:pw@s1,s2:26380/mymaster/0"}).stats_url
    assert address.hosts == (("s1", 26379), ("s2", 26380))
    assert address.path == "mymaster/0"


def test_a_password_may_stand_beside_its_address() -> None:
    settings = Settings.read({"LINKS_URL": "postgresql://app@db/links", "LINKS_PASSWORD": "a/b:c@d%"})
    assert settings.links_url.password == "a/b:c@d%"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(stat.S_IRUSR)
    assert Settings.read({"ADMIN_TOKEN_FILE": str(path)}).admin_token == "0123456789abcdef"


def test_a_secret_in_two_places_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match="ADMIN_TOKEN and ADMIN_TOKEN_FILE"):
        Settings.read({"ADMIN_TOKEN": "0123456789abcdef", "ADMIN_TOKEN_FILE": str(tmp_path / "token")})


def test_a_missing_secret_file_stops_the_start() -> None:
    with pytest.raises(WrongSetting, match="ADMIN_TOKEN_FILE: /nowhere/token cannot be read"):
        Settings.read({"ADMIN_TOKEN_FILE": "/nowhere/token"})


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("SHORTENER_PORT", "eighty", "a whole number from 0 to 65535"),
        ("SHORTENER_PORT", "65536", "a whole number from 0 to 65535"),
        ("LINKS_URL", "mysql://db/links", "sqlite:// or postgresql://"),
        ("EVENTS_URL", "amqp://host:99999/", "hosts as name"),
        ("STATS_URL", "redis//host", "redis://"),
        ("STALE_MAX", "24", "a number with a unit"),
        ("SPOOL_MAX_BYTES", "4GB", "a whole number of bytes"),
        ("TRUSTED_PROXIES", "10.0.0.0/33", "networks joined by commas"),
        ("PUBLIC_URL", "s.example", "http:// or https://"),
        ("ADMIN_TOKEN", "short", "16 to 256 printable"),
        ("KEEP_FULL_ADDRESS", "true", "yes or no"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "a number from 0 to 1"),
        ("REFERRER_POLICY", "none", "no-referrer"),
    ],
)
def test_a_wrong_value_stops_the_start_and_says_what_is_right(name: str, value: str, right: str) -> None:
    with pytest.raises(WrongSetting) as error:
        Settings.read({name: value})
    assert str(error.value).startswith(f"{name}: ")
    assert right in str(error.value)


@pytest.mark.parametrize("setting", [setting for setting in TABLE if setting.secret], ids=lambda s: s.name)
def test_no_error_shows_a_secret(setting: object) -> None:
    name = setting.name  # type: ignore[attr-defined]
    try:
        Settings.read({name: "hunter2 \x7f"})
    except WrongSetting as error:
        assert "hunter2" not in str(error)


def test_no_address_shows_its_password() -> None:
    address = Settings.read({"LINKS_URL": "postgresql://app:hunter2@db/links"}).links_url
    assert "hunter2" not in f"{address} {address!r}"


@pytest.mark.parametrize("setting", TABLE, ids=lambda s: s.name)
def test_every_example_and_default_is_acceptable(setting: object) -> None:
    name, example = setting.name, setting.example  # type: ignore[attr-defined]
    if example in ("…", "a long random word"):
        example = "k3Qv9-a-long-random-word"
    Settings.read({name: example})


_ADDRESSES = {
    "sqlite": "sqlite:///x.db",
    "postgresql": "postgresql://app@db/links",
    "in-process": "in-process://",
    "amqp": "amqp://mq/",
    "redis": "redis://r/0",
    "redis+sentinel": "redis+sentinel://s/mymaster/0",
}
_SCHEMES = {
    "LINKS_URL": ("sqlite", "postgresql"),
    "EVENTS_URL": ("in-process", "amqp"),
    "STATS_URL": ("sqlite", "redis", "redis+sentinel"),
}


@pytest.mark.parametrize("command", ALLOWED)
def test_only_the_addresses_of_the_table_go_together(command: str) -> None:
    """docs/configuration.md, "Which addresses go together"."""
    allowed = ALLOWED[command]
    for links in _SCHEMES["LINKS_URL"]:
        for events in _SCHEMES["EVENTS_URL"]:
            for stats in _SCHEMES["STATS_URL"]:
                chosen = {"LINKS_URL": links, "EVENTS_URL": events, "STATS_URL": stats}
                settings = Settings.read({name: _ADDRESSES[scheme] for name, scheme in chosen.items()})
                wrong = [name for name, schemes in allowed.items() if chosen[name] not in schemes]
                if not wrong:
                    check_addresses(command, settings)
                    continue
                with pytest.raises(WrongSetting, match=wrong[0]):
                    check_addresses(command, settings)


def test_replicas_without_a_primary_are_refused() -> None:
    with pytest.raises(WrongSetting, match="LINKS_READ_URL"):
        check_addresses("run", Settings.read({"LINKS_READ_URL": "postgresql://db/links"}))


def test_the_page_of_settings_is_made_from_the_table() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"
    for command, allowed in ALLOWED.items():
        row = next(line for line in page().splitlines() if line.startswith(f"| `{command}` |"))
        for schemes in allowed.values():
            assert all(f"`{scheme}://`" in row for scheme in schemes)


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"  {setting.name}" in shown for setting in TABLE)
    assert all(command in shown for command in cli.COMMANDS)
