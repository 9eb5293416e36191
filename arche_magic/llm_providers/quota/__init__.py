"""The rules of the ledger: how windows reset, what routes have left, which account a key uses.

Pure functions on small JSON documents; `quota_tracker` joins them to a storage and a clock.
"""
