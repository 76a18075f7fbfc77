"""Set the address of the repository for a release: `python .github/set_repository.py URL [FOLDER]`.

Until a release no file names an address, since the links of a checkout are relative. A release needs one: PyPI shows
the README beside nothing, and lists the project's links.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LINKS = """
[project.urls]
Homepage = "{url}"
Documentation = "{url}/tree/main/docs"
Changelog = "{url}/blob/main/CHANGELOG.md"
Issues = "{url}/issues"

[[tool.hatch.metadata.hooks.fancy-pypi-readme.substitutions]]
pattern = '!\\[([^\\]]*)\\]\\((?!https?:)([^)]+)\\)'
replacement = '![\\1]({raw}/main/\\2)'

[[tool.hatch.metadata.hooks.fancy-pypi-readme.substitutions]]
pattern = '\\]\\((?!https?:|#)([^)]+)\\)'
replacement = ']({url}/blob/main/\\1)'
"""


def set_repository(url: str, project: Path) -> None:
    """Write the address into pyproject.toml and CITATION.cff of a checkout.

    Raises:
        SystemExit: if it is not the address of a GitHub repository, or one is set already.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    if not found:
        raise SystemExit(f"{url!r} is not the address of a GitHub repository, such as https://github.com/owner/name.")
    url, raw = f"https://github.com/{found[1]}", f"https://raw.githubusercontent.com/{found[1]}"
    settings, citation = project / "pyproject.toml", project / "CITATION.cff"
    text = settings.read_text(encoding="utf-8")
    if "[project.urls]" in text:
        raise SystemExit(f"{settings} names a repository already; restore it first.")
    settings.write_text(text.rstrip("\n") + "\n" + LINKS.format(url=url, raw=raw), encoding="utf-8")
    cited = citation.read_text(encoding="utf-8").replace("license: ", f"repository-code: {url}\nlicense: ", 1)
    citation.write_text(cited, encoding="utf-8")


if __name__ == "__main__":
    set_repository(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else PROJECT)
