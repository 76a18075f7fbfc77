"""Write the dashboard of a query log."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.pipeline.watch import RECENT, Reference, Watch, watch
from llama_index_ace_finetune.production.compared_queries import read_comparisons
from llama_index_ace_finetune.production.dashboard import render_dashboard
from llama_index_ace_finetune.production.live_comparison import LiveComparison, compare_live
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.usage import Usage, measure_usage
from llama_index_ace_finetune.utils.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """What the page shows, and its file."""

    page: Path
    usage: Usage
    comparisons: tuple[LiveComparison, ...]
    watch: Watch


def dashboard(
    log: str | Path,
    run: str | Path,
    out: str | Path,
    *,
    last: int = RECENT,
    reference: Reference = "run",
    cache: str | Path | None = None,
    **options: Any,
) -> Dashboard:
    """Write one static HTML page: live comparisons, drift, volumes, and the worst queries of a query log.

    The page has texts of queries, as the log has them; nothing leaves the machine.

    Args:
        log: query log.
        run: finished run that is served.
        out: page to write; an existing one is replaced.
        last: as in `watch`.
        reference: as in `watch`.
        cache: as in `watch`.
        options: further options of `watch`.

    Raises:
        AceFinetuneError: if the log or the run cannot be read, or the page cannot be written.
    """
    watched = watch(log, run=run, last=last, reference=reference, cache=cache, **options)
    with QueryLog.open(log, read_only=True) as opened:
        usage = measure_usage(opened.records(), opened.feedback_records())
        names = [*read_comparisons(opened.records())]
        comparisons = tuple(compare_live(opened, name=name) for name in names)
    date = datetime.now(timezone.utc).date().isoformat()
    page = render_dashboard(
        title=Path(run).resolve().name, usage=usage, comparisons=comparisons, watched=asdict(watched), date=date
    )
    try:
        write_text(Path(out), page)
    except OSError as error:
        raise AceFinetuneError(
            f"The page {str(out)!r} cannot be written ({error.strerror}); give another path."
        ) from error
    return Dashboard(page=Path(out), usage=usage, comparisons=comparisons, watch=watched)
