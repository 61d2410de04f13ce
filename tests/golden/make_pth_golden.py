"""Write the golden weight files of `tests/interop` with the real PyTorch.

    python tests/golden/make_pth_golden.py    # needs torch, numpy and safetensors, not this package

The files in the repository were made with torch 2.13.0, numpy 2.4.6 and safetensors 0.8.0 on
Python 3.11; each `meta` says so. The tests know the values by the formulas below.
"""

import collections
import datetime
import pathlib
import platform
import sys
import types
from collections import OrderedDict

import numpy as np
import safetensors
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent
META = {
    "torch_version": str(torch.__version__),
    "numpy_version": np.__version__,
    "safetensors_version": safetensors.__version__,
    "python_version": platform.python_version(),
    "CLASSES": ["road", "sidewalk"],
    "PALETTE": [[128, 64, 128], [244, 35, 232]],
    "config": "import os\nos.system('echo never run')\n",
    "iter": 40000,
    "seed": None,
    "time": "Thu Jan  1 00:00:00 2026",
    "large": 2**40,
    "loss": 0.5,
}


def state_dict() -> OrderedDict:
    """Every supported type, and every way in which a tensor can lie in its storage."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    state = OrderedDict(
        float32=base.clone(),
        float64=torch.arange(3, dtype=torch.float64) / 3,
        float16=torch.arange(4, dtype=torch.float32).div(7).half(),
        bfloat16=torch.arange(4, dtype=torch.float32).div(7).bfloat16(),
        int64=torch.arange(-2, 2),
        int32=torch.arange(-2, 2, dtype=torch.int32),
        int16=torch.arange(-2, 2, dtype=torch.int16),
        int8=torch.arange(-2, 2, dtype=torch.int8),
        uint8=torch.arange(3, dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        num_batches_tracked=torch.tensor(7),
        empty=torch.zeros(0, 3),
        shared=base,
        transposed=base.t(),
        window=base[1:3, 2:5],
        every_other=base[:, ::2],
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
    )
    state._metadata = OrderedDict({"": {"version": 1}, "backbone.bn1": {"version": 2}})
    return state


def known_by_name(module: str, name: str, base: type = object) -> type:
    """A class that pickles under another library's name."""
    made = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name_so_far = ".".join(parts[:end])
        sys.modules.setdefault(name_so_far, types.ModuleType(name_so_far))
    setattr(sys.modules[module], name, made)
    return made


def training() -> dict:
    """What training checkpoints hold beside the weights."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    history = known_by_name("mmengine.logging.history_buffer", "HistoryBuffer")()
    history._log_history = np.arange(5.0)
    config = known_by_name("mmengine.config.config", "ConfigDict", dict)
    company = {
        "history": history,
        "config": config(lr=0.01, policy=config(power=0.9)),
        "scalar": np.float64(0.5),
        "array": np.arange(6).reshape(2, 3),
        "objects": np.array([None, "text"], dtype=object),
        "dtype": np.dtype("float32"),
        "datetime": datetime.datetime(2026, 1, 1),
        "defaultdict": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "set": {1, 2},
        "path": pathlib.PurePosixPath("/a/b"),
        "namespace": types.SimpleNamespace(a=1),
        "bytes": b"\x00\xff",
        "complex": 1j,
        "size": torch.Size([2, 3]),
        "torch_dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    return {
        "meta": META,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "message_hub": company,
    }


def main() -> None:
    """Write all of them, in both layouts."""
    torch.manual_seed(0)
    contents = {
        "state_dict": {"meta": META, "state_dict": state_dict()},
        "training": training(),
    }
    for name, content in contents.items():
        torch.save(content, HERE / f"{name}_zip.pth")
        torch.save(content, HERE / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), HERE / "whole_model.pth")
    torch.save(contents["state_dict"], HERE / "state_dict_protocol4.pth", pickle_protocol=4)
    tensors = {name: tensor.contiguous().clone() for name, tensor in state_dict().items()}
    safetensors.torch.save_file(tensors, HERE / "state_dict.safetensors", metadata={"a": "b"})


if __name__ == "__main__":
    main()
