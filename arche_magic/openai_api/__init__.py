"""Answers requests of OpenAI's API with your routes, for libraries that use this API.

`handler.handle` answers one HTTP request. `clients` connects it to the official client in this
process; `server` serves it at an address on this machine. Start with `arche_magic.openai_client()`.
"""
