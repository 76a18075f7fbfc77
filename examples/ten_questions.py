"""Ask your own questions before and after: dense search with the base model, and the system that the run serves.

    python examples/ten_questions.py [RUN] [--questions FILE]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used. FILE has a question per
line and, after a tab, some words of its relevant memory. Ask questions that were not trained on: trained ones give too
good results. Ten questions show what changes, not by how much; the run's report has the figures.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever, RunFolder, memory_nodes, read_dataset

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"
QUESTIONS = """\
somebody was still signed in on monday because a tab was open\tX-Lantern-Passive
face unlock does not know us any more since the login page has a new address\trelying-party id
half of our build machines went grey with the new server version\tRunners more than two minor versions
one message is broken and everything behind it waits\tpoison message
I reload and get other results for the same search\tQuarry replica fell behind
certificate does not fit the new name of our service\ttls.yaml
the gradual release of a quiet service never gets on\tmin_requests
a chat widget that works on my machine is blocked on the live site\tNonceScript
an attachment of 25 megabytes is refused\tpresigned link
the variant that won brought nothing after all\trepeated peeking
"""


def main() -> None:
    """Ask every question twice."""
    parser = argparse.ArgumentParser(description="Ask your own questions before and after fine-tuning.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    parser.add_argument("--questions", type=Path, help="a question per line; after a tab, words of its relevant memory")
    options = parser.parse_args()
    if options.run:
        after = FineTunedHybridRetriever.from_run(options.run, similarity_top_k=10)
        # A run's index holds the vectors of both models, so "before" searches those of the base model.
        base = FineTunedEmbedding(RunFolder.open(options.run).base_model() or BASE)
        before = FineTunedHybridRetriever(
            after.store, embed_model=None, baseline_model=base, serve="base", mode="dense", similarity_top_k=10
        )
    else:
        print("no run folder given: using the base model")
        nodes = memory_nodes(read_dataset(PLAYBOOK).memories.values())
        after = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=10)
        before = after.as_retriever(mode="dense")

    lines = (options.questions.read_text(encoding="utf-8") if options.questions else QUESTIONS).splitlines()
    ranks: dict[str, list[int | None]] = {"before": [], "after": []}
    for line in filter(str.strip, lines):
        question, _, answer = line.partition("\t")
        print(f"\n{question}")
        for title, retriever in (("before", before), ("after", after)):
            texts = [hit.text for hit in retriever.retrieve(question)]
            outcome = ""
            if answer:
                rank = next((rank for rank, text in enumerate(texts, start=1) if answer in text), None)
                ranks[title].append(rank)
                outcome = f"relevant memory {'not found' if rank is None else f'at rank {rank}'}; first: "
            print(f"  {title:<6}  {outcome}{textwrap.shorten(texts[0] if texts else 'nothing', 80)}")
    print()
    for title, found in ranks.items():
        if found:
            among = sum(rank is not None for rank in found)
            print(f"{title:<6}  relevant memory at rank 1: {found.count(1)} of {len(found)}, in the top 10: {among}")
    after.close()


if __name__ == "__main__":
    main()
