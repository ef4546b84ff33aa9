"""What candidates surely break, where one requirement at a time may be left out.

A candidate that breaks two answers no question about one, so of what it breaks only the number of a
name is kept, or one of the two below.
"""

from collections.abc import Sequence

import numpy as np

from autopar.problem import BoolArray, IntArray

TOO_MUCH = -2  # two requirements, or one that may not be left out
NOTHING = -1  # less than any number of a name


def note(broken: IntArray, fails: BoolArray, name: str, names: Sequence[str]) -> None:
    """Note in `broken` which candidates fail a constraint, both of shape (candidates,).

    names: of the constraints that may be left out.
    """
    first = names.index(name) if name in names else TOO_MUCH
    broken[fails] = np.where(broken[fails] == NOTHING, first, TOO_MUCH)
