"""Hostile weight files: each tries to run code, to exhaust memory, or to be misread."""

import dataclasses
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable

from hrnet_jax.interop.untrusted import CorruptFileError, UnsafeFileError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
DATA = struct.pack("<4f", 1, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Case:
    """A file, and the error that must refuse it."""

    make: Callable[[str], bytes]  # from the command that a payload would run
    error: type[Exception]
    text: str  # in its message


# Pieces of pickles.


def plain(value: object) -> bytes:
    """The operations of a plain value, without those that begin and end a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def tupled(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + tupled(*arguments) + pickle.REDUCE


def stacked(module: bytes, name: bytes) -> bytes:
    return plain(module.decode()) + plain(name.decode()) + pickle.STACK_GLOBAL


def whole(*operations: bytes) -> bytes:
    return pickle.PROTO + b"\2" + b"".join(operations) + pickle.STOP


ORDERED = call("collections", "OrderedDict")


def identity(*, kind="FloatStorage", key="0", count=4, more=()) -> bytes:
    items = [plain("storage"), named("torch", kind), plain(key), plain("cpu"), plain(count)]
    return tupled(*items, *map(plain, more)) + pickle.BINPERSID


def tensor(*, offset=0, size=(2, 2), stride=(2, 1), extra=(), **storage) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        identity(**storage),
        *map(plain, (offset, size, stride, False)),
        ORDERED,
        *map(plain, extra),
    )


def entry(key: str, value: bytes) -> bytes:
    """A dict of one item."""
    return pickle.EMPTY_DICT + plain(key) + value + pickle.SETITEM


# Containers.


def zipped(entries: Iterable[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return file.getvalue()


def pth(*operations: bytes, data: bytes = DATA, more: dict[str, bytes] | None = None) -> bytes:
    """A zip file of one pickle and one storage."""
    entries = {"a/data.pkl": whole(*operations), "a/data/0": data, "a/version": b"3\n"}
    return zipped((entries | (more or {})).items())


def legacy(
    *operations: bytes,
    system: object = SYSTEM,
    version: int = 1001,
    keys: object = ("0",),
    count: int = 4,
    tail: bytes = b"",
) -> bytes:
    heads = [pickle.dumps(head, 2) for head in (LEGACY_MAGIC, version, system)]
    keys = list(keys) if isinstance(keys, tuple) else keys
    body = [whole(*operations), pickle.dumps(keys, 2), struct.pack("<q", count), DATA, tail]
    return b"".join(heads + body)


def doubled(name: str) -> bytes:
    """Two entries of one name, which `zipfile` warns of: so they are renamed in place."""
    other = name[:-1] + "~"
    archive = zipped([("a/data.pkl", whole(tensor())), (name, DATA), (other, DATA)])
    return archive.replace(other.encode(), name.encode())


def patched(content: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Overwrite bytes at an offset from the last occurrence of a mark."""
    edited = bytearray(content)
    for mark, offset, new in changes:
        place = content.rindex(mark) + offset
        edited[place : place + len(new)] = new
    return bytes(edited)


def overlapping() -> bytes:
    """The last entry's header also lies in the data of the one before."""
    inner = zipped([("a/data/1", DATA)])
    local = inner[: inner.index(b"PK\1\2")]
    archive = pth(tensor(count=len(local) // 4), data=local, more={"a/data/1": DATA})
    return patched(archive, (b"a/data/1", -4, struct.pack("<L", archive.index(local))))


def laughing() -> bytes:
    """Lists of ten times the list before, twelve deep."""
    start = pickle.EMPTY_LIST + pickle.BINPUT + b"\0"
    step = b"".join(
        [
            pickle.EMPTY_LIST,
            pickle.MARK,
            b"".join(10 * [pickle.BINGET + b"\0"]),
            pickle.APPENDS,
            pickle.BINPUT + b"\0",
        ]
    )
    # The lists before stay on the stack: wrap everything into a tuple.
    return pickle.MARK + start + 12 * step + pickle.TUPLE


def _colliding(count: int) -> bytes:
    """Integers that all have the hash 0."""
    return b"".join(
        pickle.LONG1 + b"\x0c" + (number * (2**61 - 1)).to_bytes(12, "little") + pickle.NONE
        for number in range(1, count + 1)
    )


def reduced(module: str, name: str) -> Callable[[str], bytes]:
    return lambda command: pth(entry("meta", call(module, name, plain(command))))


def fixed(content: bytes) -> Callable[[str], bytes]:
    return lambda command: content


def _swallowed(command: str) -> bytes:
    """Code in the state of a dropped object."""
    history = named("mmengine.logging.history_buffer", "HistoryBuffer") + pickle.EMPTY_TUPLE
    state = entry("x", call("posix", "system", plain(command)))
    return pth(entry("message_hub", history + pickle.NEWOBJ + state + pickle.BUILD))


def _object_array(command: str) -> bytes:
    array = call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"))
    items = pickle.EMPTY_LIST + call("posix", "system", plain(command)) + pickle.APPEND
    return pth(entry("meta", array + tupled(plain(1), plain((1,)), items) + pickle.BUILD))


def _getattr_chain(command: str) -> bytes:
    os = call("__builtin__", "__import__", plain("os"))
    return pth(
        call("__builtin__", "getattr", os, plain("system")), plain((command,)), pickle.REDUCE
    )


def _metadata(command: str) -> bytes:
    state = entry("_metadata", call("posix", "system", plain(command)))
    return pth(entry("state_dict", ORDERED + state + pickle.BUILD))


_VALID = pth(entry("state_dict", entry("weight", tensor())))
_LEGACY_TENSOR = tensor(more=(None,))


def _code_cases() -> dict[str, Case]:
    names = {
        "os_system": ("os", "system"),
        "posix_system": ("posix", "system"),
        "nt_system": ("nt", "system"),
        "subprocess": ("subprocess", "Popen"),
        "eval": ("builtins", "eval"),
        "eval_protocol2": ("__builtin__", "eval"),
        "exec": ("builtins", "exec"),
        "import": ("builtins", "__import__"),
        "runpy": ("runpy", "_run_code"),
        "pickle_loads": ("pickle", "loads"),
        "torch_load": ("torch", "load"),
        "torch_hub": ("torch.hub", "load"),
        "torch_jit": ("torch.jit", "load"),
        "copyreg": ("copy_reg", "_reconstructor"),
        "attrgetter": ("operator", "attrgetter"),
        "partial": ("functools", "partial"),
        "dotted_global": ("os", "path.join"),
        "dotted_allowed": ("torch", "_utils._rebuild_tensor_v2"),
        "quantized": ("torch._utils", "_rebuild_qtensor"),
        "sparse": ("torch._utils", "_rebuild_sparse_tensor"),
        "mmcv_builder": ("mmcv.utils", "build_from_cfg"),
        "numpy_load": ("numpy", "load"),
        "file_opener": ("io", "open"),
    }
    cases = {
        name: Case(reduced(*path), UnsafeFileError, repr(".".join(path)))
        for name, path in names.items()
    }
    operations = {
        "ext1": (pickle.EXT1 + b"\1", "EXT1"),
        "ext2": (pickle.EXT2 + b"\1\0", "EXT2"),
        "ext4": (pickle.EXT4 + b"\1\0\0\0", "EXT4"),
        "inst": (b"(S'true'\nios\nsystem\n", "STRING"),
        "inst_first": (b"(ios\nsystem\n", "INST"),
        "obj": (b"(cos\nsystem\no", "'os.system'"),
        "obj_allowed": (b"(cnumpy\ndtype\no", "OBJ"),
        "newobj_ex": (named("numpy", "dtype") + b")}\x92", "NEWOBJ_EX"),
        "persid_text": (b"Pstorage\n", "PERSID"),
        "text_int": (b"I1\n", "INT"),
        "pop": (b"N0", "POP"),
        "next_buffer": (b"\x97", "NEXT_BUFFER"),
        "long4": (b"\x8b\1\0\0\0\1", "LONG4"),
        "frozen_set": (b"(\x91", "FROZENSET"),
        "bytearray": (b"\x96" + bytes(8), "BYTEARRAY8"),
        "escaped_name": (b"ctorch\nlo\\qad\n", "which weights do not need"),
        "stack_global": (stacked(b"os", b"system"), "'os.system'"),
        "stack_global_dotted": (stacked(b"builtins", b"getattr.__call__"), "getattr.__call__"),
        "stack_global_numbers": (
            plain(1) + plain(2) + pickle.STACK_GLOBAL,
            "has (1, 2) as a name",
        ),
        "stack_global_laughs": (laughing() + plain("x") + pickle.STACK_GLOBAL, "has a tuple"),
        "laughing_identity": (laughing() + b"Q", "strange persistent id, (a list"),
        "call_text": (plain("os.system") + plain(("x",)) + pickle.REDUCE, "calls a str"),
        "call_without_tuple": (named("numpy", "dtype") + plain([]) + b"R", "not a name"),
        "build_dict": (b"}" + entry("__class__", plain(1)) + b"b", "sets attributes of a dict"),
        "build_tensor": (tensor() + entry("__setstate__", plain(1)) + b"b", "of a ndarray"),
        "odd_persistent_id": (plain("0") + b"Q", "strange persistent id"),
        "six_fields": (identity(more=(1, 2)), "strange persistent id"),
        "model": (tupled(plain("module"), plain("x")) + b"Q", "holds a pickled model"),
        "negative_count": (identity(count=-4), "strange persistent id"),
        "boolean_count": (identity(count=True), "strange persistent id"),
        "endless": (b"]q\0h\0a", "endlessly"),
        "deep": (60 * b"]" + 59 * b"a", "nested deeper than 50"),
        "laughs": (laughing(), "unfolds to more than 2000000 objects"),
    }
    cases |= {
        name: Case(fixed(pth(operation)), UnsafeFileError, text)
        for name, (operation, text) in operations.items()
    }
    return cases | {
        "getattr_chain": Case(_getattr_chain, UnsafeFileError, "'__builtin__.getattr'"),
        "in_swallowed_state": Case(_swallowed, UnsafeFileError, "'posix.system'"),
        "in_object_array": Case(_object_array, UnsafeFileError, "'posix.system'"),
        "in_metadata": Case(_metadata, UnsafeFileError, "'posix.system'"),
        "in_legacy": Case(
            lambda command: legacy(call("posix", "system", plain(command))),
            UnsafeFileError,
            "'posix.system'",
        ),
        "in_legacy_header": Case(
            lambda command: legacy(_LEGACY_TENSOR).replace(
                pickle.dumps(SYSTEM, 2), whole(call("posix", "system", plain(command)))
            ),
            UnsafeFileError,
            "'posix.system'",
        ),
        "tensor_in_legacy_keys": Case(
            fixed(legacy(_LEGACY_TENSOR).replace(pickle.dumps(["0"], 2), whole(tensor()))),
            UnsafeFileError,
            "where no tensor belongs",
        ),
    }


def _pickle_cases() -> dict[str, Case]:
    operations = {
        "rebuild_two_arguments": (
            call("torch._utils", "_rebuild_tensor_v2", identity(), plain(0)),
            "with 2 arguments it does not take",
        ),
        "rebuild_without_storage": (
            call("torch._utils", "_rebuild_tensor_v2", *map(plain, (1, 0, (1,), (1,), 0, 0))),
            "of a storage",
        ),
        "parameter_of_text": (
            call("torch._utils", "_rebuild_parameter", *map(plain, ("x", 0, 0))),
            "_rebuild_parameter with 3 arguments",
        ),
        "storage_called": (call("torch", "FloatStorage"), "calls torch.FloatStorage"),
        "bare_storage": (identity(), "bare Storage"),
        "negative_size": (tensor(size=(-2, 2)), "not by a non-negative offset"),
        "negative_stride": (tensor(stride=(-2, 1)), "not by a non-negative offset"),
        "negative_offset": (tensor(offset=-1), "not by a non-negative offset"),
        "boolean_size": (tensor(size=(True, 2)), "not by a non-negative offset"),
        "float_size": (tensor(size=(2.0, 2)), "not by a non-negative offset"),
        "uneven_strides": (tensor(stride=(1,)), "not by a non-negative offset"),
        "ordered_laughs_for_a_size": (
            call("torch._utils", "_rebuild_tensor", identity(), ORDERED, laughing(), laughing()),
            "a OrderedDict, (a list",
        ),
        "many_dimensions": (
            tensor(size=(1,) * 99, stride=(1,) * 99),
            "not by a non-negative offset",
        ),
        "offset_beyond": (tensor(offset=1), "ends at element 4 of a storage of 4"),
        "stride_beyond": (tensor(stride=(3, 1)), "ends at element 4"),
        "size_beyond": (tensor(size=(3, 2)), "ends at element 5"),
        "overflow_64": (tensor(size=(2**33, 2**31), stride=(2**31, 1)), "of a storage of 4"),
        "overflow_size": (tensor(size=(2**70, 1)), "not by a non-negative offset"),
        "expanded": (tensor(size=(2**20, 2**20), stride=(0, 0)), "that repeats a storage"),
        "empty_but_vast": (tensor(size=(0, 2**40, 2**40), stride=(1, 1, 1)), "huge size"),
        "conjugated": (tensor(extra=({"conj": True},)), "resolve_conj"),
        "storage_too_long": (tensor(count=5), "claims 20 bytes for the storage '0', which has 16"),
        "storage_too_short": (tensor(count=3), "claims 12 bytes"),
        "storage_giant": (tensor(count=2**59), "more data than the file has"),
        "storage_absent": (tensor(key="1"), "storage '1', which is missing"),
        "storage_elsewhere": (tensor(key="../data.pkl"), "which is missing"),
        "storage_twice": (
            tensor() + tensor(kind="IntStorage") + pickle.TUPLE2,
            "describes the storage '0' in two ways",
        ),
        "bool_of_floats": (tensor(kind="BoolStorage", count=16), "other than 0 and 1"),
        "legacy_view": (tensor(more=(("1", 0, 4),)), "as PyTorch 0.3 wrote"),
        "underflow": (b"R", "takes more objects than there are"),
        "no_mark": (b"t", "is damaged"),
        "no_memo": (b"h\7", "is damaged"),
        "no_line_end": (b"cos", "is damaged"),
        "two_results": (b"NN", "ends with 2 objects"),
        "no_result": (b"", "ends with 0 objects"),
        "no_operation": (b"\xff", "is damaged"),
        "protocol_0": (b"\x80\0N", "pickle protocol 0"),
        "bad_text": (b"X\1\0\0\0\xff", "is damaged"),
        "surrogate": (b"X\3\0\0\0\xed\xa0\x80", "is damaged"),
        "forged_text": (b"\x8d" + b"\xff" * 8 + b"x", "is damaged"),
        "forged_bytes": (b"\x8e" + struct.pack("<Q", 2**40) + b"x", "but only 2 remain"),
        "append_to_text": (plain("x") + b"Na", "appends to a str"),
        "items_of_list": (b"](NNu", "sets items of a list"),
        "odd_items": (b"}(Nu", "sets items of a dict"),
        "list_as_key": (b"}]Ns", "key of type list"),
        "deep_key": (b"})" + 999 * b"\x85" + b"Ns", "key of type tuple"),
        # These three kill or hang `pickle.Unpickler`, even with a closed `find_class`.
        "deepest_key": (b"})" + 500_000 * b"\x85" + b"Ns", "key of type tuple"),
        "laughing_key": (b"})q\0" + 60 * b"h\0\x86q\0" + b"Ns", "key of type tuple"),
        "colliding_keys": (b"}(" + _colliding(100_000) + b"u", "key of type int"),
    }
    return {
        name: Case(fixed(pth(operation)), CorruptFileError, text)
        for name, (operation, text) in operations.items()
    }


def _zip_cases() -> dict[str, Case]:
    body, last = _VALID, _VALID.rindex(b"PK\5\6")
    short_end = body[:last] + body[last:].replace(b"\3\0\3\0", b"\2\0\2\0")
    files = {
        "double_name": (doubled("a/data/0"), "two entries 'a/data/0'"),
        "changed_byte": (body.replace(DATA, DATA[:-1] + b"\0"), "Bad CRC-32 for file 'a/data/0'"),
        "compressed": (
            zipped([("a/data.pkl", whole(b"N"))], method=zipfile.ZIP_DEFLATED),
            "is compressed",
        ),
        "encrypted": (patched(body, (b"PK\1\2", 8, b"\1")), "is encrypted"),
        "prefixed": (b"PK\3\4 junk" + body, "added before the zip file"),
        "appended": (body + b"#!/bin/sh", "not at the end of the file"),
        "commented": (body[:-2] + b"\4\0text", "not at the end of the file"),
        "cut": (body[:-1], "not at the end of the file"),
        "middle_missing": (body[:40] + body[44:], "added before the zip file"),
        "overlapping": (overlapping(), "overlaps the next one"),
        "parent_folder": (pth(b"N", more={"a/../../x": b""}), "has an invalid name"),
        "absolute": (pth(b"N", more={"/etc/passwd": b""}), "has an invalid name"),
        "backslash": (pth(b"N", more={"a\\x~": b""}).replace(b"~", b"\\"), "an invalid name"),
        "control_character": (pth(b"N", more={"a/~": b""}).replace(b"~", b"\7"), "an invalid name"),
        "two_names": (
            patched(body, (b"a/data/0", 7, b"1")),
            "and header b'a/data/0' differ",
        ),
        "header_elsewhere": (
            patched(body, (b"a/data/0", -4, struct.pack("<L", 2**31))),
            "overlaps the next one",
        ),
        "size_forged": (
            patched(body, (b"a/data/0", -26, struct.pack("<2L", 2**31, 2**31))),
            "claims 2147483648 bytes",
        ),
        "zip64_missing": (
            patched(body, (b"a/data/0", -26, b"\xff" * 8)),
            "claims 4294967295 bytes",
        ),
        "fewer_entries": (short_end, "end record disagrees"),
        "more_entries": (
            body[:last] + body[last:].replace(b"\3\0\3\0", b"\4\0\4\0"),
            "end record disagrees",
        ),
        "big_endian": (pth(b"N", more={"a/byteorder": b"big"}), "byte order is b'big'"),
        "torchscript": (pth(b"N", more={"a/constants.pkl": b""}), "TorchScript"),
        "two_roots": (pth(b"N", more={"b/data.pkl": whole(b"N")}), "`<name>/data.pkl`"),
        "no_pickle": (zipped([("arr_0.npy", b"x")]), "`<name>/data.pkl`"),
        "empty_zip": (zipped([]), "begins with"),
        "behind_the_pickle": (
            zipped([("a/data.pkl", whole(b"N") + whole(b"N"))]),
            "4 bytes follow the pickle",
        ),
    }
    return {
        name: Case(fixed(content), CorruptFileError, text)
        for name, (content, text) in files.items()
    }


def _other_cases() -> dict[str, Case]:
    valid = legacy(_LEGACY_TENSOR)
    files = {
        "legacy_cut": (valid[:-5], "it was truncated"),
        "legacy_appended": (valid + b"junk", "or something was appended"),
        "legacy_count": (legacy(_LEGACY_TENSOR, count=5), "has 5 elements"),
        "legacy_giant": (legacy(tensor(count=2**59, more=(None,))), "more data than the file has"),
        "legacy_big_endian": (
            legacy(_LEGACY_TENSOR, system=SYSTEM | {"little_endian": False}),
            "little-endian",
        ),
        "legacy_version": (legacy(_LEGACY_TENSOR, version=1002), "header does not belong"),
        "legacy_other_keys": (legacy(_LEGACY_TENSOR, keys=("1",)), "list of storages"),
        "legacy_double_keys": (legacy(_LEGACY_TENSOR, keys=("0", "0")), "list of storages"),
        "legacy_no_keys": (legacy(_LEGACY_TENSOR, keys=None), "list of storages"),
        "tar": (
            b"storages".ljust(257, b"\0") + b"ustar\0" + bytes(300),
            "tar format of PyTorch 0.1",
        ),
        "web_page": (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE html'"),
        "empty": (b"", "begins with b''"),
        "plain_pickle": (pickle.dumps({"a": 1}, 2), "begins with"),
    }
    return {
        name: Case(fixed(content), CorruptFileError, text)
        for name, (content, text) in files.items()
    }


CASES: dict[str, Case] = _code_cases() | _pickle_cases() | _zip_cases() | _other_cases()
