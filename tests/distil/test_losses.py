"""Distillation losses against plain computations in float64."""

import math

import pytest
import torch

from attar.distil import Batch, FromTeacher, distillation_loss, from_labels, kl_divergence


def plain_kl(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    def softmax(row):
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for s, t in zip(student, teacher):
        total += sum(q * (math.log(q) - math.log(p)) for p, q in zip(softmax(s), softmax(t)))
    return total / len(student) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_is_batchmean_times_temperature_squared(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 10, generator=generator, dtype=torch.float64).unbind()
    expected = plain_kl(student.tolist(), teacher.tolist(), temperature)
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_size_does_not_depend_much_on_temperature():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 64, 10, generator=generator).unbind()

    def size(temperature):
        logits = student.clone().requires_grad_()
        kl_divergence(logits, teacher, temperature).backward()
        return logits.grad.norm().item()

    assert 0.5 < size(4.0) / size(16.0) < 2.0


def test_loss_mixes_teacher_and_labels():
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 6, 10, generator=generator).unbind()
    labels = torch.arange(6)
    only_teacher = distillation_loss(student, teacher, labels, 4.0, 1.0)
    only_labels = distillation_loss(student, teacher, labels, 4.0, 0.0)
    assert only_teacher.item() == pytest.approx(kl_divergence(student, teacher, 4.0).item())
    assert only_labels.item() == pytest.approx(torch.nn.functional.cross_entropy(student, labels).item())
    mixed = distillation_loss(student, teacher, labels, 4.0, 0.3)
    assert mixed.item() == pytest.approx(0.3 * only_teacher.item() + 0.7 * only_labels.item(), rel=1e-6)


def outputs_of(teacher):
    """A teacher that looks at every batch."""
    return lambda batch: teacher(batch.images).detach()


def test_teacher_sees_the_same_views_and_is_left_alone():
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)).eval()
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    batch = Batch(torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]), 0, torch.arange(5))
    loss, logits = FromTeacher(outputs_of(teacher), 2.0, 0.5)(student, batch)
    loss.backward()
    assert torch.equal(logits, student(batch.images))
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    expected = distillation_loss(student(batch.images), teacher(batch.images), batch.labels, 2.0, 0.5)
    assert loss.item() == pytest.approx(expected.item())


def test_perfect_student_pays_labels_only():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    batch = Batch(torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]), 0, torch.arange(5))
    loss, _ = FromTeacher(outputs_of(model), 4.0, 0.5)(model, batch)
    assert loss.item() == pytest.approx(0.5 * from_labels(model, batch)[0].item(), rel=1e-5)
