"""Networks with batch norm, and the native modules that are the function of each mode."""

import copy

import torch
from torch import nn

import hesslab as hl
from tests.cases import Case

N, BATCH = 11, 4  # batches of 4, 4 and 3
CE = hl.losses.CrossEntropy()


def dense_net():
    return nn.Sequential(
        nn.Linear(4, 5, bias=False),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.Linear(4, 3),
    )


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, bias=False),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.Conv2d(2, 3, 2, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


NETS = {"dense": (dense_net, (4,)), "conv": (conv_net, (1, 7, 7))}


def build(make, shape, seed=0):
    """A float64 net with gains, biases and running statistics of no special value, and data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.3)
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 2)
        x = torch.randn(N, *shape, dtype=torch.float64)
        y = torch.randint(0, 3, (N,))
    return model.double().eval(), x, y


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def native(model, x, y, mode):
    """The mode's function by torch's own modules, as cases over which `mean_over` averages."""
    model = copy.deepcopy(model)
    if mode == "batch":
        for norm in norms(model):
            norm.train()
        return [Case(model, CE, *part) for part in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    if mode == "population":
        freeze_population(model, x)
    return [Case(model, CE, x, y)]


def freeze_population(model, x):
    """Statistics of one forward of all the data at once in training mode, put into the buffers."""
    inputs = {}
    hooks = [
        m.register_forward_pre_hook(lambda m, args: inputs.update({m: args[0].detach()}))
        for m in norms(model)
    ]
    for norm in norms(model):
        norm.train()
    model(x)
    for norm, hook in zip(norms(model), hooks, strict=True):
        hook.remove()
        dims = [d for d in range(inputs[norm].ndim) if d != 1]
        norm.track_running_stats = True
        norm.running_mean = inputs[norm].mean(dims)
        norm.running_var = inputs[norm].var(dims, correction=0)
        norm.eval()


def mean_over(cases, name):
    return sum(len(c.x) * getattr(c, name) for c in cases) / sum(len(c.x) for c in cases)


KINDS = {
    "1d of sequences": (lambda: nn.BatchNorm1d(2), (2, 3)),
    "3d": (lambda: nn.BatchNorm3d(2), (2, 2, 1, 2)),
    "without gain and bias": (lambda: nn.BatchNorm1d(2, affine=False), (2, 3)),
    "without running statistics": (lambda: nn.BatchNorm2d(2, track_running_stats=False), (2, 1, 3)),
    "cumulative": (lambda: nn.BatchNorm1d(2, momentum=None, eps=0.1), (2,)),
    "synchronised": (lambda: nn.SyncBatchNorm(2), (2, 3)),
}
