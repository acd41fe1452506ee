"""The CIFAR-100 study: pairing, resuming, rows, scouting, statistics."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("scipy")

from studies import cifar100 as study
from studies import cifar100_data as data
from studies import cifar100_report as report
from studies import cifar100_training as training
from trajectories import BACKEND

STUDIES = Path(study.__file__).parent

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="what the study runs on; others take long"
)
RECIPE = training.Recipe(epochs=5, batch_size=8, network="densenet22")


def some_images(count=40, classes=4, side=8, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    return data.Images(images, np.arange(count, dtype=np.int32) % classes)


"""
## Data
"""


@pytest.fixture
def folders(tmp_path):
    """Class folders with two images a class, in files whose order is not theirs."""
    image = pytest.importorskip("PIL.Image")
    images, labels = some_images(8)
    for split in data.SPLITS:
        for index, (pixels, label) in enumerate(zip(images, labels)):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            image.fromarray(pixels).save(folder / f"{9 - index}.png")
    return tmp_path


def test_a_packed_file_does_not_depend_on_names(folders, tmp_path):
    first = data.pack(folders, tmp_path / "a" / "data.npz")
    for number, file in enumerate(sorted(folders.glob("train/*/*.png"))):
        file.rename(file.with_name(f"{100 - number}-other.png"))
    assert data.pack(folders, tmp_path / "b.npz") == first
    train, test, _ = data.load(tmp_path / "b.npz")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {i.tobytes() for i in train.images} == {
        i.tobytes() for i in some_images(8).images
    }
    assert test.images.dtype == np.uint8


def test_held_out_images_are_a_tenth_of_every_class_and_not_trained_on():
    whole = some_images(80)
    kept, held = data.hold_out(whole)
    assert np.bincount(held.labels).tolist() == [2, 2, 2, 2]
    seen = {image.tobytes() for image in kept.images}
    assert not seen & {image.tobytes() for image in held.images}
    assert len(kept.labels) + len(held.labels) == 80


def test_batches_are_shuffled_crops_half_of_them_mirrored():
    images = np.zeros((400, 8, 8, 3), np.uint8)
    images[:, 4, 3] = 255  # one bright pixel, left of the middle
    images[:, 0, 0, 0] = np.arange(400) % 256
    padded, labels = data.pad(images), np.arange(400)
    one, again, other = (
        list(data.batches(padded, labels, 48, 5, epoch)) for epoch in (0, 0, 1)
    )
    for (a, b), (c, d) in zip(one, again):
        assert np.array_equal(a, c) and np.array_equal(b, d)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(one, other))
    assert [len(batch) for batch, _ in one] == [48] * 8
    seen = np.concatenate([labels for _, labels in one])
    assert len(set(seen)) == 384 and not np.array_equal(seen, np.sort(seen))
    crops = np.concatenate([images for images, _ in one])
    assert crops.shape == (384, 8, 8, 3)
    places = [np.argwhere(crop[..., 1] == 255) for crop in crops]
    rows = np.array([place[0, 0] for place in places if len(place)])
    columns = np.array([place[0, 1] for place in places if len(place)])
    assert set(rows) == set(range(8))  # shifts of -4 to 4, where they stay inside
    # unmirrored the pixel is at 3 + shift, mirrored at 4 - shift: alike on average
    assert abs(columns.mean() - 3.5) < 0.5
    assert set(columns) == set(range(8))


"""
## Training
"""


@pytest.fixture
def small_network(monkeypatch):
    """Instead of the recipe's, for speed."""

    def create(name, shape, classes, l2, adapt_to):
        normalize = keras.layers.Normalization()
        normalize.adapt(adapt_to)
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input(shape),
                normalize,
                layers.Conv2D(8, 3, strides=2),
                layers.BatchNormalization(momentum=0.9),
                layers.Flatten(),
                layers.Dense(classes, "softmax"),
            ]
        )

    monkeypatch.setattr(training, "create_model", create)


class Stop(Exception):
    """Ends a training at its first batch."""


def first_batch(arm, state):
    """The initial weights of an arm and what it is first trained on."""
    seen = []
    make_model = training.make_model

    def make(*arguments):
        model = make_model(*arguments)

        def step(images, labels, return_dict):
            weights = [np.array(value) for value in model.get_weights()]
            seen.extend([*weights, images.copy(), labels.copy()])
            raise Stop

        model.train_on_batch = step
        return model

    images = some_images()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training, "make_model", make)
        training.train(arm, 3, 1e-3, images, images, RECIPE, state)
    return seen


def test_arms_of_a_seed_share_weights_and_batches(small_network, tmp_path):
    expected = first_batch("adam", tmp_path / "state.npz")
    for arm in study.ARMS[1:]:
        found = first_batch(arm, tmp_path / "state.npz")
        same = [np.array_equal(*pair) for pair in zip(found, expected, strict=True)]
        assert same[-2:] == [True, True]  # images and labels
        assert all(same) == (arm != "adam_again")


def test_optimizers_and_rates_are_those_of_the_plan(small_network):
    images = some_images().images
    for arm, name in [("adam", "AdamCore"), ("adamnorm", "AdamNorm")]:
        model = training.make_model(arm, 1, 1e-3, images, RECIPE)
        assert type(model.optimizer).__name__ == name
        assert not model.losses  # no weight decay
    steps = 5 * RECIPE.epochs_at_full_rate
    rates = []
    for iteration in (0, steps - 1, steps):
        model.optimizer.iterations.assign(iteration)
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4])


def test_outcome_is_of_all_images_and_of_the_last_epoch(small_network, tmp_path):
    images, others = some_images(), some_images(1203, seed=1)
    made = []
    make_model = training.make_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "make_model", lambda *a: made.append(make_model(*a)) or made[0]
        )
        found = training.train(
            "adam", 1, 1e-2, images, others, RECIPE, tmp_path / "state.npz"
        )
    predicted = made[0].predict(others.images, verbose=0)
    right = predicted.argmax(1) == others.labels
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    chosen = predicted[np.arange(1203), others.labels]
    assert found["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-3)
    assert len(found["losses"]) == RECIPE.epochs
    assert found["losses"][-1] < found["losses"][0]


TRAIN = """
import json, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
import test_cifar100 as t
def progress(epoch, means):
    print(epoch, flush=True)
images = t.some_images(400)
found = t.training.train(sys.argv[2], 1, 1e-2, images, images, t.RECIPE,
                         Path(sys.argv[1]), progress=progress)
print(json.dumps([found["accuracy"], found["loss"], found["losses"]]), flush=True)
"""


def in_a_process(state, arm, kill_after=None):
    here = Path(__file__)
    paths = map(str, [*here.parents[:2], STUDIES.parent, STUDIES.parents[1]])
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(state), arm, "", *paths],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"},
    )
    epochs = []
    for line in process.stdout:
        if line.startswith("["):
            process.wait()
            return epochs, json.loads(line), dict(np.load(state))
        epochs.append(int(line))
        if epochs[-1] == kill_after:
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return epochs, None, None


@pytest.mark.slow
@tensorflow_only
@pytest.mark.parametrize("arm", ["angulargrad"])
def test_killed_and_resumed_is_undisturbed_bit_by_bit(arm, tmp_path):
    _, expected, variables = in_a_process(tmp_path / "a.npz", arm)
    before, nothing, _ = in_a_process(tmp_path / "b.npz", arm, kill_after=2)
    assert nothing is None
    after, found, resumed = in_a_process(tmp_path / "b.npz", arm)
    assert before[:2] == [1, 2] and after[0] in (3, 4) and after[-1] == 5
    assert found == expected
    for name, value in variables.items():
        if name != "kept":  # holds the seconds
            assert np.array_equal(value, resumed[name])


"""
## Rows and processes
"""


def test_what_is_kept_of_another_recipe_is_not_gone_on_with(tmp_path, monkeypatch):
    """Other epochs, batches or data: each has a file of its own."""
    files = []

    def train(arm, seed, rate, images, tests, recipe, state, *others):
        files.append(state)
        state.touch()
        return {
            "accuracy": 0.5, "loss": 1.0, "losses": [1.0], "accuracies": [0.5],
            "seconds": 1.0, "cpu_seconds": 1.0, "commits": ["a"],
        }  # fmt: skip

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(study, "remaining", lambda arguments: [1])
    monkeypatch.setitem(sys.modules, "cifar100_training", training)
    run = study.Run("final", "adam", 1, 1e-3)
    for index, epochs in enumerate(("5", "5", "6")):
        arguments = argparse.Namespace(state=tmp_path, results=tmp_path / str(index))
        facts = {**dict.fromkeys(study.SAME, "1"), "epochs": epochs, "commit": "a"}
        study.one(run, (None, None), RECIPE, arguments, facts)
    assert files[0] == files[1] != files[2]


def row(arm="adam", seed=1, rate=1e-3, accuracy=0.6, stage="final", **others):
    return {
        **dict.fromkeys(study.COLUMNS, "1"),
        "stage": stage, "arm": arm, "seed": str(seed), "rate": str(rate),
        "accuracy": str(accuracy), "train_losses": "4 3", **others,
    }  # fmt: skip


def test_a_run_has_one_row(tmp_path):
    assert study.append(tmp_path, row())
    assert study.append(tmp_path, row(seed=2))
    assert not study.append(tmp_path, row(accuracy=0.9))
    assert [r["accuracy"] for r in study.read(tmp_path)] == ["0.6", "0.6"]


def test_rows_made_differently_are_not_mixed():
    same = {name: "1" for name in study.SAME}
    study.check_same([row()], same)
    with pytest.raises(SystemExit, match="threads: there '1', here '2'"):
        study.check_same([row()], {**same, "threads": 2})


def test_a_slot_is_occupied_until_its_process_is_gone(tmp_path):
    held = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "import cifar100, pathlib\n"
        "with cifar100.lock(pathlib.Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "slot-1.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", held, str(path), str(STUDIES)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"True\n"
    with study.lock(path) as free:
        assert not free
    process.kill()
    process.wait()
    with study.lock(path) as free:
        assert free


def command(folder, *arguments, **popen):
    """The study itself on tiny images, in a process."""
    whole = some_images(256, 100)
    if not (folder / "data.npz").exists():
        names = [f"{s}_{k}" for s in data.SPLITS for k in ("images", "labels")]
        np.savez(folder / "data.npz", **dict(zip(names, [*whole, *whole])))
    flags = ["--state", folder, "--results", folder, "--epochs", "2", "--allow-dirty"]
    return subprocess.Popen(
        [sys.executable, STUDIES / "cifar100.py", *arguments, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **popen,
    )


@pytest.mark.slow
@tensorflow_only
def test_the_command_goes_on_after_kills_and_repeats_nothing(tmp_path):
    for rate in (3.16e-4, 1e-3, 3.16e-3, 5.62e-4, 1.78e-3, 1.25e-3):
        for seed in study.SCOUT_SEEDS:
            better = 0.7 if rate == 1e-3 else 0.6
            made = {"epochs": "2", "batch_size": "64", "network": "resnet20"}
            made |= {"precision": "float32", "device": "cpu"}
            made |= {"backend": os.environ.get("KERAS_BACKEND", "tensorflow")}
            study.append(tmp_path, row("adam", seed, rate, better, "scout", **made))
    process = command(tmp_path, "run", "--seeds", "1")
    output = process.communicate()[0]
    assert "made differently (data" in output  # the rows above are of other images
    digest = output.split(", here '")[1].split("'")[0]
    rows = [{**r, "data": digest} for r in study.read(tmp_path)]
    (tmp_path / "runs.csv").unlink()
    for each in rows:
        study.append(tmp_path, each)

    process = command(tmp_path, "run", "--seeds", "1")
    second = None
    for line in process.stdout:
        if "final-adamnorm-1" in line and "epoch 1/2" in line:
            second = command(tmp_path, "run", "--seeds", "1").communicate()[0]
            process.send_signal(signal.SIGKILL)
    assert "slot 1" in second and "is occupied" in second
    process = command(tmp_path, "run", "--seeds", "1")
    for line in process.stdout:
        assert "final-adam-1-0.001 epoch" not in line  # it has its row
        if "final-angulargrad-1" in line and "epoch 1/2" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    output = command(tmp_path, "run", "--seeds", "1").communicate()[0]
    assert "nothing left to run" in output, output[-2000:]
    finals = [r for r in study.read(tmp_path) if r["stage"] == "final"]
    assert [r["arm"] for r in finals] == list(study.ARMS)
    assert all(r["commit"] for r in finals)


"""
## Scouting
"""


@pytest.mark.parametrize(
    ("best", "control"), [(1e-3, 1.25e-3), (5.62e-4, 5.62e-4), (1e-2, 1e-2)]
)
def test_scouting_finds_the_best_rate_that_is_not_the_papers(best, control):
    accuracy, rounds = {}, 0
    while True:
        runs, rate = study.scouting(accuracy)
        if not runs:
            break
        rounds += 1
        assert len(set(runs)) == len(runs)
        for run in runs:
            assert (run.seed, run.rate) not in accuracy
            accuracy[run.seed, run.rate] = -abs(np.log(run.rate / best))
    assert rate == control
    assert rounds >= 3
    assert {(seed, rate) for seed in study.SCOUT_SEEDS} <= accuracy.keys()


def test_final_runs_go_seed_by_seed():
    runs = study.planned(2e-3)
    assert [run.seed for run in runs[:10]] == [1] * 5 + [2] * 5
    assert [run.arm for run in runs[:5]] == list(study.ARMS)
    assert [run.rate for run in runs[:5]] == [1e-3, 1e-3, 1e-3, 2e-3, 1e-3]


"""
## Statistics
"""


def test_sign_flip_is_scipys_exact_test():
    from scipy import stats

    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.5, 1, 8)
        for greater, alternative in ((False, "two-sided"), (True, "greater")):
            expected = stats.permutation_test(
                (values,), np.mean, permutation_type="samples", n_resamples=np.inf,
                alternative=alternative,
            )  # fmt: skip
            found = report.sign_flip(values, greater)
            assert found == pytest.approx(expected.pvalue)
    assert report.sign_flip(np.arange(1, 8)) == 2 / 2**7


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(0, 0.1, 3)
        expected = multitest.multipletests(p, method="holm")[1]
        assert report.holm(p) == pytest.approx(list(expected))


def simulated(effects, seed, count=10, noise=0.3):
    """Accuracies of all arms: common to a seed, an arm's effect, noise of each run."""
    random = np.random.default_rng(seed)
    common = random.normal(0.6, 0.005, count)
    return {
        (arm, s): common[s - 1] + (effects.get(arm, 0) + random.normal(0, noise)) / 100
        for arm in study.ARMS
        for s in range(1, count + 1)
    }


def verdicts(effects, repeats, **settings):
    return [
        {
            row["name"]: row["verdict"]
            for row in report.compare(simulated(effects, i, **settings), range(1, 11))
        }
        for i in range(repeats)
    ]


def test_no_effect_is_seldom_found():
    found = verdicts({}, 300)
    wrong = sum(
        any(v[h].startswith(("better", "worse")) for h in report.FAMILY) for v in found
    )
    assert wrong <= 26  # 15 expected at 5 % of 300, standard deviation 3.8


def test_an_effect_that_is_detectable_is_found_four_times_of_five():
    noise = 0.3
    effect = report.detectable(10) * noise * 2**0.5
    found = verdicts({"adamnorm": effect, "angulargrad": -effect}, 200, noise=noise)
    better = np.mean([v["H1"].startswith("better") for v in found])
    worse = np.mean([v["H2"].startswith("worse") for v in found])
    assert 0.7 < better < 0.95 and 0.7 < worse < 0.95  # Holm's later steps help


def test_equivalence_needs_precision_and_no_effect():
    precise = verdicts({}, 50, noise=0.1)
    assert all("equivalent" in v["H1"] for v in precise)
    vague = verdicts({}, 50, noise=2.0)
    assert sum("equivalent" in v["H1"] for v in vague) <= 2
    beyond = verdicts({"adamnorm": report.MARGIN}, 100, noise=0.3)
    assert np.mean(["equivalent" in v["H1"] for v in beyond]) < 0.1
    within = verdicts({"adamnorm": 0.2}, 20, noise=0.05)
    assert all(v["H1"] == "better, but equivalent within 0.5 points" for v in within)


"""
## The page
"""


def all_rows(seeds=study.SEEDS, effects=None):
    accuracy = simulated(effects or {}, 0)
    scouts = [
        row("adam", seed, rate, 0.7 if rate == 1e-3 else 0.6, "scout")
        for seed in study.SCOUT_SEEDS
        for rate in (3.16e-4, 1e-3, 3.16e-3, 5.62e-4, 1.78e-3, 1.25e-3)
    ]
    _, control = study.scouted(scouts)
    finals = study.planned(control, seeds)
    return scouts + [
        row(run.arm, run.seed, run.rate, accuracy[run.arm, run.seed]) for run in finals
    ]


def test_page_of_nothing_says_what_is_missing():
    text = report.page([])
    assert "scout-adam-101-0.001" in text and "Verdicts" not in text


def test_page_compares_only_when_complete():
    rows = all_rows(effects={"adamnorm": 3})
    assert "| **better** |" in report.page(rows)
    missing = report.page(rows[:-1])
    assert "final-adam_again-10-0.001" in missing and "Verdicts" not in missing
    assert "9 of 10 seeds" in missing
    ended = report.page(rows[:-1], final=True)
    assert "| **better** |" in ended and "of\n9 seeds." in ended
    few = report.page(all_rows(study.SEEDS[:6]), final=True)
    assert "Verdicts" not in few and "Below 7 seeds" in few


def test_page_names_rows_of_no_commit_and_refuses_mixed_ones(tmp_path):
    rows = all_rows()
    rows[-1]["commit"] = "abc-dirty"
    assert "**Rows of no commit**: abc-dirty" in report.page(rows)
    rows[-1]["backend"] = "other"
    with pytest.raises(ValueError, match="backend"):
        report.page(rows)


def test_page_and_picture_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    for each in all_rows():
        study.append(tmp_path, each)
    report.write(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "H1 +2.02 (adanorm-1), H2 +1.17 (angulargrad-2)." in text
    for name in ("curves.png", "differences.png"):
        assert (tmp_path / name).stat().st_size > 1000
        assert f"({name})" in text


def test_the_site_says_what_the_committed_rows_say():
    """The page is what `report` writes; other pages repeat its numbers."""
    docs = Path(__file__).parents[2] / "docs"
    rows = study.read(docs / "studies" / "cifar100")
    written = docs / "studies" / "cifar100" / "README.md"
    assert report.page(rows) == written.read_text(encoding="utf-8")
    assert report.complete_seeds(rows) == list(study.SEEDS)
    found = {row["name"]: row for row in report.compare_rows(rows)}
    for name, pages in {
        "H1": ["study.md", "claims.md", "methods/adanorm.md"],
        "H2": ["study.md", "claims.md", "methods/angulargrad.md"],
        "H3": ["study.md", "claims.md", "methods/adanorm.md"],
        "control": ["study.md"],
    }.items():
        for page in pages:
            text = (docs / page).read_text(encoding="utf-8")
            assert report.answer(found[name]) in text, (name, page)
    told = (docs / "study.md").read_text(encoding="utf-8")
    spread = [f"{np.std(row['differences'], ddof=1):.2f}" for row in found.values()]
    said = "{} and {} for the first two, {} for the third, and {} where"
    assert said.format(*spread) in " ".join(told.split())
    assert (found["H1"]["differences"] > 0).all() and "in all ten seeds" in told
    assert sum(row["stage"] == "scout" for row in rows) == 9 and "nine runs" in told
    assert study.scouted(rows)[1] == 3.16e-3 and "3.16·10⁻³" in told


def test_a_control_that_fails_is_said_to():
    page = report.page(all_rows(effects={"adam_again": 3}))
    assert "**FAILED**" in page and "**passed**" not in page
    assert "**passed**" in report.page(all_rows())
