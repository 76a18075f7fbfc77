"""The modules of a model for one role (query or document)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def role_modules(model: SentenceTransformer, role: str) -> list[nn.Module]:
    """Return the modules that encode texts of `role`, with each `Router` replaced by its route.

    If a Router has no such route, its default route is used, as in sentence-transformers.
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
