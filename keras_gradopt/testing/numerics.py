"""Checks of the numbers: modes of execution, dtypes, the ends of floating point."""

import keras
import numpy as np
from keras import ops

from keras_gradopt.testing import bench
from keras_gradopt.testing.bench import Bench
from keras_gradopt.testing.registry import Failed, check, expect

MODES = {
    "tensorflow": ["graph", "xla"],
    "jax": ["compiled"],
    "torch": ["stateless"],
}
NOT_SLOTS = ("iteration", "learning_rate")


class Adam(keras.optimizers.Adam):
    """On PyTorch Keras has another Adam, with other formulas; a subclass has not."""


@check("Eager, as a graph and compiled by XLA (or stateless) it steps alike.")
def modes_agree(b: Bench) -> str:
    streams = bench.gradients(6)
    for stream in streams:  # ordinary, zero, repeated, large and small gradients
        stream[2], stream[3] = 0, stream[1]
        stream[4] *= 1e3
        stream[5] *= 1e-3
    seen, bounds = [], [("float32", 1e-3)]
    if b.widest != "float32":  # as exactly as it is compared with a twin
        bounds.append((b.widest, b.rtol))
    for dtype, rtol in bounds:
        with bench.floatx(dtype):
            eager = b.walk(b.make(), streams, dtype=dtype)
            b.expect_moved(eager)
            for mode in MODES[b.backend]:
                other = b.walk(b.make(), streams, mode, dtype)
                what = f"{mode} from eager in {dtype}"
                seen.append(b.expect_same(other, eager, what, rtol, dtype))
    return "; ".join(seen)


@check("Every slot variable changes in training.")
def slots_move(b: Bench) -> str:
    optimizer = b.make()
    optimizer.build(b.variables())
    slots = [v for v in optimizer.variables if v.name not in NOT_SLOTS]
    first, moved = bench.numpy_values(slots), set()

    def look(step: int) -> None:
        for slot, old, new in zip(slots, first, bench.numpy_values(slots)):
            if not bench.same_bits([old], [new]):
                moved.add(slot.path)

    b.expect_moved(b.walk(optimizer, bench.gradients(6), before_step=look))
    look(6)
    still = [slot.path for slot in slots if slot.path not in moved]
    return expect(
        not still,
        f"{len(slots) - len(still)} of {len(slots)} slots changed"
        + (f", not {', '.join(still)}" if still else ""),
    )


@check(
    "No dtype or shape changes in a step, and no slot is narrower than its variable."
)
def dtypes_kept(b: Bench) -> str:
    seen = []
    for dtype in dict.fromkeys(["float32", b.widest]):
        with bench.floatx(dtype):
            optimizer = b.make()
            variables = b.variables(dtype)
            optimizer.build(variables)
            every = [*variables, *optimizer.variables]
            before = [(v.dtype, tuple(v.shape)) for v in every]
            b.walk(optimizer, bench.gradients(2), dtype=dtype)
            after = [
                (keras.backend.standardize_dtype(v.value.dtype), tuple(v.shape))
                for v in every
            ]
        changed = [v.path for v, x, y in zip(every, before, after) if x != y]
        expect(not changed, f"{dtype}: {', '.join(changed)} changed")
        narrow = [
            f"{v.path} is {v.dtype}"
            for v in optimizer.variables
            if tuple(v.shape) in bench.SHAPES
            and v.dtype in bench.EPS
            and bench.EPS[v.dtype] > bench.EPS[dtype]
        ]
        expect(not narrow, f"of {dtype} variables: {', '.join(narrow)}")
        seen.append(f"{dtype}: {len(every)} variables kept")
    return ", ".join(seen)


@check("Gradients of zero change nothing, and what comes after them is finite.")
def zero_gradients(b: Bench) -> str:
    streams = bench.gradients(4)
    for stream in streams:
        stream[:2] = 0
    values = b.walk(b.optimizer(weight_decay=0.0), streams)
    moved = bench.largest(np.abs(v[2] - v[0]).max() for v in values)
    expect(moved == 0, f"two steps with gradients of zero moved by {moved:.1e}")
    finite = all(np.isfinite(v).all() for v in values)
    expect(finite, "not finite after gradients of zero")
    b.expect_moved(values)
    return "moved by 0 in two steps, finite after them"


@check("After tiny and huge gradients it is finite wherever Keras' Adam is.")
def extreme_gradients(b: Bench) -> str:
    one = [stream[:1] for stream in bench.gradients(1)]
    cases = [[1e-30, 1e-30, 1], [1e-15, 1, 1e15], [1, 1, 1e30], [1, 5e18, 1, 1]]
    for scales in cases:
        streams = [
            np.concatenate([scale * stream for scale in scales]) for stream in one
        ]
        ours, adam = b.walk(b.make(), streams), b.walk(Adam(), streams)
        for shape, mine, theirs in zip(bench.SHAPES, ours, adam):
            lost = (~np.isfinite(mine) & np.isfinite(theirs)).sum()
            expect(
                not lost,
                f"{lost} numbers of the variable of shape {shape} are not finite after "
                f"gradients of {scales}; Keras' Adam's are",
            )
    return f"finite after gradients of {', '.join(map(str, cases))}"


@check("An infinite or NaN gradient stays in its variable, where it can be seen.")
def nonfinite_gradients(b: Bench) -> str:
    for bad in (np.inf, -np.inf, np.nan):
        streams = bench.gradients(3)
        streams[2][1, 0, 0] = bad
        values = b.walk(b.make(), streams)
        reached = [i for i in (0, 1, 3) if not np.isfinite(values[i]).all()]
        expect(not reached, f"{bad} reached {len(reached)} other variables")
        hidden = np.isnan(bad) and np.isfinite(values[2][-1]).all()
        expect(not hidden, "NaN was swallowed: the variable is finite")
    return "inf, -inf and NaN stayed in one variable of four; NaN is seen there"


def _half(b: Bench, dtype: str, rtol: float) -> str:
    streams = bench.gradients(6)
    # at least 0.01, which no dtype rounds away
    streams = [np.sign(g) * np.maximum(np.abs(g), 1e-2) for g in streams]
    # from zero, so that their rounding is that of the distance
    zero = [np.zeros(shape) for shape in bench.SHAPES]
    exact = b.walk(b.make(), streams, at=zero)
    ours = b.walk(b.make(), streams, dtype=dtype, at=zero)
    expect(all(np.isfinite(v).all() for v in ours), f"{dtype}: not finite")
    apart = sum(
        np.abs(mine[-1] - v[-1]).sum() for mine, v in zip(ours, exact)
    )  # of all entries: a sign may flip in one
    found = apart / sum(np.abs(v[-1]).sum() for v in exact)
    return expect(
        found <= rtol,
        f"{dtype} from float32: {found:.1e} of the way (allowed {rtol:.0e})",
    )


@check("float16 variables move as float32 ones do, to rounding.")
def float16(b: Bench) -> str:
    return _half(b, "float16", 0.1)


@check(
    "bfloat16 variables move as float32 ones do, to rounding.",
    keras_fault="adam-does-not-move-bfloat16-variables",
)
def bfloat16(b: Bench) -> str:
    return _half(b, "bfloat16", 0.2)


@check(
    "Sparse gradients of embeddings (tf.IndexedSlices) are worth what dense ones are.",
    keras_fault="sparse-gradients-of-a-repeated-row-are-squared-one-by-one",
)
def sparse_gradients(b: Bench) -> str:
    b.need_tensorflow("gradients of Keras' embeddings are dense")
    import tensorflow as tf

    def walk(sparse: bool) -> list[np.ndarray]:
        embedding = keras.layers.Embedding(5, 2, embeddings_initializer="ones")
        embedding.build()
        (table,) = embedding.trainable_variables
        optimizer = b.make()
        optimizer.build([table])
        history = [np.ones((5, 2))]
        for rows in ([0, 2, 2], [1, 2, 4], [3, 3, 3]):
            with tf.GradientTape() as tape:
                picked = embedding(ops.convert_to_tensor(rows))
                loss = ops.sum(ops.square(picked) * [[1.0, -3.0]])
            gradient = tape.gradient(loss, table.value)
            if not isinstance(gradient, tf.IndexedSlices):
                raise Failed("Keras' embedding has a dense gradient")
            dense = tf.convert_to_tensor(gradient)
            optimizer.apply([gradient if sparse else dense], [table])
            history.append(ops.convert_to_numpy(table))
        return [np.stack(history)]

    ours, theirs = walk(True), walk(False)
    b.expect_moved(theirs)
    return b.expect_same(ours, theirs, "sparse from dense")
