"""Class names from text, JSON and a model's metadata, and the label set that they form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.zoo.display import shown
from models.zoo.files import not_text, read_text
from models.zoo.labels import BUILT_IN
from service.errors import RefusedModel, error_words
from service.evaluation.classes import built_in_lines, forms
from service.own_models.facts import Rank, words

MAX_BYTES = 16 << 20
"""Maximum size in bytes of a file of labels or metadata that is read."""
_WNID = re.compile(r"n\d{8}")
BACKGROUND = frozenset({"background", "__background__", "_background_", "dummy", "__dummy__", "???"})
"""If the first label is one of these, it names a background class."""
_SAME_AS_BUILT_IN = 0.95
"""If at least this share of the names are those of a built-in label set, all its names are used instead.

This applies only to built-in label sets of _MANY names or more."""
_MANY = 100
_PICKLES = frozenset({".pkl", ".pickle", ".p", ".joblib", ".pt", ".pth", ".npy", ".npz"})


@dataclass(frozen=True)
class GivenLabels:
    """Class names of one source, including a background class if the source has one.

    `rank`: the precedence of the source. `detail`: text that names the source.
    """

    names: tuple[str, ...]
    rank: Rank
    detail: str


@dataclass(frozen=True)
class BuiltIn:
    """The name of a built-in label set, never that of a file.

    HTTP requests give such a name, because clients must not name files of this machine.
    """

    name: str


@dataclass(frozen=True)
class LabelSet:
    """Names of the classes of a network, without a background class.

    `name`: name of the label set. `built_in`: whether the label set is built in, so that the model needs no
    `labels.txt`. `offset`: the number of scores before that of the first class. `detail` and `rank` say where
    the names come from, `offset_detail` and `offset_rank` where the offset comes from.
    """

    names: tuple[str, ...]
    name: str
    built_in: bool
    offset: int
    rank: Rank
    offset_rank: Rank
    detail: str
    offset_detail: str
    warning: str | None = None


def built_in_sets() -> dict[str, tuple[str, ...]]:
    """Return the class names of each built-in label set, by the set's name."""
    return {
        path.stem: tuple(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(BUILT_IN.glob("*.txt"))
    }


def labels_option(given: str | Path | BuiltIn) -> GivenLabels:
    """Return the labels that the option `--labels` gives. Raises RefusedModel.

    A `Path` names a file, a BuiltIn names a built-in label set, and a `str` may name either.
    """
    known = built_in_sets()
    if isinstance(given, BuiltIn):
        if given.name not in known:
            raise RefusedModel(
                f"labels '{words(given.name)}': no such label set (allowed: {', '.join(known)})"
            )
        return GivenLabels(known[given.name], Rank.FLAG, f"labels {given.name}")
    path = Path(given)
    if str(given) in known and not path.is_file():
        return GivenLabels(known[str(given)], Rank.FLAG, f"--labels {given}")
    if not path.exists():
        raise RefusedModel(
            f"--labels '{path.name}': no such file or label set (allowed: a file, {', '.join(known)})"
        )
    return GivenLabels(read_label_file(path), Rank.FLAG, f"--labels {path.name}")


def read_label_file(path: Path) -> tuple[str, ...]:
    """Return the names in a file: text with one name per line, or JSON. Never opens pickles.

    Raises RefusedModel.
    """
    if path.suffix.lower() in _PICKLES:
        raise RefusedModel(_pickle(path))
    try:
        text = read_bounded(path)
    except UnicodeDecodeError as error:
        if error.object[:1] == b"\x80":
            raise RefusedModel(_pickle(path)) from None
        raise RefusedModel(f"{path.name}: not text, {not_text(error)} (allowed: UTF-8)") from None
    if text.lstrip().startswith(("[", "{")):
        return names_of(parse_json(text, path.name), path.name)
    return _lines(text, path.name)


def read_bounded(path: Path) -> str:
    """Return the text of a small file. Raises UnicodeDecodeError, and RefusedModel for other errors."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RefusedModel(f"{path.name}: {size} bytes (allowed: {MAX_BYTES})")
        return read_text(path)
    except OSError as error:
        raise RefusedModel(f"{path.name}: cannot be read, {error_words(error)}") from None


def parse_json(text: str, where: str) -> Any:
    """Return the value of JSON text. Raises RefusedModel, which names `where`, if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedModel(f"{where}: not valid JSON") from None


def names_of(value: object, where: str) -> tuple[str, ...]:
    """Return the class names in a list or an object, ordered by class id.

    An object maps class ids to names or names to class ids. Instead of a name, there may be a pair of an
    identifier and a name, as in Keras's imagenet_class_index.json; the identifier is ignored. Raises
    RefusedModel, which names `where`.
    """
    if isinstance(value, Mapping) and isinstance(value.get("id2label"), Mapping):
        value = value["id2label"]
    if isinstance(value, Mapping):
        value = _ordered(value, where)
    if not isinstance(value, (list, tuple)) or not value:
        raise RefusedModel(
            f"{where}: no list of names (allowed: a list, or an object from class ids to names)"
        )
    return _checked([_name(item, where) for item in value], where)


def label_set(
    given: GivenLabels | None, logits: int, model: str, offset: int | None, *, keep: bool = False
) -> LabelSet:
    """Return the label set of a network.

    `logits`: number of scores for an image. `model`: the model's name. `offset`: the class offset if a source
    states it, else None. If all names are those of a built-in label set, the result is this set. If almost
    all names are those of a large built-in set, the result is this set, too, unless `keep` is True. If no
    labels are given, a network with 1000 or 1001 scores is assumed to have ImageNet's classes; classes of
    other networks get numbers as names. Raises RefusedModel if the number of labels does not fit the scores.
    """
    if given is None:
        return _assumed(logits, model, offset)
    names = given.names
    if logits == 1 and len(names) == 2:
        names = names[1:]  # one score is the probability of the second name, as in Keras
    background = len(names) > 1 and names[0].strip().lower() in BACKGROUND
    rank = given.rank
    if len(names) == logits and background and offset in (None, 1):
        names, found, why = names[1:], 1, f"its first name is '{names[0]}'"
    elif len(names) == logits and offset in (None, 0):
        found, why = 0, "a name for each score"
    elif len(names) == logits - 1:
        found, rank = 1 if offset is None else offset, Rank.ASSUMED
        why = f"{len(names)} names for {logits} scores; most often the first score is a background class"
    else:
        either = f"{logits}, or {logits - 1} with a background class" if logits > 2 else str(logits)
        allowed = {None: either, 0: either}
        raise RefusedModel(
            f"{given.detail}: {len(given.names)} names for {logits} scores "
            f"(allowed: {allowed.get(offset, logits - 1)}; --labels FILE gives others)"
        )
    name, kept, built_in, like, warning = _named(names, keep=keep)
    detail = given.detail + (f"; {like}" if like else "")
    return LabelSet(kept, name, built_in, found, given.rank, rank, detail, f"{given.detail}: {why}", warning)


def named_label_set(
    given: GivenLabels | None, logits: int, model: str, offset: int | None, name: str | None
) -> LabelSet:
    """Return the same as `label_set`, with the name that the option `--label-set` gives.

    `name`: the option's value, or None if it is not given. Raises the errors of `label_set`. Raises
    RefusedModel also if `name` is a built-in set that has other labels.
    """
    known = built_in_sets()
    labels = label_set(given, logits, model, offset, keep=name is not None and name not in known)
    if name is None:
        return labels
    if name in known and known[name] != labels.names:
        raise RefusedModel(f"--label-set {name}: the labels are not those of the built-in set")
    return replace(labels, name=name, built_in=name in known)


def _assumed(logits: int, model: str, offset: int | None) -> LabelSet:
    rank, detail = Rank.ASSUMED, "no labels given"
    if logits - (offset or 0) == 1000 or (offset is None and logits == 1001):
        names = built_in_sets()["imagenet-1k"]
        found = logits - 1000
        detail = f"{logits} scores, as networks for ImageNet have; {detail}"
        return LabelSet(names, "imagenet-1k", True, found, rank, rank, detail, detail)
    names = tuple(f"class {number}" for number in range(logits - (offset or 0)))
    return LabelSet(names, f"{model[:57]}-labels", False, offset or 0, rank, rank, detail, detail)


def _named(names: tuple[str, ...], *, keep: bool) -> tuple[str, tuple[str, ...], bool, str, str | None]:
    """Return the label set that the names form, as a tuple.

    The tuple has five items: the set's name; its labels; whether it is built in; text that says why it counts
    as built in although names differ; a warning that lists replaced labels. The text is empty if no reason is
    needed, and the warning is None if no labels were replaced.
    """
    for name, known in built_in_sets().items():
        if len(known) != len(names):
            continue
        synonyms = _synonyms(name, known)
        differing = [number for number, own in enumerate(names) if not forms(own) & synonyms[number]]
        if not differing:
            return name, known, True, "", None
        agreeing = len(known) - len(differing)
        if not keep and len(known) >= _MANY and agreeing >= _SAME_AS_BUILT_IN * len(known):
            like = f"{agreeing} of {len(known)} names are those of {name} at their places"
            listed = ", ".join(
                f"{number} {shown(names[number])[:60]!r} is {known[number]!r}" for number in differing
            )
            warning = f"labels: {like}, so its names are used (--label-set NAME keeps yours): {listed}"
            return name, known, True, like, warning
        if names == built_in_lines("wordnet", name):
            return name, known, True, f"the WordNet ids of {name}", None
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return f"labels-{len(names)}-{digest[:8]}", names, False, "", None


def _synonyms(name: str, known: Sequence[str]) -> list[set[str]]:
    """Return, for each name in a built-in label set, the plain forms of the name and of its synonyms."""
    lines = built_in_lines("synonyms", name) or ("",) * len(known)
    return [forms(one) | forms(other) for one, other in zip(known, lines, strict=True)]


def _lines(text: str, where: str) -> tuple[str, ...]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip(" \t\n").split("\n")
    lines = [line.strip() for line in lines]
    if all(_WNID.match(line) and len(line.split(maxsplit=1)) == 2 for line in lines):
        lines = [line.split(maxsplit=1)[1] for line in lines]  # synset_words.txt
    return _checked(lines, where)


def _ordered(value: Mapping[Any, Any], where: str) -> list[Any]:
    """Return the class names of a JSON object in the order of the class ids. Raises RefusedModel."""
    pairs = list(value.items())
    if all(isinstance(item, int) and not isinstance(item, bool) for _, item in pairs):
        pairs = [(number, name) for name, number in pairs]
    try:
        by_id = {int(key): item for key, item in pairs}
    except (ValueError, TypeError):
        raise RefusedModel(f"{where}: keys are not class ids (allowed: 0, 1, 2, ...)") from None
    if len(by_id) != len(pairs) or set(by_id) != set(range(len(by_id))):
        raise RefusedModel(f"{where}: class ids are not 0 to {len(pairs) - 1}, each once")
    return [by_id[number] for number in range(len(by_id))]


def _name(item: object, where: str) -> str:
    if isinstance(item, (list, tuple)) and len(item) == 2:
        item = item[1]
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise RefusedModel(f"{where}: a name is not text")
    return str(item)


def _checked(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names, each on one line. Raises RefusedModel if a name is blank."""
    whole = tuple(" ".join(name.split()) for name in names)
    if "" in whole:
        raise RefusedModel(f"{where}: the name of class {whole.index('')} is blank")
    return whole


def _pickle(path: Path) -> str:
    return (
        f"{path.name}: a pickle or NumPy file, which can hold a program, is not opened (allowed: text with "
        "one name a line, or JSON; write one with print(*labels, sep='\\n', file=open('labels.txt', 'w')))"
    )
