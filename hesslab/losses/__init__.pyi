from .adapters import LossLike as LossLike
from .adapters import as_loss as as_loss
from .likelihoods import CrossEntropy as CrossEntropy
from .likelihoods import GaussianLikelihood as GaussianLikelihood
from .likelihoods import Loss as Loss
