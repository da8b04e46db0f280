"""Language models that were pre-trained on text continue drum grooves."""

from repertory.papers.llm_drums.endpoint import HTTPDrummer, write_jsonl
from repertory.papers.llm_drums.model import Drummer, Example, RuleDrummer, make_example, rows_of
from repertory.papers.llm_drums.settings import DrumsConfig
from repertory.papers.llm_drums.sound import write_wav
from repertory.papers.llm_drums.structure import clusters, measures_of, stabilities, structure

__all__ = [
    "Drummer",
    "DrumsConfig",
    "Example",
    "HTTPDrummer",
    "RuleDrummer",
    "clusters",
    "make_example",
    "measures_of",
    "rows_of",
    "stabilities",
    "structure",
    "write_jsonl",
    "write_wav",
]
