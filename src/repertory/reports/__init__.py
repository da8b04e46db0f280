"""What a run found, beside what was published."""
