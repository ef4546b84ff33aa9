"""The measurements of the catalogue, as cases with the name of their document."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autopar.catalog import names, read_document
from autopar.specs import Measurements, ServingCase, TrainingCase

_KIND = "measurements"


def shipped_cases(catalogs: Sequence[Path] = ()) -> Iterator[tuple[str, ServingCase]]:
    """Yield the cases of serving engines."""
    for name, case in _cases(catalogs):
        if isinstance(case, ServingCase):
            yield name, case


def _cases(catalogs: Sequence[Path]) -> Iterator[tuple[str, ServingCase | TrainingCase]]:
    for name in names(_KIND, catalogs=catalogs):
        document = read_document(_KIND, name, catalogs=catalogs)
        for case in Measurements.model_validate(document).cases:
            yield name, case
