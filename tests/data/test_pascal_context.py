from hrnet_jax.data import ade20k
from hrnet_jax.data.pascal_context import CLASSES_59, CLASSES_60


def test_names_are_alphabetical_after_the_background():
    names = list(CLASSES_60)
    assert len(names) == 60
    assert names[0] == "background"
    assert names[1:] == sorted(names[1:]) == list(CLASSES_59)


def test_colours_are_the_first_sixty_of_ade20k():
    assert list(CLASSES_60.values()) == list(ade20k.CLASSES.values())[:60]
