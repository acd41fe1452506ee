"""Checks of what Keras lets a user set: each against what it means."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.testing import bench
from keras_gradopt.testing.bench import Arrays, Bench
from keras_gradopt.testing.registry import Failed, check, expect


@check("Accumulating gradients of n steps is one step on their mean.")
def accumulation(b: Bench) -> str:
    micro = bench.gradients(6)
    means = [g.reshape(3, 2, *g.shape[1:]).mean(axis=1) for g in micro]
    optimizer = b.optimizer(gradient_accumulation_steps=2)
    ours = b.walk(optimizer, micro, b.compiled)
    between = bench.largest(np.abs(v[1::2] - v[:-1:2]).max() for v in ours)
    expect(between == 0, f"moved by {between:.1e} before its mean was complete")
    steps = int(optimizer.iterations)
    expect(steps == 3, f"counts {steps} steps instead of 3")
    return b.expect_same(
        [v[::2] for v in ours], b.walk(b.make(), means), "from one step on the mean"
    )


@check("clipvalue, clipnorm and global_clipnorm clip the gradients, before all else.")
def clipping(b: Bench) -> str:
    streams = bench.gradients(4)
    norms = [
        np.sqrt((g**2).sum(axis=tuple(range(1, g.ndim)), keepdims=True))
        for g in streams
    ]
    total = np.sqrt(sum(norm.reshape(-1) ** 2 for norm in norms))
    by_hand = {
        "clipvalue": [np.clip(g, -0.3, 0.3) for g in streams],
        "clipnorm": [g * np.minimum(1, 0.3 / n) for g, n in zip(streams, norms)],
        "global_clipnorm": [
            g * np.minimum(1, 0.3 / total.reshape(n.shape))
            for g, n in zip(streams, norms)
        ],
    }
    return "; ".join(
        b.expect_same(
            b.walk(b.optimizer(**{name: 0.3}), streams),
            b.walk(b.make(), clipped),
            f"{name} from clipped by hand",
        )
        for name, clipped in by_hand.items()
    )


@check("use_ema averages the variables, and overwrites them when it should.")
def moving_average(b: Bench) -> str:
    streams = bench.gradients(3)
    plain = b.walk(b.make(), streams)
    averages = [v[1] for v in plain]
    for t in (2, 3):
        averages = [0.8 * a + 0.2 * v[t] for a, v in zip(averages, plain)]
    optimizer = b.optimizer(use_ema=True, ema_momentum=0.8)
    ours = b.walk(optimizer, streams)
    b.expect_same(ours, plain, "with an average kept, from without")
    variables = b.variables()
    bench.assign(variables, [v[-1] for v in ours])
    optimizer.finalize_variable_values(variables)
    start = [v[0] for v in plain]

    def step_to(values: Arrays) -> Arrays:
        return [np.stack(pair) for pair in zip(start, values)]

    expected = step_to(averages)
    saw = b.expect_same(
        step_to(bench.numpy_values(variables)), expected, "finalized from the average"
    )
    optimizer = b.optimizer(use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3)
    ours = b.walk(optimizer, streams, b.compiled)
    overwritten = step_to([v[-1] for v in ours])
    return f"{saw}; " + b.expect_same(overwritten, expected, "overwritten from it")


@keras.saving.register_keras_serializable("keras_gradopt")
class ListedRates(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule with these rates, one a step."""

    def __init__(self, rates: tuple[float, ...]) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        return ops.take(ops.array(self.rates, "float32"), ops.cast(step, "int32"))

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates}


@check("A schedule, a callable and setting learning_rate give the same steps.")
def schedules(b: Bench) -> str:
    rates = (0.01, 0.005, 0.02, 0.001)
    streams = bench.gradients(len(rates))
    optimizer = b.optimizer(learning_rate=rates[0])

    def set_rate(step: int) -> None:
        optimizer.learning_rate = rates[step]

    ours = b.walk(optimizer, streams, before_step=set_rate)
    constant = b.walk(b.optimizer(learning_rate=rates[0]), streams)
    if bench.difference(ours, constant) <= 1e-4:
        raise Failed("setting learning_rate changes nothing")
    scheduled = b.walk(b.optimizer(ListedRates(rates)), streams)
    saw = b.expect_same(scheduled, ours, "schedule from setting")
    now = [0]  # it may be called more than once a step, by weight decay

    def to_step(step: int) -> None:
        now[0] = step

    called = b.walk(b.optimizer(lambda: rates[now[0]]), streams, before_step=to_step)
    return f"{saw}; " + b.expect_same(called, ours, "callable from setting")


def _shrinks(values: Arrays, excluded: tuple[int, ...]) -> str:
    """Each variable by 5 % in each step, but for those excluded."""
    factors = [1.0 if i in excluded else 0.95 ** (len(v) - 1) for i, v in
               enumerate(values)]  # fmt: skip
    seen = [float((v[-1] / v[0]).mean()) for v in values]
    close = all(
        np.allclose(v[-1], factor * v[0], rtol=1e-4, atol=0)
        for v, factor in zip(values, factors)
    )
    return expect(
        close,
        f"with gradients of zero the variables become {[round(s, 4) for s in seen]} "
        f"of what they were; right: {[round(f, 4) for f in factors]}",
    )


def _zero(steps: int = 3) -> Arrays:
    return [0 * g for g in bench.gradients(steps)]


@check("Weight decay is decoupled, by learning rate x decay, and can be excluded.")
def weight_decay(b: Bench) -> str:
    optimizer = b.optimizer(learning_rate=0.1, weight_decay=0.5)
    _shrinks(b.walk(optimizer, _zero()), ())
    optimizer = b.optimizer(learning_rate=0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return _shrinks(b.walk(optimizer, _zero()), (1, 3))


@check(
    "What is excluded from weight decay is so after a reload, too.",
    keras_fault="exclusions-from-weight-decay-are-lost-on-reload",
)
def exclusions_reload(b: Bench) -> str:
    optimizer = b.optimizer(learning_rate=0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    again = b.reloaded(optimizer)
    return _shrinks(b.walk(again, _zero()), (1, 3))


@check("Loss scales are taken out, and steps that overflow are skipped whole.")
def loss_scaling(b: Bench) -> str:
    streams = bench.gradients(3)
    plain = b.walk(b.make(), streams)
    scaled = [8 * g for g in streams]
    ours = b.walk(b.optimizer(loss_scale_factor=8.0), scaled)
    saw = b.expect_same(ours, plain, "loss_scale_factor from none", rtol=1e-6)

    inner = b.make()
    wrapped = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    variables = b.variables()
    step = bench.stepper(wrapped, variables, b.compiled)

    def apply(t: int, factor: float) -> None:
        with np.errstate(invalid="ignore"):
            step([bench.to_tensor(factor * g[t], "float32") for g in streams])

    apply(0, 8.0)
    before = bench.numpy_values([*variables, *inner.variables])
    apply(1, np.inf)
    after = bench.numpy_values([*variables, *inner.variables])
    expect(bench.same_bits(before, after), "a step that overflowed changed something")
    for t in (1, 2):  # the scale was halved
        apply(t, 4.0)
    final = [
        np.stack(pair) for pair in zip(bench.start(), bench.numpy_values(variables))
    ]
    return f"{saw}; a step of infinite gradients changed nothing; " + b.expect_same(
        final, [v[[0, -1]] for v in plain], "LossScaleOptimizer from none"
    )
