"""Code shared by the papers of one task."""
