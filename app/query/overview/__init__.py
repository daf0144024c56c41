"""The overview: what all workers report, added up."""
