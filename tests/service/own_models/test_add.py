"""From an ONNX file to a model that the service serves as the file computes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from models.onnx_tools.session import open_session
from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.errors import Busy, ModelExists, RefusedModel, StorageUnavailable, UnknownModel
from service.inference.loading import ServedModel
from service.inference.registry import Registry
from service.own_models.add import Added, Bounds, Options, add, build, remove
from service.own_models.fork_server import end_idle
from tests.helpers.foreign import SIDE, network, save
from tests.helpers.photographs import astronaut

NAMES = [f"kind {number}" for number in range(5)]


def labelled(folder: Path, names: list[str] | None = None) -> Path:
    path = folder / "names.txt"
    path.write_text("".join(f"{name}\n" for name in names or NAMES))
    return path


def added(tmp_path: Path, model: onnx.ModelProto | None = None, **options: Any) -> Added:
    """Add a network as `m`, with labels unless the options say otherwise."""
    file = save(tmp_path / "given" / "network.onnx", model)
    if "labels" not in options:
        options["labels"] = labelled(tmp_path)
    options = {"name": "m", **options}
    return add(file, Options(**options), to=tmp_path / "zoo")


def served(zoo: Path, name: str = "m") -> ServedModel:
    registry = Registry([zoo], name)
    registry.load()
    return registry.get(name)


def picture(model: ServedModel) -> NDArray[np.float32]:
    return preprocess(astronaut(), model.card.input)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nhwc": {"layout": "nhwc"},
    "uint8": {"kind": TensorProto.UINT8, "layout": "nhwc"},
    "fp16": {"kind": TensorProto.FLOAT16},
    "fixed batch": {"batch": 4},
    "batch of one": {"batch": 1},
    "weights as inputs, opset 9": {"weights_as_inputs": True, "opset": 9, "ir_version": 4},
    "free size": {"shape": ["N", 3, "height", "width"]},
    "free sides": {"shape": ["N", "channels", "height", "width"]},
    "free sides, grey": {"shape": ["N", None, None, None], "channels": 1},
    "softmax": {"activation": "Softmax"},
    "sigmoid": {"activation": "Sigmoid"},
    "one sigmoid": {"activation": "Sigmoid", "classes": 1},
    "background": {"classes": 6},
    "grey": {"channels": 1},
    "odd names": {"input_name": "serving_default_input:0", "output_name": "StatefulPartitionedCall:0"},
    "more outputs": {"output_name": "logits", "more_outputs": [("hidden", "flat")]},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_added_model_gives_what_its_file_gives(variant: str, tmp_path: Path) -> None:
    options = VARIANTS[variant]
    file_model = network(**options)
    classes = 1 if options.get("classes") == 1 else 5
    result = added(tmp_path, file_model, labels=labelled(tmp_path, NAMES[:classes]))
    model = served(tmp_path / "zoo")
    assert model.labels == tuple(NAMES[:classes])
    assert result.card == model.card == read_card(tmp_path / "zoo" / "m")
    image = picture(model)
    tensor = image.transpose(0, 2, 3, 1) if options.get("layout") == "nhwc" else image
    spec = model.card.input
    tensor = np.repeat(tensor.astype(spec.dtype), spec.batch or 1, axis=0)
    given = open_session(file_model.SerializeToString())
    expected = given.run([result.card.output_name("logits")], {spec.name: tensor})[0][:1]
    logits = model.session.run(image)["logits"]
    tolerance = 1e-2 if variant == "fp16" else 1e-4
    np.testing.assert_allclose(logits, expected[:, model.card.class_offset :], atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "facts"),
    [
        ("nhwc", {"input.layout": ("nhwc", "file")}),
        ("uint8", {"input.dtype": ("uint8", "file"), "input.mean": ((0, 0, 0), "file")}),
        ("fp16", {"input.dtype": ("float16", "file"), "precision": ("fp16", "file")}),
        ("fixed batch", {"input.batch": (4, "file")}),
        ("free size", {"input.height": (224, "assumed"), "input.layout": ("nchw", "file")}),
        ("free sides", {"input.channels": (3, "file"), "input.layout": ("nchw", "file")}),
        ("free sides, grey", {"input.channels": (1, "file"), "input.mean": ((0,), "assumed")}),
        ("softmax", {"outputs.activation": ("softmax", "file")}),
        ("sigmoid", {"outputs.activation": ("sigmoid", "file"), "outputs.multi_label": (True, "file")}),
        ("one sigmoid", {"classes": (1, "file"), "outputs.activation": ("sigmoid", "file")}),
        ("background", {"outputs.class_offset": (1, "assumed"), "classes": (5, "file")}),
        ("grey", {"input.channels": (1, "file"), "input.mean": ((0,), "assumed")}),
    ],
)
def test_facts_of_the_file_are_in_the_card(
    variant: str, facts: dict[str, tuple[object, str]], tmp_path: Path
) -> None:
    options = VARIANTS[variant]
    names = NAMES[: 1 if options.get("classes") == 1 else 5]
    card = added(tmp_path, network(**options), labels=labelled(tmp_path, names)).card
    for path, (value, origin) in facts.items():
        holder, _, name = path.rpartition(".")
        at: Any = getattr(card, holder) if holder else card
        assert (at[name] if isinstance(at, dict) else getattr(at, name)) == value, path
        assert card.provenance[path].origin == origin, path
    of_file = {path for path, fact in card.provenance.items() if fact.origin == "file"}
    assert {"parameters", "macs", "precision"} <= of_file


def test_what_nothing_states_is_assumed_and_named(tmp_path: Path) -> None:
    result = added(tmp_path, labels=None)
    assert set(result.card.doubtful) == {
        "labels", "input.mean", "input.std", "input.resize", "input.fitting", "input.interpolation",
        "input.colour_order",
    }  # fmt: skip
    assert {"architecture", "block", "source.weights", "source.licence"} <= set(result.card.assumed)
    (warning,) = [line for line in result.warnings if line.startswith("assumed")]
    assert "labels labels-5-" not in warning
    assert "input.fitting center-crop (--fitting)" in warning
    assert served(tmp_path / "zoo").labels == tuple(f"class {number}" for number in range(5))


def test_a_preset_settles_the_preprocessing(tmp_path: Path) -> None:
    card = added(tmp_path, preset="torchvision").card
    assert card.doubtful == ()
    assert card.input.resize == SIDE * 256 // 224
    assert card.provenance["input.mean"].detail == "--preset torchvision"


def test_flags_beat_a_preset(tmp_path: Path) -> None:
    flags = {"input.colour_order": "bgr", "input.fitting": "stretch", "architecture": "mine"}
    card = added(tmp_path, preset="torchvision", facts=flags).card
    assert (card.input.colour_order, card.input.fitting, card.architecture) == ("bgr", "stretch", "mine")
    assert card.provenance["input.colour_order"].origin == "flag"


TIMM = {
    "architecture": "mine", "pretrained_cfg": {
        "input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "bicubic",
        "mean": [0.5] * 3, "std": [0.5] * 3,
    },
}  # fmt: skip


def test_metadata_beats_a_preset_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(TIMM))
    result = added(tmp_path, preset="torchvision", facts={"input.colour_order": "bgr"})
    spec, provenance = result.card.input, result.card.provenance
    assert (spec.mean, spec.interpolation, spec.colour_order) == ((127.5,) * 3, "bicubic", "bgr")
    assert (provenance["input.mean"].origin, provenance["input.mean"].detail) == (
        "metadata", "config.json (timm)"
    )  # fmt: skip
    assert (
        "input.interpolation: config.json (timm) says bicubic, --preset torchvision says bilinear; the first "
        "is taken"
    ) in result.warnings
    assert not any("colour_order" in line for line in result.warnings)


def test_an_output_that_only_its_name_decides_is_assumed(tmp_path: Path) -> None:
    model = network(output_name="logits", more_outputs=[("hidden", "flat")])
    result = added(tmp_path, model, preset="torchvision")
    fact = result.card.provenance["outputs.logits"]
    assert (fact.origin, fact.detail) == (
        "assumed", "2 outputs could be the scores ('logits', 'hidden'); its name is 'logits'"
    )  # fmt: skip
    assert result.card.doubtful == ("outputs.logits",)
    assert any("outputs.logits 5 (--output)" in line for line in result.warnings)
    file = tmp_path / "given" / "network.onnx"
    flag = Options(name="flag", labels=labelled(tmp_path), facts={"output": "logits"})
    assert add(file, flag, to=tmp_path / "zoo").card.provenance["outputs.logits"].origin == "flag"


def write_beside(tmp_path: Path, **files: object) -> None:
    (tmp_path / "given").mkdir()
    for stem, value in files.items():
        suffix, text = ("txt", value) if isinstance(value, str) else ("json", json.dumps(value))
        (tmp_path / "given" / f"{stem}.{suffix}").write_text(str(text))


@pytest.mark.parametrize("text", ["cat\ndog\n", "a\n\nb\nc\nd\n", "x\n" * 4 + "\n" + "x\n"])
def test_labels_beside_that_do_not_fit_are_left_out(text: str, tmp_path: Path) -> None:
    write_beside(tmp_path, labels=text, classes="".join(f"{name}\n" for name in NAMES))
    result = added(tmp_path, labels=None)
    assert served(tmp_path / "zoo").labels == tuple(NAMES)
    assert (result.card.provenance["labels"].origin, result.card.provenance["labels"].detail) == (
        "metadata", "classes.txt"
    )  # fmt: skip
    assert any(line.startswith("labels.txt") and line.endswith("not used") for line in result.warnings)


def test_without_labels_that_fit_they_are_assumed(tmp_path: Path) -> None:
    write_beside(tmp_path, labels="cat\ndog\n")
    result = added(tmp_path, labels=None)
    assert result.card.provenance["labels"].origin == "assumed"
    assert "labels.txt: 2 names for 5 scores (allowed: 5, or 4 with a background class); not used" in (
        result.warnings
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        [1, 2],
        "not JSON",
        {"image_size": 64, "num_channels": 1, "theme": "dark"},
        {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "image_size": 64},
        TIMM | {"num_classes": 1000},
    ],
    ids=["list", "text", "other program", "other network", "other timm network"],
)
def test_a_config_of_something_else_is_left_out(config: object, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "given" / "config.json").write_text(text)
    result = added(tmp_path, network(shape=["N", 3, "h", "w"]))
    assert (result.card.input.height, result.card.architecture) == (224, "unknown")
    assert not {"metadata"} & {fact.origin for fact in result.card.provenance.values()}
    (warning,) = [line for line in result.warnings if line.startswith("config.json")]
    assert warning.endswith("not used")


def test_the_files_size_beats_that_of_metadata(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(TIMM))
    result = added(tmp_path)
    assert (result.card.input.height, result.card.input.resize) == (SIDE, 20)
    assert result.card.provenance["input.height"].origin == "file"
    assert result.card.provenance["input.resize"].origin == "assumed"
    assert any("says 16, config.json (timm) says 32" in line for line in result.warnings)
    assert any("config.json (timm) has 40 for 32, 32, scaled to 16, 16" in line for line in result.warnings)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"input.layout": "nhwc"}, r"--layout: input.layout cannot be nhwc \(allowed: nchw, as the file's"),
        ({"input.dtype": "uint8"}, r"--dtype: input.dtype cannot be uint8 \(allowed: float32"),
        ({"input.size": (32, 32)}, r"--size: input.height cannot be 32 \(allowed: 16"),
        ({"input.batch": 8}, r"--batch: input.batch cannot be 8 \(allowed: 4"),
        ({"outputs.activation": "sigmoid"}, r"--activation: .* cannot be sigmoid \(allowed: softmax"),
        ({"output": "z"}, r"--output 'z': no such output \(allowed: 'y' float32 \(4, 5\)\)"),
        ({"input.mean": (0.0,) * 3}, "one is given without the other"),
        ({"input.fitting": "stretch", "input.resize": 20}, "--resize: the fitting is stretch"),
        ({"input.interpolation": "cubic"}, "input.interpolation: .*'bicubic'"),
    ],
)
def test_a_flag_that_contradicts_the_file_is_refused(
    facts: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedModel, match=words):
        added(tmp_path, network(batch=4, activation="Softmax"), facts=facts)
    assert not list((tmp_path / "zoo").iterdir())


def test_external_data_is_read_in_and_the_given_file_recorded(tmp_path: Path) -> None:
    file = tmp_path / "given" / "network.onnx"
    file.parent.mkdir()
    model = network()
    onnx.save_model(model, file, save_as_external_data=True, location="network.onnx.data", size_threshold=0)
    result = add(file, Options(name="m", labels=labelled(tmp_path)), to=tmp_path / "zoo")
    assert result.changes[0] == "tensors of network.onnx.data read in"
    assert result.card.given is not None
    assert result.card.given.bytes == file.stat().st_size
    data = file.with_name("network.onnx.data").read_bytes()
    (recorded,) = result.card.given.data
    assert (recorded.name, recorded.bytes) == ("network.onnx.data", len(data))
    assert recorded.sha256 == hashlib.sha256(data).hexdigest()
    assert {path.name for path in result.folder.iterdir()} == {
        "model.onnx", "card.json", "labels.txt", "classifier.npz"
    }  # fmt: skip
    served(tmp_path / "zoo")


@pytest.mark.slow
def test_an_embedding_and_exact_class_maps_are_added(tmp_path: Path) -> None:
    card = added(tmp_path).card
    model = served(tmp_path / "zoo")
    values = model.session.run(picture(model), ("logits", "embedding", "features"))
    assert card.classifier is not None
    with np.load(tmp_path / "zoo" / "m" / "classifier.npz") as head:
        np.testing.assert_allclose(
            values["embedding"] @ head["weight"].T + head["bias"], values["logits"], rtol=1e-4, atol=1e-4
        )
    np.testing.assert_allclose(values["features"].mean(axis=(2, 3)), values["embedding"], rtol=1e-4)


@pytest.mark.slow
def test_a_model_that_exists_is_kept_unless_replaced(tmp_path: Path) -> None:
    before = added(tmp_path).card.file.sha256
    with pytest.raises(ModelExists, match="'m': exists"):
        added(tmp_path, network(activation="Softmax"))
    assert read_card(tmp_path / "zoo" / "m").file.sha256 == before
    file = save(tmp_path / "other.onnx", network(activation="Softmax"))
    add(file, Options(name="m", labels=labelled(tmp_path)), to=tmp_path / "zoo", replace=True)
    assert read_card(tmp_path / "zoo" / "m").file.sha256 != before
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["m"]


@pytest.mark.slow
def test_of_two_adds_at_once_one_wins(tmp_path: Path) -> None:
    file, labels = save(tmp_path / "network.onnx"), labelled(tmp_path)

    def attempt(_: int) -> Added | ModelExists:
        try:
            return add(file, Options(name="m", labels=labels), to=tmp_path / "zoo")
        except ModelExists as error:
            return error

    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(attempt, range(2)))
    assert sorted(type(result).__name__ for result in results) == ["Added", "ModelExists"]
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["m"]
    served(tmp_path / "zoo")


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: it ends the same write in the same place."""
    file = save(tmp_path / "network.onnx", network(classes=2000))
    program = f"""
import resource, signal
from pathlib import Path
from service.errors import StorageUnavailable
from service.own_models.add import Options, add
from service.own_models.fork_server import end_idle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    add(Path({str(file)!r}), Options(name="m"), to=Path({str(tmp_path / "zoo")!r}))
except StorageUnavailable as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "the folder of models cannot be written: file too large" in ended.stdout, ended.stderr
    assert list((tmp_path / "zoo").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "zoo").write_text("a file")
    with pytest.raises(StorageUnavailable, match="the folder of models cannot be written: "):
        add(save(tmp_path / "network.onnx"), Options(name="m"), to=tmp_path / "zoo")


def test_a_removed_model_is_gone(tmp_path: Path) -> None:
    added(tmp_path)
    with pytest.raises(UnknownModel, match="'other': unknown"):
        remove("other", root=tmp_path / "zoo")
    with pytest.raises(UnknownModel):
        remove("..", root=tmp_path / "zoo")
    remove("m", root=tmp_path / "zoo")
    assert list((tmp_path / "zoo").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mobilenet_v3.onnx", "mobilenet_v3"),
        ("my net/model.onnx", "my-net"),
        ("repository/onnx/model.onnx", "repository"),
        ("a (1).onnx", "a-1"),
    ],
)
def test_the_name_comes_from_the_file(path: str, name: str, tmp_path: Path) -> None:
    file = save(tmp_path / path)
    assert add(file, Options(), to=tmp_path / "zoo").folder == tmp_path / "zoo" / name


@pytest.mark.parametrize("name", ["", "a b", "../a", ".hidden", "a/b", "x" * 65, "networks"])
def test_a_name_that_is_not_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"--name '.*': not a name"):
        added(tmp_path, name=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("nchw", ["N", "c", SIDE, SIDE]),
        ("nhwc", ["N", SIDE, SIDE, "c"]),
        ("nchw", ["N", "c", "h", "w"]),
        ("nhwc", ["N", "h", "w", "c"]),
        ("nchw", ["N", None, SIDE, SIDE]),
    ],
    ids=str,
)
def test_symbolic_channels_are_found(layout: str, shape: list[Any], tmp_path: Path) -> None:
    facts = {"input.size": (SIDE, SIDE)}
    spec = added(tmp_path, network(layout=layout, shape=shape), facts=facts).card.input
    assert (spec.layout, spec.channels, spec.height, spec.width) == (layout, 3, SIDE, SIDE)
    served(tmp_path / "zoo")


def test_sides_that_no_layout_allows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"input 'x': width 20000 \(allowed: 16384\)"):
        added(tmp_path, network(shape=["N", "c", SIDE, 20_000]))


@pytest.mark.parametrize(
    ("names", "facts", "offset", "origin"),
    [
        (NAMES, {}, 1, "assumed"),
        (["Background", *NAMES], {}, 1, "flag"),
        (NAMES, {"outputs.class_offset": 1}, 1, "flag"),
        (NAMES, {"outputs.class_offset": 0}, 0, "flag"),
    ],
)
def test_a_background_class_is_assumed_unless_it_is_stated(
    names: list[str], facts: dict[str, Any], offset: int, origin: str, tmp_path: Path
) -> None:
    result = added(tmp_path, network(classes=len(NAMES) + 1), labels=labelled(tmp_path, names), facts=facts)
    card = result.card
    assert (card.class_offset, card.classes) == (offset, len(NAMES))
    assert card.provenance["outputs.class_offset"].origin == origin
    assert ("outputs.class_offset" in card.doubtful) == (origin == "assumed")
    assert any("--class-offset" in warning for warning in result.warnings) == (origin == "assumed")
    model = served(tmp_path / "zoo")
    values = model.session.run(picture(model), ("logits", "embedding"))
    assert values["logits"].shape == (1, len(NAMES))
    with np.load(result.folder / "classifier.npz") as head:
        scores = values["embedding"] @ head["weight"].T + head["bias"]
    np.testing.assert_allclose(scores, values["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_symbolic_sizes_in_an_unknown_layout_are_tried(tmp_path: Path) -> None:
    model = network(layout="nhwc", shape=["a", "b", "c", "d"])
    card = added(tmp_path, model, facts={"input.size": (SIDE, SIDE)}).card
    assert card.input.layout == "nhwc"
    assert card.provenance["input.layout"].detail == "the file, which runs in no other layout"


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    """It is read again when the model has been tried; here it has gone by then."""
    file = save(tmp_path / "given" / "network.onnx")
    content = file.read_bytes()
    file.unlink()
    (tmp_path / "m").mkdir()
    with pytest.raises(RefusedModel, match=r"network\.onnx: cannot be read any more, no such file"):
        build(file, content, Options(labels=labelled(tmp_path)), tmp_path / "m", Bounds())


@pytest.mark.slow
def test_a_missing_folder_of_temporary_files_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_idle()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert added(tmp_path).folder.is_dir()
    end_idle()


def test_a_child_that_cannot_be_started_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_idle()
    monkeypatch.setattr("sys.executable", str(tmp_path / "missing"))
    with pytest.raises(Busy, match="a process to try the file cannot be started: no such file"):
        added(tmp_path)
