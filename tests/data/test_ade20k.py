from hrnet_jax.data.ade20k import CLASSES


def test_names_and_colours_are_the_published_ones():
    names = list(CLASSES)
    assert len(names) == 150
    assert (names[0], names[7], names[149]) == ("wall", "bed", "flag")
    assert CLASSES["flag"] == (0x5C, 0x00, 0xFF)
    assert CLASSES["road"] == CLASSES["skyscraper"] == (0x8C, 0x8C, 0x8C)
    assert len(set(CLASSES.values())) == 149
