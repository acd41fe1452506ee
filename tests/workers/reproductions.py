"""Runs pieces of code, each for itself; prints what each printed, as JSON.

Arguments: a JSON file with a list of them. What one raises takes the place of
its output.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import keras

pieces, printed = json.loads(Path(sys.argv[1]).read_text()), []
for code in pieces:
    with tempfile.TemporaryDirectory() as folder, io.StringIO() as out:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, "reproduction", "exec"), {})
            printed.append(out.getvalue())
        except Exception as error:
            printed.append(f"{type(error).__name__}: {error}")
        os.chdir("/")
        keras.config.set_floatx("float32")
print(json.dumps(printed))
