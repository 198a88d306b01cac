from .classification import accuracy as accuracy
from .classification import nll as nll
from .regression import rmse as rmse
from .score import Score as Score
