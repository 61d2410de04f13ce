import jax
import numpy as np
import pytest
from flax import nnx

from hrnet_jax import models, ops
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import inference_options
from tests.published import published_image, published_model, published_tensor

# variant, height, width -> mean, std, max abs, L[0,0,0], L[7,3,5], L[18,-1,-1] of the logits
LOGITS = {
    ("hr18s", 64, 96): (0.250098, 1.319923, 2.909030, 1.244913, -0.834980, 0.874519),
    ("hr18s", 65, 97): (0.251084, 1.323122, 2.934862, 1.257885, -0.839302, 0.533274),
    ("hr18s", 150, 110): (0.273889, 1.327740, 2.962513, 1.255529, -0.827500, 0.689114),
    ("hr18", 64, 96): (0.343648, 3.341195, 6.972008, -0.274586, -1.977017, 3.704123),
    ("hr18", 65, 97): (0.345277, 3.321193, 7.192343, -0.227096, -1.770500, 1.543051),
    ("hr18", 150, 110): (0.469508, 3.543172, 7.562152, -0.239979, -1.914639, 2.360890),
    ("hr48", 64, 96): (0.335812, 2.739614, 7.217856, 1.964929, -1.391331, -0.820090),
    ("hr48", 65, 97): (0.323907, 2.824933, 7.042961, 1.717671, -1.697312, -0.912329),
    ("hr48", 150, 110): (0.240037, 2.895521, 7.597704, 1.712054, -1.500266, -1.612783),
}
# Trainable parameters by variant and number of classes.
PARAMETERS = {
    "hr18s": {19: 3_939_309, 21: 3_939_851, 59: 3_950_149, 60: 3_950_420, 150: 3_974_810},
    "hr18": {19: 9_640_849, 21: 9_641_391, 59: 9_651_689, 60: 9_651_960, 150: 9_676_350},
    "hr48": {19: 65_858_659, 21: 65_860_101, 59: 65_887_499, 60: 65_888_220, 150: 65_953_110},
}
KEYS = {"hr18s": (872, 145), "hr18": (1838, 306), "hr48": (1838, 306)}  # all, batch counters
# 65x97 tells the two-step fuse resize from the one-step one; the others are for `-m slow`.
ROWS = [
    pytest.param(*row, marks=[] if row == ("hr18s", 65, 97) else pytest.mark.slow) for row in LOGITS
]


def test_the_fixture_draws_the_published_values():
    first = published_tensor("backbone.conv1.weight", (64, 3, 3, 3)).ravel()[:3]
    np.testing.assert_allclose(first, (0.06671476, 0.0699176, 0.0843007), rtol=1e-6)
    image = published_image(64, 96).transpose(0, 3, 1, 2).ravel()[:3]
    np.testing.assert_allclose(image, (1.7640524, 0.4001572, 0.9787380), rtol=1e-6)


SMALL, LARGE = inference_options((512, 512)), inference_options((1024, 2048))


@pytest.mark.parametrize(
    ("form", "options"),
    [(ops.REFERENCE, SMALL), (ops.ACCELERATOR, SMALL), (ops.CPU, SMALL), (ops.CPU, LARGE)],
    ids=["reference", "accelerator", "cpu", "cpu, large images"],
)
@pytest.mark.parametrize(("variant", "height", "width"), ROWS)
def test_logits_are_those_of_the_original(variant, height, width, form, options):
    structure, params, batch_stats = split(published_model(variant))

    def run(params, batch_stats, image):
        with ops.use(form):
            return nnx.merge(structure, params, batch_stats)(image)

    forward = jax.jit(run, compiler_options=options)
    logits = np.asarray(forward(params, batch_stats, published_image(height, width)), np.float64)[0]
    assert logits.shape == (-(-height // 4), -(-width // 4), 19)
    found = (
        logits.mean(), logits.std(ddof=1), abs(logits).max(),
        logits[0, 0, 0], logits[3, 5, 7], logits[-1, -1, 18],
    )  # fmt: skip
    np.testing.assert_allclose(found, LOGITS[variant, height, width], atol=9e-6)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_and_keys_are_counted_as_published(variant):
    for num_classes, expected in PARAMETERS[variant].items():
        if variant != "hr18s" and num_classes != 150:
            continue  # the head's formula is the same; the big backbone takes seconds to draw
        _, params, batch_stats = split(models.build(variant, num_classes=num_classes))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    state = torch_state_dict(params, batch_stats)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert (len(state), len(counters)) == KEYS[variant]


def test_initial_weights_follow_the_reference():
    _, params, _ = split(models.build("hr18s", num_classes=19, seed=1))
    head = np.asarray(params["decode_head"]["convs"][0]["conv"]["kernel"])
    assert head.std() == pytest.approx(0.08607, rel=0.01)  # sqrt(2 / 270)
    assert np.asarray(params["decode_head"]["conv_seg"]["kernel"]).std() == pytest.approx(
        0.01, rel=0.05
    )
    assert not np.asarray(params["decode_head"]["conv_seg"]["bias"]).any()
    _, again, _ = split(models.build("hr18s", num_classes=21, seed=1))
    np.testing.assert_array_equal(
        params["backbone"]["conv1"]["kernel"], again["backbone"]["conv1"]["kernel"]
    )


def test_a_fresh_network_has_asked_nothing_of_jax():
    model = models.build("tiny", num_classes=3)
    assert {type(leaf) for leaf in jax.tree.leaves(nnx.state(model))} == {np.ndarray}


def test_an_unknown_variant_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no variant 'hr32'; use one of hr18s, hr18, hr48"):
        models.build("hr32", num_classes=2)


def test_an_unknown_head_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no head 'mine'; use one of fcn.* once the file that"):
        models.build("hr18s", num_classes=2, head="mine")
