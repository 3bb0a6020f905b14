"""Tensors that must be treated alike, found by union: what is done to the channels of one is done to all of its group."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Ties:
    """Groups of names (union-find), and names whose groups must stay as they are."""

    parent: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    def root(self, name: str) -> str:
        """Return the name that stands for the group; a new name is a group of its own."""
        while self.parent.setdefault(name, name) != name:
            name = self.parent[name]
        return name

    def join(self, *names: str) -> None:
        """Make one group of the groups of all names."""
        for name in names[1:]:
            self.parent[self.root(name)] = self.root(names[0])

    def groups(self) -> list[list[str]]:
        """Return all groups, in order of appearance."""
        groups: dict[str, list[str]] = {}
        for name in self.parent:
            groups.setdefault(self.root(name), []).append(name)
        return list(groups.values())

    def free(self) -> list[list[str]]:
        """Return the groups without a fixed member, in order of appearance."""
        return [names for names in self.groups() if self.fixed.isdisjoint(names)]
