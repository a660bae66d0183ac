"""What mkdocs also does here: show pages that lie elsewhere, and links that lead out of docs/.

The pages of docs/ are read in the repository too, where ``[conf](../conf)`` leads somewhere. In the
site it does not, so there it is plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Page of the site: the file that it is, from the repository's root.
ELSEWHERE = {"studies.md": "experiments/README.md", "changelog.md": "CHANGELOG.md"}
TITLES = {"studies.md": "Studies"}  # instead of a file's own
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for name, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if title := TITLES.get(name):
            text = re.sub(r"^# .*$", f"# {title}", text, count=1, flags=re.MULTILINE)
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages and pictures of the site, and leave only the words of all others."""
    name = page.file.src_uri
    return site_links(markdown, ELSEWHERE.get(name, f"docs/{name}"), set(files.src_uris))


def site_links(markdown: str, source: str, there: set[str]) -> str:
    """A page's text with links as the site has them.

    Args:
        markdown: of the page.
        source: the file that it comes from, from the repository's root.
        there: the files of the site, from docs/.
    """
    pages = {file: name for name, file in ELSEWHERE.items()}

    def rewritten(link: re.Match[str]) -> str:
        target = urlsplit(link["target"])
        if target.scheme or target.netloc or not target.path:  # elsewhere, or on this page
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target.path))
        name = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if name in there:
            fragment = f"#{target.fragment}" if target.fragment else ""
            return f"{link['picture']}[{link['text']}]({name}{fragment})"
        # A page or picture that docs/ lacks stays as it is, for mkdocs to find it missing.
        leads_out = not path.startswith("docs/") and not link["picture"]
        return link["text"] if leads_out and (ROOT / path).exists() else link[0]

    parts = CODE.split(markdown)  # every second one is code
    parts[::2] = [LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)
