"""Sandboxes and configurations for them, in a separate folder for each test."""

from embedding_server import running_server, server
from provider_fixtures import clock, own_folder, sandbox, start

__all__ = ["clock", "own_folder", "running_server", "sandbox", "server", "start"]
