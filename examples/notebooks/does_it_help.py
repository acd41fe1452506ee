"""
Title: Does it help?
Date created: 2026/11/28
Last modified: 2026/11/28
Description: From "shall I try this optimizer?" to a verdict on your own model.
Accelerator: None
"""

"""
## Introduction

You have a model, you use Adam, and a paper says that AdaNorm is better. One run with
each tells nothing: with another seed the order may be reversed, and whichever of the
two had the better tuned learning rate would win. `keras_gradopt.comparison` asks as a
careful experimenter would:

- every optimizer gets the same search for its learning rate, on data that is not
  reported on;
- then all train with fresh seeds, *paired*: the same initial weights, the same order of
  the data;
- what counts as no difference (the margin) is written down before the first run;
- there are controls: Adam once more from other weights, which must not win.

This notebook does it on a task so small that some fifty runs take about a minute. Only
the model and the data need to be replaced by yours.
"""

"""
## Setup
"""

import tempfile

import keras
from IPython.display import Image, Markdown, display
from sklearn.datasets import load_digits

import keras_gradopt
from keras_gradopt import comparison

"""
## A task

A function that makes a new model, and data in three parts: to train on, to search
learning rates by, to report on. The verdict never sees the second, the search never the
third.
"""


def make_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
task = comparison.Task(
    "digits",
    model=make_model,
    data=((x[:1000], y[:1000]), (x[1000:1300], y[1000:1300]), (x[1300:], y[1300:])),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
    epochs=4,
    batch_size=64,
)

"""
## The comparison

Adam, which you use, is the baseline. The measure is the loss on the third part, the
margin 2 % of Adam's. Everything is written to a folder: interrupted, the same call goes
on where it was, and when all runs are there it only reads them.

To be done in a minute we give the search a short grid and one seed. Leave out the last
three arguments in earnest: the grid is then longer, is refined around the best rate,
and three seeds are searched with.
"""

folder = tempfile.mkdtemp()  # or "runs/digits", to keep it
results = comparison.compare(
    task,
    {"Adam": keras.optimizers.Adam, "AdamNorm": keras_gradopt.AdamNorm},
    baseline="Adam",
    folder=folder,
    progress=False,
    workers=0,
    tuning_seeds=(1,),
    grid=(3e-3, 3e-2),
    refine=False,
)

"""
## The verdict

Everything as a table: what was declared before the first run, the learning rates that
were found, and each comparison with its verdict.
"""

display(Markdown(results.table()))

"""
A comparison is **better** or **worse** where there is a difference, **equivalent**
where there is none beyond the margin, and **undecided** where neither could be shown.
*detectable* is the smallest effect that this many seeds would find four times of five:
an "undecided" says nothing of effects smaller than that.

Read the controls first:

- *Adam again* is Adam from other weights. If it were better or worse than Adam,
  something would be wrong with the comparison.
- *Adam at 1.25 of AdamNorm* is Adam at the learning rate that AdamNorm amounts to where
  it only lengthens the steps. A method that beats Adam, but not this one, found you a
  learning rate, and you can have that without the method.

On the left what the search saw; on the right each difference with its interval, and the
margin in grey.
"""

results.plot("does_it_help.png")
display(Image("does_it_help.png"))

"""
The verdicts are objects, too:
"""

for verdict in results.verdicts:
    print(f"{verdict.optimizer} - {verdict.other}: {verdict.verdict}")

"""
## On your own model

Put `make_model`, your data and the `Task` into a file and let a shell do the rest; it
shows how long it will take, and may be killed and called again:

```sh
python -m keras_gradopt.comparison my_task.py:task --optimizers AdamNorm AngularGrad
```

This task was digits for a minute: whatever the verdict above, it says nothing of your
model. Do not look at the verdict, change the margin and look again; the table would
tell.
"""
