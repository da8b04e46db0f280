"""What a paper is written against."""
