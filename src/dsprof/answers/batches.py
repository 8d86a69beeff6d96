"""How many sequences each request and each stage serves at once, from whatever says it."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof.answers.requests import Requests
from dsprof.arrays import NULL, Ints
from dsprof.attribute.stages import StageRanges
from dsprof.model.record import MOST_SEQUENCES, ModelRecord
from dsprof.records import frozen
from dsprof.rules.rules import Rules


@frozen(eq=False)
class Batches:
    """Sequences of each request, and of each of `StageRanges.rows`; NULL where it is not known.

    A stage's are what its name says (the group `batch` of its pattern), else the range ``prefill.batch`` in it, else
    its request's. A request's are those that its stages say, if these agree; where none says it, what the record of
    the capture or of the model does.
    """

    of_request: Ints
    of_stage: Ints

    @classmethod
    def take(cls, staged: StageRanges, requests: Requests, rules: Rules) -> Self:
        """Of a report."""
        said = _believed(staged.batch_in_name)
        said = np.where(said != NULL, said, _believed(staged.batch_in_payload))
        most, least, recorded = (np.full(len(requests) + 1, value) for value in (0, MOST_SEQUENCES + 1, NULL))
        group, known = requests.of_stage, said != NULL
        np.maximum.at(most, group[known], said[known])
        np.minimum.at(least, group[known], said[known])
        recorded[:] = _recorded(np.append(requests.number, NULL), rules.model)
        of_request = np.where(most == least, most, np.where(most == 0, recorded, NULL))
        of_request[-1] = recorded[-1]  # of stages in no request each says its own
        return cls(of_request[:-1], np.where(known, said, of_request[group]))


def of_all(tokens: Ints, batch: Ints) -> Ints:
    """Tokens of all sequences: those of one by the `batch`; of one where that is not known, NULL where none are.

    >>> of_all(np.array([5, 5, NULL, 1 << 60]), np.array([2, NULL, 2, 16])).tolist() == [10, 5, NULL, NULL]
    True
    """
    times = np.where(batch != NULL, batch, 1)
    whole = np.where(np.abs(tokens) <= np.iinfo(np.int64).max // times, tokens, NULL)  # a payload may be anything
    return np.where(whole != NULL, whole * times, NULL)


def _believed(batch: Ints) -> Ints:
    """What can be a number of sequences, NULL for the rest."""
    return np.where((batch > 0) & (batch <= MOST_SEQUENCES), batch, NULL)


def _recorded(requests: Ints, record: ModelRecord | None) -> Ints:
    """Sequences of the requests of these numbers as a record says it."""
    if record is None:
        return np.full(len(requests), NULL)
    numbers, place = np.unique(requests, return_inverse=True)
    served = [record.served(number) for number in numbers.tolist()]
    batch = [NULL if one is None or one.batch is None else one.batch for one in served]
    return np.array(batch, np.int64)[place.reshape(-1)]
