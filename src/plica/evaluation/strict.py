"""Base class of a plan's records, which reject unknown keys and name the most similar known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from plica.utils.messages import did_you_mean, shown


class PlanError(ValueError):
    """An invalid plan; the message is one sentence."""


def not_boolean(value: Any) -> Any:
    """The value, unless it is true or false, which Python would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, got {value}")
    return value


Number = Annotated[int, BeforeValidator(not_boolean)]


def several(value: Any) -> Any:
    """A list of the values; a single value becomes a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def nearest(word: object, known: Any) -> str:
    """The end of a message about an unknown word: the most similar known one, or all of them."""
    names = [str(name) for name in known]
    return f"; {did_you_mean(word, names).rstrip() or 'known are ' + ', '.join(names)}"


class Strict(BaseModel):
    """A record that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise ValueError(f"there is no key {shown(key)}{nearest(str(key), cls.model_fields)}")
        return value
