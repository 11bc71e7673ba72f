"""Read facts from the ONNX file itself: its kind, its input, the output with the scores, its activation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.onnx_tools.describe import GraphFacts, TensorInfo, describe, image_layout
from models.onnx_tools.file_kind import file_kind, looks_truncated
from models.onnx_tools.inspect import MAX_BYTES, UnreadableModel, output_activation
from models.onnx_tools.prepare import consolidate
from models.zoo.card import MAX_BATCH, MAX_SIDE, Fact
from service.errors import RefusedModel, error_words
from service.inference.runtime_errors import one_line
from service.own_models.facts import Facts, Rank, words
from service.own_models.trial import Ran

_EXPORTS = {
    "pytorch": "torch.onnx.export(model.eval(), image, 'model.onnx')",
    "keras": "model.export('model.onnx', format='onnx')",
    "saved": "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    "tflite": "python -m tf2onnx.convert --tflite model.tflite --output model.onnx",
    "weights": "optimum-cli export onnx --model FOLDER OUTPUT",
}
_SUFFIXES = {
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ckpt": "pytorch",
    ".bin": "weights",
    ".safetensors": "weights",
    ".h5": "keras",
    ".hdf5": "keras",
    ".keras": "keras",
    ".tflite": "tflite",
    ".lite": "tflite",
    ".pb": "saved",
}
_SCORES = (
    "logits", "output", "probabilities", "output_0", "output0", "scores", "prob", "probs", "predictions",
    "classlabelprobs", "softmax", "output_probability",
)  # fmt: skip
"""Names of outputs that have a score for each class. If several outputs may, the earliest name counts."""
_DOMAINS = frozenset({"ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_FLOATS = ("float32", "float16", "float64")
_INPUTS = ("float32", "float16", "uint8")


def read_file(path: Path) -> bytes:
    """Return the content of the ONNX file at `path`, with its external tensors read in.

    Raises RefusedModel if the file is not an ONNX file. The message says what the file is, and how to export
    a network to ONNX.
    """
    if path.is_dir():
        raise RefusedModel(_folder(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RefusedModel(f"{path.name}: {size} bytes (allowed: {MAX_BYTES}, 2 GiB)")
        with path.open("rb") as file:
            beginning = file.read(4096)
    except FileNotFoundError:
        raise RefusedModel(f"{path.name}: no such file") from None
    except OSError as error:
        raise RefusedModel(f"{path.name}: cannot be read, {error_words(error)}") from None
    kind = file_kind(beginning)
    if kind is not None:
        raise RefusedModel(f"{path.name}: not an ONNX file, it is {kind}{_how(path)}")
    try:
        return consolidate(path)
    except UnreadableModel as error:
        if looks_truncated(path.read_bytes()):
            raise RefusedModel(f"{path.name}: cut off after {size} bytes: download it again") from None
        raise RefusedModel(f"{path.name}: {one_line(str(error))}{_how(path)}") from None
    except OSError as error:
        raise RefusedModel(f"{path.name}: cannot be read, {error_words(error)}") from None


def read_graph(content: bytes, name: str, size: tuple[int, ...] | None = None) -> GraphFacts:
    """Return the facts of the graph. Raises RefusedModel for a damaged file or one with custom operators."""
    try:
        graph = describe(content, size)
    except UnreadableModel as error:
        raise RefusedModel(f"{name}: {one_line(str(error))}") from None
    unknown = [domain for domain in graph.custom_domains if domain not in _DOMAINS]
    if unknown:
        raise RefusedModel(
            f"{name}: operators of {words(unknown)}, which ONNX Runtime does not have "
            "(allowed: standard ones, and com.microsoft); export without custom operators"
        )
    return graph


def read_input(graph: GraphFacts, facts: Facts) -> None:
    """Add to the facts what the graph's input demands. Raises RefusedModel if it does not take one image."""
    image = _image(graph)
    file = "the file"
    facts.state("input.name", image.name, Rank.FORCED, file)
    facts.state("input.dtype", image.dtype, Rank.FORCED, file)
    shape = image.shape or (None, None, None, None)
    layout = image_layout(shape)
    if layout is not None:
        facts.state("input.layout", layout, Rank.FORCED, f"the file's input {_shape(shape)}")
    elif all(isinstance(side, int) for side in shape[1:]) and not {1, 3} & {shape[1], shape[3]}:
        raise RefusedModel(f"input '{image.name}': {_shape(shape)} (allowed: 1 or 3 channels, first or last)")
    batch = shape[0]
    if isinstance(batch, int):
        if not 0 < batch <= MAX_BATCH:
            raise RefusedModel(f"input '{image.name}': a batch of {batch} (allowed: 1 to {MAX_BATCH})")
        facts.state("input.batch", batch, Rank.FORCED, f"the file's input {_shape(shape)}")


def read_sides(graph: GraphFacts, layout: str, facts: Facts) -> None:
    """Add the channels, height and width that the input has in this `layout`, if the graph fixes them."""
    shape = graph.inputs[0].shape or (None, None, None, None)
    names = ("channels", "height", "width") if layout == "nchw" else ("height", "width", "channels")
    for name, side in zip(names, shape[1:], strict=True):
        if isinstance(side, int) and side > 0:
            if name == "channels" and side not in (1, 3):
                raise RefusedModel(
                    f"input '{graph.inputs[0].name}': {side} channels in {layout} (allowed: 1 or 3)"
                )
            if side > MAX_SIDE:
                raise RefusedModel(f"input '{graph.inputs[0].name}': {name} {side} (allowed: {MAX_SIDE})")
            facts.state(f"input.{name}", side, Rank.FORCED, f"the file's input {_shape(shape)}")


def same_in_both_layouts(graph: GraphFacts) -> bool:
    """Return whether the input has the same channels, height and width in both layouts.

    This is also true if the graph leaves all three open.
    """
    sides = [side if isinstance(side, int) else None for side in graph.inputs[0].shape[1:]]
    return not sides or sides == [sides[2], sides[0], sides[1]]


def choose_output(ran: Sequence[Ran], wanted: str | None) -> tuple[Ran, Fact]:
    """Return the output with one score per class, and why it was chosen.

    `wanted`: the output that the option `--output` names, or None. The origin of the reason is "flag" if the
    option names the output, and "file" if only one output has scores. It is "assumed" if several outputs have
    scores and one was chosen by its name. Raises RefusedModel if `wanted` is not an output with scores, if no
    output has scores, or if several have scores and none of them has a name that is usual for scores.
    """
    listed = ", ".join(f"'{output.name}' {output.dtype} {_shape(output.shape)}" for output in ran)
    if wanted is not None:
        chosen = [output for output in ran if output.name == wanted]
        if not chosen:
            raise RefusedModel(f"--output '{wanted}': no such output (allowed: {listed})")
        if not _has_scores(chosen[0]):
            raise RefusedModel(_no_scores(chosen, listed))
        return chosen[0], Fact(origin="flag", detail="--output")
    candidates = [output for output in ran if _has_scores(output)]
    if not candidates:
        raise RefusedModel(_no_scores(ran, listed))
    if len(candidates) == 1:
        return candidates[0], Fact(origin="file", detail="the only output with a score for each class")
    for name in _SCORES:
        for output in candidates:
            if output.name.lower() == name:
                names = ", ".join(f"'{candidate.name}'" for candidate in candidates)
                detail = (
                    f"{len(candidates)} outputs could be the scores ({names}); its name is '{output.name}'"
                )
                return output, Fact(origin="assumed", detail=detail)
    raise RefusedModel(
        f"outputs: several could be the scores of classes ({listed}); name one with --output NAME"
    )


def read_activation(content: bytes, output: Ran, facts: Facts) -> None:
    """Add to the facts the activation that the graph applies to its scores: softmax, sigmoid or none."""
    applied = output_activation(content, output.name)
    if applied != "none":
        facts.state("outputs.activation", applied, Rank.FORCED, f"the file's last operator is {applied}")
    elif output.sums_to_one:
        facts.state("outputs.activation", "softmax", Rank.FORCED, "the file's scores on noise add up to 1")
    else:
        neither = "the file's last operator is neither softmax nor sigmoid"
        facts.state("outputs.activation", "none", Rank.FILE, neither)


def _image(graph: GraphFacts) -> TensorInfo:
    """Return the graph's only input. Raises RefusedModel if there are several, or if it takes no image."""
    if len(graph.inputs) != 1:
        listed = ", ".join(f"'{tensor.name}' {_shape(tensor.shape)}" for tensor in graph.inputs)
        raise RefusedModel(
            f"inputs: {len(graph.inputs)} ({listed or 'none'}) (allowed: one, the image); "
            "export the network with its other inputs as constants"
        )
    image = graph.inputs[0]
    if image.dtype not in _INPUTS:
        raise RefusedModel(
            f"input '{image.name}': {image.dtype} (allowed: {', '.join(_INPUTS)}); cast it inside the network"
        )
    if image.shape and len(image.shape) != 4:
        raise RefusedModel(
            f"input '{image.name}': {_shape(image.shape)}, {len(image.shape)} dimensions "
            "(allowed: 4, a batch of images)"
        )
    return image


def _has_scores(output: Ran) -> bool:
    """Return whether an output may have one row of scores for each image.

    Its shape must be (N, classes), possibly with further dimensions of length 1.
    """
    if output.dtype not in _FLOATS or len(output.shape) < 2:
        return False
    count = 1
    for side in output.shape[1:]:
        count *= side
    return count == max(output.shape[1:]) and count > 0


def _no_scores(ran: Sequence[Ran], listed: str) -> str:
    """Return a message on outputs without class scores. It says what kind of network has such outputs."""
    allowed = "(allowed: an image classifier with one score for each class)"
    if all(output.dtype in ("sequence", "map", "dict", "list") for output in ran):
        return f"outputs: {listed}, a sequence {allowed}; export without ZipMap (zipmap=False)"
    maps = [output for output in ran if len(output.shape) == 4 and min(output.shape[2:]) > 1]
    boxes = [output for output in ran if len(output.shape) == 3]
    if len(maps) > 1 or boxes:
        return (
            f"outputs: {listed}, as a detection network has; missing: boxes that the graph has decoded "
            "(allowed: an image classifier with one score for each class; a detector with boxes (1, N, 4) or "
            "(N, 4) and their scores, with NonMaxSuppression, or with both in one output and --labels)"
        )
    if maps:
        return f"outputs: {listed}, a map as a segmentation network or a feature extractor has {allowed}"
    return f"outputs: {listed} {allowed}"


def _how(path: Path) -> str:
    """Return text on how to export a file of the kind that the suffix of `path` suggests, or ""."""
    kind = _SUFFIXES.get(path.suffix.lower())
    return f", e.g. {_EXPORTS[kind]}" if kind else ""


def _folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return f"{path.name}: a TensorFlow SavedModel (allowed: an ONNX file); export it, {_EXPORTS['saved']}"
    files = sorted(file.relative_to(path).as_posix() for file in path.glob("**/*.onnx"))[:5]
    return f"{path.name}: a folder (allowed: an ONNX file{', such as ' + ', '.join(files) if files else ''})"


def _shape(shape: Sequence[object]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"
