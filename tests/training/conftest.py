"""What tests of training share."""

import pytest

from tests.standin_train import finish, launch


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run of the stand-in that nothing disturbed, in a process of its own."""
    workdir = tmp_path_factory.mktemp("whole")
    status, out, err = finish(launch(workdir))
    assert status == 0, err
    assert out.startswith("test top1 ")
    return workdir
