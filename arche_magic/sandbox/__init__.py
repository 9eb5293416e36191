"""Four providers on loopback, with limits and failures, to rehearse and to test without quota.

    with Sandbox(keys={"groq": 2}) as sandbox:
        os.environ.update(sandbox.environment())

Needs starlette and uvicorn (`pip install 'arche_magic[sandbox]'`), which are imported when a
sandbox starts. `python -m arche_magic.sandbox` runs one by itself.
"""

from .exchange import ReceivedRequest
from .failures import FAILURE_KINDS, TEMPORARY_KINDS
from .sandbox import Sandbox, SandboxNotInstalled

__all__ = [
    "FAILURE_KINDS",
    "TEMPORARY_KINDS",
    "ReceivedRequest",
    "Sandbox",
    "SandboxNotInstalled",
]
