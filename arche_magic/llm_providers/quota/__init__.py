"""The rules of the ledger: how windows turn, what a route has left, whose quota a key spends.

Pure functions on small JSON documents; `quota_tracker` joins them to a storage and a clock.
"""
