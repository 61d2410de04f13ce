import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hrnet_jax.interop.infer import (
    check_classes,
    check_network,
    classes_of,
    num_classes_of,
    summarize,
    variant_of,
)
from hrnet_jax.interop.read import Source, read_source
from hrnet_jax.interop.weights import template
from tests.interop.tiny_files import NAMES, backbone_state, mmseg_state, write


def source_of(variant: str, num_classes: int) -> Source:
    """A file of this network, with the shapes of its tensors only."""
    shapes = {key: shape for key, (_, shape) in template(variant, num_classes).items()}
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    return Source(path=Path("file.pth"), sha256="", size=0, format="", family="", tensors=tensors,
                  counters={})  # fmt: skip


@pytest.mark.parametrize(("variant", "classes"), [("hr18s", 150), ("tiny", 3)])
def test_variant_and_classes_are_inferred_from_the_tensors(variant, classes):
    source = source_of(variant, classes)
    assert variant_of(source) == variant
    assert num_classes_of(source) == classes
    check_network(source, variant=variant, num_classes=classes)


def test_another_network_is_named():
    source = source_of("hr18s", 150)
    with pytest.raises(ValueError, match="looks like hr18s with 150 classes, not hr48 with 19"):
        check_network(source, variant="hr48", num_classes=19)
    with pytest.raises(ValueError, match="looks like hr18s with 150 classes, not hr18"):
        check_network(source, variant="hr18")


def test_missing_tensors_do_not_hide_the_variant():
    source = source_of("hr18s", 150)
    kept = {k: v for k, v in source.tensors.items() if not k.startswith("backbone.stage3.2")}
    assert variant_of(dataclasses.replace(source, tensors=kept)) == "hr18s"


def test_another_width_is_refused():
    tensors = {"backbone.stage2.0.branches.0.0.conv1.weight": np.zeros((32, 32, 3, 3))}
    source = dataclasses.replace(source_of("tiny", 3), tensors=tensors)
    with pytest.raises(ValueError, match="an HRNet of width 32; known are hr18s"):
        variant_of(source)


def test_classes_must_be_the_same_where_they_are_known(tmp_path):
    source = read_source(write(tmp_path / "a.pth", mmseg_state()))
    check_classes(source, NAMES)
    with pytest.raises(ValueError, match=r"expected are 3 \(a, b, c\). Set the head policy"):
        check_classes(source, ("a", "b", "c"))
    check_classes(dataclasses.replace(source, classes=None), ("a", "b", "c"))
    with pytest.raises(ValueError, match="expected are 2"):
        check_classes(dataclasses.replace(source, classes=None), ("a", "b"))


def test_a_backbone_has_no_classes(tmp_path):
    source = read_source(write(tmp_path / "a.pth", backbone_state()))
    assert num_classes_of(source) is None
    assert classes_of(source) is None
    check_classes(source, NAMES)
    with pytest.raises(ValueError, match="looks like an ImageNet backbone of tiny, not hr18"):
        check_network(source, variant="hr18", num_classes=19)


def test_long_lists_are_cut():
    assert summarize(("a", "b")) == "2 (a, b)"
    assert summarize(tuple("abcdef")) == "6 (a, b, c, ...)"
