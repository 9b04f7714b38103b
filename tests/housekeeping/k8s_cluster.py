"""What an overlay renders, and how to find one's way in it."""

import copy
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.backends.server import ServerMissing
from tests.conftest import installed
from tests.housekeeping.k8s_tables import CHECKOUT

Object = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
_SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "": 1}


class Fault(Exception):
    """What a rule found to be wrong, in a sentence."""


@functools.cache
def renderer() -> tuple[str, ...]:
    """The command that renders a folder: `scripts/setup servers` builds one where there is none."""
    if found := shutil.which("kustomize", path=f"{sys.prefix}/bin:{os.environ['PATH']}"):
        return found, "build"
    if shutil.which("kubectl"):
        version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
        if re.search(r"^Kustomize Version: v[5-9]", version, re.M):
            return "kubectl", "kustomize"
    raise ServerMissing("golang-go")


@functools.cache
def _rendered(folder: Path) -> str:
    with installed():
        command = [*renderer(), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode or done.stderr.strip():  # a warning is a fault too: what it warns of stops working one day
        raise Fault(f"{folder} does not render: {done.stderr.strip()}")
    return done.stdout


def objects_of(folder: Path) -> list[Object]:
    """Fresh ones each time: a test may break them."""
    return documents(_rendered(folder))


@functools.cache
def _rendered_with(components: tuple[str, ...]) -> str:
    """Production in a copy, whose overlay names optional components."""
    with tempfile.TemporaryDirectory() as name:
        overlay = shutil.copytree(CHECKOUT / "k8s", Path(name) / "k8s") / "overlays" / "prod"
        with (overlay / "kustomization.yaml").open("a") as kustomization:
            kustomization.write("\ncomponents:\n" + "".join(f"  - ../../components/{each}\n" for each in components))
        return _rendered(overlay)


def documents(text: str) -> list[Any]:
    return [each for each in yaml.load_all(text, Loader=_LOADER) if each]


class Cluster:
    """The objects of one environment."""

    def __init__(self, environment: str, objects: Sequence[Object]) -> None:
        self.environment = environment
        self.objects = list(objects)

    @classmethod
    def rendered(cls, environment: str) -> "Cluster":
        return cls(environment, objects_of(CHECKOUT / "k8s" / "overlays" / environment))

    @classmethod
    def rendered_with(cls, *components: str) -> "Cluster":
        """Production with these optional components."""
        return cls("prod", documents(_rendered_with(components)))

    def copy(self) -> "Cluster":
        return Cluster(self.environment, copy.deepcopy(self.objects))

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def has(self, kind: str, name: str) -> bool:
        return any(each["metadata"]["name"] == name for each in self.of(kind))

    def get(self, kind: str, name: str) -> Object:
        for each in self.of(kind):
            if each["metadata"]["name"] == name:
                return each
        raise Fault(f"there is no {kind} {name}")

    def workloads(self) -> list[Object]:
        return self.of("Deployment") + self.of("StatefulSet")

    def pods(self, deployment: str) -> tuple[int, int]:
        """The fewest and the most that there are of it, a rollout left out."""
        for each in self.of("HorizontalPodAutoscaler"):
            if at(each, "spec.scaleTargetRef.name") == deployment:
                return at(each, "spec.minReplicas"), at(each, "spec.maxReplicas")
        replicas = at(self.get("Deployment", deployment), "spec.replicas")
        return replicas, replicas

    def environment_of(self, workload: Object) -> dict[str, str]:
        """The plain variables of its first container, those of its ConfigMaps among them."""
        container = workload["spec"]["template"]["spec"]["containers"][0]
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                found |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def at(thing: Any, path: str) -> Any:
    """`spec.rules.0.host`. A Fault when there is no such place."""
    here = thing
    for step in path.split("."):
        try:
            here = here[int(step)] if isinstance(here, list) else here[step]
        except (KeyError, IndexError, TypeError):
            where = (
                f"{thing['kind']} {thing['metadata']['name']}" if isinstance(thing, dict) and "kind" in thing else ""
            )
            raise Fault(f"{where} has no {path}") from None
    return here


def name_of(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def quantity(text: str | int | float) -> float:
    """`250m`, `1Gi`, `2`: as a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|m|k|M|G|)", str(text))
    if not match:
        raise Fault(f"{text!r} is no quantity")
    return float(match[1]) * _SIZES[match[2]]


def pod_specs(cluster: Cluster) -> Iterator[tuple[str, Object]]:
    for each in cluster.workloads():
        yield name_of(each), each["spec"]["template"]["spec"]


def mappings(thing: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping inside a thing, itself included."""
    if isinstance(thing, dict):
        yield thing
        for each in thing.values():
            yield from mappings(each)
    elif isinstance(thing, list):
        for each in thing:
            yield from mappings(each)
