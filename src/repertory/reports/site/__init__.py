"""The gallery: plain static files made from cards and recorded results, in English and in Chinese."""

from repertory.reports.site.build import Built, build

__all__ = ["Built", "build"]
