"""The gallery: plain static files made from cards and recorded results, in English and in Chinese."""
