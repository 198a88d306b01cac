from .checkpoint import load_checkpoint as load_checkpoint
from .history import History as History
from .loop import fit as fit
