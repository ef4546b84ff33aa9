"""The measurements of the catalogue, as cases with the name of their document."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autopar.catalog import names, read_document
from autopar.specs import Measurements
from autopar.validation.outcomes import AnyCase

_KIND = "measurements"


def shipped_cases(catalogs: Sequence[Path] = ()) -> Iterator[tuple[str, AnyCase]]:
    """Yield all cases, of serving and of training."""
    for name in names(_KIND, catalogs=catalogs):
        document = read_document(_KIND, name, catalogs=catalogs)
        for case in Measurements.model_validate(document).cases:
            yield name, case
