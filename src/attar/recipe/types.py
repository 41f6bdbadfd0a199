"""The recipe's types: everything that a run does, checked before anything runs. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from attar.recipe.budget import Budget
from attar.recipe.words import no_such_key

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
FromList = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""TOML and JSON have lists where a recipe, which does not change, has tuples."""


class Table(BaseModel):
    """A table of the recipe: unknown keys are errors, values do not change, and numbers are finite and no strings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Data(Table):
    """Images with labels, and how they are split and normalised."""

    source: str
    """`fashion-mnist`, `cifar10`, `cifar100`, `digits`, `npz:FILE`, `folder:PATH`, `hf:NAME_OR_PATH` (Hugging Face's
    `datasets`), or `package.module:function`: a function of your own that returns arrays or data sets."""
    folder: str | None = None
    """Where the data's files are; looked at first. Without it: cache, system folder, download. A function of your own
    gets it as its argument."""
    held_out: Annotated[int, Field(ge=0)] = 5000
    """Training images kept out for every choice (stratified). 0 trains on all of them: only for a frozen recipe."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Pixels on each side of the pictures of `folder:` and `hf:`; without it, from the pictures."""
    in_memory: Annotated[int, Field(ge=1)] = 4096
    """Megabytes (2^20) of images that are held in memory. A `folder:` or `hf:` data set with more training images is read
    from its store on disk by shards, and an epoch's order follows them: other bits, the same views."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of what is held out."""
    mean: Annotated[tuple[float, ...] | None, FromList] = None
    """What images are normalised by, in 0..1, for each channel: that of the teacher's own training, where it brings
    `weights`. Without it, that of the training images."""
    std: Annotated[tuple[Positive, ...] | None, FromList] = None
    """Likewise the standard deviations."""

    @model_validator(mode="after")
    def _both(self) -> Data:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together: give both, a number for each channel")
        if far := next((value for value in self.mean or () if not 0 <= value <= 1), None):
            raise ValueError(
                f"mean has {far:g}, and pixels are in 0..1; divide mean and std of pixels in 0..255 by 255"
            )
        return self


class Augment(Table):
    """Random crop, flip and erasing of every training view (erasing: Zhong et al. 2017)."""

    crop_padding: Annotated[int, Field(ge=0)] = 2
    """Pixels of black padding on every side before a random crop back to the image's size; 0 for no crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    erase: Fraction = 0.5
    """Probability that a random rectangle is erased."""
    erase_area: Annotated[tuple[Positive, Positive], FromList] = (0.02, 0.4)
    """Smallest and largest erased share of the image's area."""
    erase_aspect: Annotated[tuple[Positive, Positive], FromList] = (0.3, 1 / 0.3)
    """Smallest and largest height / width of the erased rectangle."""
    erase_fill: Literal["mean", "random", "black"] = "mean"
    """What the rectangle is filled with: the mean that images are normalised by, random pixels (the paper's best), or black."""

    @model_validator(mode="after")
    def _ranges(self) -> Augment:
        for name in ("erase_area", "erase_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}]: the first number is the smallest, the second the largest")
        if self.erase_area[1] > 1:
            raise ValueError(f"erase_area = {list(self.erase_area)}: shares of the image's area are at most 1")
        return self


class Training(Table):
    """How the one loop trains, whatever the objective."""

    epochs: Positive
    """Passes over the training images; a fraction is fine (0.25: a quarter of the images)."""
    batch: Annotated[int, Field(ge=1)] = 128
    """Images in a step."""
    optimiser: Literal["sgd", "adamw", "muon"] = "sgd"
    """`sgd` is with Nesterov's step; `muon`, with the same settings, orthogonalises the steps of weights that mix channels."""
    learning_rate: Positive = 0.1
    """The peak, reached after the warm-up; a cosine leads down from there."""
    final_learning_rate: NonNegative = 0.0
    """Where the cosine ends."""
    warmup: NonNegative = 0.0
    """Epochs of linear warm-up, counted in `epochs`."""
    momentum: Fraction = 0.9
    """Of `sgd` and `muon`."""
    weight_decay: NonNegative = 5e-4
    """On every parameter, batch norm's too."""
    clip: NonNegative = 0.0
    """Largest gradient norm; 0 clips nothing."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the moving average of the weights that is evaluated and shipped; 0 uses the last weights."""

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.warmup >= self.epochs and self.warmup > 0:
            raise ValueError(f"warmup = {self.warmup:g} leaves nothing of epochs = {self.epochs:g}; make it smaller")
        if self.optimiser == "muon" and self.momentum == 1:
            raise ValueError("momentum = 1 forgets no gradient, and muon's decay has no end then; give 0.9")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate = {self.final_learning_rate:g} is above learning_rate = {self.learning_rate:g}"
            )
        return self


def _null_in_list(value: Any, inside: bool = False) -> bool:
    """Whether None stands in a list, at any depth; as a table's value it only says that nothing is given."""
    if isinstance(value, dict):
        return any(_null_in_list(inner) for inner in value.values())
    return (inside and value is None) or (
        isinstance(value, list | tuple) and any(_null_in_list(inner, inside=True) for inner in value)
    )


class Network(Table):
    """A network by its builder's name: `resnet20`, `timm:NAME`, `torchvision:NAME`, `hf:TYPE` or `package.module:function`."""

    model: str
    """The builder's name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to the builder, e.g. `{widths = [16, 32, 64]}`. Input channels and classes come from the data."""
    weights: str | None = None
    """A file of trained weights: safetensors, or a state dict that torch saved. A network that has them is not trained first."""

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the name of a builder is empty; `attar models` lists them")
        return value

    @field_validator("arguments")
    @classmethod
    def _fit_for_toml(cls, value: dict[str, Any]) -> dict[str, Any]:
        if _null_in_list(value):
            raise ValueError(
                "a list holds None, which TOML cannot say; give the builder a function of your own that does"
            )
        return value


class Member(Network):
    """One network of a teacher that is an ensemble."""

    train: Training | None = None
    """How it is taught; not needed where `weights` are given."""


class Teacher(Network):
    """The network that is imitated: taught first, or brought with its `weights`; several, or a file of outputs."""

    model: str = ""
    """The builder's name, as for any network; left out where `members` or `outputs` stand in for the network."""
    members: Annotated[tuple[Member, ...], FromList] = ()
    """`[[teacher.members]]`: networks whose mean of probabilities is the teacher, each with its own `weights` or `train`."""
    train: Training | None = None
    """How it is taught; not needed where `weights` are given."""
    outputs: str | None = None
    """A file of its outputs for a pool of views (`attar cache export`), in place of the network."""

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        return value.strip()  # none is fine beside members or outputs, as a written recipe of such a teacher has it

    @model_validator(mode="after")
    def _trained_somehow(self) -> Teacher:
        if self.outputs is not None:
            if given := [name for name in ("model", "members", "weights", "train") if getattr(self, name)]:
                raise ValueError(f"`outputs` stand in for the teacher's network; leave {', '.join(given)} out")
            return self
        if self.members:
            self._check_members()
            return self
        if not self.model:
            raise ValueError("a teacher needs a `model`, or `members` or `outputs` (a file) in its place")
        if self.weights is None and self.train is None:
            raise ValueError("a teacher needs either `weights` (a file) or a [teacher.train] table")
        return self

    def _check_members(self) -> None:
        if given := [name for name in ("model", "arguments", "train") if getattr(self, name)]:
            raise ValueError(f"`members` stand in for one network and have their own; leave {', '.join(given)} out")
        for number, member in enumerate(self.members):
            if self.weights is None and member.weights is None and member.train is None:
                raise ValueError(
                    f"members[{number}] ({member.model}) needs either `weights` (a file) or a `train` table"
                )


class Student(Network):
    """The network that is trained to imitate the teacher, before pruning."""

    shape: str | None = None
    """An artifact's folder: the student takes the final shapes of that network, cut from the same builder's, with fresh
    weights. For controls: the same network without pruning."""


def _mixing(strength: float) -> float:
    if strength and not 0.01 <= strength <= 100:
        raise ValueError("should be between 0.01 and 100, or 0, which mixes nothing")
    return strength


class Distil(Table):
    """Knowledge distillation (Hinton et al. 2015): alpha x T^2 x KL(teacher || student) + (1 - alpha) x cross-entropy."""

    temperature: Positive = 4.0
    """T, which softens both distributions."""
    alpha: Fraction = 0.9
    """Weight of the teacher; 0 trains on labels alone."""
    loss: str = "kl"
    """`kl`, or `package.module:function`: a function of your own (student's logits, teacher's logits, labels,
    temperature, alpha) -> scalar."""
    view_pool: Annotated[int, Field(ge=0)] = 0
    """Epochs of views to cycle through, so that the teacher's outputs are computed once; 0: fresh views in every epoch."""
    view_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the views alone, so that runs of several seeds share the teacher's outputs; without it, the recipe's seed."""
    mixup: Annotated[float, AfterValidator(_mixing)] = 0.0
    """Strength a of mixup (Zhang et al. 2018) of the student's views: each is mixed with that of another training image,
    in shares from Beta(a, a), and the teacher looks at the same mixture; 0.01 to 100, or 0, which mixes nothing. Its own
    training is not mixed."""
    train: Training | None = None
    """How the student is trained before pruning; not needed where it has `weights`."""


class Sparse(Table):
    """Sparse learning before the first cut: a penalty beside the objective shrinks the units that matter least."""

    penalty: Literal["lasso", "growing"] = "lasso"
    """`lasso`: DepGraph's group lasso (Fang et al. 2023), on every unit, the less it matters in its group the harder.
    `growing`: GReg-1 (Wang et al. 2021), on the units that the budget would cut now, harder and harder (on a GPU its steps are
    not recorded as a graph)."""
    strength: Positive = 1e-4
    """Of `lasso`: weight of the penalty's gradient beside the objective's."""
    alpha: NonNegative = 4.0
    """Of `lasso`: how much harder the least important unit of a group is shrunk than the most important: 2^alpha times."""
    ceiling: Positive = 1.0
    """Of `growing`: the rate in the last steps, as a weight decay of those units; it rises there by equal amounts."""
    every: Annotated[int, Field(ge=1)] = 10
    """Of `growing`: steps between two rises."""
    train: Training
    """How the student is trained under the penalty."""

    @model_validator(mode="after")
    def _of_this_penalty(self) -> Sparse:
        for penalty, keys in {"lasso": ("strength", "alpha"), "growing": ("ceiling", "every")}.items():
            for key in keys:
                value = getattr(self, key)
                if penalty != self.penalty and value != type(self).model_fields[key].default:
                    raise ValueError(f"{key} = {value:g} is of the penalty {penalty!r}, and this is {self.penalty!r}")
        if self.train.optimiser == "muon":
            raise ValueError(
                'train.optimiser = "muon" makes every step of a weight as large as the next, and a penalty works by size; '
                'give "sgd"'
            )
        return self


def _floors(value: Any) -> Any:
    """Told in one error, where the union's types would make one each."""
    for name, least in value.items() if isinstance(value, dict) else [("", value)]:
        if value is not None and (isinstance(least, bool) or not isinstance(least, int | float)):
            what = (
                f"has {name} = {least!r}: a floor is a number" if name else "should be a number, or a table of numbers"
            )
            raise ValueError(what)
    return value


class Prune(Table):
    """Iterative structured pruning under the budget, with fine-tuning by the distillation objective after every step."""

    budget: Budget
    """Hard limits: the student is at or under each of them."""
    steps: Annotated[int, Field(ge=1)] = 30
    """Cuts, each followed by fine-tuning."""
    schedule: Literal["geometric", "linear"] = "geometric"
    """How the limits fall to the budget: by the same share in every step, or by the same amount."""
    importance: str = "group_norm"
    """The criterion that ranks units: `group_norm`, `group_norm_l1`, `bn_scale`, `fpgm`, `lamp`, `random`; `taylor` and
    `fisher` look at gradients of the objective. Or `package.module:function`, your own."""
    allocation: Literal["even", "global", "isomorphic"] = "even"
    """`even`: every group keeps the same fraction of its units; `global`: the least important units anywhere go;
    `isomorphic`: ranked within groups of the same structure (Fang et al. 2024)."""
    protect: Annotated[tuple[str, ...], FromList] = ()
    """Names or patterns of parameters whose groups stay whole."""
    round_to: Annotated[int, Field(ge=1)] = 1
    """Widths are kept multiples of this."""
    floors: Annotated[float | dict[str, float] | None, BeforeValidator(_floors)] = None
    """Least units per group: a count, or a share below 1 of the original; one for all, or by name or pattern."""
    policy: Literal["normal", "strict"] = "normal"
    """`strict` keeps units that a norm or a softmax mixes; `normal` cuts them and says so."""
    sparse: Sparse | None = None
    """Training with a penalty before the first cut."""
    train: Training
    """Fine-tuning after every step."""
    final: Training | None = None
    """Longer fine-tuning after the last step, in place of `train`."""

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        allowed = [field.name for field in dataclasses.fields(Budget)]
        if unknown := [key for key in value if key not in allowed]:
            raise ValueError(no_such_key(unknown[0], allowed))
        return Budget(**value)


class Export(Table):
    """Views of the artifact: the network in files that run without attar. A view that is not mentioned is written where
    its libraries are installed; true insists on it (where it fails or disagrees, the finished run's exit code is 1), false
    leaves it out."""

    onnx: bool | None = None
    """`model.onnx`; needs `pip install 'attar[onnx]'`."""
    pt2: bool | None = None
    """`model.pt2`, a `torch.export` program."""
    int8: bool | None = None
    """`model.int8.onnx`, made from `model.onnx`."""
    int8_images: Annotated[int, Field(ge=1)] = 512
    """Training images that int8's ranges are taken from."""
    int8_loss: float = 0.2
    """Points of held-out accuracy that int8 may lose against the network. Where it loses more, the student is fine-tuned for
    int8 by its own objective, and the better file ships."""
    int8_finetune: NonNegative = 2.0
    """Epochs of that fine-tuning, at a tenth of the last training's rate; 0 for none."""

    @model_validator(mode="after")
    def _possible(self) -> Export:
        if self.int8 and self.onnx is False:
            raise ValueError("int8 = true is made from the ONNX file and onnx = false; allow both")
        return self


class Compute(Table):
    """Where and how numbers are computed."""

    device: str = "auto"
    """`auto` takes CUDA, then MPS, then the CPU; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast where the processor computes it natively, else fp32."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads; 0 takes all cores, or what OMP_NUM_THREADS says. The same number gives the same bits."""
    checkpoint_seconds: NonNegative = 60.0
    """A checkpoint is written at least this often, and after every cut."""

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]*))?", value):
            raise ValueError(f"device = {value!r}; allowed: auto, cpu, cuda, cuda:N, mps")
        return value


class Recipe(Table):
    """Everything a run does. Without `teacher`, the student learns from labels; without `prune`, it keeps its size."""

    name: str
    """The run's name, without slashes; its folder is `runs/NAME` unless `--out` says otherwise."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of first weights, views and order."""
    data: Data
    """What is learnt from."""
    augment: Augment = Augment()
    """What is done to training images."""
    teacher: Teacher | None = None
    """Who is imitated. Without it the student learns from labels: then set `distil.alpha = 0`."""
    student: Student
    """Who imitates."""
    distil: Distil
    """How the student learns."""
    prune: Prune | None = None
    """How the student is cut. Without it nothing is."""
    export: Export = Export()
    """Which files the network is shipped in."""
    compute: Compute = Compute()
    """Where and how it is computed."""

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not value.strip() or value in (".", "..") or re.search(r"[/\\\0]", value):
            raise ValueError("a run's name is that of its folder: not empty, no slashes, and neither `.` nor `..`")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.student.shape is not None and (self.prune is not None or self.student.weights is not None):
            other = "[prune]" if self.prune is not None else "student.weights"
            raise ValueError(
                f"student.shape = {self.student.shape!r} gives the student its final shape and fresh weights; leave {other} out"
            )
        if self.distil.train is None and (self.student.weights is None or self.prune is None):
            raise ValueError(
                "the student needs a [distil.train] table; only one that has student.weights and is pruned needs none"
            )
        if self.teacher is None and self.distil.alpha > 0:
            raise ValueError(
                f"distil.alpha = {self.distil.alpha:g} asks for a teacher and there is none; "
                "add a [teacher] table or set distil.alpha = 0"
            )
        if self.distil.loss != "kl" and self.distil.alpha == 0:
            raise ValueError(
                f"distil.loss = {self.distil.loss!r} is for learning from a teacher and distil.alpha = 0 learns from labels "
                "alone; leave the loss out or raise alpha"
            )
        if self.distil.mixup > 0 and self.distil.alpha == 0:
            raise ValueError(
                f"distil.mixup = {self.distil.mixup:g} is for learning from a teacher, who says what a mixture shows, and "
                "distil.alpha = 0 learns from labels alone; leave mixup out or raise alpha"
            )
        if self.teacher is not None and self.teacher.outputs is not None and self.distil.view_pool == 0:
            raise ValueError(
                "teacher.outputs holds the outputs for a pool of views and distil.view_pool = 0 asks for new views in "
                "every epoch; set distil.view_pool to the file's number of epochs"
            )
        return self

    @property
    def view_seed(self) -> int:
        """Seed of the views."""
        return self.seed if self.distil.view_seed is None else self.distil.view_seed

    @property
    def teacher_network(self) -> Teacher | None:
        """The teacher where it is a network, and not a file of outputs."""
        return self.teacher if self.teacher is not None and self.teacher.outputs is None else None
