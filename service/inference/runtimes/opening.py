"""Open a model in a runtime that is given by name. Tell which runtimes are installed, in which versions."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

from models.zoo.card import Card
from service.errors import InvalidParameter
from service.inference.runtime_errors import runtime_words
from service.inference.runtimes.base import RuntimeName, Session
from service.inference.runtimes.openvino import (
    OPENVINO_OPTIONS,
    FloatPrecision,
    OpenVinoSession,
    import_openvino,
    openvino_version,
)
from service.inference.session import RUNTIME_VERSION, SESSION_OPTIONS, OnnxSession

_HINT = "INFERENCE_PRECISION_HINT"
INSTALL_OPENVINO = ".venv/bin/pip install 'openvino>=2026.4'"
NOT_INSTALLED = f"OpenVINO is not installed (install it with: {INSTALL_OPENVINO})"


def is_installed(name: RuntimeName) -> bool:
    """Return whether the runtime's package is installed. A mere folder of its name does not count."""
    if name == "onnxruntime":
        return True
    try:
        return importlib.util.find_spec("openvino") is not None and bool(openvino_version())
    except importlib.metadata.PackageNotFoundError:
        return False


def obstacle_of(name: RuntimeName) -> str | None:
    """Import the runtime, and return the reason why it cannot be used, or None if it can.

    The first call takes as long as the import.
    """
    if name == "onnxruntime":
        return None
    return import_problem() if is_installed(name) else NOT_INSTALLED


@functools.cache
def import_problem() -> str | None:
    """Import OpenVINO, and return the reason why it cannot be imported, or None if it can.

    A failed import is not tried again.
    """
    try:
        import_openvino()
    except Exception as error:  # a broken package may raise anything
        return f"OpenVINO cannot be imported: {type(error).__name__}: {runtime_words(error)}"
    return None


def check_runtime(name: RuntimeName) -> None:
    """Raise InvalidParameter, with the command to install it, if the runtime is not installed."""
    if not is_installed(name):
        raise InvalidParameter(f"runtime '{name}': not installed (install it with: {INSTALL_OPENVINO})")


def import_runtime(name: RuntimeName) -> None:
    """Import the runtime now instead of when the first model is opened."""
    if name == "openvino":
        import_openvino()


def runtime_version(name: RuntimeName) -> str:
    """Return the installed version of the runtime."""
    return RUNTIME_VERSION if name == "onnxruntime" else openvino_version()


def session_options(name: RuntimeName) -> dict[str, str]:
    """Return the options of the runtime's sessions except for the number of threads.

    The name of the runtime and a dot precede the name of each option.
    """
    options = SESSION_OPTIONS if name == "onnxruntime" else OPENVINO_OPTIONS | {_HINT: "default"}
    return {f"{name}.{key}": value for key, value in options.items()}


def open_session(
    name: RuntimeName,
    content: bytes,
    card: Card,
    *,
    threads: int = 1,
    streams: int = 1,
    floats: FloatPrecision | None = None,
) -> Session:
    """Load an ONNX file's `content` for runs of `threads` threads each.

    `streams`: number of simultaneous runs that OpenVINO prepares for. `floats`: type of the float operators
    in OpenVINO. If it is None, the type is bf16 on CPUs with instructions for bf16, and f32 on other CPUs.
    Raises SessionError if the runtime cannot load the model, and InvalidParameter if the runtime is not
    installed.
    """
    check_runtime(name)
    if name == "onnxruntime":
        return OnnxSession(content, card, threads=threads)
    return OpenVinoSession(content, card, threads=threads, streams=streams, floats=floats)
