"""Four simulated providers on loopback, with limits and failures, for rehearsals and tests.

    with Sandbox(keys={"groq": 2}) as sandbox:
        os.environ.update(sandbox.environment())

This needs starlette and uvicorn (`pip install 'arche_magic[sandbox]'`), which are imported when a
sandbox starts. `python -m arche_magic.sandbox` runs a sandbox in its own process.

`app` receives a request, a class in `wires` reads it, `accounts` admits and charges it, `replies`
writes the reply, the same class in `wires` converts it to the provider's format, and `app` sends
it. `service` does these steps in order, and `failures` changes the result on request.
"""

from .failures import FAILURE_KINDS, TEMPORARY_KINDS
from .sandbox import Sandbox, SandboxNotInstalled
from .types import ReceivedRequest

__all__ = [
    "FAILURE_KINDS",
    "TEMPORARY_KINDS",
    "ReceivedRequest",
    "Sandbox",
    "SandboxNotInstalled",
]
