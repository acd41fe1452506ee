"""An activation function on the gradient."""

from collections.abc import Sequence
from typing import Any

from keras_gradopt import arguments, equations
from keras_gradopt.equations import Tensor
from keras_gradopt.transforms.base import Context, Result, Transform, register


@register
class Activate(Transform):
    """GAF: an activation function acts on the gradient, elementwise.

    `"arctan"`: `alpha arctan(beta g)`; `"tanh"`: `alpha tanh(beta g)`; `"log"`:
    `alpha sign(g) ln(1 + beta |g|)`. Tiny gradients are multiplied by
    `alpha * beta`, large ones are bounded (slowed, for `"log"`).

    Args:
        activation: `"arctan"`, `"tanh"` or `"log"`. Defaults to `"arctan"`.
        alpha: scale of the output, above 0. Defaults to `0.1`.
        beta: scale of the input, above 0. Defaults to `20.0`.

    Raises:
        ValueError: for an unknown activation or a scale that is not positive.

    Example:

    >>> from keras_gradopt.transforms import Activate
    >>> Activate("tanh", 0.2, 10)
    Activate(activation='tanh', alpha=0.2, beta=10.0)

    Reference:
        Liu et al., Activated Gradients for Deep Neural Networks, sections III-IV.
    """

    def __init__(
        self, activation: str = "arctan", alpha: float = 0.1, beta: float = 20.0
    ) -> None:
        self.activation = arguments.choice(
            "activation", activation, equations.ACTIVATIONS
        )
        self.alpha = arguments.positive("alpha", alpha)
        self.beta = arguments.positive("beta", beta)

    def __call__(self, x: Tensor) -> Tensor:
        """The activation function itself, for a tensor of any shape."""
        return equations.gradient_activation(x, self.activation, self.alpha, self.beta)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return Result(self(gradient))

    def get_config(self) -> dict[str, Any]:
        return {"activation": self.activation, "alpha": self.alpha, "beta": self.beta}
