"""`fit` on one device, what all others must equal. Arguments: output folder."""

import sys

from common import ALL, fitted, save

for name in ALL:
    save(sys.argv[1], name, fitted(name))
