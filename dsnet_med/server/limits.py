"""How much of a server's memory, disk and time a client may take."""

from dataclasses import dataclass

_PER_UPLOADED_BYTE = 8  # bytes unpacked: float64 voxels, one per byte, are the most that may be named


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; sizes in bytes, times in seconds.

    `most_bytes` is the largest upload and, as voxels, the largest volume. `queue` requests may upload, wait or
    work at a time. A client that sends nothing for `idle_s` is given up. An upload that has taken `grace_s` and
    arrives at less than `slow_bytes_per_s` loses its place to whoever finds the queue full.
    """

    most_bytes: int = 1 << 30
    queue: int = 32
    most_files: int = 20_000
    most_per_axis: int = 4096  # each slice costs a run of the network, however small it is
    idle_s: float = 60.0
    grace_s: float = 10.0
    slow_bytes_per_s: float = 1e6
    retry_after_s: int = 5

    @property
    def most_voxels(self) -> int:
        """How many voxels a header may name, those of all volumes of a 4-D file together."""
        return self.most_bytes

    @property
    def most_unpacked(self) -> int:
        """How many bytes an archive or a compressed volume may unpack to."""
        return self.most_bytes * _PER_UPLOADED_BYTE

    @property
    def size_words(self) -> str:
        """The largest upload in words."""
        return f"{self.most_bytes / (1 << 20):g} MB"
