"""Networks at run time: planning, populations, projections, and the ways of computing them."""
