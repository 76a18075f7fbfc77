"""What a result was made with."""

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
    """Return Python, machine, threads and the versions of the packages that figures depend on."""
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
