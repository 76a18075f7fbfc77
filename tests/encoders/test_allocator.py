from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from llama_index_ace_finetune.utils.memory import keep_freed_memory


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_no_effect_on_other_systems(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert keep_freed_memory() is False


def test_effect_with_glibc() -> None:
    # In a separate process, since it changes the whole process.
    script = (
        "import sys\n"
        "from llama_index_ace_finetune.utils.memory import keep_freed_memory\n"
        "took = keep_freed_memory()\n"
        "blocks = [bytearray(8 << 20) for _ in range(4)]\n"
        "del blocks\n"
        "print(took, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    expected = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    assert done.stdout.split() == [str(expected), "False"]
