"""What a pickle asks for, followed through its opcodes before PyTorch builds anything.

PyTorch reads pickles as weights only: they call no functions but those that build tensors. Some of these allocate what
the file asks for: 100 bytes can ask for 8 GiB. Here each call is compared with the size of the file.
"""

import pickletools
from collections.abc import Mapping
from math import prod
from typing import IO, Any, NamedTuple

MAX_OPCODES = 5_000_000  # each may build an object of 200 bytes; a network of 1,202 layers takes 0.3 million
FREE_MEMORY = 2**26  # bytes that a pickle may ask for beside the tensors, however small the file is
FREE_VALUES = 1024  # of a tensor whose values share their memory, as in `torch.ones(1).expand(1000)`

# Bytes of an element, by the class of storage that pickles name.
ELEMENT_SIZES = {
    **dict.fromkeys(("Untyped", "Byte", "Char", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}


class RefusedError(Exception):
    """A pickle that asks for more than it holds, or that PyTorch does not read as weights only."""


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    numel: int


class _Tensor(NamedTuple):
    numel: int


class _Bytes(NamedTuple):
    length: int


_MARK, _OTHER = object(), object()


class Opcodes:
    """A stack machine that knows integers, texts, tuples and sizes of tensors, and nothing else.

    Args:
        size: of the file, in bytes.
        records: bytes of each storage in the file, by its key; None: they follow the pickle, in a file of the old form.
    """

    def __init__(self, size: int, records: Mapping[str, int] | None) -> None:
        self.size = size
        self.records = records
        self._asked = 0
        self._left = size
        self._seen: set[str] = set()
        self._count = 0
        self._protocol = 0

    def follow(self, stream: IO[bytes]) -> Any:
        """Go through one pickle and return its object, where it is one of the kinds known; the stream stands behind it.

        Raises:
            RefusedError: it asks for more than the file holds, or has opcodes that PyTorch does not read.
            Exception: whatever a damaged pickle provokes.
        """
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self._count += 1
            if self._count > MAX_OPCODES:
                raise RefusedError(f"it builds more than {MAX_OPCODES:,} objects")
            if opcode.name == "STOP":
                return stack.pop()
            self._step(opcode.name, argument, stack, memo)
        raise RefusedError("it has no end")

    def _step(self, name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINSTRING"):
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".").rpartition(".")[2]))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._tuple(name, stack)
        elif name in ("APPENDS", "SETITEMS"):
            _pop_to_mark(stack)
        elif name in ("APPEND", "BUILD"):
            stack.pop()
        elif name == "SETITEM":
            del stack[-2:]
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self._call(stack.pop(), arguments))
        elif name in ("NONE", "NEWFALSE", "NEWTRUE", "BINFLOAT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(_OTHER)
        elif name == "PROTO":
            self._protocol = argument
        else:
            raise RefusedError(
                f"it has the opcode {name} of pickle protocol {self._protocol}, and PyTorch reads weights in "
                "protocol 2, its default"
            )

    @staticmethod
    def _tuple(name: str, stack: list[Any]) -> None:
        if name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        else:
            length = int(name[-1])
            items = tuple(stack[-length:])
            stack[-length:] = [items]

    def _storage(self, place: Any) -> Any:
        """Compare what a storage declares with what the file holds of it."""
        if not isinstance(place, tuple) or len(place) < 5 or not isinstance(place[1], _Global):
            raise RefusedError("a storage of a tensor is not declared as PyTorch does it")
        key, numel = str(place[2]), place[4]
        element = ELEMENT_SIZES.get(place[1].name.removesuffix("Storage"))
        if element is None or not isinstance(numel, int) or numel < 0:
            raise RefusedError(f"its storage {key} is declared as {numel!r} values of a {place[1].name}")
        declared = numel * element
        if self.records is not None:
            held = self.records.get(key, 0)
            fits = declared == held
        else:
            # Storages of the old form follow one another behind the pickle.
            held = self._left
            fits = declared <= held or key in self._seen
            self._left -= declared * (key not in self._seen)
            self._seen.add(key)
        if not fits:
            raise RefusedError(f"its storage {key} is declared with {declared:,} bytes, and the file holds {held:,}")
        return _Storage(numel)

    def _call(self, function: Any, arguments: Any) -> Any:
        """Compare what a call allocates with the size of the file."""
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise RefusedError("it calls what is no function of PyTorch's reader")
        name = function.name
        if name == "_rebuild_from_type_v2" and len(arguments) == 4:
            return self._call(arguments[0], arguments[2])
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"):
            return self._tensor(arguments)
        if name == "_rebuild_device_tensor_from_cpu_tensor":
            return self._copied(arguments)
        if name.endswith(("Tensor", "Storage")) and arguments:
            raise RefusedError(f"it calls {name} for memory that the file does not hold")
        if name in ("encode", "bytearray"):
            return self._text(name, arguments)
        if name in ("set", "Counter", "OrderedDict") and arguments:
            self._ask(8 * self._count)  # no more items than opcodes came before
        if name == "Size" and len(arguments) == 1 and isinstance(arguments[0], tuple):
            return arguments[0]
        return _OTHER

    def _tensor(self, arguments: tuple[Any, ...]) -> _Tensor:
        storage, size = arguments[0], arguments[2]
        is_known = isinstance(storage, _Storage) and isinstance(size, tuple)
        if not is_known or not all(isinstance(length, int) and length >= 0 for length in size):
            raise RefusedError("a tensor is not declared as PyTorch does it")
        numel = prod(size)
        if numel > max(storage.numel, FREE_VALUES):
            raise RefusedError(f"a tensor {size} is declared over the {storage.numel:,} values that the file holds")
        return _Tensor(numel)

    def _copied(self, arguments: tuple[Any, ...]) -> _Tensor:
        if not arguments or not isinstance(arguments[0], _Tensor):
            raise RefusedError("a tensor is not declared as PyTorch does it")
        self._ask(16 * arguments[0].numel)
        return arguments[0]

    def _text(self, name: str, arguments: tuple[Any, ...]) -> _Bytes:
        """Bytes that are written as text. A number in its place is the length of an empty array."""
        text = arguments[0] if arguments else ""
        if isinstance(text, str):
            length = len(text)
        elif isinstance(text, _Bytes) and name == "bytearray":
            length = text.length
        else:
            raise RefusedError(f"it calls {name} for memory that the file does not hold")
        self._ask(10 * length)  # the longest code of a character
        return _Bytes(length)

    def _ask(self, count: int) -> None:
        self._asked += count
        if self._asked > FREE_MEMORY + self.size:
            raise RefusedError(f"it asks for more than {self._asked:,} bytes, and the file has {self.size:,}")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]
