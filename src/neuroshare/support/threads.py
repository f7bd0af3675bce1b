"""How many threads products of matrices take."""

from __future__ import annotations

from threadpoolctl import threadpool_limits


def one_blas_thread() -> threadpool_limits:
    """Hold products to one thread for as long as the context lasts.

    A choice, a fit and its scores are many small products: threads that wait for each other cost
    several times what they save.
    """
    return threadpool_limits(1, user_api="blas")


def one_thread() -> threadpool_limits:
    """Hold all numerics, those of torch on a CPU among them, to one thread likewise."""
    return threadpool_limits(1)
