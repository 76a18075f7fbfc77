"""The documentation is correct: snippets run, commands parse, links resolve, tables are complete."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.browser import CHROMIUM, dump
from helpers.doc_commands import (
    PACKAGE,
    VERBS,
    check_command,
    execute,
    is_run,
    known_options,
    options_of,
    original_options,
)
from helpers.doc_snippets import PAGES, PROJECT, Block, blocks, commands, inline_code, page_name
from helpers.serving_files import QUERIES, TEXTS, small_memories, write_run, write_tuned_model
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.llms import MockLLM

import llama_index_ace_finetune
from llama_index_ace_finetune import FineTunedEmbedding, read_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.pipeline.config_file import run_settings
from llama_index_ace_finetune.stores.build_index import memory_nodes

DOCS = PROJECT / "docs"
BASE = "sentence-transformers/all-MiniLM-L6-v2"

ORIGINAL_NAMES = {
    *("HardNegativeMiner", "get_embedding", "mine_hard_negatives", "TrainingDataGenerator", "generate_training_data"),
    *("generate_and_save", "TrainingExample", "TrainingConfig", "save_steps", "EmbeddingFineTuner"),
    *("train_embedding_model", "EmbeddingEvaluator", "load_test_suite", "compare_models", "evaluate_model"),
    *("EvaluationResult", "AggregateMetrics", "BaselineEmbeddingClient", "FineTunedRetrieval", "search"),
    *("batch_search", "create_finetuned_retrieval", "QdrantBulletIndex", "Playbook"),
}

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language in ("bash", "console")]


def pages_with(language: tuple[str, ...], condition: Callable[[Block], bool]) -> list[Any]:
    return [
        pytest.param(page, id=page_name(page))
        for page in PAGES
        if any(block.language in language and condition(block) for block in blocks(page))
    ]


def place(block: Block) -> str:
    return block.place


class TestBlocks:
    def test_every_block_has_a_language(self) -> None:
        known = {"bash", "console", "python", "json", "yaml"}
        assert {block.place: block.language for block in ALL if block.language not in known} == {}
        assert len(ALL) > 40

    def test_blocks_that_are_not_run_state_a_reason(self) -> None:
        marks = {block.place: block.mark for block in ALL if block.mark}
        assert all(re.fullmatch(r"slow|not run, .{8,}", mark) for mark in marks.values()), marks
        assert sum(not block.runs for block in ALL) < len(ALL) / 3

    @pytest.mark.parametrize("block", [b for b in ALL if b.language in ("json", "yaml")], ids=place)
    def test_data_is_well_formed(self, block: Block) -> None:
        assert json.loads(block.code) if block.language == "json" else yaml.safe_load(block.code)

    @pytest.mark.parametrize("name", ["compose.yaml", "cluster.yaml"])
    def test_compose_files(self, name: str) -> None:
        content = yaml.safe_load((DOCS / "qdrant" / name).read_text(encoding="utf-8"))
        volumes = {volume.split(":")[0] for service in content["services"].values() for volume in service["volumes"]}
        assert volumes == set(content["volumes"])
        # Reachable only from localhost, and with an API key.
        for service in content["services"].values():
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
            assert "QDRANT__SERVICE__API_KEY" in service["environment"]


class TestCommands:
    @pytest.mark.parametrize("block", SHELL, ids=place)
    def test_parse(self, block: Block) -> None:
        for words in commands(block):
            check_command(words)

    def test_invalid_commands_are_detected(self) -> None:
        for wrong in (
            ["ace-finetune", "rum", "--data", "x"],
            ["ace-finetune", "run", "--data", "x"],
            ["ace-finetune", "search", "x", "--run", "y", "--top", "3"],
            ["python", "-m", f"{PACKAGE}.data_generator", "--hard", "5"],
            ["make", "coffee"],
            ["pip", "install", "llama-index-ace-finetune[coffee]"],
            ["python", "examples/coffee.py"],
        ):
            with pytest.raises(AssertionError):
                check_command(wrong)

    @pytest.mark.parametrize("page", PAGES, ids=page_name)
    def test_options_in_the_text_exist(self, page: Path) -> None:
        known = known_options()
        for code in inline_code(page):
            words = code.split()
            if words[0] == "ace-finetune" and len(words) > 1 and words[1] in VERBS:
                given = {word.split("=")[0] for word in words if word.startswith("--")} - {"--"}
                assert given <= options_of(words[1]) | {"--help"}, code
            elif words[0] == "ace-finetune":
                assert len(words) == 1 or words[1] in known or words[1] in ("VERB", "--help"), code
            elif words[0].startswith("--") and words[0] != "--":
                assert words[0] in known, code


@pytest.fixture(scope="session")
def prepared(small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(small_suite, folder / "my_suite.json")
    inventory = [{"id": 7_000_000 + n, "payload": {"lesson": text}} for n, text in enumerate(TEXTS.values())]
    (folder / "my_inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
    write_run(folder / "my-run", write_tuned_model(folder / "tuned"))
    shutil.copytree(folder / "my-run", folder / "demo-run")
    examples = tuple(TrainingExample(f"q-{name}", query, (name,)) for name, query in QUERIES.items())
    TrainingData(examples=examples, memories=TEXTS).save(folder / "training_data.json")
    return folder


@pytest.fixture(scope="session")
def today(prepared: Path) -> VectorStoreIndex:
    """The index behind the retriever that a reader has today."""
    memories = memory_nodes(read_dataset(prepared / "my_suite.json").memories.values())
    return VectorStoreIndex(memories, embed_model=FineTunedEmbedding(BASE))


def copy_unless_weights(source: str, target: str) -> None:
    """A link to weights, which no command changes in place."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(prepared, tmp_path / "work", copy_function=copy_unless_weights)
    (folder / "examples").symlink_to(PROJECT / "examples")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def names(workspace: Path, today: VectorStoreIndex) -> dict[str, Any]:
    """The variables that the snippets assume."""
    return {
        "__name__": "snippet",
        "llm": MockLLM(max_tokens=8),
        "nodes": memory_nodes(small_memories()),
        "documents": [Document(text=text) for text in TEXTS.values()],
        "today": today.as_retriever(similarity_top_k=5),
    }


class TestPython:
    @pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=place)
    def test_compiles(self, block: Block) -> None:
        code = re.sub(r"^%pip ", "# ", block.code, flags=re.MULTILINE)  # of a notebook's cell
        assert compile(code, block.place, "exec")

    @pytest.mark.parametrize("page", pages_with(("python",), lambda b: b.runs and b.mark != "slow"))
    def test_runs(self, page: Path, names: dict[str, Any]) -> None:
        ran = [run_python(block, names) for block in blocks(page) if block.language == "python" and not block.mark]
        assert any(ran)

    @pytest.mark.slow
    @pytest.mark.parametrize("page", pages_with(("python",), lambda b: b.mark == "slow"))
    def test_trains(self, page: Path, names: dict[str, Any]) -> None:
        ran = [run_python(block, names) for block in blocks(page) if block.language == "python" and block.runs]
        assert any(ran)


def run_python(block: Block, names: dict[str, Any]) -> bool:
    exec(compile(block.code, block.place, "exec"), names)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(("bash", "console"), lambda b: b.runs and any(map(is_run, commands(b)))))
def test_commands_run(page: Path, trained: Path, workspace: Path) -> None:
    """In the order of the page, on a fifth of the demo data."""
    for name in ("my-run", "demo-run"):
        shutil.rmtree(workspace / name)
        shutil.copytree(trained / "my-run", workspace / name)
    shutil.copy(workspace / "my-run" / "training_data.json", workspace / "training_data.json")
    shutil.copy(trained / "my_suite.json", workspace / "my_suite.json")
    memories = [{"text": memory.text} for memory in read_dataset(trained / "my_suite.json").memories.values()]
    (workspace / "memories.json").write_text(json.dumps(memories), encoding="utf-8")
    for block in blocks(page):
        if block.language not in ("bash", "console") or not block.runs:
            continue
        for words in filter(is_run, commands(block)):
            if words[:2] == ["ace-finetune", "run"] and "--out" in words:
                shutil.rmtree(workspace / words[words.index("--out") + 1], ignore_errors=True)
            done = execute(words, workspace)
            assert done.returncode == 0, f"{block.place}: {' '.join(words)}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def trained(demo_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run over every fifth memory of the demo."""
    folder = tmp_path_factory.mktemp("trained")
    suite = json.loads(demo_suite.read_text(encoding="utf-8"))
    suite["test_cases"] = suite["test_cases"][::5]
    (folder / "my_suite.json").write_text(json.dumps(suite), encoding="utf-8")
    done = execute(["ace-finetune", "run", "--data", "my_suite.json", "--out", "my-run", "--mode", "linear"], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a site."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")


@pytest.mark.slow
@needs_browser
def test_search_finds_pages_from_disk(site: Path) -> None:
    results = re.findall(
        r'<a href="([^"]*)" class="md-search-result__link"', dump(f"{site.as_uri()}/index.html?q=retention")
    )
    assert any("training-modes.html" in address for address in results), results


@pytest.mark.slow
@needs_browser
def test_search_finds_pages_over_http(site: Path) -> None:
    found, done = [], threading.Event()
    # Virtual time does not wait for a worker that is loaded over HTTP: the page loads until it has reported results.
    probe = """<img src="/wait" alt=""><script>setInterval(() => {
      const links = [...document.querySelectorAll(".md-search-result__link")].map(one => one.href);
      if (links.length) fetch("/found?" + encodeURIComponent(links.join(" ")));
    }, 200)</script></body>"""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/found?"):
                found.append(self.path)
                done.set()
            if self.path.startswith("/index.html"):
                body = (site / "index.html").read_text(encoding="utf-8").replace("</body>", probe).encode()
            elif self.path == "/wait" or self.path.startswith("/found?"):
                done.wait(30)
                body = b""
            else:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        dump(f"http://127.0.0.1:{server.server_port}/index.html?q=retention", virtual_time=False)
        server.shutdown()
    assert any("training-modes.html" in address for address in found), found


def test_every_public_class_has_a_table_of_parameters(site: Path) -> None:
    page = (site / "reference" / "public.html").read_text(encoding="utf-8")
    parts = re.split(rf'<h3 id="{PACKAGE}\.(\w+)"', page)
    without = [
        name
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
        if name[0].isupper() and not re.search(r"doc-section-title[^>]*>(Parameters|Attributes):", body)
    ]
    assert without == ["PipelineEvents"]  # it has none
    settings = re.sub(r"<[^>]+>|\s+", " ", page.split(f'id="{PACKAGE}.SplitSettings"')[1][:20_000])
    row = r"train +float +fraction of the queries to train on\. +0\.6"
    assert re.search(row, re.sub(r" +", " ", settings))


class TestLinks:
    @pytest.mark.parametrize("page", [*PAGES, PROJECT / "SECURITY.md", PROJECT / "CHANGELOG.md"], ids=page_name)
    def test_links_resolve(self, page: Path) -> None:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("https://", "http://", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_file(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name}: {target}"

    def test_every_page_is_in_the_navigation(self) -> None:
        listed = set(re.findall(r"(\S+\.md)$", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
        assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}

    def test_site_builds_without_warnings_and_external_resources(self, site: Path) -> None:
        pages = list(site.rglob("*.html"))
        assert len(pages) >= len(list(DOCS.rglob("*.md")))
        loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]*)\"")
        assert [found for page in pages for found in loaded.findall(page.read_text(encoding="utf-8"))] == []


def anchors(page: Path) -> set[str]:
    """The ids that Python-Markdown gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


class TestTables:
    def test_public_names_are_the_documented_ones(self) -> None:
        page = (DOCS / "reference" / "public.md").read_text(encoding="utf-8")
        documented = re.findall(rf"^::: {PACKAGE}\.(\w+)$", page, re.MULTILINE)
        assert len(documented) == len(set(documented))
        assert {*documented, "__version__"} == set(llama_index_ace_finetune.__all__)

    def test_building_blocks_exist(self) -> None:
        page = (DOCS / "reference" / "building-blocks.md").read_text(encoding="utf-8")
        for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name

    def test_rules_are_those_of_the_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(DOCS))
        make_rules = importlib.import_module("make_rules")
        pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
        assert sum(page.count("<!-- rule: ") for page in pages) == len(make_rules.RULES)
        assert [page for page in pages if make_rules.filled(page) != page] == []

    def test_layers_are_those_of_the_import_contract(self) -> None:
        contract = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").split("\nlayers = [", 1)[1].split("]", 1)[0]
        layers = [set(layer.split(" : ")) for layer in re.findall(r'"([^"]+)"', contract)]
        text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        table = text.split("| package | contents |", 1)[1].split("\n\n", 1)[0]
        cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
        assert [set(re.findall(r"`(\w+)`", cell)) for cell in cells] == layers

    def test_every_verb_has_a_row(self) -> None:
        assert rows(DOCS / "reference" / "command-line.md", "verb") == set(VERBS)

    def test_every_option_is_listed_with_its_verbs(self) -> None:
        text = section(DOCS / "reference" / "command-line.md", "## Options")
        documented: dict[str, set[str]] = {}
        for names, verbs in re.findall(r"^\| (`--[^|]+) \| ([a-z, -]+) \|", text, re.MULTILINE):
            for name in re.findall(r"`(--[\w-]+)`", names):
                documented[name] = set(verbs.split(", "))
        for option in set().union(*map(options_of, VERBS)):
            verbs = {verb for verb in VERBS if option in options_of(verb)}
            if option in documented:
                # The one option that has another meaning in another verb.
                assert documented[option] | ({"search"} if option == "--mode" else set()) == verbs, option
            elif option.startswith("--"):
                assert f"`{option}`" in text, option

    def test_every_flag_and_class_of_the_original_is_mapped(self) -> None:
        page = DOCS / "how-to" / "migrate-from-ace.md"
        documented = set(inline_code(page))
        assert documented >= original_options()
        names = {word for code in documented for word in re.split(r"[^\w]+", code)}
        assert names >= ORIGINAL_NAMES
        assert names >= {"training_data", "recall", "mrr", "avg_similarity", "improvement", "baseline", "finetuned"}

    def test_configurations_are_accepted(self, tmp_path: Path) -> None:
        shown = [block for block in ALL if block.language == "yaml" and "data:" in block.code]
        assert shown
        for block in shown:
            file = tmp_path / "run.yaml"
            file.write_text(block.code, encoding="utf-8")
            assert run_settings(file, {}).out == Path("my-run")

    def test_every_error_has_a_row(self) -> None:
        assert rows(DOCS / "errors.md", "class") == error_classes()

    def test_measured_figures_are_in_the_results(self) -> None:
        table = (PROJECT / "README.md").read_text(encoding="utf-8").split("| made by |", 1)[1].split("\n\n", 1)[0]
        lines = [line for line in table.splitlines() if "benchmarks/" in line]
        assert len(lines) >= 3
        for line in lines:
            *cells, made_by = line.strip("| ").split(" | ")
            name = re.findall(r"benchmarks/(\w+)\.py", made_by)[0]
            file = PROJECT / "benchmarks" / "results" / f"{name.replace('_', '-')}.md"
            results = file.read_text(encoding="utf-8")
            # Digits in names such as BM25 and MRR@10 are not figures.
            figures = re.findall(r"(?<![\w@.,])[+-]?\d+(?:[.,]\d+)*(?: (?:ms|s|GB|x)\b)?", " ".join(cells))
            assert figures
            for figure in figures:
                # A table may have the unit in its header.
                whole, cell = re.escape(figure), re.escape(f"| {figure.split()[0]} |")
                assert re.search(rf"(?<![\d.,]){whole}(?!\d)|{cell}", results), f"{name}: {figure}"

    def test_workflows_name_existing_paths(self) -> None:
        text = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / ".github" / "workflows").glob("*.yml"))
        paths = set(re.findall(r"\b(tests/[\w/.]+)", text))
        assert paths
        assert all((PROJECT / path).exists() for path in paths), paths
        for targets in re.findall(r"run: make (.+)", text):
            check_command(["make", *targets.split()])

    def test_workflows_pin_actions_and_request_minimal_permissions(self) -> None:
        for path in (PROJECT / ".github" / "workflows").glob("*.yml"):
            text = path.read_text(encoding="utf-8")
            used = re.findall(r"uses: (\S+)(.*)", text)
            assert used
            assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name) and "# v" in note for name, note in used), path
            workflow = yaml.safe_load(text)
            assert workflow["permissions"] == {"contents": "read"}
            assert all("timeout-minutes" in job for job in workflow["jobs"].values()), path
            more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
            assert more == ({"upload": {"id-token": "write"}} if path.stem == "publish" else {})

    def test_every_mining_option_is_documented(self) -> None:
        documented = set(re.findall(r"--[\w-]+", (DOCS / "how-to" / "hard-negatives.md").read_text(encoding="utf-8")))
        mining = {
            option
            for parameter in VERBS["run"].params
            if getattr(parameter, "rich_help_panel", None) == "Mining"
            for option in (parameter.secondary_opts or parameter.opts)
        }
        assert mining <= documented


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    text = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^{heading.split()[0]} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(page: Path, column: str) -> set[str]:
    """The first cells of the table whose first column has the given name."""
    table = page.read_text(encoding="utf-8").split(f"| {column} |", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))


def error_classes() -> set[str]:
    """The error classes in the source of the package."""
    bases = {"AceFinetuneError": "Exception"}
    for file in (PROJECT / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
                bases.setdefault(node.name, node.bases[0].id)

    def ancestors(name: str) -> set[str]:
        return {name} | (ancestors(bases[name]) if name in bases else set())

    return {name for name in bases if "AceFinetuneError" in ancestors(name)}
