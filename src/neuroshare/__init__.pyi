from .analysis.imputation import imputation_scores as imputation_scores
from .analysis.residuals import residuals as residuals
from .analysis.separation import separation as separation
from .compare import compare as compare
from .linear import LinearAlignment as LinearAlignment
from .model import SharedLatentModel as SharedLatentModel
from .model import Subject as Subject
from .plots import plot_imputation as plot_imputation
from .plots import plot_latents as plot_latents
from .plots import plot_residuals as plot_residuals
from .plots import plot_separation as plot_separation
from .plots import plot_training as plot_training
from .recordings.allen2016 import convert_allen2016 as convert_allen2016
from .recordings.allen2016 import read_allen2016 as read_allen2016
from .recordings.allen2016 import write_allen2016 as write_allen2016
from .recordings.binning import bin_spikes as bin_spikes
from .recordings.nwb import read_nwb as read_nwb
from .recordings.nwb import write_nwb as write_nwb
from .recordings.pairing import PairedWindows as PairedWindows
from .recordings.pairing import pair_subjects as pair_subjects
from .recordings.session import Session as Session
from .recordings.simulate import simulate_sessions as simulate_sessions
from .report import write_report as write_report
from .sweep import sweep as sweep

__version__: str
