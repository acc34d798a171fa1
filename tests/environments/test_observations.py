"""Observation layouts against gymnasium's own flatten, one observation at a time."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.environments.observations import ObservationLayout
from stablegrad.errors import EnvironmentFault, UsageError

shapes = st.lists(st.integers(1, 3), min_size=0, max_size=2).map(tuple)
leaves = st.one_of(
    shapes.map(lambda s: spaces.Box(-5, 5, s, np.float64)),
    shapes.map(lambda s: spaces.Box(-5, 5, s, np.float32)),
    shapes.map(lambda s: spaces.Box(0, 9, s, np.int32)),
    st.tuples(st.integers(1, 5), st.integers(-3, 3)).map(lambda a: spaces.Discrete(a[0], start=a[1])),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(
        lambda n: spaces.MultiDiscrete(n, start=list(range(len(n))))
    ),
    st.integers(1, 4).map(spaces.MultiBinary),
)
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("dbca"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=5,
)


def stack(space, samples):
    if isinstance(space, spaces.Dict):
        return {key: stack(part, [s[key] for s in samples]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack(part, [s[i] for s in samples]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(s) for s in samples])


@settings(max_examples=150, deadline=None)
@given(nested, st.integers(0, 2**31 - 1), st.booleans())
def test_vectors_equal_gymnasiums_flatten(space, seed, fresh):
    space.seed(seed)
    samples = [space.sample() for _ in range(3)]
    layout = ObservationLayout("Any-v0", space)
    batch = layout(stack(space, samples), fresh=fresh)
    assert batch.dtype == np.float32 and not layout.is_image
    assert batch.shape == (3, *layout.shape)
    for row, sample in zip(batch, samples, strict=True):
        np.testing.assert_array_equal(row, spaces.flatten(space, sample).astype(np.float32).reshape(-1))


def test_keys_are_sorted_whatever_order_the_space_has():
    space = spaces.Dict()  # filled as envpool does it, which keeps the order of insertion
    space["velocity"] = spaces.Box(-1, 1, (2,))
    space["height"] = spaces.Box(-1, 1, ())
    batch = ObservationLayout("Any-v0", space)(
        {"velocity": np.array([[1.0, 2.0]]), "height": np.array([3.0])}, fresh=True
    )
    assert batch.tolist() == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84, 3), (3, 84, 84)),
        ((10, 8), (1, 10, 8)),
        ((72, 96, 4), (4, 72, 96)),
        ((5, 5, 5), (5, 5, 5)),
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_images_come_out_channels_first(shape, expected, fresh):
    space = spaces.Box(0, 255, shape, np.uint8)
    layout = ObservationLayout("Any-v0", space)
    image = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    batch = layout(image, fresh=fresh)
    assert layout.is_image and layout.shape == expected and batch.shape == (2, *expected)
    assert batch.dtype == np.uint8 and batch.flags.c_contiguous
    for n, c, h, w in np.ndindex(2, *expected):
        source = (n, h, w) if len(shape) == 2 else ((n, c, h, w) if expected == shape else (n, h, w, c))
        if (h + w) % 7 == 0:
            assert batch[n, c, h, w] == image[source]


def test_fresh_images_are_not_copied_and_others_are():
    layout = ObservationLayout("Any-v0", spaces.Box(0, 255, (4, 84, 84), np.uint8))
    image = np.zeros((2, 4, 84, 84), np.uint8)
    assert np.shares_memory(layout(image, fresh=True), image)
    assert not np.shares_memory(layout(image, fresh=False), image)
    vector = ObservationLayout("Any-v0", spaces.Box(-1, 1, (3,)))
    numbers = np.zeros((2, 3), np.float32)
    assert not np.shares_memory(vector(numbers, fresh=False), numbers)


def test_gymnasiums_batched_spaces_are_understood():
    space = spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)])})
    empty = create_empty_array(batch_space(space, 4), n=1)
    assert ObservationLayout("Any-v0", space)(space_row(empty), fresh=True).shape == (4, 7)


def space_row(batch):
    """The first of ``n`` batches, in the same nesting."""
    if isinstance(batch, dict):
        return {key: space_row(part) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(space_row(part) for part in batch)
    return batch[0]


def test_a_discrete_value_outside_its_space_is_named():
    space = spaces.Dict({"place": spaces.Discrete(3, start=1)})
    with pytest.raises(EnvironmentFault, match=r"returned 4 for the discrete part 'place'.*in sub-environment 1"):
        ObservationLayout("Any-v0", space)({"place": np.array([1, 4])}, fresh=True)


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2))])
def test_spaces_without_a_fixed_size_are_refused(space):
    with pytest.raises(UsageError, match=rf"part 'note' of kind {type(space).__name__}"):
        ObservationLayout("Any-v0", spaces.Dict({"note": space}))
