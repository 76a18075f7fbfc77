from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from llama_index_ace_finetune.datasets.types import RetrievalDataset
    from llama_index_ace_finetune.encoders.encoder import Encoder

# A test may wait for the CPU. Fifty examples, where a test does not say how many, keep the suite short.
hypothesis.settings.register_profile("any machine", deadline=None, max_examples=50)
hypothesis.settings.load_profile("any machine")

PROJECT = Path(__file__).resolve().parent.parent
SERVER = "ACE_FINETUNE_QDRANT_URL"


@pytest.fixture(scope="session")
def qdrant_url() -> Iterator[str]:
    """URL of a Qdrant server: the one in the environment, else a local one over the embedded Qdrant engine."""
    if os.environ.get(SERVER):
        yield os.environ[SERVER]
        return
    try:
        from helpers.edge_server import EdgeServer
    except ImportError as error:
        pytest.skip(f"no Qdrant server: {SERVER} is not set, and qdrant-edge-py is not installed ({error})")
    with EdgeServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public retrieval data sets next to the checkout, if present."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the retrieval sets are not at {folder.parent.name}/{folder.name} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def demo_suite() -> Path:
    return PROJECT / "examples" / "data" / "playbook_suite.json"


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The default base model with its published weights; treat it as read-only."""
    import torch

    from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
    from llama_index_ace_finetune.encoders.encoder import Encoder
    from llama_index_ace_finetune.encoders.settings import EncoderSettings
    from llama_index_ace_finetune.utils.memory import keep_freed_memory

    # As the commands do; it halves the time of tests that run the model.
    keep_freed_memory()
    # On small batches a second thread gains little, and on a shared processor it is several times slower.
    torch.set_num_threads(1)
    return Encoder.load(DEFAULT_BASE_MODEL, settings=EncoderSettings(device="cpu"))


@pytest.fixture(scope="session")
def one_layer(minilm: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base model cut to its first layer and 5,000 tokens, for tests that do not depend on the vectors' quality.

    The tokens are in order of frequency, so all single characters are among the first; other words are split further.
    """
    tokens = 5_000
    model = copy.deepcopy(minilm.model)
    transformer = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:1]
    transformer.config.num_hidden_layers = 1
    transformer.resize_token_embeddings(tokens)
    folder = tmp_path_factory.mktemp("models") / "one_layer"
    model.save_pretrained(str(folder), create_model_card=False)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {word: i for word, i in tokenizer["model"]["vocab"].items() if i < tokens}
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "vocab.txt").unlink(missing_ok=True)
    return str(folder)


@pytest.fixture(scope="session")
def small_suite(demo_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of the first 12 memories of the demo and their 60 queries."""
    suite = json.loads(demo_suite.read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("suite") / "small_suite.json"
    path.write_text(json.dumps({"metadata": {}, "test_cases": suite["test_cases"][:12]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_dataset(small_suite: Path) -> RetrievalDataset:
    from llama_index_ace_finetune.datasets.read_dataset import read_dataset

    return read_dataset(small_suite)


@pytest.fixture(scope="session")
def write_suite(demo_suite: Path) -> Callable[[Path, int], Path]:
    """Write a suite with a number of memories, spread evenly over the demo's."""

    def write(target: Path, memories: int) -> Path:
        suite: dict[str, Any] = json.loads(demo_suite.read_text(encoding="utf-8"))
        cases = suite["test_cases"]
        suite["test_cases"] = cases[:: len(cases) // memories][:memories]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(suite), encoding="utf-8")
        return target

    return write


@pytest.fixture(scope="session")
def suite(write_suite: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite") / "suite.json", 24)


@pytest.fixture(scope="session")
def finished_run(suite: Path, one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short epoch, on a small base model."""
    import llama_index_ace_finetune as ace

    out = tmp_path_factory.mktemp("runs") / "run"
    ace.run(data=suite, out=out, training=ace.TrainingConfig(base_model=one_layer, epochs=1, batch_size=32))
    return out
