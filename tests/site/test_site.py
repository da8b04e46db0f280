"""The site: every link leads somewhere, nothing is fetched from outside, and the verdicts are the recorded ones."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import subprocess
import threading
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from repertory import catalog
from repertory.core.problem import Problem
from repertory.execution.experiment import Experiment
from repertory.reports.site import build, exports, serve
from repertory.reports.site.pictures import idea
from repertory.reports.site.records import local_runs, recorded_results
from repertory.reports.site.searching import index
from repertory.verdicts import history
from repertory.verdicts.results import Result
from tests.site.reading import Page

Made = dict[str, str]
Results = Mapping[str, Sequence[Result]]


@pytest.fixture(scope="session")
def read(made: Made) -> dict[str, Page]:
    """Path -> page."""
    return {name: Page(text) for name, text in made.items() if name.endswith(".html")}


# -- the pages ----------------------------------------------------------------------------------


def test_every_link_leads_to_a_file_and_a_place_in_it(made: Made, read: dict[str, Page]) -> None:
    pictures = build.pictures()
    for name, page in read.items():
        for link in [*page.links, *page.loaded, *page.alternates.values()]:
            if link.startswith(("https://arxiv.org/", "https://github.com/")):
                continue
            path, _, place = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert target in made or target in pictures, f"{name}: {link}"
            assert not place or place in read[target].ids, f"{name}: {link}"


def test_nothing_is_loaded_from_outside(made: Made, read: dict[str, Page]) -> None:
    for name, page in read.items():
        assert not [link for link in page.loaded if re.match(r"[a-z]+:|//", link)], name
    for name, text in made.items():
        if name.endswith((".css", ".js", ".svg")):
            assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text), name
            assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), name


def test_identifiers_are_unique_and_every_page_has_one_heading(made: Made, read: dict[str, Page]) -> None:
    for name, page in read.items():
        assert [i for i, count in Counter(page.ids).items() if count > 1] == [], name
        assert len(re.findall(r"<h1\b", made[name])) == 1, name
        assert not re.search(r"\{\{ |\{%|<built-in|Undefined", made[name]), name


def test_every_page_is_there_in_both_languages_and_the_switch_stays_on_it(made: Made, read: dict[str, Page]) -> None:
    pages = {lang: {name[3:] for name in read if name.startswith(f"{lang}/")} for lang in ("en", "zh")}
    assert pages["en"] == pages["zh"]
    assert {f"papers/{card.id}.html" for card in catalog.cards(built_in=True)} < pages["en"]
    for lang, other in (("en", "zh"), ("zh", "en")):
        for name in pages[lang]:
            page, up = read[f"{lang}/{name}"], "../" * (name.count("/") + 1)
            assert f"{up}{other}/{name}" in page.links
            assert page.alternates == {
                "en": f"{up}en/{name}", "zh-Hans": f"{up}zh/{name}", "x-default": f"{up}en/{name}",
            }  # fmt: skip


def test_a_chinese_page_speaks_chinese(read: dict[str, Page]) -> None:
    english = re.compile(
        r"(?<![=-])\b(holds|fails|undecided|not tested|published|measured|accepted|claimed|the next look|interval)\b"
    )
    for name, page in read.items():
        if name.startswith("zh/"):
            spoken = [text for text in page.words["zh-Hans"] if english.search(text)]
            assert spoken == [], name
        elif name.startswith("en/"):
            names = {"图神经网络"}  # of the search box
            spoken = [text for text in page.words["en"] if re.search("[\u3400-\u9fff]", text) and text not in names]
            assert spoken == [], name


def test_home_is_small(made: Made) -> None:
    for lang in ("en", "zh"):
        parts = (f"{lang}/index.html", "assets/site.css", "assets/site.js", "assets/search.js", "assets/icon.svg")
        assert sum(len(made[part].encode()) for part in parts) < 150_000


def test_every_paper_has_a_drawing_on_its_page_and_at_home(made: Made) -> None:
    for lang in ("en", "zh"):
        assert made[f"{lang}/index.html"].count('<svg class="idea"') == len(catalog.cards(built_in=True))
        for card in catalog.cards(built_in=True):
            assert '<svg class="idea"' in made[f"{lang}/papers/{card.id}.html"], card.id


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        ("<svg", "not SVG"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"/>', "240 x 120"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 120"><script>1</script></svg>', "holds script"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 120"><path d="" onload="1"/></svg>', "onload"),
    ],
)
def test_a_drawing_of_more_than_shapes_is_refused(toy: Path, drawing: str, said: str) -> None:
    assert idea("toy") == ""
    (toy / "idea.svg").write_text(drawing, encoding="utf-8")
    with pytest.raises(Problem, match=said):
        idea("toy")


def test_text_of_cards_is_escaped(results: Results) -> None:
    card = catalog.card("emo")
    claims = (card.claim[0].model_copy(update={"en": "<script>alert(1)</script>"}), *card.claim[1:])
    odd = card.model_copy(update={"title": "</script><b>", "claim": claims})
    made = build.pages([odd], {})
    text = made["en/papers/emo.html"]
    assert "<script>alert" not in text
    assert text.count("</script>") == text.count("<script")
    assert "&lt;script&gt;alert(1)" in text


# -- what it says -------------------------------------------------------------------------------


def test_the_verdicts_are_the_recorded_ones(made: Made) -> None:
    stored = catalog.recorded()
    totals: Counter[str] = Counter()
    for card in catalog.cards(built_in=True):
        found = stored.get(card.id, [])
        expected = [[v["verdict"].replace(" ", "-") for v in result["verdicts"]] for result in found]
        for lang in ("en", "zh"):
            marks = re.findall(r'<p class="marks">(.*?)</p>', made[f"{lang}/papers/{card.id}.html"], flags=re.S)
            assert [re.findall(r'class="m ([\w-]+)"', one) for one in marks] == expected, card.id
        totals.update(v["verdict"] for result in found if result["scale"] == "laptop" for v in result["verdicts"])
    words = ("holds", "undecided", "fails", "not tested")
    for lang in ("en", "zh"):
        box = re.search(r'<div class="totals">.*?</ul>', made[f"{lang}/index.html"], flags=re.S)
        assert box
        assert [int(n) for n in re.findall(r'<b class="num">(\d+)</b>', box[0])] == [totals[word] for word in words]


def test_every_measured_comparison_has_a_plot_with_a_dot_for_each_seed(made: Made) -> None:
    (result,) = catalog.recorded("ceco")["ceco"]
    text = made["en/papers/ceco.html"]
    for claim, verdict in zip(catalog.card("ceco").claim, result["verdicts"], strict=True):
        article = re.search(rf'<article class="claim" id="{claim.id}">(.*?)</article>', text, flags=re.S)
        assert article, claim.id
        tests = [
            finding
            for test, finding in zip(claim.elementary, verdict["tests"], strict=True)
            if test.kind == "compare" and finding["estimate"] is not None
        ]
        strips = article[1].split('<svg class="strip ')[1:]
        dots = [strip.partition("</svg>")[0].count('class="seed"') for strip in strips]
        assert sum(dots) >= sum(finding["n"] for finding in tests), claim.id


def test_what_was_tried_and_earlier_records_are_shown(made: Made) -> None:
    for kept in (catalog.results_folder() / build.PICTURES).glob("*.json"):
        content = json.loads(kept.read_text(encoding="utf-8"))
        text = made[f"en/papers/{content['paper']}.html"]
        assert f"repertory predict my_model/ sample/{content['part']} --out answers/" in text
        assert all(f'src="../../pictures/{name}"' in text for name in content["pictures"])
    entries = history.read(catalog.results_folder())
    for paper, results in catalog.recorded().items():
        now = {(result["scale"], result["date"]) for result in results}
        assert now <= {(one.scale, one.date) for one in entries if one.paper == paper}, f"{paper} is not in the history"
        earlier = [one for one in entries if one.paper == paper and (one.scale, one.date) not in now]
        assert (f"{len(earlier)} earlier records" in made[f"en/papers/{paper}.html"]) == bool(earlier)


def test_a_claim_without_a_recorded_result_is_told(made: Made, results: Results) -> None:
    unrecorded = [card.id for card in catalog.cards(built_in=True) if not results.get(card.id)]
    for paper in unrecorded:
        assert "not recorded yet" in made[f"en/papers/{paper}.html"]
        assert "尚无记录" in made[f"zh/papers/{paper}.html"]


def test_a_paper_whose_optional_packages_are_absent_is_shown_with_its_recorded_verdicts(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(paper: str) -> None:
        raise Problem(f"{paper} needs a package")

    monkeypatch.setattr(catalog, "load", absent)
    made = build.pages([catalog.card("ceco")], {"ceco": recorded_results()["ceco"]})
    text = made["en/papers/ceco.html"]
    marks = re.findall(r'<p class="marks">(.*?)</p>', text, flags=re.S)[0]
    stored = [v["verdict"].replace(" ", "-") for v in catalog.recorded("ceco")["ceco"][0]["verdicts"]]
    assert re.findall(r'class="m ([\w-]+)"', marks) == stored
    assert 'class="seed"' in text


# -- for machines -------------------------------------------------------------------------------


def test_json_is_valid_and_complete(made: Made) -> None:
    listed = json.loads(made["index.json"])["papers"]
    cards = catalog.cards(built_in=True)
    assert {paper["id"]: len(paper["claims"]) for paper in listed} == {card.id: len(card.claim) for card in cards}
    for paper in listed:
        for claim in paper["claims"]:
            review = json.loads(made[claim["json"]])
            assert review["@type"] == "ClaimReview"
            assert review["claimReviewed"] == claim["text"]["en"]
            assert review["itemReviewed"]["appearance"]["@type"] == "ScholarlyArticle"
            tested = [v for v in claim["verdicts"] if v["verdict"] != "not tested"]
            assert ("reviewRating" in review) == bool(tested)
            if tested:
                assert review["reviewRating"]["alternateName"] == tested[0]["sentence"]
                assert review["reviewRating"]["ratingValue"] == exports.RATING[tested[0]["verdict"]]
            if claim["verdicts"]:
                assert claim["badge"] in made


def test_badges_are_pictures_that_say_the_verdict(made: Made) -> None:
    for name, text in made.items():
        if name.startswith("badges/"):
            root = ElementTree.fromstring(text)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert re.search("holds|fails|undecided|not tested", root.attrib["aria-label"]), name


def test_addresses_are_absolute_where_the_host_is_known(results: Results) -> None:
    made = build.pages([catalog.card("ceco")], results, url="https://example.org/r/")
    assert 'hreflang="zh-Hans" href="https://example.org/r/zh/papers/ceco.html"' in made["en/papers/ceco.html"]
    (paper,) = json.loads(made["index.json"])["papers"]
    assert paper["page"]["en"] == "https://example.org/r/en/papers/ceco.html"


def test_a_paper_is_cited(made: Made) -> None:
    entry = exports.bibtex(catalog.card("emo"))
    assert entry.startswith("@inproceedings{zhang2023emo,")
    assert "eprint = {2301.01146}" in entry
    assert entry.count("{") == entry.count("}")
    assert "@inproceedings{zhang2023emo," in made["en/papers/emo.html"]


# -- search -------------------------------------------------------------------------------------

QUERIES = {
    "graph clustering": "ccgc", "clustering graphs": "ccgc", "backdoor": "doorping", "proton": "proton_dose",
    "drums": "llm_drums", "clustring of graphs": "ccgc", "3d detection lidar": "cmt", "click prediction": "xdeepint",
    "图聚类": "ccgc", "后门": "doorping", "质子": "proton_dose", "点击率": "xdeepint", "联想记忆 突触": "apb",
}  # fmt: skip


def test_the_index_has_the_words_of_repertory_search() -> None:
    cards = catalog.cards(built_in=True)
    found = index(cards)
    words = found["words"]
    assert isinstance(words, dict)
    assert {"图聚", "emo", "cluster", "2301"} <= words.keys()
    papers = range(len(cards))
    assert all(
        paper in papers and score > 0
        for flat in words.values()
        for paper, score in zip(flat[::2], flat[1::2], strict=True)
    )


def test_the_browser_finds_what_repertory_search_finds(made: Made, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: nothing runs search.js here")
    for name in ("search.js", "search-index.js"):
        (tmp_path / name).write_text(made[f"assets/{name}"], encoding="utf-8")
    asked = f"""
        globalThis.window = globalThis;
        const search = require("./search.js");
        require("./search-index.js");
        const found = {json.dumps(list(QUERIES))}.map(q => search(repertoryIndex, q).map(pair => pair[0]));
        console.log(JSON.stringify([...found, search(repertoryIndex, "zzqxv"), search(repertoryIndex, "")]));
    """
    said = subprocess.run([node, "-e", asked], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    *found, nothing, empty = json.loads(said)
    assert dict(zip(QUERIES, (papers[0] for papers in found), strict=True)) == QUERIES
    assert nothing == empty == []


# -- building -----------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repertory of one paper."""
    cards = [catalog.card("ceco")]
    monkeypatch.setattr(catalog, "cards", lambda built_in=False: cards)


def test_a_build_removes_what_the_last_one_wrote_and_nothing_else(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "public"
    first = build.build(out)
    assert first.home.exists()
    assert first.files == sum(1 for path in out.rglob("*") if path.is_file()) - 1  # the manifest
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref", encoding="utf-8")
    (out / "CNAME").write_text("example.org", encoding="utf-8")
    monkeypatch.setattr(catalog, "cards", lambda built_in=False: [catalog.card("emo")])
    build.build(out)
    assert not (out / "en/papers/ceco.html").exists()
    assert (out / "en/papers/emo.html").exists()
    assert (out / "CNAME").exists()
    assert (out / ".git" / "HEAD").exists()
    monkeypatch.setattr(catalog, "cards", lambda built_in=False: [catalog.card("ceco")])
    build.build(out)
    assert {path: path.read_bytes() for path in before} == before, "the same input gives the same files"


def test_a_folder_of_somebody_else_is_refused(small: None, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(Problem, match="not empty"):
        build.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "site.json").write_text('{"files": ["../outside.txt", "/etc/hostname"]}', encoding="utf-8")
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("x", encoding="utf-8")
    build.build(tmp_path)
    assert outside.exists(), "a manifest names files below its folder alone"


def test_local_runs_stand_beside_recorded_ones(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Experiment("toy", "smoke", out=tmp_path / "runs" / "toy" / "smoke").run(seeds=2)
    Experiment("toy", "smoke", out=tmp_path / "runs" / "toy" / "dry", dry_run=True).run(seeds=1)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{", encoding="utf-8")
    found, problems = local_runs(tmp_path / "runs")
    assert [result.scale for result in found["toy"]] == ["smoke"]
    assert [problem.what.partition(" ")[0] for problem in problems] == ["config.json"]
    monkeypatch.setattr(catalog, "cards", lambda built_in=False: [catalog.card("toy")])
    built = build.build(tmp_path / "out", runs=tmp_path / "runs")
    assert len(built.problems) == 1
    page = (tmp_path / "out/en/papers/toy.html").read_text(encoding="utf-8")
    assert "local run" in page
    assert "rings, smoke, 2 seeds" in page
    assert "accuracy: wide − plain" in page
    assert "准确率: wide − plain" in (tmp_path / "out/zh/papers/toy.html").read_text(encoding="utf-8")


def test_the_server_answers_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>", encoding="utf-8")
    with serve.served(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with urllib.request.urlopen(serve.address(server)) as answer:
                assert answer.read() == b"<p>here</p>"
            with pytest.raises(Problem, match="no server can listen"), serve.served(tmp_path, server.server_port):
                pass
        finally:
            server.shutdown()
            thread.join()
