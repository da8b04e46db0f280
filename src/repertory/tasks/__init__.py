"""What papers of one job share."""
