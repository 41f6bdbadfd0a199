"""Structures made by hand, for tests that need no capture: a ResNet of the reference, and random ones."""

import torch

from attar.prune.structure import Axis, Group, Member, Structure, Term


def ones(size: int) -> torch.Tensor:
    return torch.ones(size, dtype=torch.float64)


def resnet20(widths: tuple[int, int, int] = (16, 32, 64), blocks: int = 3, classes: int = 10):
    """(structure, parameters) of the reference student: 3x3 convolutions, 1x1 shortcuts, batch norms, 1x28x28 input."""
    generator = torch.Generator().manual_seed(0)
    parameters: dict[str, torch.Tensor] = {}
    groups: list[Group] = []
    members: list[list[Member]] = []
    params: list[Term] = []
    macs: list[Term] = []

    def new_group(name: str, size: int) -> int:
        groups.append(Group(name, size, ()))
        members.append([])
        return len(groups) - 1

    def axis(group: int | None, size: int) -> Axis:
        return Axis(size, {}) if group is None else Axis(0, {group: ones(size)})

    def weight(name, sizes, owners, kernel, kind, positions):
        parameters[name] = torch.randn(*sizes, *kernel, generator=generator)
        area = kernel[0] * kernel[1] if kernel else 1
        ends = tuple(axis(owner, size) for owner, size in zip(owners, sizes))
        params.append(Term(name, area, ends))
        if len(sizes) == 2:
            macs.append(Term(name, area * positions, ends))
        for dim, owner in enumerate(owners):
            if owner is not None:
                members[owner].append(Member(name, dim, torch.arange(sizes[dim]), dim == 0, kind))

    def conv_bn(name, inputs, outputs, size_in, size_out, kernel, positions):
        weight(f"{name}.weight", (size_out, size_in), (outputs, inputs), kernel, "conv", positions)
        for part in ("weight", "bias"):
            weight(f"{name}_bn.{part}", (size_out,), (outputs,), (), "batch_norm", 0)

    stream, size, side = new_group("conv.weight", widths[0]), widths[0], 28
    conv_bn("conv", None, stream, 1, size, (3, 3), side**2)
    for stage, width in enumerate(widths):
        out = stream if stage == 0 else new_group(f"stage{stage}", width)
        side = side if stage == 0 else side // 2
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            inner = new_group(f"{name}.conv1.weight", width)
            conv_bn(f"{name}.conv1", stream, inner, size, width, (3, 3), side**2)
            conv_bn(f"{name}.conv2", inner, out, width, width, (3, 3), side**2)
            if stage and not block:
                conv_bn(f"{name}.shortcut", stream, out, size, width, (1, 1), side**2)
            stream, size = out, width
    weight("linear.weight", (classes, size), (None, stream), (), "linear", 1)
    weight("linear.bias", (classes,), (None,), (), "linear", 0)
    bytes_ = tuple(Term(term.name, 4 * term.scale, term.axes) for term in params)
    made = tuple(Group(g.name, g.size, tuple(m)) for g, m in zip(groups, members))
    return Structure(made, tuple(params), bytes_, tuple(macs)), parameters
