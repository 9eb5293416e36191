"""Sandboxes and configurations for them, in a separate folder for each test."""

from provider_fixtures import clock, own_folder, sandbox, start

__all__ = ["clock", "own_folder", "sandbox", "start"]
