"""A recipe that trains in seconds: a toy network on small data in `config.data.root`."""

from hrnet_jax.config import recipes


def get_config():
    config = recipes.minicity(variant="toy")
    config.train.steps = 4
    config.train.batch_size = 8
    config.train.image_size = config.eval.image_size = (64, 128)
    config.train.crop_size = (32, 64)
    config.eval.every_steps = config.checkpoint.every_steps = 2
    config.log.every_steps = 1
    config.log.pictures = 2
    return config
