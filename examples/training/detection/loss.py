"""The loss of SSD (Liu et al. 2016, equations 1 to 3)."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("detection")
class MultiboxLoss(keras.losses.Loss):
    """Cross-entropy of the classes plus the smooth L1 loss of the offsets.

    It is summed over the matched default boxes, and the cross-entropy also over the
    hardest of the others: in each image `negatives` for a matched one, those of the
    highest loss. The sum is divided by the number of matched default boxes in the batch
    (on several devices, in the part of the batch that a device has).

    Args:
        negatives: how many boxes of the background count for each matched one. Default:
            3, as published.
        name: of the loss.

    Called with the targets `(batch, boxes, 5)`, offsets and class, 0 for the
    background, and with the predictions `(batch, boxes, 4 + 1 + classes)`.
    """

    def __init__(
        self, negatives: float = 3.0, name: str = "multibox", **settings: Any
    ) -> None:
        super().__init__(name=name, **settings)
        self.negatives = negatives

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image; their mean is the loss of the batch."""
        classes = ops.cast(y_true[..., 4], "int32")
        matched = classes > 0
        cross = ops.sparse_categorical_crossentropy(
            classes, y_pred[..., 4:], from_logits=True
        )
        numbers = ops.sum(ops.cast(matched, "float32"), axis=-1)
        # places in the order of falling loss; the matched ones come last
        hardness = ops.where(matched, -1.0, cross)
        places = ops.argsort(ops.argsort(-hardness, axis=-1), axis=-1)
        hard = ops.cast(places, "float32") < self.negatives * numbers[:, None]
        cross = ops.sum(ops.where(ops.logical_or(matched, hard), cross, 0.0), axis=-1)
        off = ops.abs(y_true[..., :4] - y_pred[..., :4])
        smooth = ops.where(off < 1.0, off**2 / 2, off - 0.5)
        smooth = ops.where(matched, ops.sum(smooth, axis=-1), 0.0)
        total = ops.maximum(ops.sum(numbers), 1.0)
        batch = ops.cast(ops.shape(numbers)[0], "float32")
        return (cross + ops.sum(smooth, axis=-1)) * batch / total

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negatives": self.negatives}
