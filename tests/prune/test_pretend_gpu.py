"""Networks on a device that is no CPU are cut and proved there."""

import pytest
from awkward_networks import EXACT, MIXING, example
from pretend_gpu import NAME, pretend_gpu  # noqa: F401

import attar


@pytest.mark.parametrize("make", [*EXACT, *MIXING], ids=lambda make: make.__name__)
def test_cut_where_the_network_is(pretend_gpu, make):  # noqa: F811
    model = make().to(pretend_gpu)
    inputs = tuple(part.to(pretend_gpu) for part in example(model))
    result = attar.prune(model, inputs, attar.Budget(params="60%"))
    assert result.cut.proof < 1e-10
    assert {tensor.device.type for tensor in model.state_dict().values()} == {NAME}
