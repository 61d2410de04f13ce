"""mmsegmentation, in its own process and environment (it needs PyTorch).

Reads one job per line from stdin, as JSON with the name of a function below and its arguments;
arrays go through .npz files. `peer.py` talks to it.
"""

import importlib.util
import json
import os
import pathlib
import sys
import time
import types

import jobs  # in the folder of this file, which is run as a script
import numpy as np
import torch

replies = jobs.take_stdout()  # mmengine prints


def _stub_ops() -> None:
    """mmcv-lite has no compiled operations; mmseg imports their names, FCN-HRNet calls none."""

    def make(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(self, *args, **kwargs):
            raise RuntimeError(f"mmcv.ops.{name} is a stub")

        return type(name, (torch.nn.Module,), {"__init__": refuse})

    stub = types.ModuleType("mmcv.ops")
    # A module's own hook for missing names, which the type of modules does not declare.
    stub.__getattr__ = make  # type: ignore[method-assign]
    sys.modules["mmcv.ops"] = stub


_stub_ops()

import cv2
import mmcv
import mmengine
import mmseg
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

register_all_modules()
init_default_scope("mmseg")
CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim/configs/hrnet"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def versions() -> dict:
    """Return the versions of what we compare with."""
    return {
        "mmsegmentation": mmseg.__version__,
        "mmengine": mmengine.__version__,
        "mmcv-lite": mmcv.__version__,
        "torch": torch.__version__,
    }


def build(variant: str, num_classes: int) -> torch.nn.Module:
    """The network of the released config; with BN, as SyncBN has no CPU kernel."""
    config = Config.fromfile(CONFIGS / f"fcn_{variant}_4xb2-40k_cityscapes-512x1024.py").model
    config.pretrained = None
    config.backbone.norm_cfg.type = config.decode_head.norm_cfg.type = "BN"
    config.decode_head.num_classes = num_classes
    return MODELS.build(config)


def _loaded(variant: str, num_classes: int, weights: str, dtype: str) -> torch.nn.Module:
    model = build(variant, num_classes)
    load_checkpoint(model, weights, map_location="cpu", strict=True, logger="silent")
    return model.to(DTYPES[dtype])


def save(variant: str, num_classes: int, path: str, tensors: str, style: str) -> None:
    """Save weights as mmsegmentation 0.x (legacy file) or 1.x (zip) would.

    Args:
        variant: of the network.
        num_classes: of the head.
        path: of the file to write.
        tensors: .npz with values by key; empty for the network's own random initialisation.
        style: "0.x" or "1.x".
    """
    torch.manual_seed(0)
    model = build(variant, num_classes)
    model.init_weights()
    if tensors:
        values = dict(np.load(tensors))
        state = {
            key: torch.from_numpy(values[key]) if key in values else torch.tensor(40_000)
            for key in model.state_dict()
        }
        model.load_state_dict(state, strict=True)
    names = [f"name {index}" for index in range(num_classes)]
    palette = [[index, 0, 255 - index] for index in range(num_classes)]
    if style == "0.x":
        meta = {"CLASSES": tuple(names), "PALETTE": palette, "iter": 40_000, "config": "a = 1\n"}
    else:
        meta = {"dataset_meta": {"classes": tuple(names), "palette": palette}, "iter": 40_000}
    torch.save(
        {"meta": meta, "state_dict": model.state_dict()},
        path,
        _use_new_zipfile_serialization=style == "1.x",
    )


def logits(
    variant: str, num_classes: int, weights: str, inputs: str, output: str, dtypes: list
) -> None:
    """Stride-4 logits of each input (NCHW), in each precision: "<input> <dtype>"."""
    results = {}
    for dtype in dtypes:
        model = _loaded(variant, num_classes, weights, dtype).eval()
        with torch.no_grad():
            for name, image in np.load(inputs).items():
                tensor = torch.from_numpy(image).to(DTYPES[dtype])
                results[f"{name} {dtype}"] = model._forward(tensor).numpy()
    np.savez(output, **results)


def _losses(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, dtype: str):
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(label[None].astype(np.int64))))
        for label in labels
    ]
    losses = model.loss(torch.from_numpy(images).to(DTYPES[dtype]), samples)
    return model.parse_losses(losses)


def backward(variant: str, num_classes: int, weights: str, batch: str, output: str) -> None:
    """Loss and gradients of one batch in both precisions: "<key> <dtype>"."""
    arrays, results = np.load(batch), {}
    for dtype in DTYPES:
        model = _loaded(variant, num_classes, weights, dtype).train()
        loss, _ = _losses(model, arrays["image"], arrays["label"], dtype)
        loss.backward()
        results[f"loss {dtype}"] = loss.detach().numpy()
        for key, parameter in model.named_parameters():
            results[f"{key} {dtype}"] = parameter.grad.numpy()
    np.savez(output, **results)


def train(
    variant: str,
    num_classes: int,
    weights: str,
    batches: str,
    output: str,
    total: int,
    snapshots: list,
    nudged: str,
) -> None:
    """SGD in float64 with the zoo's settings on fixed batches, as mmengine's runner does it.

    Args:
        variant: of the network.
        num_classes: of the head.
        weights: to start from.
        batches: .npz with "image" and "label" of every step.
        output: .npz: "loss", "accuracy" and "lr" of every step, "<step> <key>" at `snapshots`.
        total: steps of the schedule.
        snapshots: numbers of steps after which the weights are kept.
        nudged: key of a tensor whose first element moves by one ulp; or empty.
    """
    arrays = np.load(batches)
    model = _loaded(variant, num_classes, weights, "float64").train()
    if nudged:
        first = model.state_dict()[nudged].view(-1)[:1]
        first.copy_(torch.nextafter(first, first + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    wrapper = OptimWrapper(optimizer)
    schedule = PolyLR(optimizer, eta_min=1e-4, power=0.9, begin=0, end=total, by_epoch=False)
    results: dict = {"loss": [], "accuracy": [], "lr": []}
    for step in range(max(snapshots)):
        loss, log = _losses(model, arrays["image"][step], arrays["label"][step], "float64")
        results["loss"].append(loss.item())
        results["accuracy"].append(log["decode.acc_seg"].item() / 100)
        results["lr"].append(optimizer.param_groups[0]["lr"])
        wrapper.update_params(loss)
        schedule.step()
        if step + 1 in snapshots:
            for key, tensor in model.state_dict().items():
                results[f"{step + 1} {key}"] = tensor.numpy().copy()
    np.savez(output, **results)


def photographs(folder: str) -> list:
    """Write crops of odd sizes of the photographs that scikit-learn carries; return their paths."""
    images = pathlib.Path(importlib.util.find_spec("sklearn").origin).parent / "datasets/images"
    crops = {
        "china.jpg": [(0, 427, 0, 640), (50, 425, 3, 336)],
        "flower.jpg": [(0, 375, 100, 600), (7, 198, 0, 640), (101, 404, 201, 410)],
    }
    paths = []
    for name, windows in crops.items():
        photograph = mmcv.imread(str(images / name))
        for number, (top, bottom, left, right) in enumerate(windows):
            paths.append(f"{folder}/{name[:-4]}_{number}.png")
            mmcv.imwrite(photograph[top:bottom, left:right], paths[-1])
    return paths


def _scores(model: torch.nn.Module, view: np.ndarray, size: tuple, is_mirrored: bool):
    """Logits [k h w] of one view (BGR) at the original size, a mirrored view turned back."""
    sample = SegDataSample(
        metainfo={
            "ori_shape": size,
            "img_shape": view.shape[:2],
            "pad_shape": view.shape[:2],
            "flip": is_mirrored,
            "flip_direction": "horizontal",
        }
    )
    tensor = torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))
    with torch.no_grad():
        (result,) = model.test_step({"inputs": [tensor], "data_samples": [sample]})
    return result.seg_logits.data


def labels(
    variant: str,
    num_classes: int,
    weights: str,
    image: str,
    output: str,
    views: list,
    slide: list,
) -> None:
    """Label a photograph with its own preprocessing, inference and post-processing.

    Args:
        variant: of the network.
        num_classes: of the head.
        weights: file to load.
        image: file to label.
        output: .npz: "labels" and "margin", by how much the best class leads the second.
        views: (height, width, whether mirrored) of each; probabilities of several are averaged.
        slide: side of the windows and stride; empty for whole images.
    """
    model = _loaded(variant, num_classes, weights, "float32").eval()
    model.test_cfg = Config({"mode": "whole"})
    if slide:
        side, stride = slide
        model.test_cfg = Config(
            {"mode": "slide", "crop_size": (side, side), "stride": (stride, stride)}
        )
    model.data_preprocessor.size = None  # evaluation pads nothing
    pixels, total = mmcv.imread(image), 0
    for height, width, is_mirrored in views:
        view = mmcv.imresize(pixels, (width, height))
        view = mmcv.imflip(view) if is_mirrored else view
        scores = _scores(model, view, pixels.shape[:2], is_mirrored)
        total = total + (scores.softmax(0) if len(views) > 1 else scores)
    best = total.topk(2, 0).values
    np.savez(output, labels=total.argmax(0).numpy(), margin=(best[0] - best[1]).numpy())


_evaluated: dict = {}  # of `load_model`, for `evaluate`


def load_model(variant: str, num_classes: int, weights: str) -> None:
    """Keep a model for `evaluate`."""
    _evaluated["model"] = _loaded(variant, num_classes, weights, "float32").eval()
    _evaluated["model"].test_cfg = Config({"mode": "whole"})
    _evaluated["model"].data_preprocessor.size = None


def evaluate(root: str, images: int, threads: int, ratios: list, flip: bool) -> list:
    """Score the first images of a Cityscapes-like val split; return the confusion matrix."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    model, counts = _evaluated["model"], 0
    files = sorted((pathlib.Path(root) / "leftImg8bit/val").rglob("*_leftImg8bit.png"))[:images]
    for file in files:
        pixels = mmcv.imread(str(file))
        name = str(file).replace("/leftImg8bit/", "/gtFine/")
        label = mmcv.imread(
            name.replace("_leftImg8bit", "_gtFine_labelTrainIds"),
            flag="unchanged",
            backend="pillow",
        )
        total = 0
        for ratio in ratios:
            size = tuple(int(side * ratio) for side in pixels.shape[1::-1])
            resized = mmcv.imrescale(pixels, size)
            for is_mirrored in (False, True)[: 1 + flip]:
                view = mmcv.imflip(resized) if is_mirrored else resized
                scores = _scores(model, view, pixels.shape[:2], is_mirrored)
                total = total + (scores.softmax(0) if len(ratios) > 1 else scores)
        found = total.argmax(0)
        truth = torch.from_numpy(label.astype(np.int64))
        kept = truth != 255
        classes = total.shape[0]
        pairs = truth[kept] * classes + found[kept]
        counts = counts + torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts.tolist()


def transformed(pipeline: list, inputs: str, output: str, seeds: list) -> None:
    """Send "image" (BGR) and "label" through a pipeline, once per seed: "image <seed>", ...

    The seed is that of numpy's global generator, from which all transforms draw.
    """
    arrays, results = dict(np.load(inputs)), {}
    tuples = [  # which JSON made lists
        {key: tuple(value) if isinstance(value, list) else value for key, value in step.items()}
        for step in pipeline
    ]
    steps = [TRANSFORMS.build(step) for step in tuples]
    for seed in seeds:
        np.random.seed(seed)  # noqa: NPY002
        example = {
            "img": arrays["image"].copy(),
            "img_shape": arrays["image"].shape[:2],
            "ori_shape": arrays["image"].shape[:2],
        }
        if "label" in arrays:
            example |= {"gt_seg_map": arrays["label"].copy(), "seg_fields": ["gt_seg_map"]}
        for step in steps:
            example = step(example)
        results[f"image {seed}"] = example["img"]
        if "label" in arrays:
            results[f"label {seed}"] = example["gt_seg_map"]
    np.savez(output, **results)


def fitted(sizes: list, limits: list) -> list:
    """Sizes (height, width) that keep-ratio resizing gives within each limit."""
    return [
        [mmcv.rescale_size((width, height), tuple(limit))[::-1] for height, width in sizes]
        for limit in limits
    ]


def normalized(inputs: str, output: str, mean: list, std: list, size: list) -> None:
    """Normalise and pad "image" (BGR) and "label" as 0.x did, by mmcv, and as 1.x does."""
    image, label = (np.load(inputs)[name] for name in ("image", "label"))
    constants = (np.array(values, np.float32) for values in (mean, std))  # as 0.x stored them
    by_mmcv = mmcv.imnormalize(image, *constants, to_rgb=True)
    preprocess = MODELS.build(
        dict(type="SegDataPreProcessor", mean=mean, std=std, bgr_to_rgb=True, size=tuple(size),
             pad_val=0, seg_pad_val=255)
    )  # fmt: skip
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.from_numpy(label[None].astype(np.int64))),
        metainfo={"img_shape": label.shape},
    )
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    batch = preprocess({"inputs": [tensor], "data_samples": [sample]}, training=True)
    np.savez(
        output,
        image=mmcv.impad(by_mmcv, shape=tuple(size), pad_val=0),
        label=mmcv.impad(label, shape=tuple(size), pad_val=255),
        image_v1=batch["inputs"][0].numpy().transpose(1, 2, 0),
        label_v1=batch["data_samples"][0].gt_sem_seg.data[0].numpy(),
    )


_training: dict = {}  # of `load`, for `take`


def load(root: str, workers: int, batch_size: int) -> None:
    """Start the released Cityscapes training pipeline on a folder of that layout."""
    config = Config.fromfile(CONFIGS / "fcn_hr18_4xb2-40k_cityscapes-512x1024.py")
    cv2.setNumThreads(config.env_cfg.mp_cfg.opencv_num_threads)
    loader = config.train_dataloader
    loader.update(batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)
    loader.dataset.data_root = root
    _training["batches"] = iter(Runner.build_dataloader(loader, seed=0))
    _training["normalize"] = MODELS.build(config.model.data_preprocessor)


def take(batches: int, normalize: bool) -> list:
    """Take `batches` batches; normalise them in this process, as 1.x does on its device."""
    for _ in range(batches):
        batch = next(_training["batches"])
        if normalize:
            batch = _training["normalize"](batch, training=True)
    return [list(image.shape) for image in batch["inputs"]]


def load_program(
    variant: str, weights: str, batch: str, layout: str, training: bool, threads: int
) -> float:
    """Get ready to be timed; return the loss of the first step, or the largest logit.

    Args:
        variant: of the network.
        weights: file to load.
        batch: .npz with "image" (NCHW) and "label".
        layout: "eager", "channels_last", or "compile" (torch.compile, channels last).
        training: a step of SGD with momentum; else logits at stride 4.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    arrays = np.load(batch)
    model = _loaded(variant, 19, weights, "float32").train(training)
    image = torch.from_numpy(arrays["image"])
    if layout != "eager":
        model = model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    forward = torch.compile(model._forward) if layout == "compile" else model._forward

    def infer() -> float:
        with torch.no_grad():
            return forward(image).abs().max().item()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(label[None].astype(np.int64))))
        for label in arrays["label"]
    ]

    def step() -> float:
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model.loss(image, samples))
        loss.backward()
        optimizer.step()
        return loss.item()

    jobs.timed["program"] = step if training else infer
    return jobs.timed["program"]()


class _Curve(Hook):
    """Writes losses, times and scores as they come; saves the run after each evaluation."""

    priority = "VERY_LOW"  # after what it reads

    def __init__(self, folder: pathlib.Path, every: int):
        self.folder, self.every = folder, every
        self.parent = os.getppid()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if os.getppid() != self.parent:  # killed, and perhaps started again in the same folder
            sys.exit("The process that started this run has ended.")

    def _write(self, step: int, values: dict) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if (batch_idx + 1) % self.every == 0:
            names = {"loss": "loss", "seconds": "time", "data seconds": "data_time"}
            scalar = runner.message_hub.get_scalar
            means = {k: float(scalar(f"train/{v}").mean(self.every)) for k, v in names.items()}
            self._write(batch_idx + 1, means)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._write(runner.iter, {name: float(value) for name, value in metrics.items()})
        # Only now: a run that was killed while evaluating evaluates again. `by_epoch` makes it
        # note the number of steps that are done, and not one more.
        runner.save_checkpoint(str(self.folder), "next.pth", by_epoch=True)
        (self.folder / "next.pth").replace(self.folder / "last.pth")


def _photographs(
    root: str, classes: list, variant: str, batch_size: int, crop_size: list, image_size: list
) -> Config:
    """The released config, with another dataset, other sizes, and BN."""
    config = Config.fromfile(CONFIGS / f"fcn_{variant}_4xb2-40k_cityscapes-512x1024.py")
    model = config.model
    model.pretrained = None
    model.backbone.norm_cfg.type = model.decode_head.norm_cfg.type = "BN"
    model.decode_head.num_classes = len(classes)
    model.data_preprocessor.size = tuple(crop_size)
    for loader, split in ((config.train_dataloader, "train"), (config.val_dataloader, "val")):
        loader.dataset.update(
            type="BaseSegDataset",
            data_root=root,
            data_prefix=dict(img_path=f"img_dir/{split}", seg_map_path=f"ann_dir/{split}"),
            metainfo=dict(classes=classes),
        )
        for step in loader.dataset.pipeline:
            if step.type in ("RandomResize", "Resize"):
                step.scale = tuple(image_size[::-1])
            elif step.type == "RandomCrop":
                step.crop_size = tuple(crop_size)
    config.train_dataloader.batch_size = batch_size
    return config


def learn(
    folder: str, weights: str, seed: int, steps: int, evaluations: int, log_every: int,
    threads: int, data: dict,
) -> None:  # fmt: skip
    """Train on a folder of photographs as the released config does, with the real Runner.

    Resumes a run that was killed. `folder` gets metrics.jsonl: for every `log_every` steps the
    means of "loss", "seconds" and "data seconds" (waiting for the batch), and the scores.

    Args:
        folder: of the run.
        weights: .pth to start from.
        seed: of order and augmentation.
        steps: of the schedule.
        evaluations: at equal distances, the last one at the end.
        log_every: so many steps.
        threads: of PyTorch in this process; two more processes read, as in the released config.
        data: `root` (with {img_dir,ann_dir}/{train,val}), `classes` (names), `variant`,
            `batch_size`, `crop_size` (height, width), `image_size` (short and long side before the
            random scale).
    """
    torch.set_num_threads(threads)
    _loaded(data["variant"], len(data["classes"]), weights, "float32")  # strict, unlike the Runner
    config = _photographs(**data)
    config.val_dataloader.num_workers = 2
    config.train_cfg.update(max_iters=steps, val_interval=steps // evaluations)
    config.param_scheduler[0].end = steps
    config.default_hooks.pop("visualization")
    config.default_hooks.checkpoint = None  # `_Curve` saves
    config.test_dataloader = config.test_cfg = config.test_evaluator = config.tta_model = None
    config.randomness = dict(seed=seed)
    config.work_dir, config.log_level = folder, "WARNING"
    # What `_Curve` saved holds objects of mmengine, which PyTorch since 2.6 refuses unless asked.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    saved = pathlib.Path(folder) / "last.pth"
    config.load_from, config.resume = str(saved if saved.exists() else weights), saved.exists()
    runner = Runner.from_cfg(config)
    runner.register_hook(_Curve(pathlib.Path(folder), log_every))
    runner.train()


def batch_seconds(batches: int, data: dict) -> float:
    """CPU seconds of this process per batch, from the files to normalised float32; see `learn`."""
    cv2.setNumThreads(0)
    config = _photographs(**data)
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    normalize = MODELS.build(config.model.data_preprocessor)
    stream = iter(Runner.build_dataloader(config.train_dataloader, seed=0))
    normalize(next(stream), training=True)
    begin = time.process_time()
    for _ in range(batches):
        normalize(next(stream), training=True)
    return (time.process_time() - begin) / batches


def main() -> None:
    """Do the jobs."""
    torch.set_num_threads(
        1
    )  # more threads would wait for each other in small layers on a busy machine
    jobs.serve(globals(), replies)


if __name__ == "__main__":
    main()
