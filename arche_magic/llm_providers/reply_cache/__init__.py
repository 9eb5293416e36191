"""Kept replies and vectors: `store` and `vectors` have the file, and `replay` answers from it."""
