"""Random numbers of one thread, which the others of its process do not disturb."""

import contextlib
import functools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def own_generator() -> Iterator[None]:
    """Puts a generator of its own behind `random.randint` and the like in this thread.

    Keras draws the seeds of weights with `random.randint`, from a generator that all
    threads share; and threads of an executor draw, too: Dask's send messages, and
    estimate the size of each by a sample of what is in it. Only one thread at a time
    may be in here.
    """
    own, here = random.Random(), threading.get_ident()

    def of_thread(shared: Callable[..., Any]) -> Callable[..., Any]:
        mine = getattr(own, shared.__name__)

        @functools.wraps(shared)
        def function(*given: Any, **named: Any) -> Any:
            if threading.get_ident() != here:
                return shared(*given, **named)
            if shared.__name__ == "seed":  # who imported `randint` itself has that one
                shared(*given, **named)
            return mine(*given, **named)

        return function

    before = {name: getattr(random, name) for name in random.__all__}
    before = {n: f for n, f in before.items() if not isinstance(f, type)}
    for name, shared in before.items():
        setattr(random, name, of_thread(shared))
    try:
        yield
    finally:
        for name, shared in before.items():
            setattr(random, name, shared)
