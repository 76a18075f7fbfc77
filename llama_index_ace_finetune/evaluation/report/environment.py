"""The environment of a result: versions and hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = (
    "llama-index-ace-finetune",
    "torch",
    "sentence-transformers",
    "transformers",
    "llama-index-core",
    "qdrant-client",
    "numpy",
    "scipy",
)


def describe_environment() -> dict[str, Any]:
    """Return the Python version, machine, threads and versions of the packages that affect the figures."""
    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": versions,
    }
