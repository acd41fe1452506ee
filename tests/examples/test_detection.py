"""SSD's parts: default boxes, coding, matching, loss, augmentation, precision."""

import itertools

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("pycocotools")

import tensorflow as tf
from training.detection import augmentation, boxes
from training.detection.evaluation import evaluate
from training.detection.loss import MultiboxLoss
from training.detection.network import load_backbone, ssd_network

pytestmark = pytest.mark.backend_independent

SSD300 = [38, 19, 10, 5, 3, 1]


@pytest.fixture(scope="module")
def defaults():
    return boxes.default_boxes(SSD300)


def random_boxes(random, count):
    begin = random.uniform(0, 0.7, (count, 2))
    return np.concatenate([begin, begin + random.uniform(0.02, 0.3, (count, 2))], 1)


def iou(first, second):
    """Overlap of two boxes, for the twin of the matching."""
    height = min(first[2], second[2]) - max(first[0], second[0])
    width = min(first[3], second[3]) - max(first[1], second[1])
    common = max(height, 0) * max(width, 0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return common / (areas - common)


def test_default_boxes_of_ssd300(defaults):
    """Liu et al. 2016, Fig. 2: 8732 of them; sides as in the code released with it."""
    assert defaults.shape == (8732, 4)
    center = (defaults[:, :2] + defaults[:, 2:]) / 2 * 300
    side = (defaults[:, 2:] - defaults[:, :2]) * 300
    # conv4_3, upper left: 30, sqrt(30 * 60), then 1:2 and 2:1
    np.testing.assert_allclose(center[:4], 300 * 0.5 / 38, rtol=1e-5)
    long, short = 30 * 2**0.5, 30 / 2**0.5
    expected = [(30, 30), (1800**0.5,) * 2, (short, long), (long, short)]
    np.testing.assert_allclose(side[:4], expected, rtol=1e-5)
    # the next place is to the right
    np.testing.assert_allclose(center[4], (300 * 0.5 / 38, 300 * 1.5 / 38), rtol=1e-5)
    # the last map: one place, 264 and 315 pixels
    np.testing.assert_allclose(center[-4:], 150, rtol=1e-5)
    np.testing.assert_allclose(side[-4], (264, 264), rtol=1e-5)
    np.testing.assert_allclose(side[-3], ((264 * 315) ** 0.5,) * 2, rtol=1e-5)
    # six boxes a place on the second map: 3:1 too
    second = side[38 * 38 * 4 :][:6]
    np.testing.assert_allclose(second.prod(axis=1), [3600, 6660] + [3600] * 4, 1e-5)
    np.testing.assert_allclose(second[4, 1] / second[4, 0], 3, rtol=1e-5)


def test_coding_has_known_values():
    default, box = (
        np.float32([[0.2, 0.4, 0.6, 0.6]]),
        np.float32([[0.3, 0.3, 0.5, 0.7]]),
    )
    # same centre; half as high, twice as wide
    expected = [[0, 0, np.log(0.5) / 0.2, np.log(2) / 0.2]]
    np.testing.assert_allclose(boxes.encode(box, default), expected, atol=1e-5)
    # a tenth of its height down, a fifth of its width to the left
    moved = default + np.array([0.04, -0.04, 0.04, -0.04])
    expected = [[0.1 / 0.1, -0.2 / 0.1, 0, 0]]
    np.testing.assert_allclose(
        boxes.encode(np.float32(moved), default), expected, atol=1e-5
    )


def test_coding_there_and_back(defaults):
    random = np.random.default_rng(0)
    some = random_boxes(random, len(defaults)).astype("float32")
    again = boxes.decode(boxes.encode(some, defaults), defaults)
    np.testing.assert_allclose(again, some, atol=1e-5)
    huge = boxes.decode(np.full((1, 4), 1e6, "float32"), defaults[:1])
    assert np.isfinite(huge).all()


def test_overlap_equals_numpy():
    random = np.random.default_rng(1)
    first, second = random_boxes(random, 7), random_boxes(random, 5)
    expected = [[iou(a, b) for b in second] for a in first]
    found = boxes.overlap(first.astype("float32"), second.astype("float32"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def matched_in_numpy(objects, classes, defaults):
    """The rules, one default box at a time."""
    table = np.array([[iou(o, d) for d in defaults] for o in objects])
    had = np.full(len(defaults), -1)
    for index, column in enumerate(table.T):
        if column.max() > 0.5:
            had[index] = column.argmax()
    for _ in objects:  # greedily, so that no object goes without
        number, place = np.unravel_index(table.argmax(), table.shape)
        had[place] = number
        table[number], table[:, place] = -1, -1
    return np.where(had >= 0, np.array(classes)[had], 0), had


def test_matching_equals_numpy():
    small = boxes.default_boxes([5, 3, 2, 1, 1, 1])
    random = np.random.default_rng(2)
    for same in (False, False, False, True, True):
        objects, classes = random_boxes(random, 4), random.integers(1, 4, 4)
        objects[1] = objects[0] if same else objects[1]  # their best is the same
        expected, had = matched_in_numpy(objects, classes, small)
        offsets, found = boxes.match(
            objects.astype("float32"), classes.astype("int32"), small
        )
        np.testing.assert_array_equal(found, expected)
        assert set(had) >= {0, 1, 2, 3}, "an object without a default box"
        coded = boxes.encode(objects.astype("float32")[had], small)
        coded = np.where((had >= 0)[:, None], coded, 0)
        np.testing.assert_allclose(offsets, coded, atol=1e-4)


def test_matching_rules(defaults):
    """Over a half; the best one for what nothing overlaps; nothing at all."""
    exact = defaults[[5000]]
    offsets, classes = boxes.match(exact, np.int32([3]), defaults)
    assert classes[5000] == 3
    np.testing.assert_allclose(offsets[5000], 0, atol=1e-5)
    overlaps = boxes.overlap(exact, defaults)[0]
    np.testing.assert_array_equal(classes == 3, overlaps > 0.5)
    tiny = np.float32([[0.5, 0.5, 0.503, 0.503]])
    _, classes = boxes.match(tiny, np.int32([1]), defaults)
    assert np.sum(classes) == 1
    offsets, classes = boxes.match(
        np.zeros((0, 4), "float32"), np.zeros(0, "int32"), defaults
    )
    assert not np.any(classes) and not np.any(offsets)


def loss_in_numpy(targets, predicted, ratio):
    """Equations 1 to 3, one image and one box at a time, in float64."""
    total, count = 0.0, 0
    for target, guess in zip(targets.astype(float), predicted.astype(float)):
        logits = guess[:, 4:] - guess[:, 4:].max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        cross = [-row[int(label)] for row, label in zip(logs, target[:, 4])]
        matched = [i for i, label in enumerate(target[:, 4]) if label > 0]
        others = [i for i in range(len(target)) if i not in matched]
        hardest = sorted(others, key=lambda i: -cross[i])[: ratio * len(matched)]
        total += sum(cross[i] for i in matched + hardest)
        for i in matched:
            for off in np.abs(target[i, :4] - guess[i, :4]):
                total += off**2 / 2 if off < 1 else off - 0.5
        count += len(matched)
    return total / max(count, 1)


@pytest.mark.parametrize("ratio", [3, 1])
def test_loss_equals_numpy(ratio):
    random = np.random.default_rng(3)
    targets = np.zeros((4, 40, 5), "float32")
    targets[..., :4] = random.normal(size=(4, 40, 4))
    for image, matched in enumerate((1, 5, 0, 30)):  # 30: too few others
        targets[image, random.permutation(40)[:matched], 4] = 1 + image % 3
    predicted = 2 * random.normal(size=(4, 40, 8)).astype("float32")
    found = MultiboxLoss(negatives=ratio)(targets, predicted)
    expected = loss_in_numpy(targets, predicted, ratio)
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)
    # of equal boxes exactly three are mined, not all of them
    targets[:], predicted[:] = 0, 0
    targets[:, 7, 4] = 1
    np.testing.assert_allclose(
        float(MultiboxLoss(ratio)(targets, predicted)), (1 + ratio) * np.log(4), 1e-5
    )


def test_loss_survives_a_file():
    loss = keras.losses.deserialize(keras.losses.serialize(MultiboxLoss(2.0)))
    assert isinstance(loss, MultiboxLoss) and loss.negatives == 2


def test_network_is_the_published_one(defaults):
    """Figure 2; 26,285,486 parameters are those of its ports for 20 classes.

    Here the mean and variance of the input come to them.
    """
    model = ssd_network(20)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 26_285_486
    assert model.output_shape == (None, len(defaults), 4 + 21)
    assert boxes.map_sizes(300) == SSD300
    # fc6 is dilated; conv4_3 has the L2 norm 20 at the beginning
    assert [c.dilation_rate for c in convolutions(model) if c.filters == 1024] == [
        (6, 6),
        (1, 1),
    ]
    norm = model.get_layer("conv4_3_norm")
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 512))
    np.testing.assert_allclose(np.linalg.norm(norm(x)), 20, rtol=1e-4)


def convolutions(model):
    return [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]


def test_outputs_follow_the_default_boxes(defaults):
    """A bright spot moves the outputs of the default boxes near it, and no others."""
    keras.utils.set_random_seed(0)
    model = ssd_network(2, width=0.05)
    grey = np.full((1, 300, 300, 3), 1.0, "float32")
    spot = grey.copy()
    spot[0, 40:48, 230:238] = 9.0
    change = np.abs(model(spot) - model(grey)).sum(axis=-1)[0]
    first = slice(0, 38 * 38 * 4)  # of the smallest receptive field
    centers = (defaults[first, :2] + defaults[first, 2:]) / 2 * 300
    distance = np.abs(centers - [44, 234]).max(axis=1)
    moved = change[first] > 1e-6
    assert moved[distance < 12].all()
    # 92 pixels a side of conv4_3, and the 3x3 kernel of the head
    assert not moved[distance > 75].any()


def test_narrow_normalized_and_too_small():
    for size in (257, 512):
        model = ssd_network(3, size, width=0.02, normalize=True)
        assert any(isinstance(x, keras.layers.BatchNormalization) for x in model.layers)
        boxed = boxes.default_boxes(boxes.map_sizes(size))
        assert model.output_shape == (None, len(boxed), 4 + 4)
    with pytest.raises(ValueError, match="at least 257, not 256"):
        ssd_network(3, 256)


@pytest.mark.slow
def test_backbone_takes_the_weights_of_vgg16():
    """Both give the same at conv4_3 for the same picture."""
    source = keras.applications.VGG16(include_top=False, weights=None)
    model = ssd_network(2)
    assert load_backbone(model, source) == 13
    picture = np.random.default_rng(0).uniform(0, 255, (1, 300, 300, 3))
    given = keras.applications.vgg16.preprocess_input(picture.copy())
    ours = keras.Model(model.input, model.get_layer("conv4_3_norm").input)(picture)
    theirs = keras.Model(source.input, source.get_layer("block4_conv3").output)(given)
    # ours pools the odd side of 75 pixels to 38, theirs to 37
    np.testing.assert_allclose(ours[:, :30, :30], theirs[:, :30, :30], 1e-2, 1e-4)
    with pytest.raises(ValueError, match="--width 1"):
        load_backbone(ssd_network(2, width=0.5), source)


PIXELS = np.zeros((200, 260, 3), "float32")
PIXELS[60:120, 100:200] = (0, 0, 200)
OBJECT = np.float32([[60 / 200, 100 / 260, 120 / 200, 200 / 260, 1, 0]])


def extent(picture):
    """The box of what is blue, in shares of the picture."""
    rows, columns = np.nonzero(picture[..., 2] > picture[..., 0] + 30)
    size = np.array(picture.shape[:2] * 2)
    corners = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    return np.array(corners) / size


def draws_of(seed, **fixed):
    """Random numbers for one image; some of them given by their place."""
    draws = np.random.default_rng(seed).uniform(size=augmentation.DRAWS)
    for place, value in fixed.items():
        draws[int(place[1:])] = value
    return draws.astype("float32")


STILL = {f"d{i}": 0.9 for i in range(5, 14)}  # colours stay


def test_boxes_stay_on_their_objects():
    """A blue rectangle, followed through expansion, crop and flip."""
    moved = []
    for seed in range(60):
        picture, objects = augmentation.augment(
            PIXELS, OBJECT, draws_of(seed, **STILL), 300
        )
        assert picture.shape == (300, 300, 3)
        assert len(objects) == 1, "the only object is lost"
        np.testing.assert_allclose(objects[0, :4], extent(picture.numpy()), atol=0.012)
        np.testing.assert_array_equal(objects[0, 4:], [1, 0])
        moved.append(objects[0, :4].numpy())
    heights = np.array(moved)[:, 2] - np.array(moved)[:, 0]
    assert heights.min() < 0.15 and heights.max() > 0.6  # expanded, and cropped


def test_nothing_drawn_is_the_resized_image():
    still = draws_of(0, d0=0.9, d3=0.0, d4=0.9, **STILL)
    random = np.random.default_rng(0)
    image = random.uniform(0, 255, (90, 120, 3)).astype("float32")
    for size in (50, 300):  # smaller and larger
        picture, objects = augmentation.augment(image, OBJECT, still, size)
        expected = tf.image.resize(image, (size, size), antialias=True)
        inner = slice(size // 50, -size // 50)  # beyond its edge is the mean
        np.testing.assert_allclose(
            picture[inner, inner], expected[inner, inner], atol=0.02
        )
        np.testing.assert_allclose(objects, OBJECT)


def test_flip_mirrors_picture_and_box():
    calm = {"d0": 0.9, "d3": 0.0, **STILL}
    (a, there), (b, mirrored) = (
        augmentation.augment(PIXELS, OBJECT, draws_of(0, d4=flip, **calm), 300)
        for flip in (0.9, 0.1)
    )
    np.testing.assert_array_equal(a[:, ::-1], b)
    np.testing.assert_allclose(mirrored[0, 1], 1 - there[0, 3], rtol=1e-5)


@pytest.mark.parametrize("number", range(1, len(augmentation.LEAST)))
def test_crop_overlaps_as_drawn(number):
    """And has the centre of an object; sides 0.3 to 1, ratios 1/2 to 2."""
    least, changed = augmentation.LEAST[number], 0
    random = np.random.default_rng(number)
    whole = np.float32([0, 0, 1, 1])
    for _ in range(20):
        objects = random_boxes(random, 3).astype("float32")
        draws = random.uniform(size=(augmentation.TRIALS, 4)).astype("float32")
        choice = np.float32((number + 0.5) / len(augmentation.LEAST))
        window = augmentation.crop(whole, objects, choice, draws).numpy()
        if np.array_equal(window, whole):
            continue
        changed += 1
        assert max(iou(window, box) for box in objects) >= least - 1e-5
        assert len(augmentation.seen(window, objects))
        height, width = window[2:] - window[:2]
        assert 0.49 < height / width < 2.01 and min(window) >= 0 and max(window) < 1.001
        assert 0.29 < (height * width) ** 0.5 < 1.001
    assert changed or least >= 0.7  # small objects fill no crop so far


def test_colours_change_within_their_bounds():
    grey = np.full((4, 4, 3), 100, "float32")
    brighter = {**STILL, "d5": 0.1, "d9": 1.0}
    found = augmentation.distort(grey, draws_of(0, **brighter)[5:14])
    np.testing.assert_allclose(found, 132, atol=0.1)
    contrast = {**STILL, "d6": 0.1, "d10": 0.0}
    found = augmentation.distort(grey, draws_of(0, **contrast)[5:14])
    np.testing.assert_allclose(found, 50, atol=0.1)
    red = np.float32([[[200, 50, 50]]])
    for place, amount in itertools.product((7, 8), (0.0, 1.0)):
        how = {**STILL, f"d{place}": 0.1, f"d{place + 4}": amount}
        found = augmentation.distort(red, draws_of(0, **how)[5:14])
        assert np.abs(found - red).max() > 10
        np.testing.assert_allclose(np.max(found), 200, atol=0.1)  # HSV's value
    np.testing.assert_allclose(
        augmentation.distort(red, draws_of(0, **STILL)[5:14]), red, atol=0.01
    )


TRUTH = [
    np.float32([[0.1, 0.1, 0.3, 0.3, 1, 0], [0.5, 0.5, 0.9, 0.8, 2, 0]]),
    np.float32([[0.2, 0.4, 0.6, 0.9, 1, 0], [0.0, 0.0, 0.1, 0.1, 1, 1]]),
]
NAMES = ["cat", "dog", "none"]


def as_found(truth, score=0.9):
    return [
        {
            "boxes": objects[:, :4],
            "classes": objects[:, 4].astype(int) - 1,
            "scores": np.full(len(objects), score),
        }
        for objects in truth
    ]


def test_perfect_and_empty_predictions():
    perfect = evaluate(as_found(TRUTH), TRUTH, NAMES)
    assert perfect.metrics == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    np.testing.assert_array_equal(perfect.objects, [2, 1, 0])
    assert np.isnan(perfect.ap[2])
    nothing = evaluate(as_found([t[:0] for t in TRUTH]), TRUTH, NAMES)
    assert nothing.metrics == {"AP": 0, "AP50": 0, "AP75": 0}
    with pytest.raises(ValueError, match="1 images were looked at, not 2"):
        evaluate(as_found(TRUTH[:1]), TRUTH, NAMES)


def test_precision_counts_what_it_should():
    """A false box above a right one halves it; a difficult object counts not at all."""
    found = as_found([TRUTH[0], TRUTH[1][:1]])  # without the difficult one
    assert evaluate(found, TRUTH, NAMES).metrics["AP"] == pytest.approx(1)
    found[0]["boxes"] = np.concatenate([found[0]["boxes"], [[0.6, 0, 0.9, 0.2]]])
    found[0]["classes"] = np.append(found[0]["classes"], 1)
    found[0]["scores"] = np.append(found[0]["scores"], 0.99)
    worse = evaluate(found, TRUTH, NAMES)
    np.testing.assert_allclose(worse.ap50[:2], [1, 0.5], atol=1e-6)
    # a box of overlap 0.6 is right at 0.5 and 0.6, and not from 0.65
    shifted = [TRUTH[0][1:].copy()]
    shifted[0][0, 2] -= 0.4 * 0.4
    result = evaluate(as_found(shifted), [TRUTH[0][1:]], NAMES)
    assert result.metrics["AP50"] == pytest.approx(1)
    assert result.metrics["AP75"] == 0
    assert result.metrics["AP"] in (pytest.approx(0.2), pytest.approx(0.3))


def test_detections_decode_and_suppress(defaults):
    """Three boxes on one object leave one; another class and place stay."""
    predicted = np.zeros((1, len(defaults), 4 + 3), "float32")
    predicted[..., 4] = 10  # background
    for place, label, logit in ((0, 5, 14), (1, 5, 13), (5000, 6, 15), (5000, 5, 9)):
        predicted[0, place, label] = logit
    found = {n: v.numpy()[0] for n, v in boxes.detections(predicted, defaults).items()}
    assert boxes.overlap(defaults[:1], defaults[1:2])[0, 0] > 0.45
    assert found["count"] == 2
    np.testing.assert_array_equal(found["classes"][:2], [1, 0])
    kept = np.clip(defaults[[5000, 0]], 0, 1)
    order = np.argsort(-found["scores"][:2], kind="stable")
    np.testing.assert_allclose(found["boxes"][:2][order], kept, atol=1e-5)
    everything = boxes.detections(predicted, defaults, suppressed=1.0)
    assert everything["count"][0] == 3
