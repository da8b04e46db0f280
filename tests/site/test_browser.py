"""The site in headless Chromium: a phone and a desk, light and dark, English and Chinese."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repertory import catalog

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--virtual-time-budget=60000",
)  # fmt: skip
PAGES = (
    "index.html", "papers/emo.html", "papers/latent_attention.html", "papers/sot.html", "open.html", "compare.html",
    "speed.html", "method.html", "contribute.html",
)  # fmt: skip
WIDTHS = (390, 1280)
HARNESS = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><pre id="said"></pre>
<script>
(async () => {
  const said = [];
  for (const width of WIDTHS) for (const page of PAGES) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:844px;border:0`;
    frame.src = page;
    document.body.appendChild(frame);
    await new Promise(done => frame.onload = done);
    const inside = frame.contentDocument, style = frame.contentWindow.getComputedStyle(inside.body);
    const mark = inside.querySelector(".marks, .totals");
    if (width === 1280 && !page.includes("?")) {
      const script = inside.createElement("script");
      script.src = AXE;
      inside.head.appendChild(script);
      await new Promise(done => script.onload = done);
    }
    const axe = frame.contentWindow.axe;
    const report = axe ? await axe.run() : {violations: []};
    if (page.includes("?q=")) await new Promise(done => setTimeout(done, 2000));
    said.push({
      page, width, wide: inside.documentElement.scrollWidth, background: style.backgroundColor, ink: style.color,
      top: mark ? mark.getBoundingClientRect().top : null,
      strips: Array.from(inside.querySelectorAll(".strip")).slice(0, 40).map(s => s.getBoundingClientRect().width),
      shown: Array.from(inside.querySelectorAll(".card")).filter(card => card.offsetParent).map(card => card.dataset),
      checked: Boolean(axe),
      violations: report.violations.map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html).join(" ")}`),
      found: Array.from(inside.querySelectorAll(".results .card")).map(card => card.dataset.id),
    });
    frame.remove();
  }
  document.getElementById("said").textContent = JSON.stringify(said);
})();
</script>"""


@pytest.fixture(scope="module")
def folder(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site on disk."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: no browser shows the pages here")
    out = tmp_path_factory.mktemp("site")
    for name, text in made.items():
        if not name.startswith(("claims/", "badges/")):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
    return out


def seen(folder: Path, pages: list[str], dark: bool) -> list[dict[str, Any]]:
    """What the browser, and axe-core in it, make of pages at both widths."""
    assert CHROMIUM
    package = importlib.util.find_spec("axe_core_python")
    assert package
    assert package.origin
    shutil.copyfile(Path(package.origin).with_name("axe.min.js"), folder / "axe.js")
    given = {"WIDTHS": WIDTHS, "PAGES": pages, "AXE": (folder / "axe.js").as_uri()}
    harness = re.sub("WIDTHS|PAGES|AXE", lambda name: json.dumps(given[name[0]]), HARNESS)
    (folder / "harness.html").write_text(harness, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = f"--user-data-dir={folder / 'profile'}"
    address = (folder / "harness.html").as_uri()
    ended = subprocess.run(
        [CHROMIUM, *FLAGS, scheme, profile, "--dump-dom", address], capture_output=True, text=True, check=True
    )
    said = re.search(r'<pre id="said">(.*?)</pre>', ended.stdout, flags=re.S)
    assert said
    assert said[1], ended.stderr
    return json.loads(said[1].replace("&amp;", "&"))


def luminance(colour: str) -> float:
    """Of "rgb(r, g, b)", by WCAG 2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_a_phone_and_a_desk(folder: Path, dark: bool) -> None:
    asked = [
        "en/index.html?q=graph+clustering", "zh/index.html?q=图聚类",
        "en/index.html?verdict=fails&topic=vision&minutes=15",
    ]  # fmt: skip
    shown = seen(folder, [*(f"{lang}/{page}" for lang in ("en", "zh") for page in PAGES), *asked], dark)
    assert len(shown) == len(WIDTHS) * (2 * len(PAGES) + len(asked))
    for one in shown:
        where = f"{one['page']} at {one['width']} px"
        assert one["checked"] == (one["width"] == 1280 and "?" not in one["page"]), where
        assert one["violations"] == [], where
        assert one["wide"] <= one["width"], f"{where} is {one['wide']} px wide"
        ground, ink = luminance(one["background"]), luminance(one["ink"])
        assert (ground < 0.05) == dark, where
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7, where
        if "papers/" in one["page"] and one["width"] == 390:
            assert one["top"] < 844, f"{where}: the verdicts are not on the first screen"
        assert all(width <= one["width"] for width in one["strips"]), where
        if "?q=" in one["page"]:
            assert one["found"][0] == "ccgc", where
            assert [card["id"] for card in one["shown"]] == one["found"], where
        if "verdict=" in one["page"]:
            assert 0 < len(one["shown"]) < len(catalog.cards(built_in=True)), where
            for card in one["shown"]:
                assert card["topic"] == "vision", where
                assert "fails" in card["verdict"].split(), where
                assert float(card["minutes"]) <= 15, where
        elif one["page"].endswith("/index.html"):
            assert len(one["shown"]) == len(catalog.cards(built_in=True)), where
