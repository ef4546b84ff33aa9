"""Write the part of the LeaderWorkerSet schema that manifests of ours touch into a fixture.

python tests/engines/extract_crd.py FILE v0.9.0

FILE: config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml of kubernetes-sigs/lws
(Apache-2.0). Descriptions are left out, and fields that no
manifest of ours has; everything else stays as it is.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

FIXTURE = Path(__file__).with_name("leaderworkerset-schema.json")
KEPT = ("type", "enum", "minimum", "required", "pattern", "anyOf", "x-kubernetes-int-or-string")
FIELDS = {
    "", "apiVersion", "kind", "metadata", "spec", "replicas", "startupPolicy", "size",
    "leaderWorkerTemplate", "restartPolicy", "leaderTemplate", "workerTemplate", "containers",
    "volumes", "name", "image", "command", "env", "value", "resources", "limits", "volumeMounts",
    "mountPath", "ports", "containerPort", "readinessProbe", "tcpSocket", "port", "periodSeconds",
    "emptyDir", "medium", "configMap", "namespace", "valueFrom", "fieldRef", "fieldPath",
}  # fmt: skip


def pruned(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: schema[key] for key in KEPT if key in schema}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            kept[key] = pruned(schema[key])
    if "properties" in schema:
        inside = schema["properties"]
        kept["properties"] = {k: pruned(v) for k, v in inside.items() if k in FIELDS}
    return kept


def main(source: Path, version: str) -> None:
    crd = yaml.safe_load(source.read_text(encoding="utf-8"))
    (served,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    document = {
        "source": f"kubernetes-sigs/lws {version}, {source.name}",
        "group": crd["spec"]["group"],
        "schema": pruned(served["schema"]["openAPIV3Schema"]),
    }
    FIXTURE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
