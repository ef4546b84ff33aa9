"""A scenario with one field changed, validated again."""

from typing import Any

from autopar.specs.scenario import Scenario


def changed(scenario: Scenario, path: str, value: object) -> Scenario:
    """Return the scenario with the field at a dotted path set.

    Raises pydantic.ValidationError if the value is not legal there.
    """
    document = scenario.document()
    target: dict[str, Any] = document
    *parents, last = path.split(".")
    for key in parents:
        target = target.setdefault(key, {})
    target[last] = value
    return Scenario.model_validate(document)
