"""Answers OpenAI's API with your routes, for libraries that speak it.

`handler.handle` answers one HTTP request. `clients` puts it below the official client, in this
process; `server` makes it an address on this machine. Start with `arche_magic.openai_client()`.
"""
