"""Every field of a config: its default, unit and meaning.

A recipe starts from `default()` and changes what its dataset needs; the command line overrides
the rest. A config states independent choices only: what follows from them (number of classes,
images per device) is computed where it is used, so no override can leave it stale.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def default(*, name: str, dataset: str, variant: str) -> ConfigDict:
    """Return a config in which every field exists. Sizes are (height, width) in pixels."""
    config = ConfigDict()
    config.name = name  # of the recipe; the default workdir is runs/<name>
    # Whose rules hold where mmsegmentation 0.x ("v0", which produced the published numbers) and
    # 1.x ("v1") differ: the end of the learning-rate decay, the order of the examples, the
    # denominator of the logged accuracy, and what `eval.ratios` scale: the size that images are
    # fitted to, or the image itself.
    config.reference = "v0"
    config.seed = 0  # of initial weights, example order and augmentation
    # What a new run starts from: "" for random weights, else a .pth or .safetensors file (a whole
    # network or an ImageNet backbone), a workdir, a checkpoint, or the name of a row of the zoo
    # that was converted. A resumed run does not read it.
    config.init_from = ""
    # What of its head is used: "strict" (the classes must be the same), "match" (the classes of
    # equal names), or "new" (nothing: the backbone only).
    config.init_head = "strict"

    config.model = ConfigDict()
    config.model.variant = variant  # hr18s, hr18 or hr48
    config.model.head = "fcn"  # a key of models.HEADS
    config.model.dtype = "float32"  # of the computation: float32, bfloat16 or float64 (all of it)

    # `height` devices share the rows of each image, for images too large for one device (crop
    # height a multiple of 32 x height). The images of a batch are split over these groups.
    config.mesh = ConfigDict()
    config.mesh.height = 1
    # Seconds without a sign of life, after which one of several processes counts as dead and the
    # others stop. Must be longer than any pause of a healthy process, such as a busy network.
    config.mesh.timeout = 60

    config.data = ConfigDict()
    # One of docs/datasets.md, minicity, custom (your own folders, described by the last fields of
    # this section), or a dataset that the recipe defines (see configs/custom.py).
    config.data.name = dataset
    # The folder that holds the dataset's official layout, a zip file of it, a folder with several
    # zip files that hold it together, or a folder that --mode prepare wrote.
    config.data.root = f"data/{dataset}"
    config.data.workers = 0  # processes that read and augment; 0: threads of the main process
    # What training does with a damaged or illegal file: "stop", or "quarantine" (read the next
    # example in its place, list the file in <workdir>/quarantine.jsonl). Evaluation always stops.
    config.data.on_error = "stop"
    config.data.mean = (123.675, 116.28, 103.53)  # of R, G, B, on the scale 0 to 255
    config.data.std = (58.395, 57.12, 57.375)
    # The other fields of this section matter for data.name=custom only.
    config.data.classes = ()  # names in the order of the classes: road,car or ('road', 'car')
    # Which label value is which class, as in "0:255,1-3:0-2,4-9:3", where 255 is ignored; "" is
    # every value the class of this number, and 255 ignored.
    config.data.label_map = ""
    config.data.palette = ""  # "": Pascal VOC's colours; else one RRGGBB per class: 804080,00008E
    config.data.images = "images/{split}"  # folder below the root; split is train or val
    config.data.labels = "labels/{split}"
    config.data.image_suffix = ".jpg"
    config.data.label_suffix = ".png"
    config.data.list_file = ""  # names without suffix, one a line, as in {split}.txt; "": all files

    config.train = ConfigDict()
    config.train.steps = 40_000
    config.train.batch_size = 8  # images per step, over all devices
    config.train.image_size = (1024, 2048)  # long and short side before the random scale
    config.train.ratio_range = (0.5, 2.0)  # of the random scale
    config.train.crop_size = (512, 1024)
    config.train.augmentations = ()  # keys of data.transforms.AUGMENTATIONS, besides the published
    config.train.loss = "cross_entropy"  # a key of training.losses.LOSSES
    config.train.class_weights = ()  # of the loss, one per class; empty: every class weighs 1
    # Micro-batches that a step computes one after the other, for batches too large for the devices.
    # The gradient is that of the whole batch, but batch normalisation sees one micro-batch at a
    # time: its statistics are noisier, and the running ones move so many times per step.
    config.train.accumulate = 1
    # What is computed again in the backward pass instead of kept: "none", "block" or "stage".
    # Costs time, saves memory, changes no result; docs/scale.md tells how much.
    config.train.remat = "none"
    # A step whose loss or gradient is not finite changes no weight; <workdir>/bad_steps.jsonl names
    # its images. The run stops after this many such steps in a row; 1: at the first.
    config.train.max_bad_steps = 10

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # a key of training.optim.OPTIMIZERS: sgd or adamw
    config.optim.lr = 0.01  # at step 0
    # The head's rate at step 0, for instance ten times `lr` in fine-tuning; None: as `lr`.
    config.optim.head_lr = placeholder(float)
    config.optim.min_lr = 1e-4  # towards the last step
    config.optim.power = 0.9  # of the polynomial decay
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4  # on every parameter
    # Modules that do not learn, batch statistics included, by their names in the network:
    # ("backbone",) or ("backbone.conv1", "backbone.stage2").
    config.optim.freeze = ()

    config.eval = ConfigDict()
    config.eval.every_steps = 4_000
    config.eval.batch_size = 4  # images of one size per call, over all devices
    config.eval.image_size = (1024, 2048)  # images are brought into this box, shape kept
    config.eval.mode = "whole"  # or "slide": windows of crop_size every stride, averaged
    config.eval.crop_size = (480, 480)
    config.eval.stride = (320, 320)
    # Probabilities are averaged over these scales of image_size, and over their mirror images.
    # The published ms+flip numbers: --config.eval.ratios="(.5,.75,1.,1.25,1.5,1.75)"
    # --config.eval.flip
    config.eval.ratios = (1.0,)
    config.eval.flip = False

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 4_000  # the two newest are kept, and the best by mIoU

    config.log = ConfigDict()
    config.log.every_steps = 50
    config.log.pictures = 8  # validation images drawn with truth and prediction
    return config.lock()
