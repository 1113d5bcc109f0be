"""Counts measurements by size, since the start and recently. Twin: `hot/histograms.py`.

It knows numbers and the monotonic clock. It does not know what is measured, nor how the counts are used.

Threads: no Python code runs while the numbers change; the clock is read before.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memset

from time import monotonic


cdef enum:
    SPANS = 6  # kept in addition to the current one

cdef double SPAN = 10.0  # seconds


cdef class Histogram:
    """Histogram(bounds)
    --

    Counts measurements by size. `bounds`: the largest value of each bucket, rising; one more bucket is for the rest.

    `count` and `total` cover everything since the start: the number of measurements, and their sum.

    Raises ValueError if the bounds do not rise, or if there are none.
    """

    cdef readonly long long count
    cdef readonly double total
    cdef Py_ssize_t _buckets  # including the one for the rest
    cdef double *_bounds
    cdef long long *_counts
    # A ring of spans: the counts of each, its number, and the largest value.
    cdef long long *_recent
    cdef long long _spans[SPANS + 1]
    cdef double _largest[SPANS + 1]

    # In __cinit__, which always runs: without this memory, the C code below would crash.
    def __cinit__(self, bounds, /):
        cdef Py_ssize_t i
        cdef list given = [float(bound) for bound in bounds]
        if not given:
            raise ValueError("the bounds of a histogram rise")
        self._buckets = len(given) + 1
        self._bounds = <double *>PyMem_Calloc(self._buckets, sizeof(double))
        self._counts = <long long *>PyMem_Calloc(self._buckets, sizeof(long long))
        self._recent = <long long *>PyMem_Calloc(self._buckets * (SPANS + 1), sizeof(long long))
        if self._bounds == NULL or self._counts == NULL or self._recent == NULL:
            raise MemoryError
        for i in range(len(given)):
            self._bounds[i] = given[i]
            if i and not self._bounds[i - 1] < self._bounds[i]:
                raise ValueError("the bounds of a histogram rise")
        for i in range(SPANS + 1):
            self._spans[i] = -1
            self._largest[i] = 0

    def __dealloc__(self):
        PyMem_Free(self._bounds)
        PyMem_Free(self._counts)
        PyMem_Free(self._recent)

    def add(self, double value, /):
        """Count a value. A value below 0 counts as 0; NaN is not counted."""
        cdef double now = monotonic()
        self._put(value, now)

    def since(self, double start, /):
        """Count the seconds since a moment on the monotonic clock."""
        cdef double now = monotonic()
        self._put(now - start, now)

    def counts(self):
        """Return how many measurements there were in each bucket since the start."""
        cdef Py_ssize_t i
        return [self._counts[i] for i in range(self._buckets)]

    def recent(self):
        """Return the counts of each bucket in the last minute (or up to ten seconds more), and the largest value."""
        cdef double now = monotonic(), largest = 0
        cdef long long oldest = <long long>(now / SPAN) - SPANS
        cdef Py_ssize_t i, place
        cdef list counts = [0] * self._buckets
        for place in range(SPANS + 1):
            if self._spans[place] < oldest:
                continue
            for i in range(self._buckets):
                counts[i] += self._recent[place * self._buckets + i]
            if self._largest[place] > largest:
                largest = self._largest[place]
        return counts, largest

    @cython.cdivision(True)
    cdef void _put(self, double value, double now) noexcept:
        cdef Py_ssize_t low = 0, high = self._buckets - 1, middle, place
        cdef long long span = <long long>(now / SPAN)
        if value != value:
            return
        if value < 0:
            value = 0
        while low < high:
            middle = (low + high) // 2
            if self._bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        place = <Py_ssize_t>(span % (SPANS + 1))
        if self._spans[place] != span:
            memset(&self._recent[place * self._buckets], 0, self._buckets * sizeof(long long))
            self._largest[place] = 0
            self._spans[place] = span
        self.count += 1
        self.total += value
        self._counts[low] += 1
        self._recent[place * self._buckets + low] += 1
        if value > self._largest[place]:
            self._largest[place] = value
