"""Every field of a config: its default, unit and meaning.

A recipe starts from `default()` and sets what its dataset needs; the command line overrides both.
Fields are independent choices. Values that follow from them (number of classes, images per device)
are computed where they are used, so that no override can make them stale.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def default(*, name: str, dataset: str, variant: str) -> ConfigDict:
    """Return a config with every field. Sizes are (height, width) in pixels."""
    config = ConfigDict()
    config.name = name  # of the recipe; the default workdir is runs/<name>
    # The rules to follow where mmsegmentation 0.x ("v0", which produced the published numbers) and
    # 1.x ("v1") differ: the end of the learning-rate decay, the order of the examples, the
    # denominator of the logged accuracy, and whether `eval.ratios` scale `eval.image_size` (v0) or
    # the image itself (v1).
    config.reference = "v0"
    config.seed = 0  # of initial weights, example order and augmentation
    # The weights of a new run: "" for random ones, else a .pth or .safetensors file (a whole
    # network or an ImageNet backbone), a workdir, a checkpoint, or the name of a converted row of
    # the zoo. A resumed run does not read it.
    config.init_from = ""
    # The part of its head to use: "strict" (all; the classes must be the same), "match" (classes
    # of equal names), or "new" (nothing, only the backbone).
    config.init_head = "strict"

    config.model = ConfigDict()
    config.model.variant = variant  # hr18s, hr18 or hr48
    config.model.head = "fcn"  # a key of models.HEADS
    config.model.dtype = "float32"  # of the computation: float32, bfloat16 or float64

    # Groups of `height` devices share the rows of each image, for images too large for one device
    # (the crop height must be a multiple of 32 x height). Batches are split over the groups.
    config.mesh = ConfigDict()
    config.mesh.height = 1
    # With several processes: seconds without a heartbeat after which a process counts as dead and
    # the others stop. Must be longer than any pause of a healthy process, as on a busy network.
    config.mesh.timeout = 60

    config.data = ConfigDict()
    # A dataset of docs/datasets.md, minicity, custom (your own folders, described by the last
    # fields of this section), or a dataset that the recipe defines (see configs/custom.py).
    config.data.name = dataset
    # A folder with the dataset's official layout, a zip file of it, a folder of zip files that
    # contain it together, or a folder that --mode prepare wrote.
    config.data.root = f"data/{dataset}"
    config.data.workers = 0  # processes that read and augment; 0: threads
    # How training handles a damaged or illegal file: "stop", or "quarantine" (use the next example
    # instead, and list the file in <workdir>/quarantine.jsonl). Evaluation always stops.
    config.data.on_error = "stop"
    config.data.mean = (123.675, 116.28, 103.53)  # of R, G, B, on the scale 0 to 255
    config.data.std = (58.395, 57.12, 57.375)
    # The other fields of this section are for data.name=custom only.
    config.data.classes = ()  # names in the order of the classes: road,car or ('road', 'car')
    # Label values and their classes, as in "0:255,1-3:0-2,4-9:3", where 255 is ignored; "": each
    # value is the class of this number, and 255 is ignored.
    config.data.label_map = ""
    config.data.palette = ""  # "": Pascal VOC's colours; else one RRGGBB per class: 804080,00008E
    config.data.images = "images/{split}"  # folder below the root; split is train or val
    config.data.labels = "labels/{split}"
    config.data.image_suffix = ".jpg"
    config.data.label_suffix = ".png"
    config.data.list_file = ""  # names without suffix, one per line: {split}.txt; "": all files

    config.train = ConfigDict()
    config.train.steps = 40_000
    config.train.batch_size = 8  # images per step, over all devices
    config.train.image_size = (1024, 2048)  # long and short side before the random scale
    config.train.ratio_range = (0.5, 2.0)  # of the random scale
    config.train.crop_size = (512, 1024)
    config.train.augmentations = ()  # keys of data.transforms.AUGMENTATIONS, besides the published
    config.train.loss = "cross_entropy"  # a key of training.losses.LOSSES
    config.train.class_weights = ()  # of the loss, one per class; empty: every class weighs 1
    # Micro-batches per step, computed one after another, for batches too large for the devices. The
    # gradient is that of the whole batch, but batch normalisation sees one micro-batch at a time:
    # its statistics are noisier, and the running averages move once per micro-batch.
    config.train.accumulate = 1
    # Activations to recompute in the backward pass: "none", or all inside a "block" or a "stage".
    # Saves memory, costs time, changes no result; docs/scale.md has figures.
    config.train.remat = "none"
    # A step whose loss or gradient is not finite changes no weight; <workdir>/bad_steps.jsonl lists
    # its images. The run stops after this many such steps in a row.
    config.train.max_bad_steps = 10

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # a key of training.optim.OPTIMIZERS: sgd or adamw
    config.optim.lr = 0.01  # at step 0
    # The head's rate at step 0, for example ten times `lr` in fine-tuning; None: the same as `lr`.
    config.optim.head_lr = placeholder(float)
    config.optim.min_lr = 1e-4  # at the end of the decay
    config.optim.power = 0.9  # of the polynomial decay
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4  # on every parameter
    # Modules to freeze, batch statistics included, by their names in the network:
    # ("backbone",) or ("backbone.conv1", "backbone.stage2").
    config.optim.freeze = ()

    config.eval = ConfigDict()
    config.eval.every_steps = 4_000
    config.eval.batch_size = 4  # images of one size per call, over all devices
    config.eval.image_size = (1024, 2048)  # box that images are fitted to, aspect ratio kept
    config.eval.mode = "whole"  # or "slide": windows of crop_size every stride, averaged
    config.eval.crop_size = (480, 480)
    config.eval.stride = (320, 320)
    # Probabilities are averaged over these scales of image_size, and over mirror images (flip).
    # For the published ms+flip numbers: --config.eval.ratios="(.5,.75,1.,1.25,1.5,1.75)"
    # --config.eval.flip
    config.eval.ratios = (1.0,)
    config.eval.flip = False

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 4_000  # the two newest are kept, and the best by mIoU

    config.log = ConfigDict()
    config.log.every_steps = 50
    config.log.pictures = 8  # validation images drawn with truth and prediction
    return config.lock()
