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


def random_structure(seed: int, rows: bool = True, groups: int = 5) -> Structure:
    """Groups of odd sizes, some with rows, some protected; terms that join up to three axes, a group twice among them.

    Units own one or several elements of an axis; in a group with rows each owns a fraction, as in grouped convolutions.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    made = []
    for index in range(groups):
        size, row = draw(3, 14), None
        if rows and draw(0, 2) == 0:
            count = draw(2, 3)
            row = torch.arange(size * count) % count
            row = row[torch.randperm(len(row), generator=generator)]
            size = len(row)
        protected = "asked" if index and draw(0, 5) == 0 else ""
        member = Member(f"group{index}.weight", 0, torch.arange(size), True, "conv")
        made.append(Group(f"group{index}.weight", size, (member,), row, protected))

    def axis() -> Axis:
        counts = {}
        for index in {draw(0, groups - 1) for _ in range(draw(1, 2))}:
            size, row, form = made[index].size, made[index].row, draw(0, 2)
            if row is not None:
                # Every row owns an equal part, so that lengths are whole when rows keep the same count.
                counts[index] = torch.full((size,), 1.0 / (int(row.max()) + 1)) if form == 0 else ones(size) * form
            else:
                counts[index] = ones(size) if form else torch.randint(1, 4, (size,), generator=generator)
            counts[index] = counts[index].to(torch.float64)
        return Axis(draw(0, 3), counts)

    def terms() -> tuple[Term, ...]:
        return tuple(Term(f"term{i}", draw(1, 9), tuple(axis() for _ in range(draw(1, 3)))) for i in range(8))

    fixed = Term("fixed", draw(1, 50), ())
    return Structure(tuple(made), (*terms(), fixed), (*terms(), fixed), (*terms(), fixed))


def random_scores(structure: Structure, seed: int, ties: bool = False) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = {i: torch.rand(g.size, generator=generator, dtype=torch.float64) for i, g in enumerate(structure.groups)}
    return {i: (s * 4).round() if ties else s for i, s in scores.items()}


def plain_cost(structure: Structure, kept: dict[int, torch.Tensor]) -> dict[str, int]:
    """The cost as the data says it, one term after the other."""
    result = {}
    for kind in ("params", "macs", "bytes"):
        total = 0
        for term in getattr(structure, kind):
            value = term.scale
            for axis in term.axes:
                length = axis.fixed
                for group, counts in axis.counts.items():
                    mask = kept.get(group, torch.ones(structure.groups[group].size, dtype=torch.bool))
                    length += sum(float(c) for c, keep in zip(counts, mask) if keep)
                value *= length
            total += round(value)
        result[kind] = total
    return result


def cut(structure: Structure, kept: dict[int, torch.Tensor]) -> Structure:
    """The structure of the network after the cut: what surgery would hand to the next step."""
    masks = [kept.get(i, torch.ones(g.size, dtype=torch.bool)) for i, g in enumerate(structure.groups)]

    def smaller(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple(
            Term(t.name, t.scale, tuple(Axis(a.fixed, {g: c[masks[g]] for g, c in a.counts.items()}) for a in t.axes))
            for t in terms
        )

    groups = tuple(
        Group(g.name, int(m.sum()), g.members, None if g.row is None else g.row[m], g.protected)
        for g, m in zip(structure.groups, masks)
    )
    return Structure(groups, smaller(structure.params), smaller(structure.bytes), smaller(structure.macs))
