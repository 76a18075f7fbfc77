"""What a model does with a text of one role, as a plain row of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def tower(model: SentenceTransformer, role: str) -> list[nn.Module]:
    """Return the modules that a text passes in `role`, with each `Router` replaced by its route.

    A route that a Router does not have is its default one, as in sentence-transformers.
    """
    modules: list[nn.Module] = []
    for module in model.children():
        if type(module).__name__ != "Router":
            modules.append(module)
            continue
        router: Any = module
        routes = router.sub_modules
        modules.extend(routes[role if role in routes else router.default_route].children())
    return modules
