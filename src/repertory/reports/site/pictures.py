"""Line drawings: the icon of the site, one for each topic, and the idea of each paper."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

from repertory import catalog
from repertory.core.problem import Problem, reason

IDEA = "idea.svg"
"""Of a paper, beside its card: 240 x 120 units, without words; the style sheet gives its classes their colours."""
SHAPES = frozenset({"path", "rect", "circle", "line", "polyline", "polygon"})
NUMBERS = frozenset(
    {"class", "d", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "rx", "ry", "cx", "cy", "r", "points"}
)
"""Elements and attributes of a drawing: nothing that loads, links or runs, since other packages bring drawings too."""
SVG = "{http://www.w3.org/2000/svg}"

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" fill="#fff" '
    'stroke="#17735a" stroke-width="2"/><path d="M8 2a6 6 0 0 0 0 12z" fill="#17735a"/></svg>\n'
)
TOPIC_ICONS = {
    "vision": "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
    "video": "M3 5h18v14H3zM7 5v14M17 5v14M3 9.5h4M3 14.5h4M17 9.5h4M17 14.5h4",
    "driving": "M3 16v-3l2-6h14l2 6v3zM3 13h18M6 16v3M18 16v3M7 10h.01",
    "graphs": "M6 6l12 2M6 6l3 12M18 8l-9 10M6 4a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM18 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z"
    "M9 16a2 2 0 1 0 0 4 2 2 0 0 0 0-4z",
    "spiking": "M2 14h5l2-9 3 15 2-9 1 3h7",
    "language": "M4 6h16M4 11h11M4 16h14M4 21h6",
    "music": "M9 18V5l11-2v13M6.5 15.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z"
    "M17.5 13.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
    "generation": "M12 3l2 6 6 2-6 2-2 6-2-6-6-2 6-2zM19 16l.8 2.2L22 19l-2.2.8L19 22l-.8-2.2L16 19l2.2-.8z",
    "security": "M12 3l8 3v6c0 5-3.5 8-8 9-4.5-1-8-4-8-9V6zM9 12l2 2 4-4",
    "recommendation": "M5 3l6 17 2.5-7L20 10.500zM14 14l6 6",
    "medicine": "M9 3h6v6h6v6h-6v6H9v-6H3V9h6z",
    "theory": "M16 4c-4-2-5 2-5 8s-1 10-5 8M7 10h8",
}
"""Topic -> path on 24 x 24 units, drawn as a line."""


def idea(paper: str) -> str:
    """The drawing of a paper's idea as inline SVG; "" where it has none.

    Raises:
        Problem: it is not SVG, or holds more than plain shapes.
    """
    path = catalog.folder(paper) / IDEA
    if not path.exists():
        return ""
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise Problem(f"the drawing is not SVG: {reason(error)}", path, "mend it") from error
    if root.tag != f"{SVG}svg" or root.get("viewBox") != "0 0 240 120":
        raise Problem("the drawing is not SVG of 240 x 120 units", path, 'begin with <svg viewBox="0 0 240 120" ...>')
    parts = []
    for element in root:
        tag = element.tag.removeprefix(SVG)
        if tag not in SHAPES or not set(element.keys()) <= NUMBERS or len(element):
            raise Problem(f"the drawing holds {tag} {' '.join(element.keys())}", path, f"use {', '.join(SHAPES)} alone")
        given = " ".join(f'{name}="{escape(value)}"' for name, value in element.items())
        parts.append(f"<{tag} {given}/>")
    return f'<svg class="idea" viewBox="0 0 240 120" aria-hidden="true">{"".join(parts)}</svg>'
