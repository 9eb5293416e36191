"""One kernel for most tests of the folder, and a separate sandbox for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from notebook_kernel import Kernel

from arche_magic.sandbox import Sandbox


@pytest.fixture(scope="session")
def running_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    yield kernel
    kernel.stop()


# Warnings that come once per process come once per test.
START = """get_ipython().config.pop('ArcheMagics', None)
%reload_ext arche_magic
import sys
if env_file := sys.modules.get('arche_magic.llm_providers.config.env_file'):
    env_file._warned.clear()
"""


@pytest.fixture
def kernel(running_kernel: Kernel) -> Iterator[Kernel]:
    """A kernel with the extension loaded, and no keys."""
    running_kernel.forget_keys(before=START)
    yield running_kernel
    running_kernel.run("%unload_ext arche_magic")


@pytest.fixture
def sandboxed(kernel: Kernel) -> Iterator[Callable[..., Sandbox]]:
    """Starts a sandbox outside the kernel and sets the kernel's variables for it."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Sandbox:
            sandbox = stack.enter_context(Sandbox(**settings))
            kernel.use(sandbox)
            return sandbox

        yield start
