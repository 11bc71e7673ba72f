"""Kinds of machines on which benchmarks were measured, and the names of these kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from service.bench.fingerprint import Machine
from service.bench.recommend.evidence import StoredBundle
from service.errors import InvalidParameter

_DETAILS = ("architecture", "cpu_id", "isa", "cpus", "quota_cores")


def kinds_of(bundles: Iterable[StoredBundle], here: Machine | None = None) -> dict[str, Machine]:
    """Return the kinds of machines of the bundles, and the kind of `here`, by name and sorted by name.

    Machines are of one kind if all their fields are equal. A kind has the name of its machines. If several
    kinds have the same name, each of these names is extended by the fields in which the kinds differ.
    """
    by_name: dict[str, list[Machine]] = {}
    for machine in {*(stored.bundle.fingerprint.machine for stored in bundles), *([here] if here else [])}:
        by_name.setdefault(machine.name, []).append(machine)
    kinds = {
        f"{name} ({details})" if (details := _details(machine, alike)) else name: machine
        for name, alike in by_name.items()
        for machine in alike
    }
    return dict(sorted(kinds.items()))


def chosen(kinds: Mapping[str, Machine], name: str, here: Machine | None = None) -> Machine:
    """Return the kind of machine that has this name.

    `name` is a key of `kinds`. It may also be the short name, without the fields by which `kinds_of` extends
    a name that several kinds share; then the kind of `here` is returned if it has this name. Raises
    InvalidParameter if no kind has the name, or if several kinds share it and `here` is of none of them.
    """
    if name in kinds:
        return kinds[name]
    alike = {full: machine for full, machine in kinds.items() if machine.name == name}
    if here is not None and here in alike.values():
        return here
    problem = f"{len(alike)} kinds have this name" if alike else "no benchmarks"
    raise InvalidParameter(f"machine {name[:200]!r}: {problem} (allowed: {'; '.join(alike or kinds)})")


def _details(machine: Machine, alike: Iterable[Machine]) -> str:
    """Return, as a text, the values that `machine` has in the fields that are not equal in all of `alike`.

    The text is empty if there is only one machine.
    """
    details = []
    for field in _DETAILS:
        values = [getattr(each, field) for each in alike]
        value = getattr(machine, field)
        if isinstance(value, tuple):  # name only the items that not all of them have
            value = " ".join(item for item in value if not all(item in other for other in values))
        if len(set(values)) > 1:
            details.append(f"{field.replace('_', ' ')}: {value or 'none'}")
    return ", ".join(details)
