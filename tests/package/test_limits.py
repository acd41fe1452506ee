"""What Keras itself cannot do, shown with its own Adam.

When one of these fails, Keras has mended it: try ours, and move the row in
`tests/support_matrix.py`.
"""

import pytest
from test_distribution import free_addresses, start
from trajectories import BACKEND

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute"),
]


def errors(*processes):
    """The outputs of processes that must fail; the others are stopped then."""
    try:
        outputs = [processes[0].communicate(timeout=300)[0]]
        assert processes[0].returncode != 0
    finally:
        for process in processes:
            process.kill()
    return outputs[0]


def test_compiled_step_under_mirrored_strategy_fails():
    output = errors(start("limits.py", "mirrored_jit"))
    assert "Trying to access resource" in output
    assert "xla/known_issues#tfvariable_on_a_different_device" in output


def test_fit_with_several_tensorflow_workers_fails():
    addresses = free_addresses(2)
    commands = [("limits.py", "multiworker_fit", i, *addresses) for i in range(2)]
    output = errors(*(start(*command) for command in commands))
    assert "unsupported type" in output
    assert "PerReplica" in output
