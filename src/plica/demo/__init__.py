"""A trained network and CIFAR-10 images from two wheels, `pip install "plica[demo]"`; nothing is downloaded::

    from plica.demo import CLASSES, images, resnet18

`python -m plica.demo` (`make demo`) finds their robustness radii under three norms.
"""

from plica.demo.images import CLASSES, images
from plica.demo.network import ResNet18, resnet18, small, small_robust, small_undefended

__all__ = ["CLASSES", "ResNet18", "images", "resnet18", "small", "small_robust", "small_undefended"]
