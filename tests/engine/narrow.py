"""Settings that make FCN+DSM small enough for a test."""

NARROW = {
    "width": 0.125,
    "network_def#backbone#layers": [1, 1, 1, 1],
    "iterations": 6,
    "validate_every": 3,
    "batch_size": 2,
    "workers": 0,
}
