"""Networks as NIR graphs and as JSON values."""
