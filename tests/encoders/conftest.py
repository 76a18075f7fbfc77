from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Make a folder that has the files of a model, with two small tensors as weights."""

    def make(name: str = "model") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
        (folder / "modules.json").write_text("[]", encoding="utf-8")
        (folder / "README.md").write_text("about", encoding="utf-8")
        save_file(
            {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)},
            folder / "model.safetensors",
        )
        return folder

    return make
