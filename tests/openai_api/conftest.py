"""Sandboxes and configurations for them, in a separate folder for each test."""

from provider_fixtures import clock, own_folder, sandbox, start
from server_parts import configured, server, upstream

__all__ = ["clock", "configured", "own_folder", "sandbox", "server", "start", "upstream"]
