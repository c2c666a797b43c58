"""The number of threads of torch in tests of networks."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the processes of the node do.

    Several threads would take processor time from other tests while they wait.
    """
    # Not at the top: the process that distributes the tests reads this module, too.
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
