from .convolutional import lenet as lenet
from .convolutional import vgg as vgg
from .dense import mlp as mlp
from .published import pretrained as pretrained
from .residual import resnet as resnet
