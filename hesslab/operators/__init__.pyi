from .base import Operator as Operator
from .curvature import Curvature as Curvature
from .ggn import GGN as GGN
from .hessian import Hessian as Hessian
from .network import Network as Network
