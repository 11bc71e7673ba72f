"""OpenVINO: load and run models. OpenVINO is optional, and only this module imports it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import threading
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.file_kind import what_it_is
from models.zoo.card import Card
from service.inference.runtime_errors import runtime_words
from service.inference.runtimes.base import RuntimeName, Session, SessionError, check_self_contained

FloatPrecision = Literal["f32", "bf16"]
"""Type in which OpenVINO computes the float operators of a network."""

OPENVINO_OPTIONS = {"NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO"}
"""Options of OpenVINO in benchmarks, which record them. CPU pinning is off: OpenVINO would pin a thread to
one core during a run, and the thread would wait for other work on this core even if another core is idle."""

_COMPUTES = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
"""Types of the operators whose precision decides the precision of a run."""


@functools.cache
def openvino_version() -> str:
    """Return the installed version of OpenVINO. Raises PackageNotFoundError if it is not installed."""
    return importlib.metadata.version("openvino")


@functools.cache
def import_openvino() -> Any:
    """Import and return OpenVINO. The first call takes a while. Raises ImportError."""
    return importlib.import_module("openvino")


class OpenVinoSession(Session):
    """Session of OpenVINO on the CPU. It computes only the card's main outputs."""

    runtime: ClassVar[RuntimeName] = "openvino"

    def __init__(
        self,
        content: bytes,
        card: Card,
        *,
        threads: int = 1,
        streams: int = 1,
        floats: FloatPrecision | None = None,
    ) -> None:
        """Load the `content` of an ONNX file for runs of one image, or of the card's fixed batch size.

        `threads`: number of threads per run. `streams`: largest number of runs under way at a time. `floats`:
        type of the float operators. If it is None, the type is bf16 on CPUs that have instructions for bf16,
        and f32 on other CPUs. Raises SessionError if the file does not load, and ImportError if OpenVINO is
        not installed.
        """
        super().__init__(card, card.main_outputs)
        openvino = import_openvino()
        check_self_contained(content)
        self._tensor = openvino.Tensor
        self._size = card.input.batch or 1
        options = OPENVINO_OPTIONS | {"NUM_STREAMS": str(streams), "INFERENCE_NUM_THREADS": threads * streams}
        if floats is not None:
            options["INFERENCE_PRECISION_HINT"] = floats
        try:
            core = openvino.Core()
            model = core.read_model(content, b"")
            outputs = [model.output(card.output_name(name)) for name in card.main_outputs]
            network = openvino.Model(outputs, model.get_parameters(), card.name)
            network.reshape([self._size, *card.input.graph_shape])
            self._compiled = core.compile_model(network, "CPU", options)
            used = _precisions(self._compiled)
        except Exception as error:
            words = what_it_is(content) or runtime_words(error)
            raise SessionError(f"OpenVINO {openvino_version()} cannot load the model: {words}") from error
        self._precision = precision_of(card.precision, used)
        self._order = {card.output_name(name): index for index, name in enumerate(card.main_outputs)}
        self._own = threading.local()  # each thread needs its own inference request

    @property
    def precision(self) -> str:
        """Precision in which the compiled network is computed: the card's precision, or another one.

        If the float operators are computed in bf16 or, on ARM, in fp16, the precision is `bf16` or `fp16`,
        and for an int8 model `int8+bf16` or `int8+fp16`. If no operator of an int8 model is computed in int8,
        the precision is `fp32`, `bf16` or `fp16`.
        """
        return self._precision

    def option(self, name: str) -> Any:
        """Return the value of an option of the compiled network. `name`: OpenVINO's name of the option."""
        return self._compiled.get_property(name)

    def _compute(self, image: NDArray[np.float32], names: list[str], limit_s: float | None) -> list[Any]:
        """Run the network. A run that takes longer than `limit_s` is cancelled."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()

        def run(batch: NDArray[Any]) -> list[Any]:
            # The input is set here, because `infer` would take as long to set it as a small network runs.
            request.set_input_tensor(0, self._tensor(np.ascontiguousarray(batch), shared_memory=True))
            if limit_s is None:
                request.infer(share_outputs=True)
            else:
                request.start_async()
                if not request.wait_for(int(limit_s * 1000)):
                    self._own.request = None  # a cancelled request cannot be used again
                    request.cancel()
                    raise TimeoutError
            return [request.get_output_tensor(self._order[name]).data.copy() for name in names]

        try:
            return self._in_batches(image, names, self._size, run)
        except TimeoutError as error:
            raise self._failed(f"a run takes longer than {limit_s:g} s") from error
        except Exception as error:
            reason = f"OpenVINO {openvino_version()} cannot run it: {runtime_words(error)}"
            raise self._failed(reason) from error


def _precisions(compiled: Any) -> frozenset[str]:
    """Return the types in which a compiled network computes its convolutions and matrix products.

    The names are in upper case, such as F32, BF16, I8 and U8.
    """
    facts = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
    return frozenset(
        _text(fact["runtimePrecision"]).upper() for fact in facts if _text(fact["layerType"]) in _COMPUTES
    )


def _text(value: Any) -> str:
    """Return the text of a value that OpenVINO may have wrapped in an object."""
    return str(getattr(value, "value", value))


def precision_of(declared: str, used: frozenset[str]) -> str:
    """Return the precision of a network, as `OpenVinoSession.precision` describes it.

    `declared`: the card's precision. `used`: the types in which the network is computed.
    """
    floats = "bf16" if "BF16" in used else "fp16" if "F16" in used else None
    if declared != "int8":
        return floats or declared
    if used.isdisjoint(("I8", "U8")):
        return floats or "fp32"
    return declared if floats is None else f"{declared}+{floats}"
