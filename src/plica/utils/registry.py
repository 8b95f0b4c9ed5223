"""Tables of metrics, attacks, forms of models and so on by name; installed packages can add entries.

A package adds an entry by an entry point in the table's group, for instance in its pyproject.toml:

    [project.entry-points."plica.metrics"]
    huber = "my_package:Huber"

Its code is imported when the entry is first used, not before. In a session or a script a table is a dict:
`METRICS["huber"] = Huber`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from plica.utils.messages import one_line

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """plica's own entries in their order, then those of installed packages, then what was added by hand.

    Args:
        group: the entry points' group, such as "plica.metrics".
        own: plica's own entries.
    """

    def __init__(self, group: str, own: Mapping[str, T]):
        self.group, self._own = group, own

    @cached_property
    def _entries(self) -> dict[str, T | EntryPoint]:
        entries: dict[str, T | EntryPoint] = dict(self._own)
        for point in entry_points(group=self.group):
            if point.name in entries:
                raise ValueError(
                    f"The entry point {point.name} = {point.value} of the group {self.group} has a name that is taken; "
                    f"rename it, or uninstall {_package(point)}."
                )
            entries[point.name] = point
        return entries

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if not isinstance(entry, EntryPoint):
            return entry
        try:
            loaded: T = entry.load()
        except Exception as error:  # a package may raise anything while it is imported
            raise ValueError(
                f"{name!r} of the group {self.group} cannot be imported from {entry.value} "
                f"({one_line(error, named=True)}); mend or uninstall {_package(entry)}."
            ) from error
        self._entries[name] = loaded
        return loaded

    def added_first(self) -> Iterator[T]:
        """The values, those of packages and those added by hand before plica's own."""
        return (self[name] for name in sorted(self, key=lambda name: name in self._own))

    def __setitem__(self, name: str, value: T) -> None:
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # the inherited method would import the entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "the package"
