"""Several optimizers of one model, as one: their parameter groups side by side, their states in one mapping."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from hydragrad.errors import Unsupported
from hydragrad.steps.rule import StepRule
from hydragrad.steps.rules import Options, read_group, rule_of


class Together:
    """One or several optimizers, each with its rule; groups are numbered through.

    Args:
        optimizers: Each over parameters of its own.

    Attributes:
        members: They.
        rules: Of each.

    Raises:
        Unsupported: One has no rule, or two have a parameter in common.
    """

    def __init__(
        self, optimizers: "Optimizer | Together | Sequence[Optimizer]", rules: Sequence[StepRule] = ()
    ) -> None:
        if isinstance(optimizers, Together):
            optimizers = optimizers.members
        listed = optimizers if isinstance(optimizers, list | tuple) else [optimizers]
        self.members: tuple[Optimizer, ...] = tuple(listed)  # type: ignore[arg-type]
        if not self.members:
            raise Unsupported("There must be an optimizer, got an empty list. Pass the one that trains the model.")
        self.rules = tuple(rules) or tuple(rule_of(member) for member in self.members)
        self.require_apart()
        self.state = _States(self.members)

    def require_apart(self) -> None:
        """Refuse optimizers that share parameters.

        Raises:
            Unsupported: Names the shape of one.
        """
        owner: dict[int, int] = {}
        for number, member in enumerate(self.members):
            for parameter in _parameters(member):
                if owner.setdefault(id(parameter), number) != number:
                    raise Unsupported(
                        f"Each parameter belongs to one optimizer; a parameter of shape {tuple(parameter.shape)} is in "
                        f"two of them. Take it out of one."
                    )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all, one optimizer after the other: live ones."""
        return [group for member in self.members for group in member.param_groups]

    @property
    def owners(self) -> tuple[int, ...]:
        """The number of the optimizer of every group; empty where there is one."""
        if len(self.members) == 1:
            return ()
        return tuple(number for number, member in enumerate(self.members) for _ in member.param_groups)

    def options(self) -> tuple[Options, ...]:
        """What is in force now, by parameter group."""
        return tuple(
            read_group(rule, group)
            for rule, member in zip(self.rules, self.members, strict=True)
            for group in member.param_groups
        )

    def step(self) -> None:
        """Make the step of each, in order."""
        for member in self.members:
            member.step()


class _States(Mapping[Tensor, dict[str, Any]]):
    """The states of several optimizers, by parameter; nobody writes here."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self._members = members

    def __getitem__(self, parameter: Tensor) -> dict[str, Any]:
        for member in self._members:
            if parameter in member.state:  # asking for it would make an entry
                entries: dict[str, Any] = member.state[parameter]
                return entries
        raise KeyError(parameter)

    def __iter__(self) -> Iterator[Tensor]:
        for member in self._members:
            yield from member.state

    def __len__(self) -> int:
        return sum(len(member.state) for member in self._members)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
