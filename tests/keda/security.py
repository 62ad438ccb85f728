"""The level `restricted` of https://kubernetes.io/docs/concepts/security/pod-security-standards/."""

from __future__ import annotations

from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What the level `restricted` would refuse of this pod."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [f"{key} {context[key]}" for key in ("sysctls", "seLinuxOptions", "windowsOptions") if context.get(key)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume if kind != "name" and kind not in VOLUMES]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext", {})
        both = {**context, **own}
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            found.append("privileges")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            found.append("capabilities")
        if not both.get("runAsNonRoot") or both.get("runAsUser") == 0:
            found.append("root")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccomp")
        if own.get("procMount", "Default") != "Default" or any(
            "hostPort" in port for port in container.get("ports", [])
        ):
            found.append("host")
    return found
