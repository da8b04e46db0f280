"""HTML as a browser and a reader take it: links, identifiers, visible words."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "img", "br", "path", "circle", "line", "rect", "use", "col"}


class Page(HTMLParser):
    """Links, identifiers, what the browser loads by itself, and the visible text of each language."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.alternates: dict[str, str] = {}
        self.words: dict[str, list[str]] = {}
        """Language -> visible texts; code and what is not shown left out."""
        self.open: list[tuple[str, str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.ids.append(name)
        if (href := given.get("href")) is not None:
            if tag == "link" and given.get("rel") == "alternate":
                self.alternates[given["hreflang"] or ""] = href
            elif tag in ("link", "use"):
                self.loaded.append(href)
            else:
                self.links.append(href)
        self.loaded += [value for name in ("src", "poster", "action") if (value := given.get(name)) is not None]
        above_lang, hidden = (self.open[-1][1], self.open[-1][2]) if self.open else ("", False)
        hidden = hidden or tag in ("script", "style", "code", "pre", "head")
        if tag not in VOID:
            self.open.append((tag, given.get("lang") or above_lang, hidden))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in (name for name, _, _ in self.open):
            while self.open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open and not self.open[-1][2] and data.strip():
            self.words.setdefault(self.open[-1][1], []).append(data.strip())
