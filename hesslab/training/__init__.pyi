from .checkpoint import load_checkpoint as load_checkpoint
from .history import History as History
from .loop import fit as fit
from .tracker import CurvatureTracker as CurvatureTracker
from .tracker import Eigenvalues as Eigenvalues
from .tracker import read_visits as read_visits
