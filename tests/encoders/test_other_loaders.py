"""Model folders of each training mode in the libraries that people load them with."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.embeddings import resolve_embed_model
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny_model import CPU, LENGTH, WIDTH, tiny_model
from transformers import AutoModel

from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder, with_query_adapter
from llama_index_ace_finetune.training.saving.model_card import model_card
from llama_index_ace_finetune.training.saving.model_folder import save_model_folder
from llama_index_ace_finetune.training.saving.serving_layout import use_serving_layout

TEXTS = ["restart the worker", "Retry with a longer timeout when the queue is full.", "?"]
PROMPTS = {"query": "query: ", "document": "passage: "}
TWO_TOWERS = ("linear", "queries")


def saved(root: Path, mode: str, *, prompts: dict[str, str] | None = None) -> tuple[Path, SentenceTransformer]:
    """A trained model's folder, and the model in memory."""
    base = Encoder.load(tiny_model(root / "base", prompts=prompts), settings=CPU)
    if mode == "full":
        model = Encoder.load(tiny_model(root / "other", prompts=prompts, seed=1), settings=CPU).model
    elif mode == "linear":
        noise = np.random.default_rng(0).normal(size=(WIDTH, WIDTH))
        model = with_query_adapter(base.model, np.asarray(np.eye(WIDTH) + 0.3 * noise, np.float32))
    else:
        other = Encoder.load(tiny_model(root / "other", seed=1), settings=CPU).model
        model = dual_encoder(other, base.model)
    data = TrainingData(
        examples=(TrainingExample("q", "a query", ("m",), (), "train"),),
        memories={"m": "a memory"},
        metadata={},
        split={},
    )
    folder = save_model_folder(
        Encoder(model, name="model", fingerprint="", settings=CPU),
        root / "model",
        base=base,
        config=TrainingConfig(base_model=str(root / "base")),
        selection=None,
        metrics={"mode": mode},
        keeps_documents=mode in TWO_TOWERS,
        history=[],
        data=data,
        train=index_examples(data, data.examples),
        dev=None,
    )
    return folder, model


@pytest.fixture(scope="module", params=[*TWO_TOWERS, "full"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, saved(tmp_path_factory.mktemp("trained"), request.param)[0]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """LlamaIndex's wrapper waits some seconds before it tries again."""
    monkeypatch.setattr(HuggingFaceEmbedding._embed_with_retry.retry, "sleep", lambda _: None)


def right_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    ours = FineTunedEmbedding(str(folder), device="cpu")
    return np.array(ours.get_query_embeddings(TEXTS)), np.array(ours.get_text_embedding_batch(TEXTS))


def card_rows(folder: Path) -> dict[str, list[str]]:
    card = (folder / "README.md").read_text(encoding="utf-8")
    table = card.split("| Loaded by |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_sentence_transformers_loads_both_roles(trained: tuple[str, Path]) -> None:
    mode, folder = trained
    queries, documents = right_vectors(folder)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(model.encode_query(TEXTS, normalize_embeddings=True), queries, atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS, normalize_embeddings=True), documents, atol=1e-6)
    if mode in TWO_TOWERS:
        assert np.abs(queries - documents).max() > 0.01
        with pytest.raises(ValueError, match="task"):
            model.encode(TEXTS)
    assert card_rows(folder)["sentence-transformers, `encode_query` and `encode_document`"] == ["right", "right"]


@pytest.mark.parametrize("loader", ["HuggingFaceEmbedding", "local"])
def test_llama_index_returns_correct_vectors_or_an_error(trained: tuple[str, Path], loader: str) -> None:
    mode, folder = trained
    if loader == "local":
        embedding = resolve_embed_model(f"local:{folder}")
        (cells,) = (row for name, row in card_rows(folder).items() if "local:" in name)
    else:
        embedding = HuggingFaceEmbedding(str(folder), device="cpu")
        (cells,) = (row for name, row in card_rows(folder).items() if "HuggingFaceEmbedding" in name)
    if mode in TWO_TOWERS:
        with pytest.raises(ValueError, match="task"):
            embedding.get_query_embedding(TEXTS[0])
        with pytest.raises(ValueError, match="task"):
            embedding.get_text_embedding_batch(TEXTS)
        assert cells == ["an error", "an error"]
        return
    queries, documents = right_vectors(folder)
    np.testing.assert_allclose([embedding.get_query_embedding(text) for text in TEXTS], queries, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), documents, atol=1e-6)
    assert cells == ["right", "right"]


def test_transformers_does_not_load_a_dual_encoder(trained: tuple[str, Path]) -> None:
    mode, folder = trained
    if mode in TWO_TOWERS:
        with pytest.raises((ValueError, OSError)):
            AutoModel.from_pretrained(str(folder))
        assert card_rows(folder)["transformers `AutoModel`"] == ["an error", "an error"]
    else:
        ours = SentenceTransformer(str(folder), device="cpu")[0].auto_model
        theirs = AutoModel.from_pretrained(str(folder))
        for name, weight in ours.state_dict().items():
            np.testing.assert_array_equal(theirs.state_dict()[name], weight)


def test_prompts_have_to_be_given_to_the_llama_index_wrapper(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "full", prompts=PROMPTS)
    queries, documents = right_vectors(folder)
    given = {"query_instruction": "query: ", "text_instruction": "passage: "}
    embedding = HuggingFaceEmbedding(str(folder), device="cpu", **given)
    np.testing.assert_allclose([embedding.get_query_embedding(text) for text in TEXTS], queries, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), documents, atol=1e-6)
    rows = card_rows(folder)
    assert rows["LlamaIndex `HuggingFaceEmbedding`"] == [
        'right with `query_instruction="query: "`',
        'right with `text_instruction="passage: "`',
    ]
    assert rows['LlamaIndex `embed_model="local:..."`'] == ["wrong: without the prompt"] * 2
    assert np.abs(np.array(resolve_embed_model(f"local:{folder}").get_query_embedding(TEXTS[0])) - queries[0]).max() > 0
    plain = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS, prompt_name="query"), queries, atol=1e-6)


def test_configuration_files_for_serving_tools(trained: tuple[str, Path]) -> None:
    mode, folder = trained
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    one, several = ["Router"], ["Transformer", "Pooling", "Normalize"]
    names = [f"sentence_transformers.models.{name}" for name in (one if mode in TWO_TOWERS else several)]
    assert [module["type"] for module in modules] == names
    for file in folder.rglob("*_Pooling/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        assert config["word_embedding_dimension"] == WIDTH
        assert [name for name, on in config.items() if name.startswith("pooling_mode_") and on] == [
            "pooling_mode_mean_tokens"
        ]
    transformers = list(folder.rglob("sentence_bert_config.json"))
    assert len(transformers) == (2 if mode == "queries" else 1)
    for file in transformers:
        assert json.loads(file.read_text(encoding="utf-8")) == {"max_seq_length": LENGTH, "do_lower_case": False}
    if mode in TWO_TOWERS:
        router = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
        assert {name.rpartition(".")[0] for name in router["types"].values()} == {"sentence_transformers.models"}
        assert router["parameters"] == {"default_route": None, "allow_empty_key": False}


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_vectors_are_the_same_in_the_older_layout(mode: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", pooling=mode, prompts=PROMPTS)
    before = SentenceTransformer(str(folder), device="cpu")
    expected = before.encode_query(TEXTS), before.encode_document(TEXTS)
    use_serving_layout(folder)
    after = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_array_equal(after.encode_query(TEXTS), expected[0])
    np.testing.assert_array_equal(after.encode_document(TEXTS), expected[1])
    assert after.max_seq_length == LENGTH
    assert after[1].pooling_mode == mode
    np.testing.assert_allclose(Encoder.load(folder, settings=CPU).encode_queries(TEXTS), expected[0], atol=1e-6)


def test_joined_poolings_keep_their_order(tmp_path: Path) -> None:
    for name, modes in (("known", ("cls", "mean")), ("other", ("mean", "cls"))):
        folder = tiny_model(tmp_path / name)
        model = SentenceTransformer(str(folder), device="cpu")
        joined = SentenceTransformer(modules=[model[0], Pooling(WIDTH, pooling_mode=modes)], device="cpu")
        joined.save_pretrained(str(tmp_path / f"{name}-joined"))
        use_serving_layout(tmp_path / f"{name}-joined")
        loaded = SentenceTransformer(str(tmp_path / f"{name}-joined"), device="cpu")
        np.testing.assert_array_equal(loaded.encode(TEXTS), joined.encode(TEXTS))


def test_every_file_of_a_model_can_be_read_by_others(trained: tuple[str, Path]) -> None:
    _, folder = trained
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_local_base_is_not_named_as_hub_model(trained: tuple[str, Path]) -> None:
    _, folder = trained
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert not [line for line in card.splitlines() if line.startswith("base_model:")]
    assert str(folder.parent) not in card
    assert "| Base model | `base` " in card
    record = read_provenance(folder)
    assert record is not None
    # The record itself keeps the folder: a retriever finds the fallback model by it.
    assert record["base_model"] == str(folder.parent / "base")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("all-MiniLM-L6-v2", True),
        ("models/local", False),
        ("./models/base", False),
        ("/models/base", False),
        ("~/base", False),
        ("models/base/", False),
        ("C:\\models\\base", False),
        ("a/b/c", False),
    ],
)
def test_card_names_only_hub_models(
    trained: tuple[str, Path], name: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "local").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    record = read_provenance(trained[1])
    assert record is not None
    card = model_card({**record, "base_model": name, "config": {**record["config"], "base_model": name}}, trained[1])
    assert (f"\nbase_model: {json.dumps(name)}\n" in card) == named
    assert str(tmp_path) not in card
    assert os.fspath(Path.home()) not in card
