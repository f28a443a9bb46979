"""An mkdocs hook: files outside docs/ become pages too, so that one link works on the site and in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
INCLUDED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/table-1.png",
    "benchmarks/table-1.csv",
)
LINK = re.compile(r"(?<=\]\()[^)]+(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of INCLUDED to the site."""
    for name in INCLUDED:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links of the repository, in which docs/ is a folder, into links of the site, in which it is the top."""
    folder = "docs/" if page.file.src_uri in INCLUDED else "../"
    return LINK.sub(lambda link: link[0].replace(folder, "", 1), markdown)
