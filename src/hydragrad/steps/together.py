"""Several optimizers of one model, as one: their parameter groups side by side, their states in one mapping."""

from collections.abc import Iterator, MutableMapping, Sequence
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
        """The number of the optimizer of every group."""
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


class _States(MutableMapping[Tensor, dict[str, Any]]):
    """The states of several optimizers: a parameter's is with the optimizer that has it."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self._members = members

    def __getitem__(self, parameter: Tensor) -> dict[str, Any]:
        entries: dict[str, Any] = self._of(parameter).state[parameter]
        return entries

    def __setitem__(self, parameter: Tensor, entries: dict[str, Any]) -> None:
        self._of(parameter).state[parameter] = entries

    def __delitem__(self, parameter: Tensor) -> None:
        for member in self._members:
            if parameter in member.state:
                del member.state[parameter]
                return
        raise KeyError(parameter)

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in member.state for member in self._members)

    def get(self, parameter: Tensor, default: Any = None) -> Any:
        """A parameter's entries, without making any."""
        for member in self._members:
            if parameter in member.state:
                return member.state[parameter]
        return default

    def __iter__(self) -> Iterator[Tensor]:
        for member in self._members:
            yield from member.state

    def __len__(self) -> int:
        return sum(len(member.state) for member in self._members)

    def _of(self, parameter: Tensor) -> Optimizer:
        if len(self._members) == 1:
            return self._members[0]
        for member in self._members:
            if any(parameter is own for own in _parameters(member)):
                return member
        raise KeyError(parameter)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
