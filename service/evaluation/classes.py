"""Match the class names of a data set to a model's labels: by name, synonym, id, or a mapping."""

from __future__ import annotations

import difflib
import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.zoo.display import joined, shown
from models.zoo.files import read_text
from models.zoo.labels import BUILT_IN
from service.errors import InvalidDataset, InvalidParameter, error_words

LEFT_OUT = "-"
"""Value in a mapping for a class that is to be left out."""
_MOST_BYTES = 16 << 20
"""Maximum size of a mapping file."""
_WORDNET_ID = re.compile(r"(n\d{8})(?:[-_. ].*)?", re.DOTALL)
"""WordNet id at the start of a class name. The name may go on after the id: n02085620-Chihuahua."""
_MOST_DIGITS = 9
_LONGEST_NAME = 100
"""Number of characters, from the start of a name, that are compared."""
_MOST_SPELLINGS = 100
"""Maximum number of names whose spelling is compared with all labels. Each comparison takes milliseconds."""


@dataclass(frozen=True)
class Matched:
    """Which class names of a data set match which labels of a model, as `match_classes` returns it.

    `ids`: the class id for each name that matches exactly one label. `unmatched`: for each of the remaining
    names, the reason why it has no class id. `similar`: labels that are similar to such a name, if there are
    any.
    """

    ids: dict[str, int]
    unmatched: dict[str, str]
    similar: dict[str, list[str]]


class Labels:
    """Labels of a model, which can be looked up by the names that people give to its classes.

    A name is looked up in this order:

    - as a label, comparing only letters and digits, and ignoring upper and lower case
    - as a part of a label ("tench" of "tench, Tinca tinca", "top" of "T-shirt/top")
    - as a synonym of a built-in label
    - as the WordNet id of a built-in label
    - as a class id in digits
    """

    def __init__(self, labels: Sequence[str], label_set: str) -> None:
        self._labels = labels
        built_in = tuple(labels) == built_in_lines("", label_set)
        synonyms = built_in_lines("synonyms", label_set) if built_in else ()
        wordnet = built_in_lines("wordnet", label_set) if built_in else ()
        self._levels = (
            _ids({plain(label)} for label in labels),
            _ids(map(forms, labels)),
            _ids(map(forms, synonyms)),
        )
        self._wordnet = {name: number for number, name in enumerate(wordnet)}
        self._words: dict[str, list[str]] | None = None
        self._spellings = 0

    def ids(self, name: str | int) -> tuple[int, ...]:
        """Return the ids of the classes that `name` stands for.

        A number stands for the class with this id.
        """
        if isinstance(name, int):
            return (name,) if 0 <= name < len(self._labels) else ()
        for level in self._levels:
            if ids := level.get(plain(name)):
                return ids
        name = name.strip()
        wordnet_id = _WORDNET_ID.fullmatch(name)
        if wordnet_id is not None and wordnet_id[1] in self._wordnet:
            return (self._wordnet[wordnet_id[1]],)
        if name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS and int(name) < len(self._labels):
            return (int(name),)
        return ()

    def similar(self, name: str | int) -> list[str]:
        """Return up to three similar labels.

        These are the labels that contain the name as a word. If there are none, they are the labels that
        contain the rarest word of the name. If there are none either, they are the labels with nearly the
        same spelling.
        """
        if self._words is None:
            self._words = {}
            for label in self._labels:
                for word in {plain(part).removesuffix("s") for part in label.split()} - {""}:
                    self._words.setdefault(word, []).append(label)
        name = str(name)[:_LONGEST_NAME]
        whole = self._words.get(plain(name).removesuffix("s"))
        if whole:
            return whole[:3]
        parts = {plain(part).removesuffix("s") for part in re.split(r"[\W_]+", name)}
        known = [self._words[part] for part in parts if len(part) > 2 and part in self._words]
        if known:
            return min(known, key=lambda labels: (len(labels), labels))[:3]
        if self._spellings >= _MOST_SPELLINGS:
            return []
        self._spellings += 1
        labels = {plain(label): label for label in self._labels}
        return [labels[form] for form in difflib.get_close_matches(plain(name), labels, 3, cutoff=0.8)]


def match_classes(
    names: Iterable[str],
    labels: Sequence[str],
    label_set: str,
    mapping: Mapping[str, str | int] | None = None,
) -> Matched:
    """Match each name to one label of a model.

    `labels`: the model's labels in the order of the class ids. `mapping`: for a name, the label or the class
    id that is looked up in place of the name. The value `-` leaves the name out. Two names may match the same
    label.
    """
    lookup = Labels(labels, label_set)
    ids: dict[str, int] = {}
    unmatched: dict[str, str] = {}
    alike: dict[str, list[str]] = {}
    for name in names:
        target = mapping.get(composed(name), name) if mapping else name
        mapped = "" if target == name else f"mapped to {shown(target)[:120]}: "
        if mapped and target == LEFT_OUT:
            unmatched[name] = "left out by the mapping"
            continue
        found = lookup.ids(target)
        if len(found) == 1:
            ids[name] = found[0]
        elif found:
            several = ", ".join(f"{shown(labels[number])} ({number})" for number in found[:5])
            unmatched[name] = f"{mapped}{len(found)} labels of {label_set}: {several}"
        else:
            if similar := lookup.similar(target):
                alike[name] = similar
            hint = f" (similar: {', '.join(map(shown, similar))})" if similar else ""
            unmatched[name] = f"{mapped}no label of {label_set}{hint}"
    return Matched(ids, unmatched, alike)


def unknown_in_mapping(mapping: Mapping[str, str | int], names: Iterable[str]) -> list[str]:
    """Return, sorted, the names in a mapping that are not among `names`, the classes of the data set."""
    return sorted(set(mapping) - set(map(composed, names)))


def read_mapping(path: Path, *, what: str = "CLASS") -> dict[str, str | int]:
    """Read a mapping from a file, and return the labels or class ids by class.

    The file is JSON, or has lines `CLASS = LABEL`. In such lines, `#` begins a comment, and a tab may replace
    `=`. `what` is the word for a class in messages. Raises InvalidDataset.
    """
    where = f"--mapping {shown(path.name)}"
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidDataset(f"{where}: {size} bytes (allowed: {_MOST_BYTES})")
        text = read_text(path)
    except OSError as error:
        raise InvalidDataset(f"{where}: cannot be read, {error_words(error)}") from None
    except UnicodeDecodeError:
        raise InvalidDataset(f"{where}: not text (allowed: UTF-8, UTF-16)") from None
    if text.lstrip().startswith("{"):
        return _of_json(text, where)
    pairs: dict[str, str | int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, label = (part.strip() for part in line.partition("\t" if "\t" in line else "="))
        if not name or not label:
            raise InvalidDataset(f"{where}: line {number} is not {what} = LABEL")
        if pairs.setdefault(composed(name), label) != label:
            raise InvalidDataset(f"{where}: line {number} maps {shown(name)[:120]} a second time")
    return pairs


def mapping_for(file: Path | None, dataset: str, names: Sequence[str]) -> dict[str, str | int]:
    """Return the mapping in the file that `--mapping` names, or an empty mapping if `file` is None.

    Raises the InvalidDataset of `read_mapping`. Raises InvalidParameter if the mapping has a name that is not
    among the data set's classes, `names`.
    """
    mapping = {} if file is None else read_mapping(file)
    unknown = unknown_in_mapping(mapping, names)
    if file is not None and unknown:
        raise InvalidParameter(
            f"--mapping {file.name}: no such class in {dataset}: {joined(unknown)} (allowed: {joined(names)})"
        )
    return mapping


def _of_json(text: str, where: str) -> dict[str, str | int]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidDataset(f"{where}: not valid JSON") from None
    if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in value.values()):
        raise InvalidDataset(f"{where}: a value is neither a label nor a class id")
    return {composed(name): target for name, target in value.items()}


def composed(text: str) -> str:
    """Return text in the Unicode form NFC.

    In this form, a letter and its accent are one character. File names on macOS have two characters instead.
    """
    return unicodedata.normalize("NFC", text)


def plain(text: str) -> str:
    """Return only the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, composed(text).lower()))


def forms(name: str) -> set[str]:
    """Return the plain forms of a name, and of each of its parts between commas or slashes."""
    return {plain(name), *map(plain, re.split("[,/]", name))} - {""}


@functools.cache
def built_in_lines(kind: str, label_set: str) -> tuple[str, ...]:
    """Return the lines of a built-in label set's file, or no lines if there is no such file.

    `kind` says which file: an empty text for the labels, `synonyms` for synonyms, `wordnet` for WordNet ids.
    """
    folder = BUILT_IN / kind
    if label_set not in {path.stem for path in folder.glob("*.txt")}:
        return ()
    return tuple((folder / f"{label_set}.txt").read_text(encoding="utf-8").splitlines())


def _ids(names: Iterable[set[str]]) -> dict[str, tuple[int, ...]]:
    """Return, for each plain form of a name, the ids of the classes that have this form.

    `names`: the plain forms of each class, in the order of the class ids.
    """
    ids: dict[str, tuple[int, ...]] = {}
    for number, plain_forms in enumerate(names):
        for form in plain_forms - {""}:
            ids[form] = (*ids.get(form, ()), number)
    return ids
