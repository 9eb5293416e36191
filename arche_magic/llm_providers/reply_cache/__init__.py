"""Kept replies and vectors: `store` has the file, and `replay` answers requests from it."""
