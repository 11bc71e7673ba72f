"""Start a module of this program as a child process."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_RUN = """
import runpy, sys
module, root = sys.argv[1:3]
sys.path.append(root)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def child_command(module: str) -> list[str]:
    """Return the command that runs `module` with this Python.

    The child imports nothing from the working directory, where a folder `models` may belong to another
    program. It imports this program from the installed packages. If this program is not installed, the child
    imports it from the folder of its sources.
    """
    return [sys.executable, "-P", "-c", _RUN, module, str(_ROOT)]
