"""The names that a pickle may contain. None of them is imported or called."""

import dataclasses


def _names(modules: dict[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module in modules for name in modules[module].split())


_TORCH_NAMES = _names(
    {
        "torch": "Size DoubleStorage FloatStorage HalfStorage BFloat16Storage LongStorage "
        "IntStorage ShortStorage CharStorage ByteStorage BoolStorage UntypedStorage",
        "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter",
    }
)
_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_BUILTINS = "bool bytearray bytes complex dict float frozenset int list set str tuple"
PLACEHOLDER_NAMES = _names(  # of objects besides weights in training checkpoints
    {
        "torch": "device bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64",
        "builtins": _BUILTINS,
        "__builtin__": _BUILTINS,  # in protocol 2
        "_codecs": "encode",
        "argparse": "Namespace",
        "collections": "Counter defaultdict deque",
        "datetime": "date datetime time timedelta timezone",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "types": "SimpleNamespace",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy.core.numeric": "_frombuffer",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy._core.numeric": "_frombuffer",
        "addict.addict": "Dict",
        "mmcv.utils.config": "Config ConfigDict",
        "mmengine.config.config": "Config ConfigDict",
        "mmengine.logging.history_buffer": "HistoryBuffer",
        "mmengine.logging.message_hub": "MessageHub",
    }
)
ALLOWED_NAMES = _TORCH_NAMES | PLACEHOLDER_NAMES | {"collections.OrderedDict"}


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for an object that is not built; its arguments and state are dropped."""

    name: str  # "datetime.datetime"
