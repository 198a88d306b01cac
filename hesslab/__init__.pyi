from . import data as data
from . import errors as errors
from . import linalg as linalg
from . import losses as losses
from . import metrics as metrics
from . import models as models
from . import operators as operators
from . import plots as plots
from . import posteriors as posteriors
from . import report as report
from . import training as training
from .operators import GGN as GGN
from .operators import NTK as NTK
from .operators import Fisher as Fisher
from .operators import GradientCovariance as GradientCovariance
from .operators import Hessian as Hessian
from .operators import Jacobian as Jacobian
from .operators import diagnose as diagnose

__version__: str
