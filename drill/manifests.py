"""The settings of production, taken from what its manifests render, and what the drill has otherwise.

`Production.rendered()` is what k8s/overlays/prod says. Every setting there is used as it stands, or DIFFERENCES says
why not; ADDITIONS has the drill's own values: of some of those, and of settings that no manifest has.
tests/drill/test_manifests.py holds this file to that.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml  # type: ignore[import-untyped]

from tests.backends.server import ServerMissing

_OVERLAY = Path(__file__).parent.parent / "k8s" / "overlays" / "prod"
_ANNOTATION = "nginx.ingress.kubernetes.io/"

# What production says -> what the drill does instead, and why.
DIFFERENCES: Mapping[str, str] = {
    "postgresql shared_buffers": "32 MB: three of them share a small machine with everything else",
    "postgresql max_slot_wal_keep_size": "512 MB, as the disk is",
    "postgresql operator": "Patroni with etcd, in place of an operator that needs Kubernetes",
    "rabbitmq default_queue_type": "Debian's 3.10 does not know it; the services name the type",
    "rabbitmq quorum_queue.continuous_membership_reconciliation.enabled": "since 3.13; all nodes join first here",
    "rabbitmq quorum_queue.continuous_membership_reconciliation.target_group_size": "since 3.13",
    "rabbitmq raft.wal_max_size_bytes": "16 MiB: a node has a quarter of the memory here",
    "service HOST": "the node's address",
    "service LINKS_URL": "the nodes' addresses, where production has a Service",
    "service LINKS_READ_URL": "the nodes' addresses, where production has a Service",
    "service STATS_URL": "the nodes' addresses, where production has a Service",
    "service TRUSTED_PROXIES": "the drill's proxies",
    "service OTEL_EXPORTER_OTLP_ENDPOINT": "no collector runs here",
    "service PUBLIC_URL": "links begin with the host that was asked",
    "ingress ssl-redirect": "no TLS here",
}

# System -> setting -> value. Where it is no difference, production has the operator's or the server's own. Addresses,
# folders, names and passwords are each server's (servers.py), and so is all of nginx that is not in the annotations.
ADDITIONS: Mapping[str, Mapping[str, str]] = {
    "postgresql": {
        "shared_buffers": "32MB",
        "max_slot_wal_keep_size": "512MB",
        "jit": "off",
        "log_timezone": "UTC",  # servers.py reads it
        "wal_log_hints": "on",  # for pg_rewind, as the operator sets it
        # As the operator has it by itself:
        "wal_sender_timeout": "5s",
        "wal_receiver_timeout": "5s",
        "wal_retrieve_retry_interval": "500ms",  # usually 5 s: a step waits until both replicas follow
    },
    "rabbitmq": {
        "default_user": "app",
        "loopback_users": "none",
        "log.console": "true",
        "log.console.level": "warning",
        "log.file": "false",
        "heartbeat": "5",
        # Three nodes have one machine, and its disk.
        "vm_memory_high_watermark.absolute": "512MiB",
        "disk_free_limit.absolute": "50MB",
        "raft.wal_max_size_bytes": "16777216",
        # What the operator sets:
        "cluster_partition_handling": "pause_minority",
        "cluster_formation.peer_discovery_backend": "classic_config",  # the operator's asks Kubernetes
        "cluster_formation.randomized_startup_delay_range.min": "0",
        "cluster_formation.randomized_startup_delay_range.max": "1",
    },
    "redis": {
        "repl-diskless-sync": "yes",
        "repl-diskless-sync-delay": "0",
        # Usually a minute, and 10 s: a step waits until both replicas follow.
        "repl-timeout": "5",
        "repl-ping-replica-period": "1",
        "enable-debug-command": "yes",  # the checkers compare digests
    },
}


@dataclass(frozen=True)
class Production:
    """Names without their system's prefix, values as their servers write them."""

    postgresql: Mapping[str, str]
    replicas_to_wait_for: int
    rabbitmq: Mapping[str, str]
    redis: Mapping[str, str]
    redis_start_delay_seconds: float
    sentinel: Mapping[str, str]
    service: Mapping[str, str]
    ingress: Mapping[str, str]

    @classmethod
    @functools.cache
    def rendered(cls) -> Self:
        objects = [each for each in yaml.safe_load_all(_render()) if each]

        def only(kind: str, name: str = "") -> dict[str, Any]:
            (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].startswith(name))
            return dict(found)

        postgresql, redis = only("Cluster")["spec"]["postgresql"], only("RedisFailover")["spec"]
        command = " ".join(redis["redis"]["command"])
        ingress = only("Ingress", "url-shortener")["metadata"]["annotations"]
        return cls(
            postgresql={name: str(value) for name, value in postgresql["parameters"].items()},
            replicas_to_wait_for=int(postgresql["synchronous"]["number"]),
            rabbitmq=_pairs(only("RabbitmqCluster")["spec"]["rabbitmq"]["additionalConfig"].splitlines(), "="),
            # The command line comes first in the server's life, the rest is set every half minute: they are to agree.
            redis={**_pairs(redis["redis"]["customConfig"], " "), **dict(re.findall(r"--([a-z-]+) (\S+)", command))},
            redis_start_delay_seconds=float(re.findall(r"sleep (\d+)", command)[0]),
            sentinel=_pairs(redis["sentinel"]["customConfig"], " "),
            service=only("ConfigMap", "url-shortener-settings")["data"],
            ingress={
                name.removeprefix(_ANNOTATION): value for name, value in ingress.items() if name.startswith(_ANNOTATION)
            },
        )

    def used(self, system: str) -> dict[str, str]:
        """What the drill takes as it stands."""
        return {name: value for name, value in getattr(self, system).items() if f"{system} {name}" not in DIFFERENCES}

    def with_additions(self, system: str) -> dict[str, str]:
        """All that the drill sets, but what differs from server to server."""
        return {**ADDITIONS[system], **self.used(system)}


def _pairs(lines: Sequence[str], separator: str) -> dict[str, str]:
    split = (line.partition(separator) for line in lines if line.strip())
    return {name.strip(): value.strip() for name, _, value in split}


def _render() -> str:
    where = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # setup may have built one beside Python
    if program := shutil.which("kustomize", path=where):
        command = [program, "build"]
    elif program := shutil.which("kubectl"):
        command = [program, "kustomize"]
    else:
        raise ServerMissing("kubernetes-client")
    return subprocess.run([*command, str(_OVERLAY)], capture_output=True, text=True, check=True, timeout=60).stdout
