# SPDX-License-Identifier: Apache-2.0
"""The table [weights] of a file of settings: a weight method by its name, and what it takes.

    method       one of `METHODS`; the other keys are the fields of its class here
    layers       names of layers, or patterns such as "layer1.*"; without, all that it can work on
    soft_share   of the steps: in these the method learns softly, in the rest it is hard

A class says what a method has in a file; the method itself, its checks and its defaults are those
of its own module. Methods without a soft state train in one go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.graph.filter_codes import Reduction
from thinmaps.learn.companion import Companion
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.student import Student
from thinmaps.learn.toml_tables import read_table, unknown
from thinmaps.learn.weights import lagrangian_norm
from thinmaps.learn.weights.balanced_sparsity import BalancedSparsity
from thinmaps.learn.weights.balanced_sparsity import Form as BalanceForm
from thinmaps.learn.weights.constraint import ConstraintOptions
from thinmaps.learn.weights.joint_prune_quantise import WIDTHS, JointPruneQuantise
from thinmaps.learn.weights.lagrangian_norm import LagrangianNorm
from thinmaps.learn.weights.mac_pruning import check_exponent, prune_by_macs
from thinmaps.learn.weights.ovsf import CodedFilters
from thinmaps.learn.weights.patterns import Blocks, Groups, Pattern
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.selection import check_budget
from thinmaps.learn.weights.self_pruning import Gradient, SelfPruning

TITLE = "weights"


@dataclass(frozen=True)
class Phases:
    """Steps of both trainings, and the options of both."""

    soft_steps: int
    fine_steps: int
    options: TrainingOptions


@dataclass(frozen=True)
class MethodSettings:
    """What one method has in a file."""

    takes_modules: ClassVar[bool] = False  # works on a float module, before it is a student

    @abstractmethod
    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Put the method's maps on the layers, and say how to train them.

        Raises:
            BadArgument: there is no such layer, or the method does not fit it.
            BadModel: no layer is named and the method fits none.
        """


@dataclass(frozen=True)
class SelfPruningSettings(MethodSettings):
    """`SelfPruning`; the budget is a share of the weights, or of the multiply-adds."""

    budget: float
    of: Literal["weights", "multiply-adds"] = "weights"
    gradient: Gradient = SelfPruning.gradient
    peer: bool = SelfPruning.peer

    def __post_init__(self) -> None:
        SelfPruning(self.budget)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Thresholds that learn."""
        costed = example if self.of == "multiply-adds" else None
        method = SelfPruning(self.budget, layers, costed, self.gradient, self.peer)
        return method.recipe(model, phases.soft_steps, phases.fine_steps, phases.options)


@dataclass(frozen=True)
class BalancedSparsitySettings(MethodSettings):
    """`BalancedSparsity`: `kept` of every `size` input channels, or a share of `blocks`."""

    kept: int | None = None
    size: int | None = None
    blocks: float | None = None
    form: BalanceForm = BalancedSparsity.form
    step: float = BalancedSparsity.step
    limit: float = BalancedSparsity.limit

    def __post_init__(self) -> None:
        if self.blocks is not None and (self.kept, self.size) != (None, None):
            raise BadArgument("blocks, and kept of every size channels, exclude each other")
        ConstraintOptions(step=self.step, limit=self.limit)
        self.pattern()

    def pattern(self) -> Pattern:
        """2 of 4 where nothing else is said."""
        if self.blocks is not None:
            return Blocks(self.blocks)
        return Groups(2 if self.kept is None else self.kept, 4 if self.size is None else self.size)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Counts that are held, then projected."""
        method = BalancedSparsity(self.pattern(), layers, self.form, self.step, self.limit)
        return method.recipe(model, phases.soft_steps, phases.fine_steps, phases.options)


@dataclass(frozen=True)
class MacPruningSettings(MethodSettings):
    """`prune_by_macs`: what it decides holds from the first step."""

    budget: float
    exponent: float = 0.5

    def __post_init__(self) -> None:
        check_budget(self.budget, "multiply-adds")
        check_exponent(self.exponent)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Masks at once, and training behind them."""
        prune_by_macs(model, example, self.budget, layers=layers, exponent=self.exponent)
        return _in_one_go(phases)


@dataclass(frozen=True)
class CodedFiltersSettings(MethodSettings):
    """`CodedFilters`: coefficients of codes from the first step, which a student rounds."""

    share: float
    reduction: Reduction = CodedFilters.reduction

    def __post_init__(self) -> None:
        CodedFilters(self.share, reduction=self.reduction)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Coefficients that learn."""
        CodedFilters(self.share, layers, self.reduction).convert(model)
        if isinstance(model, Student):
            model.find_codes()
        return _in_one_go(phases)


@dataclass(frozen=True)
class JointSettings(MethodSettings):
    """`JointPruneQuantise` of weights; maps have their codecs in the table [codecs]."""

    weight_bits: float
    widths: Sequence[int] = WIDTHS
    step: float = JointPruneQuantise.step

    def __post_init__(self) -> None:
        JointPruneQuantise(self.weight_bits, widths=self.widths)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Thresholds and widths that learn."""
        method = JointPruneQuantise(
            self.weight_bits, layers=layers, widths=self.widths, step=self.step
        )
        return method.recipe(model, example, phases.soft_steps, phases.fine_steps, phases.options)


@dataclass(frozen=True)
class LagrangianNormSettings(MethodSettings):
    """`LagrangianNorm`: the float module trains without batch norms before it is a student."""

    form: lagrangian_norm.Form = LagrangianNorm.form
    step: float = LagrangianNorm.step
    limit: float = LagrangianNorm.limit
    begin: float = LagrangianNorm.begin
    takes_modules: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ConstraintOptions(step=self.step, limit=self.limit, begin=self.begin)

    def recipe(
        self, model: nn.Module, example: Tensor, layers: Sequence[str] | None, phases: Phases
    ) -> Recipe:
        """Statistics that are held, in the first phase alone."""
        if layers is not None:
            raise BadArgument("lagrangian_norm takes out all batch norms: it has no layers to name")
        method = LagrangianNorm(self.form, self.step, self.limit, self.begin)
        return method.recipe(model, example, phases.soft_steps, phases.options)


METHODS: Mapping[str, type[MethodSettings]] = {
    "self_pruning": SelfPruningSettings,
    "balanced_sparsity": BalancedSparsitySettings,
    "mac_pruning": MacPruningSettings,
    "ovsf": CodedFiltersSettings,
    "joint_prune_quantise": JointSettings,
    "lagrangian_norm": LagrangianNormSettings,
}


@dataclass(frozen=True)
class WeightsTable:
    """The keys that all methods share."""

    method: str
    layers: Sequence[str] | None = None
    soft_share: float = 0.75

    def __post_init__(self) -> None:
        check_budget(self.soft_share, "soft steps")

    def steps(self, whole: int) -> tuple[int, int]:
        """Soft and hard ones of all steps."""
        soft = round(whole * self.soft_share)
        return soft, whole - soft


@dataclass(frozen=True)
class _SameTable(Companion):
    """Has the table's keys in the checkpoint, and goes on with no other ones."""

    keys: Mapping[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """All keys."""
        return dict(self.keys)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare them.

        Raises:
            BadArgument: a key has another value.
        """
        changed = [
            f"{name} {state.get(name)!r} there and {value!r} here"
            for name, value in self.keys.items()
            if name not in state or state[name] != value
        ]
        if changed:
            raise BadArgument(
                f"the checkpoint cannot be gone on with: [{TITLE}] {', '.join(changed)}; give the "
                "run the settings that it began with, or start without resume"
            )


@dataclass(frozen=True)
class Weights:
    """A whole table."""

    shared: WeightsTable
    method: MethodSettings

    def recipe(
        self, model: nn.Module, example: Tensor, steps: int, options: TrainingOptions
    ) -> Recipe:
        """As `MethodSettings.recipe`; a checkpoint goes on with the same table alone."""
        companions = (*options.companions, _SameTable(asdict(self.shared) | asdict(self.method)))
        phases = Phases(*self.shared.steps(steps), replace(options, companions=companions))
        return self.method.recipe(model, example, self.shared.layers, phases)


def read_weights(given: Any, folder: Path, reasons: list[str]) -> Weights | None:
    """The table, or None and why not in `reasons`."""
    name = given.get("method") if isinstance(given, Mapping) else None
    if isinstance(given, Mapping) and not isinstance(name, str):
        reasons.append(f"[{TITLE}] needs method, one of {', '.join(METHODS)}")
        return None
    if isinstance(name, str) and name not in METHODS:
        reasons.append(unknown(f"[{TITLE}] has no method", name, list(METHODS)))
        return None
    known = len(reasons)
    kinds: list[type] = [WeightsTable, *([METHODS[name]] if name else [])]
    made = read_table(TITLE, kinds, given, folder, reasons)
    return Weights(*made) if len(reasons) == known else None


def _in_one_go(phases: Phases) -> Recipe:
    """Of a method that is hard from the start."""
    return Recipe(phases.soft_steps + phases.fine_steps, 0, (), phases.options)
