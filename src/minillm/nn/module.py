"""Module: named parts and Parameters, with PyTorch's conventions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy

from minillm import devices
from minillm.arrays import Array, to_device
from minillm.nn.parameter import DeferredParameter, Parameter
from minillm.tensor import FLOATS, Tensor, no_grad


class Module:
    """A part of a model: assign Parameters and Modules as attributes, define `forward`."""

    training: bool

    def __init__(self) -> None:
        self.training = True

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, parents first, with dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under the first name that reaches it (tied weights share one)."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> Iterator[Parameter]:
        for _, parameter in self.named_parameters():
            yield parameter

    def parameter_count(self) -> int:
        """Numbers in all parameters, tied ones counted once."""
        return sum(parameter.size for parameter in self.parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters as they are held, blocks of a file as such, tied ones once."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def state_dict(self) -> dict[str, Array]:
        """Name to array (not copied) of every parameter, tied ones once."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: dict[str, Array], only: Collection[str] | None = None) -> None:
        """Copy arrays into the parameters; ValueError lists missing, unknown, misshapen names.

        With `only` into those of these names, the others stay.

        Parameters that `skip_init` left without values take those of read-only (mapped) arrays, and
        of such as are still to be decoded, when they are first used.
        """
        own = {
            name: parameter
            for name, parameter in self.named_parameters()
            if only is None or name in only
        }
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"unknown {name}" for name in state if name not in own]
        problems += [
            f"{name} has shape {state[name].shape}, {own[name].shape} is needed"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ]
        if problems:
            shown = "; ".join(problems[:6]) + (f"; {len(problems) - 6} more" * (len(problems) > 6))
            raise ValueError(f"load_state_dict: {shown}")
        with no_grad():
            for name, parameter in own.items():
                value = state[name]
                if not isinstance(parameter, DeferredParameter):
                    parameter.copy_(value)
                elif isinstance(value, numpy.ndarray) and value.flags.writeable:
                    parameter.data = numpy.array(value, parameter.dtype, order="C")
                else:
                    parameter.defer(value)

    def train(self, mode: bool = True) -> Module:
        """Set training mode (dropout acts) here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set evaluation mode here and below."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    @property
    def device(self) -> str:
        """Where the first of its parameters lies; "cpu" without any."""
        return next((parameter.device for parameter in self.parameters()), devices.CPU)

    def to(self, device: str) -> Module:
        """Move every parameter, and its gradient, to "cpu", "cuda" or "cuda:N"."""
        for parameter in self.parameters():
            if isinstance(parameter, DeferredParameter):
                parameter.move(device)
            else:
                parameter.data = to_device(parameter.data, device)
            if parameter.grad is not None:
                parameter.grad.data = to_device(parameter.grad.data, device)
        return self

    def astype(self, dtype: Any) -> Module:
        """Convert every parameter to float32 or float64 (TypeError); gradients are forgotten."""
        if numpy.dtype(dtype) not in FLOATS:
            raise TypeError(f"astype: {numpy.dtype(dtype)}, float32 or float64 is needed")
        for parameter in self.parameters():
            parameter.data = parameter.data.astype(dtype)
            parameter.grad = None
        return self


class Sequential(Module):
    """Modules (or functions) applied one after the other."""

    def __init__(self, *parts: Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.parts = parts
        for place, part in enumerate(parts):
            setattr(self, str(place), part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class ModuleList(Module):
    """Modules in a list, registered under their places."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self._places = 0
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        setattr(self, str(self._places), module)
        self._places += 1

    def __len__(self) -> int:
        return self._places

    def __getitem__(self, place: int) -> Module:
        return getattr(self, str(range(self._places)[place]))

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(self._places))
