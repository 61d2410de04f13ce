"""One training recipe per dataset: what its published runs changed from the defaults."""

from ml_collections import ConfigDict

from hrnet_jax.config import default

_SCHEDULES = {"20k": 20_000, "40k": 40_000, "80k": 80_000, "160k": 160_000}


def cityscapes(*, variant: str, schedule: str) -> ConfigDict:
    """512x1024 crops, 8 images per step, whole-image evaluation at 1024x2048."""
    steps = _steps(schedule, allowed=("40k", "80k", "160k"))
    config = default(name=f"{variant}_cityscapes_{schedule}", dataset="cityscapes", variant=variant)
    config.train.steps = steps
    config.eval.every_steps = config.checkpoint.every_steps = steps // 10
    return config


def minicity(*, variant: str) -> ConfigDict:
    """Minutes on two CPU cores, from random weights: small crops, a high learning rate."""
    config = default(name=f"{variant}_minicity", dataset="minicity", variant=variant)
    config.train.steps = 400
    config.train.batch_size = 4
    config.train.image_size = (256, 512)
    config.train.ratio_range = (0.5, 1.25)
    config.train.crop_size = (128, 256)
    config.optim.lr = 0.05
    config.eval.image_size = (256, 512)
    config.eval.every_steps = config.checkpoint.every_steps = 100
    config.log.every_steps = 10
    return config


def custom(*, variant: str) -> ConfigDict:
    """Your own folders: crops of 512x512 from images with a short side of 512."""
    config = default(name=f"{variant}_custom", dataset="custom", variant=variant)
    config.train.image_size = config.eval.image_size = (512, 2048)
    config.train.crop_size = (512, 512)
    return config


def _steps(schedule: str, *, allowed: tuple[str, ...]) -> int:
    if schedule not in allowed:
        raise ValueError(
            f"There is no schedule {schedule!r} for this recipe; use one of {', '.join(allowed)}, "
            f"as in --config path/to/config.py:{allowed[0]}."
        )
    return _SCHEDULES[schedule]
