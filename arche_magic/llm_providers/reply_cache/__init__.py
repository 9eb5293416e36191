"""Kept replies and vectors: `store` and `vector_store` have the file; `replay` answers from it."""
