"""Are the rendered objects made of words that their kinds know?

Custom resources are held to the operators' own definitions, as strictly as they allow: a word that the definition does
not have would be dropped in silence by the API server. The definitions are not ours and are not kept here: they are
looked for in the folder that CRD_SCHEMAS names, else in ../shared/crds.

Built-in kinds are held to `_WORDS`, the part of the Kubernetes API that this repository uses. The package with all of
the API is 108 MB, larger than everything else that the tests need together; what goes wrong in practice is a misspelt
or misplaced word and a wrong type, and those are seen here as well. A word that is right and new is added below.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.housekeeping.k8s_cluster import Fault, Object, documents, name_of, quantity
from tests.housekeeping.k8s_tables import CHECKOUT

_HOW_TO_GET_SCHEMAS = (
    "the definitions of the operators are in neither CRD_SCHEMAS nor {folder}. On a cluster that has the operators: "
    "kubectl get crd --output yaml > FOLDER/all.yaml"
)

# --- Built-in kinds

_QUANTITY, _PORT = "quantity", "port"
_TEXTS = {"*": str}


def _one_of(*words: str) -> frozenset[str]:
    return frozenset(words)


_PROTOCOL = _one_of("TCP", "UDP", "SCTP")
_SECCOMP = {"type": _one_of("RuntimeDefault", "Localhost", "Unconfined")}
_SELECTOR = {"matchLabels": _TEXTS, "matchExpressions": [{"key": str, "operator": str, "values": [str]}]}
_META = {"name": str, "namespace": str, "labels": _TEXTS, "annotations": _TEXTS}
_AMOUNTS = {"cpu": _QUANTITY, "memory": _QUANTITY, "ephemeral-storage": _QUANTITY}
_PROBE = {
    "httpGet": {"path": str, "port": _PORT, "scheme": str},
    "tcpSocket": {"port": _PORT},
    "exec": {"command": [str]},
    **dict.fromkeys(("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"), int),
}
_KEY = {"name": str, "key": str, "optional": bool}
_CONTAINER = {
    "name": str,
    "image": str,
    "imagePullPolicy": str,
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [
        {
            "name": str,
            "value": str,
            "valueFrom": {"secretKeyRef": _KEY, "configMapKeyRef": _KEY, "fieldRef": {"fieldPath": str}},
        }
    ],
    "envFrom": [{"configMapRef": {"name": str}, "secretRef": {"name": str}}],
    "ports": [{"name": str, "containerPort": int, "protocol": _PROTOCOL}],
    "resources": {"requests": _AMOUNTS, "limits": _AMOUNTS},
    "startupProbe": _PROBE,
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "lifecycle": {"preStop": {"sleep": {"seconds": int}, "exec": {"command": [str]}}},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str], "add": [str]},
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "seccompProfile": _SECCOMP,
    },
    "volumeMounts": [{"name": str, "mountPath": str, "subPath": str, "readOnly": bool}],
}
_AFFINITY_TERM = {"topologyKey": str, "labelSelector": _SELECTOR}
_POD = {
    "automountServiceAccountToken": bool,
    "enableServiceLinks": bool,
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
    "priorityClassName": str,
    "securityContext": {
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int),
        "runAsNonRoot": bool,
        "fsGroupChangePolicy": _one_of("OnRootMismatch", "Always"),
        "seccompProfile": _SECCOMP,
    },
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [_AFFINITY_TERM],
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": int, "podAffinityTerm": _AFFINITY_TERM}],
        }
    },
    "topologySpreadConstraints": [
        {
            "topologyKey": str,
            "maxSkew": int,
            "whenUnsatisfiable": _one_of("ScheduleAnyway", "DoNotSchedule"),
            "matchLabelKeys": [str],
            "labelSelector": _SELECTOR,
        }
    ],
    "initContainers": [_CONTAINER],
    "containers": [_CONTAINER],
    "volumes": [
        {
            "name": str,
            "emptyDir": {"sizeLimit": _QUANTITY, "medium": str},
            "configMap": {"name": str, "items": [{"key": str, "path": str}]},
            "secret": {"secretName": str, "optional": bool},
        }
    ],
}
_TEMPLATE = {"metadata": {"labels": _TEXTS, "annotations": _TEXTS}, "spec": _POD}
_BACKEND = {"service": {"name": str, "port": {"name": str, "number": int}}}
_PEER = {"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR, "ipBlock": {"cidr": str, "except": [str]}}
_DOOR = {"port": _PORT, "endPort": int, "protocol": _PROTOCOL}

_WORDS: dict[tuple[str, str], Any] = {
    ("v1", "Namespace"): {},
    ("v1", "ConfigMap"): {"data": _TEXTS},
    ("v1", "Service"): {
        "spec": {
            "type": str,
            "clusterIP": str,
            "selector": _TEXTS,
            "ports": [{"name": str, "port": int, "targetPort": _PORT, "protocol": _PROTOCOL, "appProtocol": str}],
        }
    },
    ("apps/v1", "Deployment"): {
        "spec": {
            "replicas": int,
            "revisionHistoryLimit": int,
            "minReadySeconds": int,
            "progressDeadlineSeconds": int,
            "strategy": {"type": str, "rollingUpdate": {"maxUnavailable": _PORT, "maxSurge": _PORT}},
            "selector": _SELECTOR,
            "template": _TEMPLATE,
        }
    },
    ("apps/v1", "StatefulSet"): {
        "spec": {
            "replicas": int,
            "serviceName": str,
            "podManagementPolicy": str,
            "selector": _SELECTOR,
            "template": _TEMPLATE,
            "volumeClaimTemplates": [
                {
                    "apiVersion": str,
                    "kind": str,
                    "metadata": _META,
                    "spec": {
                        "accessModes": [_one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")],
                        "storageClassName": str,
                        "resources": {"requests": {"storage": _QUANTITY}},
                    },
                }
            ],
        }
    },
    ("policy/v1", "PodDisruptionBudget"): {
        "spec": {
            "minAvailable": _PORT,
            "maxUnavailable": _PORT,
            "unhealthyPodEvictionPolicy": _one_of("AlwaysAllow", "IfHealthyBudget"),
            "selector": _SELECTOR,
        }
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "spec": {
            "podSelector": _SELECTOR,
            "policyTypes": [_one_of("Ingress", "Egress")],
            "ingress": [{"from": [_PEER], "ports": [_DOOR]}],
            "egress": [{"to": [_PEER], "ports": [_DOOR]}],
        }
    },
    ("networking.k8s.io/v1", "Ingress"): {
        "spec": {
            "ingressClassName": str,
            "tls": [{"hosts": [str], "secretName": str}],
            "rules": [
                {
                    "host": str,
                    "http": {
                        "paths": [
                            {
                                "path": str,
                                "pathType": _one_of("Exact", "Prefix", "ImplementationSpecific"),
                                "backend": _BACKEND,
                            }
                        ]
                    },
                }
            ],
        }
    },
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "spec": {
            "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
            "minReplicas": int,
            "maxReplicas": int,
            "metrics": [
                {
                    "type": str,
                    "resource": {"name": str, "target": {"type": str, "averageUtilization": int}},
                    "containerResource": {
                        "name": str,
                        "container": str,
                        "target": {"type": str, "averageUtilization": int},
                    },
                }
            ],
            "behavior": {
                side: {
                    "stabilizationWindowSeconds": int,
                    "selectPolicy": str,
                    "policies": [{"type": str, "value": int, "periodSeconds": int}],
                }
                for side in ("scaleUp", "scaleDown")
            },
        }
    },
}


def _strange(thing: Any, words: Any, where: str) -> Iterator[str]:
    if isinstance(words, dict) and isinstance(thing, dict):
        for key, value in thing.items():
            if "*" not in words and key not in words:
                yield f"{where} has no {key}"
            else:
                yield from _strange(value, words.get(key, words.get("*")), f"{where}.{key}")
    elif isinstance(words, list) and isinstance(thing, list):
        for number, each in enumerate(thing):
            yield from _strange(each, words[0], f"{where}[{number}]")
    elif isinstance(words, frozenset):
        if thing not in words:
            yield f"{where}: {thing!r} is none of {sorted(words)}"
    elif words == _QUANTITY:
        try:
            quantity(thing)
        except Fault as fault:
            yield f"{where}: {fault}"
    elif words == _PORT:
        if isinstance(thing, bool) or not isinstance(thing, int | str):
            yield f"{where}: {thing!r} is neither a number nor a name"
    elif isinstance(words, dict | list) or type(thing) is not words:
        yield f"{where}: {thing!r} has the wrong type"


# --- Custom resources


def folder_of_schemas() -> Path:
    """Skips the test where there are none; in CI it fails."""
    folder = Path(os.environ.get("CRD_SCHEMAS") or CHECKOUT.parent / "shared" / "crds")
    if not any(folder.glob("*.yaml")):
        how = _HOW_TO_GET_SCHEMAS.format(folder=folder)
        if os.environ.get("CI") == "true":
            pytest.fail(how, pytrace=False)
        pytest.skip(how)
    return folder


@functools.cache
def _validators(folder: Path) -> dict[tuple[str, str], jsonschema_rs.Draft202012Validator]:
    found = {}
    definitions = (each for path in sorted(folder.glob("*.yaml")) for each in documents(path.read_text()))
    for document in definitions:
        for each in document.get("items", [document]):
            if each.get("kind") == "CustomResourceDefinition":
                spec = each["spec"]
                for version in spec["versions"]:
                    schema = _strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
                    schema["properties"]["metadata"] = {"type": "object"}
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = jsonschema_rs.Draft202012Validator(schema)
    return found


def _strict(schema: Any) -> Any:
    """The same, closed against words that it does not name, in terms that a JSON schema validator knows."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            closed[key] = {name: _strict(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
            closed[key] = _strict(value)
        elif key == "pattern":
            closed[key] = value.replace(r"\Z", "$")
        elif not key.startswith("x-") and key not in ("format", "default", "description", "nullable", "example"):
            closed[key] = value
    if "properties" in closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable"):
        closed = {"anyOf": [closed, {"type": "null"}]}
    return closed


# --- Both


def built_in(thing: Object) -> bool:
    group = thing["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def faults_of_built_in(thing: Object) -> list[str]:
    words = _WORDS.get((thing["apiVersion"], thing["kind"]))
    if words is None:
        return [f"{thing['apiVersion']} {thing['kind']} is no kind that is known here"]
    known = {"apiVersion": str, "kind": str, "metadata": _META, **words}
    return list(_strange(thing, known, name_of(thing)))


def faults_of_custom(thing: Object, folder: Path) -> list[str]:
    validator = _validators(folder).get((thing["apiVersion"], thing["kind"]))
    if validator is None:
        return [f"{thing['apiVersion']} {thing['kind']}: there is no definition of it in {folder}"]
    return [
        f"{name_of(thing)}: {'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(thing)
    ]
