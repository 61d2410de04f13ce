import dataclasses

from hrnet_jax.data.findings import SUGGESTIONS, wrong_counts
from tests.data.in_memory import PETS, findings, labels, source


def test_copies_within_and_across_splits_are_named():
    files = source(labels([0, 1, 2]))
    files.files[5] = (files.files[0][0], files.files[5][1])
    val = source(labels([0, 1, 2]), name="val", first=100)
    val.files[2] = (files.files[4][0], val.files[2][1])
    twice, overlap = findings(files, val=val)
    assert (twice.kind, twice.files) == ("twice", ["train/5.jpg"])
    assert (overlap.kind, overlap.files) == ("overlap", ["val/2.jpg"])
    assert overlap.details == ["val/2.jpg\n  equals train/4.jpg"]
    assert "images of val that train holds too, byte for byte: 1" in overlap.problem


def test_only_official_counts_can_be_wrong():
    official = dataclasses.replace(PETS, counts={"train": 6, "val": 3})
    train, val = source(labels([0, 1, 2])), source(labels([0, 1, 2], number=2))
    assert wrong_counts(PETS, {"train": train, "val": val}) == []  # none are known
    assert wrong_counts(official, {"train": train}) == []
    (finding,) = wrong_counts(official, {"train": train, "val": val})
    assert (finding.kind, finding.split, finding.stops_training) == ("count", "val", False)
    assert finding.problem == "2 examples, but custom has 3 officially"
    assert finding.suggestion == SUGGESTIONS["count"]
    by_default = dataclasses.replace(official, counts_are_official=False)
    assert wrong_counts(by_default, {"train": train, "val": val}) == []
