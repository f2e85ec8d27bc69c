"""A PyTorch module whose floating-point tensors live in one flat vector."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hanse.core.layout import Layout, Role, Vector
from hanse.errors import TaskError

BufferPolicy = Literal["aggregate", "local", "freeze"]
ROLE_OF: dict[BufferPolicy, Role] = {"aggregate": "buffer", "local": "local", "freeze": "frozen"}
Named = dict[str, tuple[Tensor, Role]]
Held = dict[str, Tensor | None]


def from_numpy(vector: Vector) -> Tensor:
    """Return a tensor that shares ``vector``'s memory."""
    return torch.from_numpy(vector)  # pyright: ignore[reportUnknownMemberType] -- torch's stubs


def tensors_of(module: nn.Module, policy: BufferPolicy | None) -> Named:
    """Return name → (tensor, role) of every float parameter and buffer, tied weights once.

    Raises TaskError for a module without trainable parameters, with more than one dtype, or with
    buffers and no policy for them. Buffers that are integers, or not part of the module's state
    dict, stay out: they are never averaged.
    """
    found: Named = {
        name: (p, "trainable" if p.requires_grad else "frozen")
        for name, p in module.named_parameters()
    }
    for name, (tensor, _) in found.items():
        if is_lazy(tensor):
            raise TaskError(
                f"{name} has no shape yet: it belongs to a lazy layer",
                hint="give the layer its input size, such as nn.Linear(27, 16)",
            )
    if not any(role == "trainable" for _, role in found.values()):
        raise TaskError(
            "the model has no trainable parameters", hint="return an nn.Module with parameters"
        )
    persistent = set(module.state_dict(keep_vars=True))
    buffers = {
        name: b
        for name, b in module.named_buffers()
        if b.is_floating_point() and name in persistent
    }
    if buffers and policy is None:
        raise TaskError(
            f"the model has buffers ({', '.join(list(buffers)[:3])}…) and the task does not say "
            "what becomes of them",
            hint='give TorchTask(buffers="aggregate"): pooled over sites; "local": kept at the '
            'site; or "freeze": left as they are',
        )
    for name, buffer in buffers.items():
        found[name] = (buffer, ROLE_OF[policy or "freeze"])
    dtypes = {_name_of(tensor.dtype) for tensor, _ in found.values()}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
        raise TaskError(
            f"the model mixes {', '.join(sorted(dtypes))}",
            hint="keep one of float32 and float64 throughout: model.float()",
        )
    return found


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layout_of(tensors: Named) -> Layout:
    """Return the layout of ``tensors``."""
    first = next(iter(tensors.values()))[0]
    return Layout.build(
        _name_of(first.dtype), [(name, tuple(t.shape), role) for name, (t, role) in tensors.items()]
    )


class FlatModel:
    """A module bound to one flat buffer: loading and reading it is one copy, not one per tensor.

    User code may move a tensor elsewhere (``p.data = …``) or put another in its place
    (``self.ema = …``): reading takes the values back, loading undoes it, so that nothing of one
    client's turn is there at the next one's.
    """

    def __init__(
        self, module: nn.Module, policy: BufferPolicy | None, device: torch.device
    ) -> None:
        """Move ``module``'s tensors into a flat buffer on ``device``; their values are kept."""
        tensors = tensors_of(module, policy)
        self.module, self.layout, self.device = module.to(device), layout_of(tensors), device
        dtype = next(iter(tensors.values()))[0].dtype
        self.flat = torch.zeros(self.layout.size, dtype=dtype, device=device)
        live = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.views: list[tuple[Tensor, Tensor]] = []
        for entry in self.layout.entries:
            tensor = live.pop(entry.name)
            view = self.flat[entry.offset : entry.end].view(entry.shape)
            view.copy_(tensor.data)
            tensor.data = view
            self.views.append((tensor, view))
        self.parameters = [tensor for tensor, _ in self.views if isinstance(tensor, nn.Parameter)]
        self.parameters = [p for p in self.parameters if p.requires_grad]
        self.others = [(tensor, tensor.clone()) for tensor in live.values()]
        self.view_of = {id(tensor): view for tensor, view in self.views}
        self.places = [
            (held, name, tensor)
            for part in module.modules()
            for held in _held_by(part)
            for name, tensor in held.items()
        ]
        self.is_frozen_statistics = policy == "freeze"

    def load(self, vector: Vector) -> None:
        """Set all tensors from a flat vector; what is not part of it starts anew."""
        self._put_back()
        self.flat.copy_(from_numpy(vector))
        for tensor, value in self.others:
            tensor.data = value.clone()
        for parameter in self.parameters:
            parameter.requires_grad_()
            parameter.grad = None

    def read(self) -> Tensor:
        """Return the flat buffer, after taking back tensors that user code has moved out of it."""
        for held, name, tensor in self.places:
            now, view = held[name], self.view_of.get(id(tensor))
            if now is not None and view is not None and now.data_ptr() != view.data_ptr():
                _copy(now, view, name)
        self._put_back()
        return self.flat

    def _put_back(self) -> None:
        for held, name, tensor in self.places:
            held[name] = tensor
        for tensor, view in self.views:
            if tensor.data_ptr() != view.data_ptr() or tensor.shape != view.shape:
                tensor.data = view

    def training(self) -> nn.Module:
        """Return the module in training mode; layers with frozen statistics stay in eval mode."""
        self.module.train()
        if self.is_frozen_statistics:
            for part in self.module.modules():
                if hasattr(part, "running_mean"):
                    part.training = False
        return self.module


def _held_by(part: nn.Module) -> tuple[Held, Held]:
    """Return the two mappings where a module holds its tensors, which no public call gives."""
    return part._parameters, part._buffers  # pyright: ignore[reportPrivateUsage, reportReturnType] -- see above


def _copy(source: Tensor, view: Tensor, name: str) -> None:
    if source.shape != view.shape:
        raise TaskError(
            f"{name} of the model had shape {tuple(view.shape)} and has {tuple(source.shape)} now",
            hint="keep the shapes of parameters and buffers while training",
        )
    view.copy_(source.detach())
