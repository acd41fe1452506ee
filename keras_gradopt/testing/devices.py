"""Two logical devices on one CPU, for TensorFlow's distribution strategies."""

import keras


def split_cpu() -> bool:
    """Splits TensorFlow's CPU into two logical devices, if it still can be.

    TensorFlow fixes its devices at its first operation. `check_optimizer` and `checks`
    call this themselves; where operations come before them (a notebook, a test
    session), call it first, or the check `two_devices` is skipped. All but that check
    runs on the first of the two devices as on a whole CPU.

    Returns:
        Whether there are two logical CPUs now. On other backends False.

    Example:

    >>> from keras_gradopt.testing import split_cpu
    >>> split_cpu() in (True, False)
    True
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    cpus = tf.config.list_physical_devices("CPU")
    if tf.config.get_logical_device_configuration(cpus[0]) is None:
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        try:
            tf.config.set_logical_device_configuration(cpus[0], two)
        except RuntimeError:  # it has started
            return False
    return len(tf.config.get_logical_device_configuration(cpus[0])) > 1


def logical_cpus() -> list[str]:
    """Names of TensorFlow's logical CPUs."""
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("CPU")]
