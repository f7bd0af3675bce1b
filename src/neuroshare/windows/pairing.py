"""How trials of several subjects are matched: one class for each rule, without the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["random", "rank"]
Surplus = Literal["repeat", "absent", "drop"]
Positions = NDArray[np.int64]
Activity = NDArray[np.integer | np.floating]


class Pairing(ABC):
    """A rule that matches trials of several subjects.

    Its ``repr`` says all that it depends on, for it is part of the fingerprint of what was paired.
    """

    redraws: bool
    """Whether another seed gives other partners."""

    @abstractmethod
    def draw(
        self, codes: Sequence[Positions], n_conditions: int, seed: int
    ) -> tuple[Positions, Positions]:
        """Match trials.

        Parameters
        ----------
        codes
            Condition of every trial of each subject, (trial,), from 0 to below `n_conditions`.
        n_conditions
            Number of conditions.
        seed
            Of the draw; the same seed gives the same partners.

        Returns
        -------
        partners
            (row, subject): positions of trials that are paired, -1 where a subject is absent.
        row_codes
            (row,): the condition of each row.
        """


@dataclass(frozen=True)
class ByCondition(Pairing):
    """Partners are any trials of the same condition.

    Parameters
    ----------
    order
        ``"random"`` draws partners, ``"rank"`` pairs the first with the first.
    surplus
        What happens to a subject's trials when others have fewer of that condition: ``"repeat"``
        pairs them with partners that are used again; ``"absent"`` leaves the others out of that
        row; ``"drop"`` discards them.
    """

    order: Order = "random"
    surplus: Surplus = "repeat"

    @property
    def redraws(self) -> bool:  # type: ignore[override]  # noqa: D102
        return self.order == "random"

    def draw(  # noqa: D102
        self, codes: Sequence[Positions], n_conditions: int, seed: int
    ) -> tuple[Positions, Positions]:
        rng = np.random.default_rng(seed)
        blocks, conditions = [], []
        for condition in range(n_conditions):
            pools = [np.flatnonzero(code == condition) for code in codes]
            present = [len(pool) for pool in pools if len(pool)]
            if not present:
                continue
            n_rows = min(present) if self.surplus == "drop" else max(present)
            block = np.full((n_rows, len(pools)), -1, dtype=np.int64)
            for column, pool in enumerate(pools):
                if not len(pool):
                    continue
                rounds = -(-n_rows // len(pool)) if self.surplus == "repeat" else 1
                drawn = [
                    rng.permutation(pool) if self.order == "random" else pool for _ in range(rounds)
                ]
                chosen = np.concatenate(drawn)[:n_rows]
                block[: len(chosen), column] = chosen
            if self.surplus == "absent" and self.order == "random":
                # Otherwise the few trials of one subject always meet the first rows of another.
                for column in range(block.shape[1]):
                    rng.shuffle(block[:, column])
                block = block[(block >= 0).any(axis=1)]
            blocks.append(block)
            conditions.append(np.full(len(block), condition))
        if not blocks:
            return np.empty((0, len(codes)), np.int64), np.empty(0, np.int64)
        return np.concatenate(blocks), np.concatenate(conditions)


def used_trials(name: str, own: Positions, n_trials: int) -> list[str]:
    """Say which trials of a subject, (row,), were dropped or used again."""
    used = own[own >= 0]
    unused = n_trials - len(np.unique(used))
    again = len(used) - len(np.unique(used))
    sentences = []
    if unused:
        sentences.append(
            f"subject {name!r}: {unused} surplus trials have no partner and were dropped."
        )
    if again:
        sentences.append(
            f"subject {name!r}: {again} rows use one of its trials again, since others "
            "have more trials of that condition."
        )
    return sentences
