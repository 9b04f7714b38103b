"""Which secrets are sealed from the templates in k8s/secrets, and the keys that they have."""

import functools

import yaml  # type: ignore[import-untyped]

from tests.housekeeping.k8s_tables import CHECKOUT


@functools.cache
def keys_of_templates() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted((CHECKOUT / "k8s" / "secrets").rglob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            if each and each.get("kind") == "Secret":
                found[each["metadata"]["name"]] = set(each.get("stringData", {})) | set(each.get("data", {}))
            elif each and each.get("kind") == "SealedSecret":
                found[each["metadata"]["name"]] = set(each["spec"].get("encryptedData", {}))
    return found
