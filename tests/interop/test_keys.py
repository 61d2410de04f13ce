import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from hrnet_jax import models
from hrnet_jax.interop.keys import (
    from_torch_layout,
    to_torch_layout,
    torch_key,
    torch_state_dict,
)
from hrnet_jax.models import split

EXAMPLES = {
    "backbone.conv1.weight": (64, 3, 3, 3),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "backbone.layer1.0.downsample.1.running_mean": (256,),
    "backbone.transition1.0.0.weight": (18, 256, 3, 3),
    "backbone.transition1.1.0.0.weight": (36, 256, 3, 3),
    "backbone.transition3.3.0.1.num_batches_tracked": (),
    "backbone.stage3.2.branches.1.1.bn2.running_var": (36,),
    "backbone.stage3.1.fuse_layers.0.2.0.weight": (18, 72, 1, 1),
    "backbone.stage4.1.fuse_layers.3.0.2.0.weight": (144, 18, 3, 3),
    "backbone.stage4.1.fuse_layers.3.0.1.0.weight": (18, 18, 3, 3),
    "decode_head.convs.0.conv.weight": (270, 270, 1, 1),
    "decode_head.convs.0.bn.weight": (270,),
    "decode_head.conv_seg.weight": (19, 270, 1, 1),
    "decode_head.conv_seg.bias": (19,),
}


@pytest.fixture(scope="module")
def small():
    return split(models.build("hr18s", num_classes=19))


def test_published_keys_and_shapes(small):
    state = torch_state_dict(*small[1:])
    for key, shape in EXAMPLES.items():
        assert state[key].shape == shape, key
    assert state["backbone.bn1.num_batches_tracked"].dtype == np.int64


def test_every_path_has_a_key_of_its_own(small):
    paths = flatten_dict(small[1]) | flatten_dict(small[2])
    assert len({torch_key(path) for path in paths}) == len(paths)


def test_layouts_round_trip():
    path = ("backbone", "conv1", "kernel")
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 5))
    assert to_torch_layout(path, kernel).shape == (5, 2, 3, 3)
    np.testing.assert_array_equal(from_torch_layout(path, to_torch_layout(path, kernel)), kernel)
