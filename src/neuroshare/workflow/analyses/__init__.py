"""The analyses of a run. To add one, write its class in a file here and its line below."""

from neuroshare.workflow.analyses.base import Analysis
from neuroshare.workflow.analyses.choice import Choice
from neuroshare.workflow.analyses.comparison import Baselines, Comparison
from neuroshare.workflow.analyses.control import Control
from neuroshare.workflow.analyses.decoding import Decoding
from neuroshare.workflow.analyses.imputation import Imputation
from neuroshare.workflow.analyses.residuals import Departure, Residuals
from neuroshare.workflow.analyses.separation import Separation
from neuroshare.workflow.settings import RunConfig

SEPARATION = Separation()
DECODING = Decoding()

ANALYSES: list[Analysis] = [
    SEPARATION,
    DECODING,
    Choice(),
    Comparison(),
    Baselines(),
    Imputation(),
    Residuals(),
    Departure(),
    Control(),
]
"""In the order in which they are computed, written, and shown in the report."""


def analyses_of(config: RunConfig) -> list[Analysis]:
    """Those that a run has: by behavior others than by conditions."""
    by_behavior = bool(config.behavior)
    return [a for a in ANALYSES if a.of_behavior is None or a.of_behavior == by_behavior]


__all__ = ["ANALYSES", "DECODING", "SEPARATION", "Analysis", "analyses_of"]
