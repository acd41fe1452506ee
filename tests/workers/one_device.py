"""`fit` on one device, what all others must equal. Arguments: output folder."""

import sys

from problem import ALL, FAMILIES, fitted, save
from trajectories import BACKEND

for name in ALL if BACKEND == "tensorflow" else FAMILIES:
    save(sys.argv[1], name, fitted(name))
