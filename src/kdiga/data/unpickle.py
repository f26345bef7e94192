"""Pickles of strings, numbers, lists, dictionaries and uint8 arrays, read without importing, calling or allocating what they ask for.

Python's unpickler runs what a file tells it to, and restricting the names that it may look up still leaves it open to files that
make it allocate without bound. So the few operations that the published CIFAR files need are carried out here, on plain values.
"""

import pickletools
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

# The names that pickles of strings and arrays mention. Nothing is looked up: `_reduce` knows what each would make.
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NAMES = frozenset(("_codecs encode", "numpy dtype", "numpy ndarray", *RECONSTRUCT))
MAX_OPERATIONS = 5_000_000  # CIFAR-100's training file has about 300 000
PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
)
LITERALS = frozenset(PUSHED.split())


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions."""

    name: str


@dataclass(frozen=True)
class Dtype:
    """A numpy dtype by its code, such as u1."""

    code: object


@dataclass
class Array:
    """A numpy array as the pickle describes it: (version, shape, dtype, is Fortran ordered, bytes)."""

    state: object = None

    def values(self) -> UInt8[np.ndarray, "n m"]:
        """The array, copied out of the file's bytes; ValueError unless it is a uint8 matrix of as many bytes as there are."""
        match self.state:
            case (_, (int(n), int(m)), Dtype("u1"), order, str() | bytes() as data) if min(n, m) > 0:
                held = data.encode("latin-1") if isinstance(data, str) else data
                return np.array(np.frombuffer(held, dtype=np.uint8).reshape(n, m, order="F" if order else "C"), order="C")
        raise ValueError("it holds an array that is not a uint8 matrix")


def text(value: object) -> str:
    """Text, or the bytes of Python 2 text; TypeError for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError(f"{type(value).__name__} in place of text")


def unpickle(blob: bytes) -> object:
    """The value in a pickle; strings of Python 2 come as text, one character per byte. Raises ValueError and its like: see `reading`."""
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(blob)):
        if count > MAX_OPERATIONS:
            raise ValueError(f"it has more than {MAX_OPERATIONS} operations")
        match operation.name:
            case name if name in LITERALS:
                stack.append(argument)
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "LIST" | "TUPLE" | "DICT" | "APPENDS" | "SETITEMS" as name:
                start = marks.pop()
                items = stack[start:]
                del stack[start:]
                _gather(name, stack, items)
            case "APPEND" | "SETITEM" as name:
                size = 1 if name == "APPEND" else 2
                items = stack[-size:]
                del stack[-size:]
                _gather(f"{name}S", stack, items)
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                start = len(stack) - ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3").index(name)
                stack[start:] = [tuple(stack[start:])]
            case "STACK_GLOBAL":
                stack[-2:] = [_name(" ".join(map(text, stack[-2:])))]
            case "REDUCE":
                stack[-2:] = [_reduce(stack[-2], stack[-1])]
            case "BUILD":
                _build(stack[-2], stack.pop())
            case "GLOBAL":
                stack.append(_name(str(argument)))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE" as name:
                stack.append(name == "NEWTRUE")
            case name:
                raise ValueError(f"it uses the operation {name}, which no list, dictionary or array needs: refused")
    raise ValueError("it does not end")


def _gather(name: str, stack: list[object], items: list[object]) -> None:
    """Make a container of `items`, or add them to the one on top of the stack. Keys are text: hashing anything else may never end."""
    if name == "LIST":
        stack.append(items)
    elif name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS" and isinstance(stack[-1], list):
        stack[-1].extend(items)
    else:
        if name == "DICT":
            stack.append({})
        keys, top = items[::2], stack[-1]
        if not isinstance(top, dict) or not all(isinstance(key, str | bytes) for key in keys):
            raise ValueError("it holds a dictionary whose keys are not text")
        top.update(zip(keys, items[1::2], strict=True))


def _name(name: str) -> Name:
    if name not in NAMES:
        raise ValueError(f"it asks for {name[:80]!r}, which no list, dictionary or array needs: refused")
    return Name(name)


def _reduce(function: object, arguments: object) -> object:
    """What a call of one of the admitted names stands for."""
    match function, arguments:
        case Name("_codecs encode"), (str(characters), "latin1"):
            return characters
        case Name("numpy dtype"), (code, *_):
            return Dtype(code)
        case Name(name), (Name("numpy ndarray"), *_) if name in RECONSTRUCT:
            return Array()
    raise ValueError("it makes a call that no list, dictionary or array needs: refused")


def _build(target: object, state: object) -> None:
    """Fill in an array; a dtype's state is its byte order, which uint8 does not have."""
    if isinstance(target, Array):
        target.state = state
    elif not isinstance(target, Dtype):
        raise ValueError("it fills in an object that is not an array: refused")
