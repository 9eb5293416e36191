"""Helpers for text: safe characters, harmless Markdown, and the code and reasoning in a reply.

`characters` removes what must not be written or shown, `markdown` makes a model's Markdown
harmless, `code_blocks` finds the code in a reply, `json_values` its JSON, and `reasoning` removes
the reasoning around an answer. `wording` has parts of messages, such as counts.
"""
