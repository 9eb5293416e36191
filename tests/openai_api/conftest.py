"""Sandboxes that we are configured for, in a folder of their own per test."""

from provider_fixtures import clock, own_folder, sandbox, start

__all__ = ["clock", "own_folder", "sandbox", "start"]
