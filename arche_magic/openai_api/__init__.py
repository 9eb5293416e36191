"""The pool behind OpenAI's chat completions API, for libraries that speak it.

`handler.handle` answers one HTTP request. `transport` puts it below the official client, in this
process; `clients` builds such clients. Start with `arche_magic.openai_client()`.
"""
