"""Permanence is a property of the class of an error."""

import pytest

from retrain_assets.domain.data.contract import AccountingError
from retrain_assets.domain.drift.measures import DriftError
from retrain_assets.domain.drift.profile import ProfileError
from retrain_assets.domain.features.sql import QueryError
from retrain_assets.domain.model.estimator import PredictionError
from retrain_assets.domain.windows import TooFewPartitionsError
from retrain_assets.errors import PermanentError, is_permanent, mask
from retrain_assets.specs.base import SpecError
from retrain_assets.steps.decision.evaluate import NoCandidateError
from retrain_assets.steps.decision.promote import DecisionError, WorseRefitError
from retrain_assets.steps.features.build import NotReadyError
from retrain_assets.stores.landing.kafka import OffsetsGoneError
from retrain_assets.stores.landing.source import LandingError
from retrain_assets.stores.ledger import LedgerError
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.registry.registry import RegistryError
from retrain_assets.stores.tables.tables import StaleTableError, StorageError


class BelowPermanentError(PermanentError):
    """A class that nobody listed."""


class AnswerError(ConnectionError, ValueError):
    """What some clients raise where the answer of a server is no JSON."""


@pytest.mark.parametrize(
    "kind",
    [
        *(AccountingError, DriftError, LedgerError, ModelFileError, NoCandidateError),
        *(NotReadyError, OffsetsGoneError, PredictionError, ProfileError, QueryError),
        *(RegistryError, SpecError, TooFewPartitionsError, WorseRefitError),
        *(BelowPermanentError, KeyError, IndexError, ModuleNotFoundError, ZeroDivisionError),
        *(AttributeError, NameError, SyntaxError, NotImplementedError),
    ],
)
def test_the_same_work_meets_it_again(kind: type[Exception]) -> None:
    assert is_permanent(kind("why"))


@pytest.mark.parametrize(
    "kind",
    [
        *(OSError, ConnectionError, TimeoutError, FileNotFoundError, MemoryError, RuntimeError),
        *(AnswerError, DecisionError, LandingError, StaleTableError, StorageError),
    ],
)
def test_it_may_be_over_at_the_next_attempt(kind: type[Exception]) -> None:
    assert not is_permanent(kind("why"))


def test_a_secret_that_is_part_of_another_is_masked_with_it() -> None:
    secrets = {"word": "(A)", "password": "(B)", "": "(C)"}
    assert mask("the password, a word", secrets) == "the (B), a (A)"
