from .lanczos import Eigenpairs as Eigenpairs
from .lanczos import eigsh as eigsh
from .matrix import MatrixLike as MatrixLike
