"""What every training program is around its `fit`: devices, begin, end and record."""

import contextlib
import dataclasses
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_gradopt
from training.datasets import DatasetError, naming_unreadable_images
from training.run_files import RunError, alone_in, write_json
from training.run_state import Keep


def run_program(make, print_names, settle, prepare, train, report, arguments=None):
    """What `train.py` and `detect.py` do, from the command line to the results.

    Args:
        make: the parser of the command line.
        print_names: what `--list` does.
        settle: the settings of the run, from the flags.
        prepare: from flags and settings: the settings, now whole, the data, what keeps
            the run, the epochs that are done and the model.
        train: from flags and those: images per second.
        report: from flags, settings, data, model, what keeps the run, images per second
            and when all began: writes the results.
        arguments: instead of the command line.
    """
    args = make.parse_args(arguments)
    if args.list:
        print_names()
        return
    start = time.perf_counter()
    try:
        with contextlib.ExitStack() as turn:
            try:
                run = settle(args)
                if args.process_id == 0:
                    turn.enter_context(alone_in(args.output))
                run, data, keep, done, model = prepare(args, run)
            except ValueError as error:  # later ones would be faults of the program
                raise RunError(error) from error
            if args.resume and keep.finished:
                print(f"The run in {args.output} is finished.")
                return
            print(model.optimizer)
            ended = done >= run.epochs or keep.at_end
            turn.enter_context(naming_unreadable_images(data))
            speed = None if ended else train(args, run, data, model, keep, done)
            if args.process_id == 0:
                report(args, run, data, model, keep, speed, start)
    except (RunError, DatasetError, OSError) as error:
        make.exit(2, f"{make.prog}: error: {error}\n")


def set_up(args, run):
    """Sets precision and devices; returns the scope to build the model in."""
    if args.devices and args.strategy != "data-parallel":
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * args.devices
        tf.config.set_logical_device_configuration(cpu, logical)
    if keras.backend.backend() == "tensorflow" and not args.nondeterministic:
        tf.config.experimental.enable_op_determinism()  # sums in a fixed order
    keras.config.set_dtype_policy(run.precision)
    if args.strategy == "data-parallel":
        set_up_data_parallel(args, run)
    elif args.strategy == "mirrored":
        devices = [f"CPU:{i}" for i in range(args.devices)] if args.devices else None
        strategy = tf.distribute.MirroredStrategy(devices)
        if run.batch_size % strategy.num_replicas_in_sync:
            raise ValueError(
                f"--batch-size {run.batch_size} is not a multiple of the "
                f"{strategy.num_replicas_in_sync} devices"
            )
        return strategy.scope()
    return contextlib.nullcontext()


def set_up_data_parallel(args, run):
    """Joins the processes, and spreads every batch over all their devices."""
    import jax

    tf.config.set_visible_devices([], "GPU")  # they are JAX'
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    if args.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(args.coordinator, args.processes, args.process_id)
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    if run.batch_size % sharing_devices():
        raise ValueError(
            f"--batch-size {run.batch_size} is not a multiple of the "
            f"{sharing_devices()} devices"
        )


def sharing_devices():
    """The devices of all processes among which every batch must divide evenly."""
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


# what may be different when a run goes on
UNIMPORTANT = ["resume", "overwrite", "output", "list", "tensorboard", "monitor"]
UNIMPORTANT += ["data_dir", "coordinator", "process_id"]


def begin(args, run, monitor="val_accuracy"):
    """What keeps the run; epochs done and the model so far, if it is resumed.

    `monitor` is what the best epoch is chosen by; the highest wins.

    Raises:
        ValueError: for an unfinished run that was not asked for, or another run.
    """
    settings = {
        name: value
        for name, value in {**vars(args), **dataclasses.asdict(run)}.items()
        if name not in UNIMPORTANT
    }
    settings = json.loads(json.dumps(settings))  # as it is read back
    keep = Keep(
        args.output,
        settings,
        monitor=monitor,
        patience=args.patience,
        write=args.process_id == 0,
    )
    if args.resume:
        done, model = keep.restore()
        if done > run.epochs:
            raise ValueError(f"{args.output} has {done} epochs of {run.epochs}")
        if not keep.finished:
            print(f"{done} of {run.epochs} epochs are done; going on.")
        return keep, done, model
    if keep.unfinished and not args.overwrite:
        raise ValueError(
            f"{args.output} holds an unfinished run: --resume goes on with it, "
            "--overwrite drops it"
        )
    if keep.write:
        keep.clear()
    return keep, 0, None


class Clock(keras.callbacks.Callback):
    """Times the epochs without their validation, also one by a later callback."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_test_begin(self, logs=None):
        if self.begin is not None:
            self.seconds.append(time.perf_counter() - self.begin)
        self.begin = None

    def on_epoch_end(self, epoch, logs=None):
        self.on_test_begin()

    def rate(self, images):
        """Images per second; the first epoch, with its compilation, if it is all."""
        seconds = self.seconds[1:] or self.seconds
        return len(seconds) * images / sum(seconds) if seconds else None


@contextlib.contextmanager
def looking_on(args):
    """Callbacks that only look: TensorBoard's and the monitor, if they are asked for.

    At the end the monitor says what it saw.
    """
    callbacks, monitor = [], None
    if args.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(args.output / "tensorboard"))
    if args.monitor:
        path = args.output / "monitor.csv"
        monitor = keras_gradopt.callbacks.GradientMonitor(args.monitor, csv_path=path)
        callbacks.append(monitor)
    yield callbacks
    if monitor and monitor.records:
        monitor.plot(args.output / "monitor.png")
        monitor.summary()


def write_results(args, run, model, keep, speed, start, evaluate, export):
    """Writes `run.json`, what the best model is worth and, last, its SavedModel.

    Args:
        args, run, model, keep, speed, start: as for `described`.
        evaluate: of the best model: writes pictures and tables, and returns metrics and
            those in words.
        export: of the best model: writes the SavedModel, and returns by how much its
            predictions differ at most.

    Raises:
        RunError: at the end, if the training diverged.
    """
    folder = args.output
    if args.strategy == "data-parallel":  # what follows, one process does alone
        keras.distribution.set_distribution(None)
    written = described(args, run, model, keep, speed, start)
    difference = None
    if keep.best_epoch is not None:
        best = keras.saving.load_model(folder / "best.keras")
        if args.ema is not None:
            best.optimizer.finalize_variable_values(best.trainable_variables)
        metrics, words = evaluate(best)
        written["best_epoch"] = keep.best_epoch + 1
        written["metrics"] |= metrics
        write_json(folder / "run.json", written)  # the export may fail
        print(f"Best validation {words}, after epoch {keep.best_epoch + 1}.")
        if keras.backend.backend() == "torch":
            print("Keras exports no SavedModel on PyTorch; best.keras has the model.")
        else:
            difference = export(best)
            print(f"The SavedModel agrees with the model to {difference:.1e}.")
    written["saved_model_max_difference"] = difference
    write_json(folder / "run.json", written)
    print(f"Results are in {folder}.")
    if keep.diverged:
        raise RunError(
            f"training diverged in epoch {keep.epochs}: its loss is NaN or infinite. A "
            "lower --learning-rate may help, or --clipnorm"
        )


def described(args, run, model, keep, speed, start):
    """What `run.json` says of any run.

    Args:
        args: the flags.
        run: the settings.
        model: as it is after the last epoch.
        keep: what keeps the run.
        speed: images per second.
        start: when the program was started, by `time.perf_counter`.
    """
    return {
        "command": sys.argv,
        "arguments": {**vars(args), "output": str(args.output)},
        "run": dataclasses.asdict(run),
        "optimizer": repr(model.optimizer),
        "parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "epochs": keep.epochs,
        "diverged": keep.diverged,
        "metrics": {
            f"last_{name}": values[-1] for name, values in keep.history.items()
        },
        "images_per_second": speed,
        "seconds": time.perf_counter() - start,
        "memory_mb": memory(),
        "versions": {
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "keras_gradopt": keras_gradopt.__version__,
        },
        "commit": commit(),
    }


def commit():
    """The commit of the checkout that this file is in, "-dirty" if changed, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(
            command, cwd=Path(__file__).parent, check=True, capture_output=True
        )
        return found.stdout.decode().strip()
    return None


def memory():
    """Megabytes that were used at most, of the process and of each TensorFlow GPU."""
    used = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if keras.backend.backend() == "tensorflow":
        for gpu in tf.config.list_logical_devices("GPU"):
            peak = tf.config.experimental.get_memory_info(gpu.name)["peak"]
            used[gpu.name] = peak / 2**20
    return used
