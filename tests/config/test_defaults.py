import re
from pathlib import Path

from hrnet_jax.config import defaults
from hrnet_jax.config.stored import fields


def test_a_config_takes_no_field_that_does_not_exist():
    config = defaults.default(name="a", dataset="minicity", variant="hr18")
    assert (config.name, config.data.name, config.model.variant) == ("a", "minicity", "hr18")
    assert config.is_locked
    assert {"reference", "train.batch_size", "optim.lr"} <= set(fields(config))


def test_every_field_is_used_beyond_its_checks():
    package = Path(defaults.__file__).parents[1]
    names = {"defaults.py", "checks.py", "stored.py", "recipes.py"}
    text = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name not in names)
    for field in fields(defaults.default(name="", dataset="", variant="")):
        dotted = field if "." in field else f"config.{field}"
        assert re.search(rf"\b{re.escape(dotted)}\b", text), field
