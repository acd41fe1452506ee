"""Which variable is which, though a model's paths and those of it loaded differ.

A layer is `sequential/inner/dense` where it was built within its model, and `dense`
where it was loaded; of a second model in a process the first part is `sequential_1`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence


def matching(here: Sequence[str], saved: Sequence[str]) -> dict[int, int]:
    """Pairs the variables of two models by their paths.

    Two paths fit if they are equal or one of them ends in the other; if all paths of
    one side begin alike, that first part may be another one on the other side. Where
    several fit, they are paired in order if their numbers agree, and else not at all.

    Args:
        here: paths such as `sequential/dense/kernel`, in the optimizer's order.
        saved: the paths of the other model.

    Returns:
        For each position in `here` that has a counterpart its position in `saved`.

    Example:

    >>> matching(["dense/kernel", "dense/bias"], ["model/dense/bias"])
    {1: 0}
    """
    left, right = _parts(here), _parts(saved)
    found = _pairs(left, right)
    ours, theirs = ({path[0] for path in side} for side in (left, right))
    if len(ours) == len(theirs) == 1 and ours != theirs:
        without = _pairs(*([path[1:] for path in side] for side in (left, right)))
        found = max(found, without, key=len)
    return dict(sorted(found.items()))


def same_variables(here: Sequence[str], saved: Sequence[str]) -> dict[int, int]:
    """As `matching`; but by position where it is the same model built again.

    Keras numbers the layers that have no name of their own, on and on in a process. So
    where names do not pair all variables, but both sides are as many and differ, in
    order, by such numbers alone (and by where paths begin), position counts.

    Args:
        here: paths, in the optimizer's order.
        saved: the paths of the other model.

    Returns:
        For each position in `here` that has a counterpart its position in `saved`.

    Example:

    >>> same_variables(["dense/kernel", "dense_1/kernel"], ["dense_1/kernel",
    ...     "dense_2/kernel"])
    {0: 0, 1: 1}
    """
    found = matching(here, saved)
    if len(found) < len(here) == len(saved):
        without_numbers = (
            [[re.sub(r"_\d+$", "", part) for part in path] for path in _parts(side)]
            for side in (here, saved)
        )
        if all(map(_fit, *without_numbers)):
            return {position: position for position in range(len(here))}
    return found


def _fit(one, other):
    """Whether one path ends in the other."""
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def _parts(paths):
    return [tuple(path.split("/")) for path in paths]


def _pairs(left, right):
    found: dict[int, int] = {}
    taken: set[int] = set()
    longest = max(map(len, [*left, *right]), default=0)
    for length in range(longest, 0, -1):  # the most telling ends first
        ends: dict[tuple, tuple[list, list]] = defaultdict(lambda: ([], []))
        for side, (paths, done) in enumerate(((left, found), (right, taken))):
            for position, path in enumerate(paths):
                if position not in done and len(path) >= length:
                    ends[path[-length:]][side].append(position)
        for ours, theirs in ends.values():
            whole = [
                {len(paths[position]) == length for position in positions}
                for paths, positions in ((left, ours), (right, theirs))
            ]
            if len(ours) == len(theirs) and {True} in whole:
                found.update(zip(ours, theirs))
                taken.update(theirs)
    return found
