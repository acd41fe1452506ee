"""Does an optimizer help on *my* model? Comparisons that can be believed.

>>> from keras_gradopt import comparison
>>> comparison.compare  # doctest: +ELLIPSIS
<function compare at ...>

A `Task` is a model, its data and a loss; `compare` gives every optimizer the same
search for its learning rate, trains with paired seeds and returns `Results` with a
verdict for each comparison: better, worse, equivalent within the margin, or undecided.
From the command line: `python -m keras_gradopt.comparison --help`.

Statistics need SciPy and statsmodels, pictures matplotlib, sending functions to other
processes cloudpickle: `pip install "keras-gradopt[comparison]"`.
"""

from keras_gradopt.comparison.arms import Arm
from keras_gradopt.comparison.files import ComparisonError
from keras_gradopt.comparison.results import Results, Verdict
from keras_gradopt.comparison.running import compare
from keras_gradopt.comparison.tasks import Parts, Task

__all__ = ["Arm", "ComparisonError", "Parts", "Results", "Task", "Verdict", "compare"]
