"""External data is read from the model's own folder only, and only where all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from models.onnx_tools.inspect import MAX_BYTES, UnreadableModel, external_files
from models.onnx_tools.prepare import consolidate
from tests.models.onnx_tools.graphs import FLATTEN, GEMM, POOL, chain, parsed, run
from tests.models.onnx_tools.test_inspect import HOLDERS

DATA = "model.onnx.data"


def split(folder: Path) -> Path:
    """A model in two files, as torch's exporter writes it."""
    path = folder / "model.onnx"
    onnx.save_model(
        parsed(chain(POOL, FLATTEN, GEMM)),
        path,
        save_as_external_data=True,
        location=DATA,
        size_threshold=0,
    )
    return path


def change(path: Path, **entries: str | None) -> None:
    """Change what the first external tensor of a file says of its place."""
    model = onnx.load_model(path, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.external_data)
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_a_model_in_two_files_becomes_one(tmp_path: Path) -> None:
    path = split(tmp_path)
    assert external_files(path.read_bytes()) == (DATA,)
    content = consolidate(path)
    assert external_files(content) == ()
    onnx.checker.check_model(parsed(content))
    np.testing.assert_array_equal(run(content, ["logits"])[0], run(chain(POOL, FLATTEN, GEMM), ["logits"])[0])


def test_a_model_in_one_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(chain(POOL, FLATTEN, GEMM))
    assert consolidate(path) == path.read_bytes()


@pytest.mark.parametrize("holder", HOLDERS)
def test_tensors_are_read_in_wherever_they_are(
    tmp_path: Path, holder: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    values = np.arange(10, dtype=np.float32)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "data").write_bytes(bytes(8) + values.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights/data"), ("offset", "8"), ("length", "40")):
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "model.onnx"
    path.write_bytes(holder(tensor).SerializeToString())
    content = consolidate(path)
    assert external_files(content) == ()
    assert values.tobytes() in content


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    path = split(tmp_path)
    change(path, offset=None, length=None)
    assert external_files(consolidate(path)) == ()


def test_a_type_of_half_bytes_is_read(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="data")
    (tmp_path / "data").write_bytes(b"\x21\x03")
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString())
    read = parsed(consolidate(path)).graph.initializer[0]
    assert numpy_helper.to_array(read).tolist() == [1, 2, 3]


OUTSIDE = {
    "/etc/hostname": "is at '/etc/hostname'",
    "../secret": "is at '../secret'",
    "weights/../../secret": "is at 'weights/../../secret'",
    "..\\secret": r"is at '..\\secret'",
    "C:\\secret": r"is at 'C:\\secret'",
    "\\\\host\\secret": "is at ",
    "": "is at ''",
    "a\0b": r"is at 'a\x00b'",
    "_ORT_MEM_ADDR_": "refers to an address in memory",
    "x/_ORT_MEM_ADDR_": "refers to an address in memory",
    "missing\n.data": r"is missing: put 'missing\n.data' into the folder of model.onnx",
    "x" * 5000: "is missing: put 'xxx",
    ".": "is not a regular file",
}


@pytest.mark.parametrize("location", OUTSIDE)
def test_a_place_outside_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(1000))
    (tmp_path / "model").mkdir()
    path = split(tmp_path / "model")
    change(path, location=location)
    with pytest.raises(UnreadableModel) as refused:
        consolidate(path)
    words = OUTSIDE[location].replace("\\\\", "\\")
    assert words in str(refused.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = split(tmp_path / "model")
    (path.parent / DATA).rename(tmp_path / "secret")
    (path.parent / DATA).symlink_to("../secret")
    with pytest.raises(
        UnreadableModel, match=r"is a link out of the folder of model\.onnx: copy the file there"
    ):
        consolidate(path)


def test_a_folder_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    path = split(tmp_path / "model")
    shutil.copy(path.parent / DATA, tmp_path / "other" / DATA)
    (path.parent / "weights").symlink_to("../other")
    change(path, location=f"weights/{DATA}")
    with pytest.raises(UnreadableModel, match="is a link out of the folder"):
        consolidate(path)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    path = split(tmp_path)
    (tmp_path / DATA).rename(tmp_path / "blob")
    (tmp_path / DATA).symlink_to("blob")
    assert external_files(consolidate(path)) == ()


def test_a_link_in_a_circle_is_missing(tmp_path: Path) -> None:
    path = split(tmp_path)
    (tmp_path / DATA).unlink()
    (tmp_path / DATA).symlink_to(DATA)
    with pytest.raises(UnreadableModel, match="is missing"):
        consolidate(path)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = split(tmp_path)
    (tmp_path / DATA).unlink()
    os.mkfifo(tmp_path / DATA)
    with pytest.raises(UnreadableModel, match="is not a regular file"):
        consolidate(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "100000"}, "is cut off"),
        ({"offset": "-4"}, "offset of external data is '-4'"),
        ({"offset": "1e3"}, "offset of external data is '1e3'"),
        ({"offset": "9" * 30}, "offset of external data is '999"),
        ({"length": "٤"}, "length of external data is '٤'"),
        ({"length": "8"}, "has 8 bytes for tensor 'k', not 648"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(tmp_path: Path, entries: dict[str, str], words: str) -> None:
    path = split(tmp_path)
    change(path, **entries)
    with pytest.raises(UnreadableModel, match=words):
        consolidate(path)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = split(tmp_path)
    os.truncate(tmp_path / DATA, 100)
    with pytest.raises(UnreadableModel, match="is cut off: 100 bytes"):
        consolidate(path)


def test_a_model_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    elements = 2**28
    tensors = []
    for number in range(2):
        tensor = TensorProto(
            name=f"w{number}",
            data_type=TensorProto.FLOAT,
            dims=[elements],
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value="data")
        tensors.append(tensor)
    (tmp_path / "data").touch()
    os.truncate(tmp_path / "data", elements * 4)  # sparse: takes no space
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], tensors)).SerializeToString())
    with pytest.raises(
        UnreadableModel, match=rf"a model of \d+ bytes with its external data \(allowed: {MAX_BYTES}"
    ):
        consolidate(path)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, 3 * 2**30)
    with pytest.raises(UnreadableModel, match=f"a file of 3221225472 bytes .allowed: {MAX_BYTES}"):
        consolidate(path)


def test_text_can_not_be_external(tmp_path: Path) -> None:
    path = split(tmp_path)
    model = onnx.load_model(path, load_external_data=False)
    model.graph.initializer[0].data_type = TensorProto.STRING
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnreadableModel, match="of type string is external"):
        consolidate(path)


def test_what_another_file_is_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(UnreadableModel, match="not an ONNX file, it is an HTML page"):
        consolidate(path)
    path.write_bytes(chain(POOL, FLATTEN, GEMM)[:-20])
    with pytest.raises(UnreadableModel, match="is cut off after"):
        consolidate(path)


def test_a_file_that_is_missing_or_a_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        consolidate(tmp_path / "model.onnx")
    with pytest.raises(IsADirectoryError):
        consolidate(tmp_path)


def test_a_file_names_data_that_it_does_not_use(tmp_path: Path) -> None:
    model = parsed(chain(POOL, FLATTEN, GEMM))
    external_data_helper.set_external_data(model.graph.initializer[0], "nowhere")
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    content = consolidate(path)
    assert external_files(content) == ()
    np.testing.assert_array_equal(run(content, ["logits"])[0], run(chain(POOL, FLATTEN, GEMM), ["logits"])[0])
