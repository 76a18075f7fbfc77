from __future__ import annotations

import subprocess
import sys

import llama_index_ace_finetune


def test_import_is_light() -> None:
    code = (
        "import sys, llama_index_ace_finetune; "
        "print([name for name in ('torch', 'transformers', 'llama_index', 'qdrant_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom llama_index_ace_finetune.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout


def test_every_public_name_is_there() -> None:
    for name in llama_index_ace_finetune.__all__:
        assert getattr(llama_index_ace_finetune, name) is not None
    assert set(llama_index_ace_finetune.__all__) - {"__version__"} == set(llama_index_ace_finetune._HOMES)
