"""What installed packages register under an entry-point group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embench.core.errors import BadInput

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def registered_under(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found and found[point.name].value != point.value:
            raise BadInput(
                f"two installed packages register {point.name!r} under {group}: "
                f"{found[point.name].value} and {point.value}; uninstall one"
            )
        found[point.name] = point
    return found
