from hrnet_jax.data.voc12aug import CLASSES


def test_names_and_colours_are_the_published_ones():
    assert len(CLASSES) == 21
    assert next(iter(CLASSES)) == "background"
    assert CLASSES["background"] == (0, 0, 0)
    assert CLASSES["tvmonitor"] == (0x00, 0x40, 0x80)
    assert CLASSES["person"] == (0xC0, 0x80, 0x80)
