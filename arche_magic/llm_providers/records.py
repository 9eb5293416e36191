"""Short records: fields with default values are omitted, and restored when read."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def told(record: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, by name."""
    values = ((field, getattr(record, field.name)) for field in fields(record))
    return {field.name: value for field, value in values if value != default_of(field)}


def default_of(field: Field[Any]) -> Any:
    """The default of a field, or `MISSING`, which equals no value."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
