"""The networks of the examples: sizes as published, and what each has to be."""

import inspect
import os
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers
from training.models import MODELS, create_model
from training.models.applications import APPLICATIONS
from training.models.densenet import dense_network
from training.models.dla import aggregated_network
from training.models.dpn import dual_path_network
from training.models.googlenet import inception_network
from training.models.regnet import regnet
from training.models.resnet import residual_network
from training.models.vgg import vgg_network

import keras_gradopt

pytestmark = pytest.mark.backend_independent

HE = "He et al. 2015, Table 6: 0.27 and 0.85 million; exactly, in READMEs of ports"
TORCHVISION = "torchvision, num_params of the network's weights"
KUANGLIU = "kuangliu/pytorch-cifar, as counted in READMEs of its forks and ports"
# the sum of p.numel() over the parameters of its PyTorch networks, at commit 49b7aa9
COUNTED = "kuangliu/pytorch-cifar, counted in that code; DLA's is AngularGrad's own"
OSMR = "osmr/imgclsmob, weight_count in the tests of the network"

# name, height and width, classes, trainable parameters, who published that number
PUBLISHED = [
    ("resnet20", 32, 10, 269_722, HE),
    ("resnet56", 32, 10, 853_018, HE),
    ("resnet18", 32, 10, 11_173_962, KUANGLIU),
    ("resnet18", 224, 1000, 11_689_512, TORCHVISION),
    ("resnet34", 32, 10, 21_282_122, KUANGLIU),
    ("resnet50", 32, 10, 23_520_842, KUANGLIU),
    ("resnet50", 224, 1000, 25_557_032, TORCHVISION),
    ("resnet101", 224, 1000, 44_549_160, TORCHVISION),
    ("preact_resnet34", 224, 1000, 21_796_008, OSMR),
    ("preact_resnet50", 32, 10, 23_513_162, "jvlmdr/flax-cifar, ResNetV2-50"),
    ("se_resnet18", 224, 1000, 11_778_592, OSMR),
    ("se_resnet34", 224, 1000, 21_958_868, OSMR),
    ("se_resnet50", 224, 1000, 28_088_024, OSMR),
    # standardization has no parameters
    ("resnet18_ws", 224, 1000, 11_689_512, TORCHVISION),
    ("resnet50_ws", 224, 1000, 25_557_032, TORCHVISION),
    ("resnet101_ws", 224, 1000, 44_549_160, TORCHVISION),
    # the same, with a classifier for the 100 classes of AngularGrad's Table 3
    ("resnet18_ws", 224, 100, 11_689_512 - 900 * 513, TORCHVISION),
    ("resnet50_ws", 224, 100, 25_557_032 - 900 * 2049, TORCHVISION),
    ("resnet101_ws", 224, 100, 44_549_160 - 900 * 2049, TORCHVISION),
    ("resnext29_32x4d", 32, 10, 4_775_754, OSMR),
    # there the first convolution is 1x1; here, as Xie et al.'s, 3x3
    ("resnext29_4x64d", 32, 10, 27_104_586 + 64 * 3 * 8, KUANGLIU),
    ("densenet121", 32, 10, 6_956_298, KUANGLIU),
    ("densenet121", 224, 1000, 7_978_856, TORCHVISION),
    ("densenet169", 224, 1000, 14_149_480, TORCHVISION),
    ("densenet_cifar", 32, 10, 1_000_618, "jvlmdr/flax-cifar, DenseNet121-12"),
    ("densenet40", 32, 10, 176_122, OSMR),
    # convolutions 3x3 after 1x1: 432 + 9 * 2304 + 32 * 246 + 40 * 20 + 44 * 22;
    # normalizations 2 * (246 + 9 * 32 + 40 + 44 + 46); classifier 46 * 10 + 10
    ("densenet22", 32, 10, 30_808 + 1_328 + 470, "by hand"),
    ("vgg16", 32, 10, 14_728_266, KUANGLIU),
    ("vgg16", 224, 1000, 138_365_992, TORCHVISION),
    ("dla", 32, 10, 16_291_386, COUNTED),
    ("dpn26", 32, 10, 11_574_842, COUNTED),
    ("googlenet", 32, 10, 6_166_250, COUNTED),
    ("regnetx_200mf", 32, 10, 2_321_946, COUNTED),
]

# one of each kind, with few layers
residual = partial(residual_network, blocks=(1, 1), width=16, stem_width=16)
SMALL = {
    "plain": residual,
    "option A": partial(residual, projection=False),
    "bottleneck": partial(residual, width=32, inner=8, groups=4),
    "pre-activation": partial(residual, pre_activation=True),
    "squeeze": partial(residual, reduction=4),
    "standardized": partial(residual, standardize=True),
    "dense": partial(dense_network, blocks=(1, 2), growth=4),
    "vgg": partial(vgg_network, blocks=(1, 1)),
    "aggregated": partial(aggregated_network, widths=(4, 8), trees=((8, 1), (16, 2))),
    "dual path": partial(
        dual_path_network, stages=((2, 8, 12, 3), (2, 8, 16, 4)), groups=4
    ),
    "inception": partial(
        inception_network, stages=(((4,) * 6,), ((4,) * 6,)), stem_width=8
    ),
    "regnet": partial(regnet, stages=((1, 8, 1), (2, 16, 2)), group_width=4),
}
SMALL = {name: partial(make, name="small") for name, make in SMALL.items()}

# What the input of a layer comes from. Parameter counts do not see this order.
POST = {
    "Conv2D": {"ReLU"},
    "BatchNormalization": {"Conv2D"},
    "Add": {"ReLU", "BatchNormalization"},
    "ReLU": {"Add", "BatchNormalization"},
}
ORDER = {
    "plain": POST,
    "option A": {
        **POST,
        "Add": {"ReLU", "BatchNormalization", "Pad"},
        "Pad": {"MaxPooling2D"},
    },
    "pre-activation": {
        "Conv2D": {"ReLU"},
        "BatchNormalization": {"Conv2D", "Add"},
        "Add": {"Conv2D", "Add"},
        "ReLU": {"BatchNormalization"},
    },
    "squeeze": {
        **POST,
        "Add": {"ReLU", "BatchNormalization", "Multiply"},
        "Multiply": {"Dense", "BatchNormalization"},
    },
    "standardized": {
        **POST,
        "Conv2D": {"ZeroPadding2D", "OnesLike"},
        "BatchNormalization": {"Subtract"},
        "Subtract": {"Conv2D", "Multiply"},
    },
    "dense": {
        "Conv2D": {"ReLU"},
        "BatchNormalization": {"Conv2D", "Concatenate", "AveragePooling2D"},
        "Concatenate": {"Conv2D", "Concatenate", "AveragePooling2D"},
        "ReLU": {"BatchNormalization"},
        "AveragePooling2D": {"Conv2D"},
    },
    "vgg": {
        "Conv2D": {"ReLU"},
        "BatchNormalization": {"Conv2D"},
        "ReLU": {"BatchNormalization"},
    },
    "aggregated": {
        **POST,
        "Conv2D": {"ReLU", "Concatenate"},
        "Concatenate": {"ReLU"},
    },
    "dual path": {
        "Conv2D": {"ReLU"},
        "BatchNormalization": {"Conv2D"},
        "ReLU": {"BatchNormalization", "Concatenate"},
        "Split": {"BatchNormalization", "ReLU"},
        "Add": {"Split"},
        "Concatenate": {"Split", "Add"},
    },
    "inception": {
        "Conv2D": {"ReLU", "Concatenate"},
        "BatchNormalization": {"Conv2D"},
        "ReLU": {"BatchNormalization"},
        "Concatenate": {"ReLU"},
        "MaxPooling2D": {"ReLU", "Concatenate"},
    },
}


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def kernels(model):
    """All that multiplies an input: no biases, no scales of a normalization."""
    return [w for w in model.trainable_weights if w.name.endswith("kernel")]


def order(model):
    """For each kind of layer the kinds that its inputs come from."""
    kinds = {}
    for operation in model.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                source = type(tensor._keras_history.operation).__name__
                if source != "Normalization":  # of the pixels
                    kinds.setdefault(type(operation).__name__, set()).add(source)
    return kinds


def kind_of(name):
    for part, kind in {
        "resnet20": "option A",
        "resnet56": "option A",
        "preact": "pre-activation",
        "se_": "squeeze",
        "_ws": "standardized",
        "densenet": "dense",
        "vgg": "vgg",
        "dla": "aggregated",
        "dpn": "dual path",
        "googlenet": "inception",
    }.items():
        if part in name:
            return kind
    return "plain"


@pytest.fixture(scope="module")
def mock_batches():
    """Two batches of mock CIFAR-10, through the whole input pipeline."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from training.datasets import load, preparing, training_batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "prepare", lambda *_: None)
        with tfds.testing.mock_data(num_examples=8):
            batches, _ = training_batches(load("cifar10"), 4, seed=0)
            return list(batches.as_numpy_iterator())


def trains(name, batches, optimizer, **how):
    """Whether every batch gives a finite loss and moves every trainable weight."""
    images, _ = batches[0]
    assert len(batches) == 2 and images.shape == (4, 32, 32, 3)
    model = create_model(name, images.shape[1:], 10)
    model.compile(optimizer, "sparse_categorical_crossentropy", **how)
    for batch in batches:
        before = [np.array(w) for w in model.trainable_weights]
        assert np.isfinite(model.train_on_batch(*batch))
        after = [np.array(w) for w in model.trainable_weights]
        assert all((a != b).any() for a, b in zip(before, after))


# large ones take minutes: those with ALL_NETWORKS=1
QUICKEST = ["resnet20", "densenet22"]
EAGER = [*QUICKEST, "resnet18_ws", "vgg16", "googlenet"]
ALL = os.environ.get("ALL_NETWORKS")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS if ALL else EAGER)
def test_two_steps_on_mock_images(name, mock_batches):
    trains(name, mock_batches, keras_gradopt.AdamNorm(), run_eagerly=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS if ALL else QUICKEST)
def test_two_optimizers_under_xla(name, mock_batches):
    for optimizer in (keras_gradopt.AngularGrad(), keras_gradopt.WGDSGD()):
        trains(name, mock_batches, optimizer, jit_compile=True)


@pytest.mark.parametrize(
    ("name", "size", "classes", "count"),
    [
        pytest.param(
            *row[:4],
            id=f"{row[0]}-{row[1]}-{row[2]}",
            marks=pytest.mark.slow if row[1] > 32 else (),
        )
        for row in PUBLISHED
        if ALL or row[1] <= 32 or row[0] == "resnet18_ws"
    ],
)
def test_as_many_parameters_as_published(name, size, classes, count):
    model = MODELS[name]((size, size, 3), classes)
    assert trainable(model) == count
    assert model.name == name
    assert model.output_shape == (None, classes)
    # a saved model loads without the examples
    assert {type(op).__module__.split(".")[0] for op in model.operations} == {"keras"}
    kind, found = kind_of(name), order(model)
    for layer, sources in ORDER[kind].items():
        if layer != "Pad":
            found[layer].discard("MaxPooling2D")  # of the stem
        assert found[layer] == sources, layer


def test_resnext29_8x64d_by_hand():
    """Xie et al. 2017, Table 7: 34.4 million; to the last one by a closed formula."""

    def convolution(size, inputs, outputs):  # and its normalization
        return size * size * inputs * outputs + 2 * outputs

    expected = convolution(3, 3, 64) + 1024 * 10 + 10
    inputs = 64
    for inner, outputs in ((512, 256), (1024, 512), (2048, 1024)):
        expected += convolution(1, inputs, outputs)  # the projection
        for _ in range(3):
            expected += convolution(1, inputs, inner) + convolution(1, inner, outputs)
            expected += 8 * convolution(3, inner // 8, inner // 8)
            inputs = outputs
    assert round(expected / 1e6, 1) == 34.4
    assert trainable(MODELS["resnext29_8x64d"]((32, 32, 3), 10)) == expected


def test_every_network_has_its_size_tested():
    assert {row[0] for row in PUBLISHED} | {"resnext29_8x64d"} == set(MODELS)


def test_one_signature():
    for make in MODELS.values():
        parameters = list(inspect.signature(make).parameters.values())
        names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert names == ["input_shape", "classes", "l2", "adapt_to"]


@pytest.mark.parametrize("kind", SMALL)
def test_probabilities_in_float32_under_mixed_precision(kind, mixed_float16):
    """On the smallest images, grey, 8x8."""
    model = SMALL[kind]((8, 8, 1), 7)
    assert model.layers[-2].compute_dtype == "float16"
    probabilities = predict(model, pixels(3, 8, 8, 1))
    assert probabilities.shape == (3, 7)
    assert probabilities.dtype == np.float32
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", SMALL)
def test_saved_and_loaded_it_predicts_the_same(kind, tmp_path):
    images = pixels(3, 12, 12, 3)
    model = SMALL[kind]((12, 12, 3), 10, adapt_to=images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, images), predict(model, images), 1e-5)
    np.testing.assert_allclose(sum(loaded.losses), sum(model.losses), 1e-5)


LOAD = """
import sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
assert "training" not in sys.modules
np.save(sys.argv[2], model(np.load(sys.argv[2]), training=False))
"""


@pytest.mark.slow
def test_standardized_kernels_load_without_the_examples(tmp_path):
    images = pixels(3, 12, 12, 3)
    model = create_model("resnet18_ws", (12, 12, 3), 10, adapt_to=images)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", LOAD, "model.keras", "images.npy"]
    subprocess.run(command, check=True, cwd=tmp_path)
    loaded = np.load(tmp_path / "images.npy")
    np.testing.assert_allclose(loaded, predict(model, images), 1e-5)


@pytest.mark.parametrize("kind", ["plain", "dense", "vgg"])
def test_pixels_are_normalized_per_channel(kind):
    images = pixels(50, 8, 8, 3) * [1, 0.5, 0.1] + [0, 9, 99]

    def normalized(adapt_to):
        model = SMALL[kind]((8, 8, 3), 10, adapt_to=adapt_to)
        assert isinstance(model.layers[1], layers.Normalization)
        return predict(keras.Model(model.input, model.layers[1].output), images)

    np.testing.assert_allclose(normalized(images).mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalized(images).std(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(normalized(None), images, rtol=1e-4)


@pytest.mark.parametrize("kind", [*SMALL, "MobileNet"])
def test_weight_decay_of_every_kernel_and_of_nothing_else(kind):
    """The penalty is l2/2 sum of squares: its gradient is l2 times the kernel."""
    make = SMALL.get(kind, partial(create_model, kind))
    model = make((32, 32, 3), 10, l2=0.3)
    expected = sum(0.15 * float(keras.ops.sum(k * k)) for k in kernels(model))
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-4)
    assert len(model.losses) == len(kernels(model)) > 2
    if kind in SMALL:
        assert make((32, 32, 3), 10, l2=0).losses == []


@pytest.mark.parametrize("kind", ["plain", "standardized", "pre-activation", "dense"])
@pytest.mark.parametrize(
    ("shape", "size", "side"), [((63, 90, 3), 3, (63, 90)), ((64, 90, 3), 7, (16, 23))]
)
def test_stem_by_the_size_of_the_images(kind, shape, size, side):
    model = SMALL[kind](shape, 10)
    first = next(x for x in model.layers if isinstance(x, layers.Conv2D))
    assert first.kernel_size == (size, size)
    pools = [x for x in model.layers if isinstance(x, layers.MaxPooling2D)]
    assert len(pools) == (size == 7)
    join = layers.Concatenate if kind == "dense" else layers.Add
    first_join = next(x for x in model.layers if isinstance(x, join))
    assert first_join.output.shape[1:3] == side


class Standardized(layers.Conv2D):
    """Weight standardization as Qiao et al. write it."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        kernel = kernel / keras.ops.std(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, kernel)


def test_standardized_kernels_train_as_qiao_et_al_write_it(monkeypatch):
    """Losses and weights over three steps, though here nothing is divided."""
    images, labels = pixels(16, 9, 9, 3), np.arange(16) % 10
    make = partial(SMALL["bottleneck"], (9, 9, 3), 10, adapt_to=images, groups=1)
    models = {"ours": make(standardize=True), "plain": make()}
    monkeypatch.setattr(
        "training.models.resnet._standardized",
        lambda layer, x: Standardized.from_config(layer.get_config())(x),
    )
    models["theirs"] = make(standardize=True)
    start = models["ours"].get_weights()
    losses, kernel = {}, {}
    for key, model in models.items():
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
        losses[key] = [model.train_on_batch(images, labels) for _ in range(3)]
        kernel[key] = kernels(model)[1].numpy()
    np.testing.assert_allclose(losses["ours"], losses["theirs"], rtol=1e-5)
    np.testing.assert_allclose(kernel["ours"], kernel["theirs"], atol=1e-5)
    assert np.abs(np.subtract(losses["ours"], losses["plain"])).min() > 0.02
    assert np.abs(kernel["ours"] - kernel["plain"]).max() > 0.02


@pytest.mark.parametrize("other", [{"groups": 4, "inner": 8}, {"pre_activation": True}])
def test_what_cannot_be_standardized(other):
    with pytest.raises(ValueError, match="standardize is not for"):
        SMALL["standardized"]((8, 8, 3), 10, **other)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet19", "resnet18"),
        ("Resnet50", "ResNet50 or resnet50"),
        ("efficientnet_b0", "EfficientNetB0"),
        ("densenet-121", "DenseNet121"),
    ],
)
def test_unknown_name_gets_close_ones(name, close):
    with pytest.raises(ValueError, match=f"unknown model '{name}'") as error:
        create_model(name, (32, 32, 3), 10)
    suggested = str(error.value).split("did you mean ")[1].split("?)")[0]
    assert close in suggested
    assert "vgg16" in str(error.value).split("known are")[1]


def test_unknown_name_without_a_close_one():
    with pytest.raises(ValueError, match="unknown model 'zzz'; known are"):
        create_model("zzz", (32, 32, 3), 10)


def test_no_pretrained_weights_of_our_networks():
    with pytest.raises(ValueError, match="'resnet50' has no pretrained weights"):
        create_model("resnet50", (32, 32, 3), 10, weights="imagenet")


def test_every_application_has_preprocessing():
    assert {"ResNet50", "EfficientNetV2B0", "ConvNeXtTiny"} < set(APPLICATIONS)
    for function in APPLICATIONS.values():
        assert callable(inspect.getmodule(function).preprocess_input)
    assert not set(APPLICATIONS) & set(MODELS)


@pytest.mark.parametrize(
    ("name", "family"),
    [("VGG16", keras.applications.vgg16), ("MobileNet", keras.applications.mobilenet)],
)
def test_application_with_preprocessing_inside(name, family, tmp_path):
    images = pixels(3, 32, 32, 3)
    model = create_model(name, (32, 32, 3), 10)
    network = next(x for x in model.layers if isinstance(x, keras.Model))
    (fed,) = network._inbound_nodes[-1].input_tensors
    expected = family.preprocess_input(images.copy())
    fed = predict(keras.Model(model.input, fed), images)
    np.testing.assert_allclose(fed, expected, rtol=1e-5, atol=1e-4)
    probabilities = predict(model, images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, images), probabilities, rtol=1e-4)
    np.testing.assert_allclose(sum(loaded.losses), sum(model.losses), 1e-5)


def test_application_with_its_own_classifier(mixed_float16):
    """Keras documents 4.3 million parameters; model.summary() gives both numbers."""
    model = create_model("MobileNet", (32, 32, 3), 1000)
    assert trainable(model) == 4_253_864 - 21_888
    probabilities = predict(model, pixels(2, 32, 32, 3))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_application_of_grey_images():
    model = create_model("MobileNet", (32, 32, 1), 10)
    assert predict(model, pixels(2, 32, 32, 1)).shape == (2, 10)


def test_pretrained_application_keeps_its_weights_and_gets_a_new_head(tmp_path):
    """As with "imagenet", which needs a download, from a file."""
    pretrained = keras.applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    path = tmp_path / "network.weights.h5"
    pretrained.save_weights(path)
    for classes in (10, 1000):
        model = create_model("MobileNet", (32, 32, 3), classes, weights=str(path))
        network = next(x for x in model.layers if isinstance(x, keras.Model))
        for ours, theirs in zip(network.get_weights(), pretrained.get_weights()):
            np.testing.assert_array_equal(ours, theirs)
        assert model.layers[-1].kernel.shape == (1024, classes)


def test_imagenet_weights_are_asked_of_keras(monkeypatch):
    asked = []

    def network(**arguments):
        asked.append(arguments)
        return keras.applications.MobileNet(**{**arguments, "weights": None})

    network.__module__ = keras.applications.MobileNet.__module__
    monkeypatch.setitem(APPLICATIONS, "MobileNet", network)
    create_model("MobileNet", (32, 32, 3), 1000, weights="imagenet")
    assert asked[0]["weights"] == "imagenet" and asked[0]["include_top"] is False
