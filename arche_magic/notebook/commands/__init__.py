"""The commands: a file for each `%llm_…`, with its options, its help and its function."""
