"""Every tensor of a net: parameters and buffers alike, saved or not, under all of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from moola.errors import CheckpointError, ConfigError, one_line

PARAMETER, BUFFER = "parameter", "buffer"
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class NetTensor:
    """One tensor of a net.

    Attributes
    ----------
    kind
        ``parameter`` for what can have a gradient; ``buffer`` for all else, such as running means,
        masks and parameters of whole numbers.
    tensor
        The net's own, not a copy.
    is_saved
        Whether it is in the net's state dict, and so in its checkpoints.
    is_statistic
        Whether it is a running mean or variance that moves in training mode.
    """

    kind: str
    tensor: torch.Tensor
    is_saved: bool = True
    is_statistic: bool = False


def net_tensors(net: nn.Module) -> dict[str, NetTensor]:
    """Return every tensor of a net by name; a tensor with two names is there twice.

    Parameters
    ----------
    net
        Its parameters, its buffers (persistent or not), and what else is in its state dict.

    Returns
    -------
    dict of NetTensor
        In the order of the modules.

    Raises
    ------
    ConfigError
        If a tensor has no values yet (a lazy module), or is sparse or quantised.
    """
    tensors: dict[str, NetTensor] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        tensors |= {prefix + key: entry for key, entry in _of_module(module)}
    for name, value in net.state_dict().items():
        if name not in tensors and isinstance(value, torch.Tensor):
            tensors[name] = NetTensor(kind=BUFFER, tensor=value)
    for name, entry in tensors.items():
        _require_dense(name, entry.tensor)
    return tensors


def _of_module(module: nn.Module) -> Iterator[tuple[str, NetTensor]]:
    """Yield the tensors that a module registers itself."""
    unsaved = module._non_persistent_buffers_set
    statistics = _statistics(module)
    for key, parameter in module._parameters.items():
        if parameter is not None:
            can_train = parameter.is_floating_point() or parameter.is_complex()
            yield key, NetTensor(kind=PARAMETER if can_train else BUFFER, tensor=parameter)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            yield (
                key,
                NetTensor(
                    kind=BUFFER,
                    tensor=buffer,
                    is_saved=key not in unsaved,
                    is_statistic=key in statistics,
                ),
            )


def _statistics(module: nn.Module) -> tuple[str, ...]:
    """Return the buffers that must move in training mode: those of batch and instance norms."""
    normalises = isinstance(module, nn.modules.batchnorm._NormBase)
    if normalises and module.track_running_stats and module.momentum != 0:
        return ("running_mean", "running_var")
    return ()


def _require_dense(name: str, tensor: torch.Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise ConfigError(
            f"tensor {name} has no values yet",
            limit="a net whose tensors are all there when it is built",
            remedy="Run one batch through a lazy module in build_net, or give its sizes",
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ConfigError(f"tensor {name} is sparse or quantised", limit="dense numbers")


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether type, shape, device and every bit are equal; a NaN equals itself, 0 is not -0."""
    if difference(first, second):
        return False
    return torch.equal(_bits(first), _bits(second))


def difference(first: torch.Tensor, second: torch.Tensor) -> str:
    """Return in words what makes two tensors' values not comparable bit by bit; "" for nothing."""
    for word in ("dtype", "shape", "device"):
        a, b = getattr(first, word), getattr(second, word)
        if a != b:
            return f"{word} {a} became {b}".replace("torch.Size", "")
    return ""


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bits as whole numbers, in the widest that divide its elements."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(_WHOLE[min(plain.element_size(), 8)])


def shared_memory(tensors: Mapping[str, NetTensor]) -> list[tuple[str, str]]:
    """Return the pairs of names whose tensors lie in the same memory: who writes one writes both.

    Ranges of addresses are compared, so that the layers of one cuDNN weight block are apart.
    """
    ranges = sorted(
        (str(t.tensor.device), t.tensor.data_ptr(), t.tensor.data_ptr() + _extent(t.tensor), name)
        for name, t in tensors.items()
        if t.tensor.numel()
    )
    pairs = []
    for i, (device, _, end, name) in enumerate(ranges):
        for other_device, begin, _, other in ranges[i + 1 :]:
            if other_device != device or begin >= end:
                break
            pairs.append((name, other))
    return pairs


def _extent(tensor: torch.Tensor) -> int:
    """Return the bytes from a tensor's first element to the end of its last one."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in strides) + 1) * tensor.element_size()


def net_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the net's own tensors by name: its state dict and the buffers that are not in it."""
    unsaved = {n: t.tensor for n, t in net_tensors(net).items() if not t.is_saved}
    return {**net.state_dict(), **unsaved}


def restore_net(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write what `net_state` returned back into a net.

    Parameters
    ----------
    net
        With the same tensors.
    tensors
        By name; copied.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unknown, or of another shape.
    """
    unsaved = {n: t.tensor for n, t in net_tensors(net).items() if not t.is_saved}
    try:
        net.load_state_dict({k: v for k, v in tensors.items() if k not in unsaved})
        with torch.no_grad():
            for name, buffer in unsaved.items():
                buffer.copy_(tensors[name])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the state kept does not fit the net: {one_line(error, limit=200)}",
            limit="the tensors that the net is built with",
            remedy="Register every buffer, in its full shape, where the net is built",
        ) from None
