import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hrnet_jax import models, ops
from hrnet_jax.commands.step_costs import collectives
from hrnet_jax.models import split
from hrnet_jax.ops import resize
from hrnet_jax.parallel.compiling import compiler_options
from hrnet_jax.parallel.mesh import batch_sharding, make_mesh, replicate, to_global
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import partitioned, sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step
from tests.tiny import Toy

LOSS = functools.partial(cross_entropy, ignore_label=255)
OPTIMIZER = sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.01)


def random_batch(seed=0, size=(64, 64), count=8):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], (count, *size)).astype(np.uint8)
    return {"image": rng.standard_normal((count, *size, 3)).astype(np.float32), "label": label}


def mesh_of(devices: int, *, height: int = 1):
    return make_mesh(height=height, devices=jax.devices()[:devices])


def program_and_state(mesh, *, dtype=jnp.float32, model=None, optimizer=OPTIMIZER, **options):
    structure, params, batch_stats = split(model or Toy())
    precise = jnp.promote_types(dtype, jnp.float32)
    params, batch_stats = jax.tree.map(lambda leaf: leaf.astype(precise), (params, batch_stats))
    state = replicate(initial_state(params, batch_stats, optimizer=optimizer), mesh=mesh)
    program = make_train_step(structure, optimizer, loss=LOSS, mesh=mesh, dtype=dtype, **options)
    return program, state


def run(mesh, batches, **options):
    step, state = program_and_state(mesh, **options)
    history = []
    for batch in batches:
        state, metrics = step(state, to_global(batch, mesh=mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def test_one_step_equals_the_textbook():
    batch = random_batch()
    model = Toy()
    structure, params, batch_stats = split(model)

    def loss_fn(params):
        model = nnx.merge(structure, params, batch_stats)
        model.train()
        logits = resize(model(jnp.asarray(batch["image"])), (64, 64))
        return LOSS(logits, jnp.asarray(batch["label"])).loss

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn), compiler_options=compiler_options())(
        params
    )
    expected = jax.tree.map(lambda w, g: w - 0.1 * (g + 0.01 * w), params, gradients)
    state, (metrics,) = run(make_mesh(), [batch])
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics.grad_norm) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, expected)
    assert not np.array_equal(state.batch_stats["first"]["bn"]["mean"], np.zeros(8))


def assert_same(one, other, *, rtol=1e-9, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


def tiny():
    return models.build("tiny", num_classes=3)


MESHES = {  # devices, height
    "8x1": (8, 1), "4x1": (4, 1), "2x1": (2, 1), "4x2": (8, 2), "1x2": (2, 2), "2x4": (8, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def alone():
    """Two steps of the small network on one device, in float64."""
    with jax.enable_x64(True):
        return run(mesh_of(1), [random_batch(seed) for seed in range(2)], dtype=jnp.float64)


@pytest.mark.parametrize(
    "mesh",
    [
        "8x1",
        "2x4",
        *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("4x1", "2x1", "4x2", "1x2")),
    ],
)
def test_any_mesh_gives_what_one_device_gives(mesh, alone):
    """In float64: statistics, loss, gradients and updates are those of the whole batch."""
    devices, height = MESHES[mesh]
    with jax.enable_x64(True):
        batches = [random_batch(seed) for seed in range(2)]
        state, history = run(mesh_of(devices, height=height), batches, dtype=jnp.float64)
    assert history[0].loss.dtype == np.float64
    assert_same(alone, (state, history))


def gradients(mesh, orders):
    """Of the loss on a mesh for some orders of one batch, in float32; and the first loss."""
    keep = sgd(optax.constant_schedule(0.0), momentum=0.0, weight_decay=0.0)
    program, state = program_and_state(mesh, optimizer=keep)
    found, losses = [], []
    for order in orders:
        batch = {name: x[order] for name, x in random_batch().items()}
        state, metrics = program(state, to_global(batch, mesh=mesh))
        found.append(momentum_of(jax.device_get(state)))
        losses.append(float(metrics.loss))
    return np.array(found), losses[0]


@pytest.fixture(scope="module")
def orders():
    """One device against itself: its gradient and loss, and how far two orders lie apart."""
    rng = np.random.default_rng(0)
    found, loss = gradients(mesh_of(1), [np.arange(8), *(rng.permutation(8) for _ in range(95))])
    apart = max(np.linalg.norm(found - one, axis=1).max() for one in found)
    return found[0], loss, apart


@pytest.mark.parametrize(
    "mesh",
    [
        "4x2",
        *(
            pytest.param(mesh, marks=pytest.mark.slow)
            for mesh in ("8x1", "4x1", "2x1", "1x2", "2x4")
        ),
    ],
)
def test_float32_gradients_differ_as_between_orders_of_the_batch(mesh, orders):
    """From one device's no more than those of two orders of the batch on it, of 96."""
    straight, loss, apart = orders
    devices, height = MESHES[mesh]
    (split_up,), split_loss = gradients(mesh_of(devices, height=height), [np.arange(8)])
    assert split_loss == pytest.approx(loss, rel=1e-5)
    assert 0 < apart < 1e-6 * np.linalg.norm(straight)
    assert np.linalg.norm(split_up - straight) <= apart


def vector_of(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def momentum_of(state):
    """Of the optimiser that keeps the weights: the last gradient, as one vector."""
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim])


def row_limit(variant, *, images, width):
    """Values in the largest row that a convolution or an enlargement reads beyond a cut."""
    branches = models.VARIANTS[variant].channels(4)
    stem, finest = 64 * -(-width // 2), -(-width // 4)
    return images * max(stem, finest * max(256, *branches, sum(branches)))


def test_logits_of_images_cut_into_rows_are_the_same():
    """And only rows have moved between devices."""
    image = random_batch(size=(128, 64), count=4)["image"].astype(float)
    mesh = mesh_of(8, height=4)
    model = models.build("tiny", num_classes=3)
    structure, arrays = nnx.split(model)
    cut = batch_sharding(mesh)

    def on_rows(image):
        with ops.use(ops.form_on(mesh)):
            return nnx.merge(structure, arrays)(image)

    options = compiler_options()
    with jax.enable_x64(True):
        alone = jax.jit(lambda x: nnx.merge(structure, arrays)(x), compiler_options=options)(image)
        program = jax.jit(on_rows, in_shardings=cut, out_shardings=cut, compiler_options=options)
        compiled = program.lower(image).compile()
        logits = compiled(jax.device_put(image, cut))
    np.testing.assert_allclose(logits, alone, rtol=1e-9, atol=1e-12)
    found = collectives(compiled.as_text())
    assert {c.kind for c in found} == {"collective-permute"}
    assert max(c.bytes for c in found) <= 8 * row_limit("tiny", images=2, width=64)


def unoptimized_step(mesh, batch, *, model):
    """In float64: the program, the bytes of the parameters, the state and metrics afterwards.

    W48's machine code was not optimized after twenty minutes.
    """
    program, state = program_and_state(mesh, dtype=jnp.float64, model=model)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    placed = to_global(batch, mesh=mesh)
    options = {"xla_backend_optimization_level": "0"}
    compiled = program.lower(state, placed).compile(compiler_options=options)
    state, metrics = jax.device_get(compiled(state, placed))
    return compiled, parameters, (state, [metrics])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "size", "mesh"),
    [
        ("tiny", (128, 64), "2x4"),
        ("tiny", (64, 57), "4x2"),
        ("hr18s", (64, 64), "4x2"),
        ("hr18", (64, 64), "4x2"),
        ("hr48", (64, 64), "4x2"),
    ],
)
def test_images_cut_into_rows_exchange_rows_only(variant, size, mesh):
    """Training gives the same in float64; no collective is as large as an activation."""
    batch = random_batch(size=size, count=4)
    devices, height = MESHES[mesh]
    model = models.build(variant, num_classes=3)
    with jax.enable_x64(True):
        on = mesh_of(devices, height=height)
        compiled, parameters, one = unoptimized_step(on, batch, model=model)
        _, _, other = unoptimized_step(mesh_of(1), batch, model=model)
    assert_same(one, other)
    found = collectives(compiled.as_text())
    assert {c.kind for c in found} == {"collective-permute", "all-reduce"}
    limit = 8 * row_limit(variant, images=4 // (devices // height), width=size[1])
    assert max(c.bytes for c in found if c.kind == "collective-permute") <= limit
    # Sums of gradients and of batch statistics; every parameter's gradient counts once.
    reduced = sum(c.bytes for c in found if c.kind == "all-reduce")
    assert parameters <= reduced < 1.5 * parameters


@pytest.mark.parametrize("variant", ["tiny", "hr18s"])
@pytest.mark.slow
def test_twenty_steps_drift_no_more_than_from_one_ulp(variant):
    """Ten times the drift that the last bit of one weight causes bounds that of eight devices."""
    batches = [random_batch(seed) for seed in range(20)]
    build = models.build(variant, num_classes=3)
    program, start = program_and_state(mesh_of(1), model=build)
    nudged = jax.tree.map(np.array, start)
    first = nudged.params["backbone"]["conv1"]["kernel"].reshape(-1)  # a view
    first[0] = np.nextafter(first[0], np.inf, dtype=np.float32)
    assert (vector_of(nudged.params) != vector_of(start.params)).sum() == 1

    def trained(program, state, mesh):
        losses = []
        for batch in batches:
            state, metrics = program(state, to_global(batch, mesh=mesh))
            losses.append(float(metrics.loss))
        return vector_of(state.params), np.array(losses)

    on_eight = program_and_state(mesh_of(8), model=build)
    on_rows = program_and_state(mesh_of(8, height=2), model=build)
    nudged = replicate(nudged, mesh=mesh_of(1))
    weights, losses = trained(program, start, mesh_of(1))
    other_weights, other_losses = trained(program, nudged, mesh_of(1))
    for one, mesh in ((on_eight, mesh_of(8)), (on_rows, mesh_of(8, height=2))):
        split_weights, split_losses = trained(*one, mesh)
        allowed = 10 * np.linalg.norm(other_weights - weights)
        assert np.linalg.norm(split_weights - weights) <= allowed
        assert abs(split_losses - losses).max() <= 10 * abs(other_losses - losses).max()


@pytest.mark.parametrize(
    "mesh",
    [(4, 2), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((1, 1), (4, 1)))],
    ids=["2x2", "1", "4x1"],
)
def test_accumulated_gradients_are_the_mean_over_micro_batches(mesh):
    """Of every second image; the running statistics pass through both."""
    keep = sgd(optax.constant_schedule(0.0), momentum=0.0, weight_decay=0.0)
    batch = random_batch()
    parts = [{name: x[part::2] for name, x in batch.items()} for part in range(2)]
    with jax.enable_x64(True):
        settings = {"dtype": jnp.float64, "optimizer": keep}
        first, one = run(mesh_of(1), parts[:1], **settings)
        second, both = run(mesh_of(1), parts, **settings)
        devices, height = mesh
        together, (metrics,) = run(
            mesh_of(devices, height=height), [batch], accumulate=2, **settings
        )
    expected = (momentum_of(first) + momentum_of(second)) / 2
    assert_same(momentum_of(together), expected)
    assert_same(together.batch_stats, second.batch_stats)
    assert float(metrics.loss) == pytest.approx((one[0].loss + both[1].loss) / 2, rel=1e-12)
    assert float(metrics.accuracy) == pytest.approx((one[0].accuracy + both[1].accuracy) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["block", "stage"])
def test_what_is_computed_again_changes_nothing(remat):
    batch = random_batch(count=2)
    with jax.enable_x64(True):
        kept = run(mesh_of(1), [batch], model=tiny(), dtype=jnp.float64)
        again = run(mesh_of(1), [batch], model=tiny(), dtype=jnp.float64, remat=remat)
    assert_same(kept, again, rtol=1e-12)


@pytest.mark.slow
def test_what_is_computed_again_need_not_be_kept():
    def temporary(remat):
        mesh, batch = mesh_of(1), random_batch(size=(256, 512), count=2)
        model = models.build("hr18s", num_classes=19)
        program, state = program_and_state(mesh, model=model, remat=remat)
        compiled = program.lower(state, to_global(batch, mesh=mesh)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = temporary("none")
    assert temporary("block") <= 0.65 * kept
    assert temporary("stage") <= 0.6 * kept


def test_every_kind_of_layer_learns():
    """The tiny network has them all; each must move, and together they must get somewhere."""
    model = models.build("tiny", num_classes=3)
    before = jax.device_get(split(model)[1])
    batch = random_batch(size=(32, 64), count=2)
    state, history = run(mesh_of(1), [batch] * 4, model=model)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state.params)
    assert all(jax.tree.leaves(moved))
    losses = [float(metrics.loss) for metrics in history]
    assert losses == sorted(losses, reverse=True)


def test_a_step_that_is_not_finite_changes_nothing_and_says_so():
    good, bad = random_batch(0), random_batch(1)
    bad["image"][3, 5, 5, 1] = np.nan
    alone, _ = run(make_mesh(), [good])
    both, history = run(make_mesh(), [good, bad])
    assert [bool(m.finite) for m in history] == [True, False]
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(alone, name), getattr(both, name))
    counts = [leaf for leaf in jax.tree.leaves(both.opt_state) if leaf.dtype == np.int32]
    assert counts == [both.step] == [2]  # the learning rate follows the data
    np.testing.assert_array_equal(momentum_of(both), momentum_of(alone))


def test_a_batch_of_ignored_pixels_only_decays_weights():
    batch = random_batch()
    batch["label"][:] = 255
    _, (metrics,) = run(make_mesh(), [batch])
    assert float(metrics.loss) == 0
    assert float(metrics.grad_norm) == 0
    assert bool(metrics.finite)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state():
    state, (metrics,) = run(make_mesh(), [random_batch()], dtype=jnp.bfloat16)
    _, (precise,) = run(make_mesh(), [random_batch()])
    arrays = jax.tree.leaves((state.params, state.batch_stats))
    assert {leaf.dtype for leaf in arrays} == {np.dtype(np.float32)}
    assert metrics.loss.dtype == np.float32
    assert float(metrics.loss) == pytest.approx(float(precise.loss), rel=0.02)
    assert float(metrics.loss) != float(precise.loss)


def test_statistics_that_overflow_are_left_out_too():
    """Images of 1e25 overflow the variance, though what it normalises is finite."""
    batch = random_batch()
    batch["image"] *= 1e25
    state, (metrics,) = run(make_mesh(), [batch])
    assert not bool(metrics.finite)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_frozen_backbone_stays_as_it_is_and_the_head_learns():
    optimizer = partitioned(OPTIMIZER, freeze=("backbone",))
    model = models.build("toy", num_classes=3)
    _, params, batch_stats = split(model)
    state, (metrics,) = run(
        make_mesh(), [random_batch()], model=model, optimizer=optimizer, freeze=("backbone",)
    )
    for before, after in ((params, state.params), (batch_stats, state.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, before["backbone"], after["backbone"])
        moved = jax.tree.map(np.array_equal, before["decode_head"], after["decode_head"])
        assert not any(jax.tree.leaves(moved))
    before, after = (tree["decode_head"] for tree in (params, state.params))
    gradients = jax.tree.map(lambda old, new: (old - new) / 0.1 - 0.01 * old, before, after)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
    assert float(metrics.grad_norm) == pytest.approx(float(norm), rel=1e-3)  # of the head alone
