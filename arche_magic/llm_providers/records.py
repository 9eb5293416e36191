"""Records written short: what is as usual is left out, and read back as its default."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def told(record: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults, by name."""
    values = ((field, getattr(record, field.name)) for field in fields(record))
    return {field.name: value for field, value in values if value != default_of(field)}


def default_of(field: Field[Any]) -> Any:
    """The default of a field; `MISSING`, which equals nothing, if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
