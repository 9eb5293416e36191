"""The rules of the ledger: how windows reset, what routes have left, which account a key uses.

Most of them are pure functions of the state in `state`, which `codec` reads from documents.
`quota_tracker` joins them to a storage and a clock.
"""
