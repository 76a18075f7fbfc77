"""The original's documented commands and snippets, with only the module name replaced."""

from __future__ import annotations

import json
import runpy
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

MODULE = "llama_index_ace_finetune"

GENERATE = f"""
python -m {MODULE}.data_generator \\
    --test-suite rag_training/test_suite/enhanced_test_suite.json \\
    --output ace/embedding_finetuning/training_data.json \\
    --negatives 5 \\
    --min-difficulty medium
"""
FINETUNE = f"""
python -m {MODULE}.finetune_embeddings \\
    --training-data ace/embedding_finetuning/training_data.json \\
    --output-dir ace/embedding_finetuning/models/ace_finetuned \\
    --epochs 3 \\
    --batch-size 16 \\
    --learning-rate 2e-5
"""
EVALUATE = f"""
python -m {MODULE}.evaluate_finetuned \\
    --test-suite rag_training/test_suite/enhanced_test_suite.json \\
    --finetuned-model ace/embedding_finetuning/models/ace_finetuned \\
    --output rag_training/optimization_results/v5_finetuned_embeddings.json \\
    --max-queries 200
"""
SEARCH = f"""
python -m {MODULE}.finetuned_retrieval \\
    --model ace/embedding_finetuning/models/ace_finetuned \\
    --query "how to fix authentication bugs" \\
    --limit 5 \\
    --threshold 0.3
"""
DEPLOY = f"""
from {MODULE}.finetuned_retrieval import FineTunedRetrieval

# Create retrieval system
retrieval = FineTunedRetrieval(
    finetuned_model_path="ace/embedding_finetuning/models/ace_finetuned",
    fallback_to_baseline=True  # Graceful degradation
)

# Search
results = retrieval.search(
    query="how to debug authentication errors",
    limit=10,
    threshold=0.3,
    use_hybrid=True  # Dense + sparse + RRF
)

for result in results:
    print(f"{{result['score']:.3f}}: {{result['content'][:50]}}")
"""
MINE = f"""
from {MODULE}.data_generator import (
    HardNegativeMiner,
    TrainingDataGenerator,
)

# Create custom miner with more aggressive sampling
miner = HardNegativeMiner(
    top_k=50,  # Retrieve top-50 results (more candidates)
)

generator = TrainingDataGenerator(
    test_suite_path="rag_training/test_suite/enhanced_test_suite.json",
    output_path="ace/embedding_finetuning/training_data_aggressive.json",
    miner=miner,
)

# Generate with 10 hard negatives per example
generator.generate_and_save(
    negatives_per_example=10,
    min_difficulty="medium",  # Skip easy queries
    skip_categories={{"edge_long", "casual"}}  # Skip noisy categories
)
"""
TRAIN = f"""
from {MODULE}.finetune_embeddings import (
    EmbeddingFineTuner,
    TrainingConfig,
)

config = TrainingConfig(
    base_model="sentence-transformers/all-MiniLM-L6-v2",
    output_dir="ace/embedding_finetuning/models/ace_finetuned",
    epochs=5,
    batch_size=16,
    train_split=0.8,  # 80% train, 20% validation
    eval_steps=50,  # Evaluate every 50 steps
)

fine_tuner = EmbeddingFineTuner(config)
fine_tuner.load_training_data("ace/embedding_finetuning/training_data.json")
fine_tuner.initialize_model()

# Train with evaluation
train_metrics = fine_tuner.train()
eval_metrics = fine_tuner.evaluate()
"""


@pytest.fixture(scope="module")
def workspace(write_suite: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_suite(folder / "rag_training/test_suite/enhanced_test_suite.json", 20)
    for line in (GENERATE, FINETUNE):
        run_here(line, folder)
    return folder


def command(line: str, folder: Path) -> str:
    words = shlex.split(line.replace("\\\n", " "))
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(line: str, folder: Path) -> None:
    """Do what `python -m` does, in this process, which has imported torch already."""
    python, option, module, *arguments = shlex.split(line.replace("\\\n", " "))
    assert (python, option) == ("python", "-m")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit) as done:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert done.value.code == 0


def snippet(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_writes_the_documented_fields(workspace: Path) -> None:
    data = json.loads((workspace / "ace/embedding_finetuning/training_data.json").read_text(encoding="utf-8"))
    assert data["metadata"]["total_examples"] == len(data["examples"]) > 0
    for example in data["examples"]:
        assert {"query", "positive", "negatives", "metadata"} <= set(example)
        assert {"memory_id", "category", "difficulty", "query_category"} <= set(example["metadata"])
        assert example["metadata"]["difficulty"] != "easy"
        assert example["positive"] not in example["negatives"]
        assert len(example["negatives"]) == 5


def test_finetune_leaves_a_model_and_its_index(workspace: Path) -> None:
    model = workspace / "ace/embedding_finetuning/models/ace_finetuned"
    assert (model / "config.json").exists()
    assert (model / "model.safetensors").exists()
    assert (workspace / "ace/embedding_finetuning/models/ace_finetuned_index/meta.json").exists()


@pytest.mark.slow
def test_evaluate_prints_the_documented_summary(workspace: Path) -> None:
    printed = command(EVALUATE, workspace)
    assert "=== EVALUATION SUMMARY ===" in printed
    for label in ("Baseline Recall@1:", "Fine-tuned Recall@5:", "Improvement:", "Baseline MRR:"):
        assert label in printed
    path = workspace / "rag_training/optimization_results/v5_finetuned_embeddings.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    suite = json.loads((workspace / "rag_training/test_suite/enhanced_test_suite.json").read_text(encoding="utf-8"))
    total = sum(len(case["generated_queries"]) for case in suite["test_cases"])
    # The queries that were trained or chosen on are not evaluated on.
    assert 0 < report["metadata"]["total_queries_evaluated"] < total / 2
    for side in ("baseline", "finetuned"):
        assert {"model", "recall@1", "recall@5", "mrr", "avg_similarity", "by_difficulty", "by_category"} <= set(
            report[side]
        )
    assert set(report["improvement"]) == {"recall@1", "recall@5", "mrr"}


def test_search_prints_the_documented_lines(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(SEARCH, workspace)
    printed = capsys.readouterr().out
    assert printed.startswith("Found ")
    assert "1. [Score: 0." in printed
    # What the suite says of a memory is shown with it.
    assert any(name in printed for name in ("Category: SECURITY", "Category: ERROR_HANDLING", "Category: ARCHITECTURE"))


@pytest.mark.slow
def test_deploy_snippet(workspace: Path) -> None:
    lines = snippet(DEPLOY, workspace).splitlines()
    assert lines
    scores = [float(line.split(":")[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


@pytest.mark.slow
def test_mining_snippet_gives_up_to_ten_negatives(workspace: Path) -> None:
    snippet(MINE, workspace)
    data = json.loads((workspace / "ace/embedding_finetuning/training_data_aggressive.json").read_text("utf-8"))
    counts = [len(example["negatives"]) for example in data["examples"]]
    # The margin leaves some queries with fewer, and nothing is padded.
    assert max(counts) == 10
    assert sum(counts) > 8 * len(counts)
    assert data["metadata"]["mining"]["queries_with_fewer"] == sum(count < 10 for count in counts)


@pytest.mark.slow  # a training
def test_training_snippet(workspace: Path) -> None:
    printed = snippet(TRAIN + "\nprint(train_metrics['total_steps'], sorted(eval_metrics))", workspace)
    assert int(printed.split()[0]) > 0
    assert "avg_positive_similarity" in printed
