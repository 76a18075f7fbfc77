from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public retrieval sets that lie beside a developer's checkout."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the retrieval sets are not at {folder.parent.name}/{folder.name} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def demo_suite() -> Path:
    return PROJECT / "examples" / "data" / "playbook_suite.json"
