"""A PyTorch module whose floating-point tensors live in one flat vector."""

from typing import Literal

import torch
from torch import Tensor, nn

from hanse.core.layout import Layout, Role, Vector
from hanse.errors import TaskError

BufferPolicy = Literal["aggregate", "local", "freeze"]
ROLE_OF: dict[BufferPolicy, Role] = {"aggregate": "buffer", "local": "local", "freeze": "frozen"}


def tensors_of(module: nn.Module, policy: BufferPolicy | None) -> dict[str, tuple[Tensor, Role]]:
    """Return name → (tensor, role) of every float parameter and buffer, tied weights once.

    Raises TaskError for a module without trainable parameters, with more than one dtype, or with
    buffers and no policy for them. Integer buffers stay out: they are never averaged.
    """
    found: dict[str, tuple[Tensor, Role]] = {
        name: (p, "trainable" if p.requires_grad else "frozen")
        for name, p in module.named_parameters()
    }
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
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor, _ in found.values()}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
        raise TaskError(
            f"the model mixes {', '.join(sorted(dtypes))}",
            hint="keep one of float32 and float64 throughout: model.float()",
        )
    return found


def layout_of(tensors: dict[str, tuple[Tensor, Role]]) -> Layout:
    """Return the layout of ``tensors``."""
    first = next(iter(tensors.values()))[0]
    shapes = [(name, tuple(t.shape), role) for name, (t, role) in tensors.items()]
    return Layout.build(str(first.dtype).removeprefix("torch."), shapes)


class FlatModel:
    """A module bound to one flat buffer: loading and reading it is one copy, not one per tensor."""

    def __init__(
        self, module: nn.Module, policy: BufferPolicy | None, device: torch.device
    ) -> None:
        """Move ``module``'s tensors into a flat buffer on ``device``; their values are kept."""
        tensors = tensors_of(module, policy)
        self.module, self.layout, self.device = module, layout_of(tensors), device
        first = next(iter(tensors.values()))[0]
        self.flat = torch.zeros(self.layout.size, dtype=first.dtype, device=device)
        module.to(device)
        live = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.views: list[tuple[Tensor, Tensor]] = []
        for entry in self.layout.entries:
            view = self.flat[entry.offset : entry.end].view(entry.shape)
            tensor = live[entry.name]
            view.copy_(tensor.data)
            tensor.data = view
            self.views.append((tensor, view))
        names = {e.name: e.role for e in self.layout.entries}
        self.parameters = [p for n, p in module.named_parameters() if names[n] == "trainable"]
        self.counters = {
            name: buffer.clone()
            for name, buffer in module.named_buffers()
            if name not in names and not buffer.is_floating_point()
        }
        self.is_frozen_statistics = policy == "freeze"

    def load(self, vector: Vector) -> None:
        """Set all tensors from a flat vector; integer buffers start anew."""
        self.flat.copy_(torch.from_numpy(vector))
        if self.counters:
            live = dict(self.module.named_buffers())
            for name, value in self.counters.items():
                live[name].copy_(value)

    def read(self) -> Tensor:
        """Return the flat buffer, after taking back tensors that user code has moved out of it."""
        for tensor, view in self.views:
            if tensor.data_ptr() != view.data_ptr():
                view.copy_(tensor.data)
                tensor.data = view
        return self.flat

    def training(self) -> nn.Module:
        """Return the module in training mode; modules with frozen statistics stay in eval mode."""
        self.module.train()
        if self.is_frozen_statistics:
            for part in self.module.modules():
                if any(True for _ in part.buffers(recurse=False)):
                    part.eval()
        return self.module
