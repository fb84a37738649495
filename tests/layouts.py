"""Ways in which an array may lie in memory; its values stay the same."""

import numpy as np

from minillm import testing


def in_a_row(array, step, start=0):
    """The same values in every `step`-th place of a longer buffer."""
    buffer = np.full((*array.shape, step), 7, array.dtype)
    buffer[..., start] = array
    return buffer[..., start]


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def reversed_axes(array):
    back = (..., *(slice(None, None, -1),) * array.ndim)
    return array[back].copy()[back]


def offset(array):
    buffer = np.full(array.size + 3, 7, array.dtype)
    buffer[3:] = array.reshape(-1)
    return buffer[3:].reshape(array.shape)


def misaligned(array):
    """At an address that is no multiple of the size of an element."""
    buffer = np.full(array.nbytes + 1, 7, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


LAYOUTS = {
    "contiguous": lambda array: array,
    "transposed": lambda array: array.T.copy().T,
    "swapped": lambda array: (
        array.swapaxes(-1, -2).copy().swapaxes(-1, -2) if array.ndim > 1 else array
    ),
    "strided": lambda array: in_a_row(array, 2),
    "reversed": reversed_axes,
    "offset": offset,
    "misaligned": misaligned,
    "read-only": read_only,
}


class OneLength(testing.Draw):
    """The axis called `name` has `length`, all others what `other` says; `asked` collects names."""

    def __init__(self, seed, name=None, length=0):
        super().__init__(seed)
        self.name, self.length, self.asked = name, length, set()

    def size(self, name, low=0):
        self.asked.add(name)
        return max(low, self.length) if name == self.name else self.other(name)

    def other(self, name):
        return self.choice((2, 3))
