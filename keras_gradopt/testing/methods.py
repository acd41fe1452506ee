"""Checks against what an optimizer should be: its twin, and not its base."""

import numpy as np

from keras_gradopt.testing import bench
from keras_gradopt.testing.bench import Arrays, Bench
from keras_gradopt.testing.registry import check, expect

STEPS = 20


@check("It computes what its NumPy twin does.", needs=("twin",))
def equals_twin(b: Bench) -> str:
    streams = bench.gradients(STEPS)
    with bench.floatx(b.widest):
        ours = b.walk(b.make(), streams, dtype=b.widest)
    start = [v[0].astype("float64") for v in ours]
    assert b.twin is not None
    expected = [np.asarray(values) for values in b.twin(streams, start)]
    shapes = [(STEPS, *shape) for shape in bench.SHAPES]
    found = [values.shape for values in expected]
    expect(found == shapes, f"the twin returned shapes {found} instead of {shapes}")
    theirs = [np.concatenate([s[None], v]) for s, v in zip(start, expected)]
    return b.expect_same(ours, theirs, f"{b.widest} from the twin", b.rtol, b.widest)


def _both(b: Bench) -> tuple[Arrays, Arrays]:
    """The trajectories of the optimizer and of its base."""
    streams = bench.gradients(STEPS)
    assert b.base is not None
    with bench.floatx(b.widest):
        ours = b.walk(b.make(), streams, dtype=b.widest)
        theirs = b.walk(b.base(), streams, dtype=b.widest)
    b.expect_moved(theirs)
    return ours, theirs


@check("It is not its base.", needs=("base",))
def is_not_base(b: Bench) -> str:
    ours, theirs = _both(b)
    found = bench.difference(ours, theirs)
    return expect(found > 1e-3, f"differs by {found:.1e} from its base (must: 1e-03)")


@check("It is not its base at another learning rate.", needs=("base",))
def alive(b: Bench) -> str:
    ours, theirs = _both(b)
    factors, rests = [], []
    for a, c in zip(ours, theirs):
        step, base_step = np.diff(a, axis=0), np.diff(c, axis=0)
        factor = float((step * base_step).sum() / (base_step**2).sum())
        rest = float(np.linalg.norm(step - factor * base_step))
        factors.append(factor)
        rests.append(rest / max(float(np.linalg.norm(step)), 1e-30))
    most = int(np.argmax(rests))
    return expect(
        rests[most] > 1e-3,
        f"at {factors[most]:.4f} times the rate of its base its steps differ by "
        f"{rests[most]:.1e} (must: 1e-03)",
    )


@check("At its neutral setting it becomes its base.", needs=("neutral",))
def becomes_base(b: Bench) -> str:
    streams = bench.gradients(STEPS)
    with bench.floatx(b.widest):
        assert b.neutral is not None
        made = b.neutral()
        if isinstance(made, tuple):
            optimizer, base = made[:2]
            streams = [*made[2](streams)] if len(made) > 2 else streams
        else:
            optimizer, base = made, b.need_base()()
        ours = b.walk(optimizer, streams, dtype=b.widest)
        theirs = b.walk(base, streams, dtype=b.widest)
    b.expect_moved(theirs)
    return b.expect_same(ours, theirs, "from its base", b.rtol, b.widest)
