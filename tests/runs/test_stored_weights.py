from pathlib import Path

import pytest

from hrnet_jax.runs.stored_weights import first_line, load_weights, with_int_keys

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0_1_0"  # a step 2 that version 0.1.0 saved


def test_weights_of_version_0_1_0_are_read():
    weights = load_weights(OLD_RUN)
    assert weights.step == 2
    assert set(weights.params) == {"first", "second", "classify"}
    assert set(weights.batch_stats["first"]["bn"]) == {"mean", "var"}


def test_lists_count_with_numbers_again():
    assert with_int_keys({"a": {"0": 1, "10": {"b": 2}}}) == {"a": {0: 1, 10: {"b": 2}}}


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (KeyError(), "KeyError"), (OSError("x" * 500), "x" * 200)],
)
def test_an_error_is_told_in_one_line(error, line):
    assert first_line(error) == line
