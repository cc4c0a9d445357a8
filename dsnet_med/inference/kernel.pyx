# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Class ids of enlarged logits in one pass, compiled; running_max.py does the same with torch.

Nothing here checks its arguments: the caller does.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t

ctypedef fused id_t:
    uint8_t
    uint16_t


cdef void enlarge_row(
    const float *source, const int32_t *left, const int32_t *right, const float *share, float *row, Py_ssize_t width
) noexcept nogil:
    """A row of pixels between those of `source`: `share` of the right one, the rest of the left one."""
    cdef Py_ssize_t x
    for x in range(width):
        row[x] = (1 - share[x]) * source[left[x]] + share[x] * source[right[x]]


cdef void enlarge_rows(
    const float *logits, Py_ssize_t y, Py_ssize_t classes, Py_ssize_t plane, Py_ssize_t length, const int32_t *left,
    const int32_t *right, const float *share, float *rows, Py_ssize_t width
) noexcept nogil:
    """Row `y` of every class."""
    cdef Py_ssize_t k
    for k in range(classes):
        enlarge_row(logits + k * plane + y * length, left, right, share, rows + k * width, width)


cdef inline float between(float upper, float lower, float down) noexcept nogil:
    """`down` of the lower pixel, the rest of the upper one; one place, so that equal classes are equal."""
    cdef float up = 1 - down
    return up * upper + down * lower


cdef void compare(
    const float *upper, const float *lower, float down, float k, float *best, float *winner, Py_ssize_t width
) noexcept nogil:
    """Where class `k`, between two rows, is above the best so far, it is the winner."""
    cdef Py_ssize_t x
    cdef float value
    for x in range(width):
        value = between(upper[x], lower[x], down)
        winner[x] = k if value > best[x] else winner[x]
        best[x] = value if value > best[x] else best[x]


def class_ids(
    const float[:, :, ::1] logits,
    const int32_t[:, ::1] rows,
    const float[::1] down,
    const int32_t[:, ::1] columns,
    const float[::1] across,
    float[:, :, ::1] scratch,
    float[:, ::1] lines,
    id_t[:, ::1] ids,
):
    """The first class with the largest logit (K, h, w), enlarged bilinearly, at every pixel of ids (H, W).

    rows (2, H) and columns (2, W): the two source rows or columns of each pixel; down (H) and across (W): the
    share of the second. scratch (2, K, W) and lines (2, W) are overwritten.
    """
    cdef Py_ssize_t classes = logits.shape[0], plane = logits.shape[1] * logits.shape[2], length = logits.shape[2]
    cdef Py_ssize_t height = ids.shape[0], width = ids.shape[1], x, y, k
    cdef Py_ssize_t first = -1, second = -1
    cdef float *upper = &scratch[0, 0, 0]
    cdef float *lower = &scratch[1, 0, 0]
    cdef float *swapped
    cdef float *best = &lines[0, 0]
    cdef float *winner = &lines[1, 0]
    cdef const int32_t *left = &columns[0, 0]
    cdef const int32_t *right = &columns[1, 0]
    cdef const float *source = &logits[0, 0, 0]
    with nogil:
        for y in range(height):
            if rows[0, y] != first:
                if rows[0, y] == second:  # rows come in order: the lower is the next one's upper
                    swapped = upper
                    upper = lower
                    lower = swapped
                    second = -1
                else:
                    enlarge_rows(source, rows[0, y], classes, plane, length, left, right, &across[0], upper, width)
                first = rows[0, y]
            if rows[1, y] != second:
                enlarge_rows(source, rows[1, y], classes, plane, length, left, right, &across[0], lower, width)
                second = rows[1, y]
            for x in range(width):
                best[x] = between(upper[x], lower[x], down[y])
                winner[x] = 0
            for k in range(1, classes):
                compare(upper + k * width, lower + k * width, down[y], <float>k, best, winner, width)
            for x in range(width):
                ids[y, x] = <id_t>winner[x]
