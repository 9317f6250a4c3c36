# SPDX-License-Identifier: BSD-3-Clause
"""Check the built documentation site: all local links, images and anchors lead somewhere, and every page has a title.

No page may show a picture twice.

python scripts/check_site.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Links, anchors, pictures and title of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.pictures: list[str] = []
        self.title = ""
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_title = tag == "title"
        self.anchors |= {str(values[name]) for name in ("id", "name") if values.get(name)}
        self.links += [str(values[name]) for name in ("href", "src") if values.get(name)]
        if tag == "img" and "_static/" not in str(values.get("src")):
            self.pictures.append(str(values.get("src")))
        self.links += [part.split()[0] for part in str(values.get("srcset") or "").split(",") if part.strip()]

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
            self._in_title = False


def faults(site: Path) -> list[str]:
    """One line for every link that leads nowhere in the site, page without a title, and repeated picture."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if "_static" in name.parts:
            continue
        if not page.title.strip():
            wrong.append(f"{name}: no title")
        # Plots of one page would have one file if they had one name.
        wrong += [f"{name}: shows {link} twice" for link in set(page.pictures) if page.pictures.count(link) > 1]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{name}: {link} not found")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{name}: {link} has no such anchor")
    return wrong


def main(site: Path) -> int:
    """Print what is wrong; 1 if anything is, or there is no page."""
    found = sorted(set(faults(site)))
    print(*found, sep="\n", end="\n" if found else "")
    count = len(list(site.rglob("*.html")))
    print(f"{count} pages, {len(found)} faults")
    return int(bool(found) or not count)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
