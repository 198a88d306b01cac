from .gaussian import IsotropicPosterior as IsotropicPosterior
from .gaussian import NullSpacePosterior as NullSpacePosterior
from .projector import NullSpaceProjector as NullSpaceProjector
from .samples import Samples as Samples
