"""Object detection with SSD: what `detect.py` is made of."""
