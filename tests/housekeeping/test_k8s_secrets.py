"""k8s/seal.sh with the real kubeseal and a key made for the test: what is sealed opens, and only where it may."""

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.backends.go_programs import built
from tests.housekeeping.k8s_cluster import objects_of
from tests.housekeeping.k8s_schemas import faults_of_custom, folder_of_schemas
from tests.housekeeping.k8s_secrets import keys_of_templates
from tests.housekeeping.k8s_tables import CHECKOUT


class Sealing:
    """A copy of k8s/ to seal into, and the key of a cluster that there is not."""

    def __init__(self, folder: Path, pair: Path) -> None:
        self.folder = folder
        self.certificate, self.key = pair / "cert.pem", pair / "key.pem"
        shutil.copytree(CHECKOUT / "k8s", folder / "k8s")
        (folder / "tls.crt").write_bytes(self.certificate.read_bytes())
        (folder / "tls.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnot one\n-----END PRIVATE KEY-----\n")

    def seal(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{built('kubeseal').parent}:{os.environ['PATH']}"
        return subprocess.run(
            [self.folder / "k8s" / "seal.sh", *words],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": path, "HOME": str(self.folder), **variables},
            timeout=60,
        )

    def sealed(self, name: str) -> Path:
        return self.folder / "k8s" / "overlays" / "prod" / "sealed" / f"{name}.yaml"

    def opened(self, name: str, namespace: str = "url-shortener-prod") -> subprocess.CompletedProcess[str]:
        """As the controller would, who knows in which namespace it finds it."""
        rendered = yaml.safe_load(self.sealed(name).read_text())
        rendered["metadata"]["namespace"] = namespace
        return subprocess.run(
            [built("kubeseal"), "--recovery-unseal", "--recovery-private-key", self.key, "--format", "yaml"],
            input=yaml.safe_dump(rendered),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key that nobody uses elsewhere, and its certificate."""
    folder = tmp_path_factory.mktemp("pair")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=sealed-secret", "-days", "1"]
    subprocess.run([*words, *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def sealing(tmp_path: Path, pair: Path) -> Sealing:
    return Sealing(tmp_path, pair)


def _everything(sealing: Sealing, **variables: str) -> subprocess.CompletedProcess[str]:
    files = {"TLS_CERT": str(sealing.folder / "tls.crt"), "TLS_KEY": str(sealing.folder / "tls.key")}
    return sealing.seal("prod", "--cert", str(sealing.certificate), **files, **variables)


def test_what_is_sealed_is_opened_with_the_key_of_the_cluster(sealing: Sealing) -> None:
    done = _everything(sealing, ADMIN_TOKEN="a token of our own", REDIS_PASSWORD="p/w&d \\ $x")
    assert done.returncode == 0, done.stderr
    values: dict[str, dict[str, str]] = {}
    for name, keys in keys_of_templates().items():
        opened = sealing.opened(name)
        assert opened.returncode == 0, opened.stderr
        secret = yaml.safe_load(opened.stdout)
        assert secret["metadata"]["name"] == name
        assert set(secret["data"]) == keys
        values[name] = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert values["url-shortener-keys"]["ADMIN_TOKEN"] == "a token of our own"
    assert values["url-shortener-redis-auth"]["password"] == "p/w&d \\ $x"
    assert re.fullmatch(r"[\w-]{32}", values["url-shortener-keys"]["VISITOR_SECRET"])
    assert values["jaeger-elasticsearch"]["ES_USERNAME"] == "elastic"
    assert values["shortener-tls"]["tls.key"].encode() == (sealing.folder / "tls.key").read_bytes()


def test_it_is_opened_in_no_other_namespace_and_under_no_other_name(sealing: Sealing) -> None:
    _everything(sealing)
    assert sealing.opened("url-shortener-keys", "url-shortener-dev").returncode != 0
    other = yaml.safe_load(sealing.sealed("url-shortener-keys").read_text())
    other["metadata"]["name"] = "other"
    sealing.sealed("other").write_text(yaml.safe_dump(other))
    assert sealing.opened("other").returncode != 0


def test_the_overlay_applies_what_was_sealed_and_no_placeholder_is_left(sealing: Sealing) -> None:
    _everything(sealing)
    objects = objects_of(sealing.folder / "k8s" / "overlays" / "prod")
    sealed = [each for each in objects if each["kind"] == "SealedSecret"]
    assert {each["metadata"]["name"] for each in sealed} == set(keys_of_templates())
    assert {each["metadata"]["namespace"] for each in sealed} == {"url-shortener-prod"}
    schemas = folder_of_schemas()
    assert [fault for each in sealed for fault in faults_of_custom(each, schemas)] == []
    assert all("<" not in value for each in sealed for value in each["spec"]["encryptedData"].values())
    types = {each["metadata"]["name"]: each["spec"]["template"].get("type") for each in sealed}
    assert types["shortener-tls"] == "kubernetes.io/tls"


def test_what_is_sealed_already_is_kept_and_a_second_run_changes_nothing(sealing: Sealing) -> None:
    _everything(sealing)
    before = {path.name: path.read_text() for path in sealing.sealed("x").parent.iterdir()}
    assert "kept" in _everything(sealing, ADMIN_TOKEN="another").stdout
    assert {path.name: path.read_text() for path in sealing.sealed("x").parent.iterdir()} == before


def test_without_a_certificate_of_the_edge_that_secret_is_left_to_others(sealing: Sealing) -> None:
    done = sealing.seal("prod", "--cert", str(sealing.certificate))
    assert "left out shortener-tls" in done.stdout
    assert not sealing.sealed("shortener-tls").exists()


def test_values_are_shown_nowhere(sealing: Sealing) -> None:
    done = _everything(sealing, ADMIN_TOKEN="a-token-that-nobody-sees")
    assert "a-token-that-nobody-sees" not in done.stdout + done.stderr
    written = "".join(path.read_text() for path in (sealing.folder / "k8s").rglob("*.yaml"))
    assert "a-token-that-nobody-sees" not in written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which environment?"),
        (("production",), "production: unknown"),
        (("prod", "--cert"), "a file is missing"),
    ],
)
def test_a_wrong_word_is_named(sealing: Sealing, words: tuple[str, ...], said: str) -> None:
    done = sealing.seal(*words)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_key_that_seals_nothing_ends_it(sealing: Sealing) -> None:
    done = sealing.seal("prod", "--cert", str(sealing.key))
    assert done.returncode != 0
    assert not sealing.sealed("url-shortener-keys").exists()


def test_no_secret_is_in_the_repository() -> None:
    """Only templates, with placeholders; and overlays that list nothing yet."""
    for path in sorted((CHECKOUT / "k8s" / "secrets").glob("*.yaml")):
        template = yaml.safe_load(path.read_text())
        assert all(re.fullmatch(r"<\w+ \w+>", value) for value in template["spec"]["encryptedData"].values()), path
    assert not [path for path in (CHECKOUT / "k8s").rglob("*.yaml") if "\nkind: Secret\n" in path.read_text()]
